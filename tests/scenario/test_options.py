# SPDX-License-Identifier: LGPL-2.1-or-later
"""What may be asked of a migration does what it says."""

import json
import time

import pytest

from simlab.container import REDIS
from site_under_test import FULL, eventually

IP = "10.77.0.20"
STORE = "/srv/store"


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP)
    return site


def moved(site, report, source="alpha", target="beta"):
    assert report["result"] == "done", report
    assert site.state(target, "shop") == "RUNNING" and site.state(source, "shop") is None
    eventually(lambda: "PONG" in site.client.run("redis-cli", "-h", IP, "ping", check=False).stdout)


# -- shared storage


@pytest.fixture
def stored(site):
    """A Redis whose root file system lies on storage that both hosts have."""
    for host in site.hosts.values():
        host.share(STORE)
    alpha = site["alpha"]
    alpha.container("shop", [*REDIS[:-4], "--save", "", "--appendonly", "yes", "--dir", "/var/lib/redis"], ip=f"{IP}/24",
                    start=False)
    alpha.run("sh", "-c", f"rm -rf {STORE}/shop && mkdir {STORE}/shop && mv /var/lib/lxc/shop/rootfs {STORE}/shop/rootfs && "
              f"sed -i 's|dir:/var/lib/lxc/shop/rootfs|dir:{STORE}/shop/rootfs|' /var/lib/lxc/shop/config && "
              "echo lxc.signal.halt = SIGTERM >> /var/lib/lxc/shop/config && lxc-start -n shop")
    eventually(lambda: "PONG" in site.client.run("redis-cli", "-h", IP, "ping", check=False).stdout)
    site.client.run("redis-cli", "-h", IP, "set", "kept", "yes")
    yield site
    site.clean()
    for host in site.hosts.values():
        host.run("umount", STORE, check=False)


def same_files(site):
    """One set of files, which both hosts see, with nothing of a probe left in it."""
    seen = {site[name].run("sh", "-c", f"stat -c %i {STORE}/shop/rootfs/var/lib/redis && ls -A {STORE}/shop/rootfs").stdout
            for name in site.hosts}
    assert len(seen) == 1 and ".phaul" not in seen.copy().pop(), seen
    assert site.client.run("redis-cli", "-h", IP, "get", "kept").stdout.strip() == "yes"


def test_shared_storage_is_not_copied(stored):
    report = stored.migrate("alpha", "lxc/shop", "beta", "--files", "shared", "--tracker", "none")
    moved(stored, report)
    same_files(stored)
    assert report["rounds"] == 0 and not stored["beta"].run("ls", "/var/lib/lxc/shop").stdout.count("rootfs")
    stored["alpha"].run("phaul", "forget", report["id"])
    same_files(stored)
    moved(stored, stored.migrate("beta", "lxc/shop", "alpha", "--files", "shared", "--mode", "restart"), "beta", "alpha")
    same_files(stored)


def test_shared_storage_survives_a_migration_that_fails(stored):
    stored.hold("alpha", "source-commit")
    identity = stored.migrating("alpha", "lxc/shop", "beta", "--files", "shared")
    assert stored.wait_phase("alpha", identity, "commit")
    stored["alpha"].run("phaul", "cancel", identity)
    stored.let_go()
    assert stored.result("alpha", identity)["result"] == "cancelled"
    eventually(lambda: not stored.pid_of(stored["beta"], "phaul-session"), 90, "the target's session")
    same_files(stored)
    assert stored.runs("alpha", "shop") and not stored["beta"].run("ls", "-A", "/var/lib/lxc").stdout.split()


def test_storage_that_is_not_shared_is_found_out(stored):
    beta = stored["beta"]
    beta.run("umount", STORE)
    beta.run("mkdir", "-p", f"{STORE}/shop/rootfs")
    done = stored["alpha"].run("phaul", "migrate", "lxc/shop", "beta", "--files", "shared", "--force", check=False)
    assert done.returncode == 3 and f"{STORE}/shop/rootfs" in done.stderr, done.stderr
    assert not stored["alpha"].run("sh", "-c", f"ls -A {STORE}/shop/rootfs | grep phaul", check=False).stdout
    beta.run("rm", "-rf", f"{STORE}/shop")
    assert stored.runs("alpha", "shop")
    # Storage within the container's own directory would be put away with it.
    stored["alpha"].container("own", ["counter", "/root/n"])
    done = stored["alpha"].run("phaul", "check", "lxc/own", "beta", "--files", "shared", check=False)
    assert done.returncode != 0 and "elsewhere" in done.stdout + done.stderr, done.stdout + done.stderr


# -- images and logs


@pytest.mark.parametrize("where", ["memory", "directory"] if FULL else ["directory"])
def test_images_are_kept(shop, where):
    own = "/var/lib/phaul-images"
    options = ["--keep-images", "--verbose"]
    if where == "directory":
        for host in shop.hosts.values():
            host.run("install", "-d", "-m", "0700", own)
        options += ["--images-dir", own]
    report = shop.migrate("alpha", "lxc/shop", "beta", *options)
    moved(shop, report)
    assert shop.result("beta", report["id"])["result"] == "done"  # when its memory is in place, images are put away
    for name, host in shop.hosts.items():
        kept = f"/var/lib/phaul/migrations/{report['id']}/images"
        place = host.run("readlink", kept).stdout.strip()
        assert place.startswith(own if where == "directory" else "/run/phaul/images/"), place
        assert host.run("stat", "-c", "%a %U", place).stdout.split() == ["700", "root"]
        log = "dump.log" if name == "alpha" else "restore.log"
        assert {"inventory.img", log} <= set(host.run("ls", place).stdout.split())
        assert host.run("ls", place).stdout.count("pages-") == (name == "beta")
        assert host.run("grep", "-c", "", f"/var/lib/phaul/migrations/{report['id']}/{log}").stdout.strip() != "0"
        host.run("phaul", "forget", report["id"])
        assert host.run("test", "-e", place, check=False).returncode == 1
        assert place not in host.run("cat", "/proc/self/mountinfo").stdout
    for host in shop.hosts.values():
        host.run("rmdir", own, check=False)


def test_images_in_a_directory_of_somebody_else(shop):
    """It passes through, and nothing stays; a directory that others may write is refused."""
    for host in shop.hosts.values():
        host.run("install", "-d", "-m", "0777", "/var/lib/open-images")
    done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", "--images-dir", "/var/lib/open-images", check=False)
    assert done.returncode == 3 and "root alone" in done.stderr, done.stderr
    for host in shop.hosts.values():
        host.run("chmod", "0700", "/var/lib/open-images")
    report = shop.migrate("alpha", "lxc/shop", "beta", "--images-dir", "/var/lib/open-images")
    moved(shop, report)
    assert shop.result("beta", report["id"])["result"] == "done"
    for host in shop.hosts.values():
        host.run("rmdir", "/var/lib/open-images")


# -- what the pre-flight says


def test_force_and_skips(shop):
    """A judgement can be forced, what is impossible cannot; CRIU is not asked when that is wished."""
    beta = shop["beta"]
    beta.run("sh", "-c", "mkdir -p /var/lib/lxc && mount -t tmpfs -o size=10m tmpfs /var/lib/lxc")
    try:
        verdict = json.loads(shop["alpha"].run("phaul", "check", "lxc/shop", "beta", "--json", check=False).stdout)
        disk = [item for item in verdict["items"] if item["id"] == "disk"]
        assert disk and disk[0]["grade"] == "error" and disk[0]["forcible"] is True, disk
        verdict = json.loads(shop["alpha"].run("phaul", "check", "lxc/shop", "beta", "--json", "--force").stdout)
        assert [i["grade"] for i in verdict["items"] if i["id"] == "disk"] == ["warning"]
        done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", "--force", check=False)
        assert done.returncode == 1 and "No space left" in done.stderr, done.stderr   # it was right, and nothing is lost
        eventually(lambda: not shop.pid_of(beta, "phaul-session"), 90, "the target's session")
    finally:
        beta.run("umount", "/var/lib/lxc")
    assert shop.runs("alpha", "shop")
    beta.container("shop", ["counter", "/root/n"], start=False)
    done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", "--force", check=False)
    assert done.returncode == 3 and "exists already" in done.stderr, done.stderr
    beta.run("lxc-destroy", "-n", "shop")

    beta.run("sh", "-c", "real=$(command -v criu); [ $real != /usr/local/sbin/criu ] || { mv $real /root/criu.kept; real=/root/criu.kept; }; "
             "printf '#!/bin/sh\\ncase \" $* \" in *\" check \"*) echo \"Error (cr-check.c:1): no use\" >&2; exit 1;; esac\\n"
             "exec '$real' \"$@\"\\n' > /usr/local/sbin/criu; chmod 755 /usr/local/sbin/criu")
    beta.run("sh", "-c", "sed 's/^\\(flags\\|Features\\).*/\\1 : fpu/' /proc/cpuinfo > /root/cpuinfo && mount --bind /root/cpuinfo /proc/cpuinfo")
    try:
        for option, other in (("--skip-criu-check", "cpu"), ("--skip-cpu-check", "criu")):
            done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", option, "--json", check=False)
            assert done.returncode == 3, (option, done)
            errors = [i["id"] for i in json.loads(done.stdout)["items"] if i["grade"] == "error"]
            assert errors == [other], (option, done.stdout)
        report = shop.migrate("alpha", "lxc/shop", "beta", "--skip-criu-check", "--skip-cpu-check")
    finally:
        beta.run("sh", "-c", "umount /proc/cpuinfo; rm -f /root/cpuinfo")
        beta.run("sh", "-c", "rm /usr/local/sbin/criu; [ ! -e /root/criu.kept ] || mv /root/criu.kept /usr/local/sbin/criu")
    moved(shop, report)


# -- rate, time, words


def test_bandwidth_caps_files_and_memory_together(shop):
    """An overlay has two trees whose last rounds could run side by side; its memory is random, and does not shrink."""
    shop["alpha"].run("lxc-destroy", "-f", "-n", "shop")
    shop["alpha"].container("memory", ["memwriter", "--mib", "12", "--rate", "1", "--status", "/root/status"], backing="overlay")
    shop["alpha"].run("sh", "-c", "head -c 8M /dev/urandom > /var/lib/lxc/memory/overlay/delta/noise")
    rate = 15_000_000
    report = shop.migrate("alpha", "lxc/memory", "beta", "--bandwidth", "15M")
    moving = [p for p in report["phases"] if p["name"] in ("files", "freeze", "state")]
    sent, took = sum(p["bytes"] for p in moving), sum(p["ms"] for p in moving) / 1000
    assert sent > 30_000_000, moving
    assert sent / took < 1.3 * rate, (sent, took)


def test_time_limit_holds_in_restart_mode_too(shop):
    shop["beta"].slow("10mbit")
    began = time.monotonic()
    done = shop.migrate("alpha", "lxc/shop", "beta", "--mode", "restart", "--timeout", "2", check=False)
    assert done.returncode == 1 and "within the 2 s" in done.stdout and time.monotonic() - began < 60, done.stdout
    shop["beta"].slow("none")
    assert shop.runs("alpha", "shop")
    eventually(lambda: not shop.pid_of(shop["beta"], "phaul-session"), 90, "the target's session")


def test_verbose_and_log_file(shop):
    alpha = shop["alpha"]
    alpha.run("sh", "-c", "echo earlier > /root/told")
    done = alpha.run("phaul", "migrate", "lxc/shop", "beta", "--verbose", "--log-file", "/root/told")
    told = alpha.run("cat", "/root/told").stdout.splitlines()
    assert told[0] == "earlier" and done.stdout.strip() in told[-1], told
    assert "files of rootfs" in done.stderr and any("files of rootfs" in line for line in told), done.stderr
    quiet = alpha.run("phaul", "migrate", "lxc/nothing", "beta", "--log-file", "/root/told", check=False)
    assert quiet.returncode == 4 and "nothing" in alpha.run("tail", "-n", "1", "/root/told").stdout
    assert alpha.run("phaul", "migrate", "lxc/shop", "beta", "--log-file", "/no/where", check=False).returncode == 2
