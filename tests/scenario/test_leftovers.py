# SPDX-License-Identifier: LGPL-2.1-or-later
"""A container that has moved is what it was, inherits nothing of those who moved it, and leaves nothing of itself behind."""

import json
import re
import secrets
import subprocess

import pytest

from field_by_field import assert_same, look, of_container, tasks_of
from site_under_test import eventually

IP = "10.77.0.20"

def init_of(site, host, name="shop"):
    return int(site[host].run("lxc-info", "-n", name, "-pH").stdout)


def monitor_of(site, host, name="shop"):
    """The [lxc monitor] of a container: the parent of its init."""
    return int(site[host].run("ps", "-o", "ppid=", "-p", str(init_of(site, host, name))).stdout)


def at_rest(see):
    """What two looks agree on: threads have got their names, and connections of who asked before are closed."""
    seen = []

    def same():
        seen.append(see())
        return seen[-2:-1] == seen[-1:] and seen[-1]

    return eventually(same, what="rest")


def look_alone(host, pid):
    """For comparing it with another process than itself: without the two signals of the C library's own (32 and 33), which
    its posix_spawn() ignores in a child, or not, as whoever started it happened to do."""
    seen = at_rest(lambda: look(host, pid))
    seen["status"]["SigIgn"] = f"{int(seen['status']['SigIgn'], 16) & ~(3 << 31):016x}"
    return seen


PECULIAR = ("umask 027; ulimit -n 700; ulimit -c 0; trap '' USR1; trap : USR2; cd /var/tmp; echo 300 > /proc/self/oom_score_adj; "
            "exec 7</etc/passwd; export COLOUR=blue; nice -n 5 setpriv --no-new-privs --bounding-set -sys_time sleep 100001 & "
            "while :; do wait; done")


def test_a_process_is_what_it_was(site):
    """Field by field, there and back again: what the container set, and what the restorer could have left on it."""
    site["alpha"].container("odd", ["/bin/sh", "-c", PECULIAR], ip=f"{IP}/24")
    # The child is sh, nice and setpriv one after the other before it is what it stays.
    comms = lambda: [site["alpha"].run("cat", f"/proc/{pid}/comm", check=False).stdout.strip()  # noqa: E731
                     for pid in tasks_of(site["alpha"], "odd")]
    eventually(lambda: sorted(comms()) == ["sh", "sleep"], what="the container's processes")
    before = at_rest(lambda: of_container(site["alpha"], "odd"))
    init, child = before["1"], next(process for pid, process in before.items() if pid != "1")
    assert init["status"]["Umask"] == "0027" and init["oom_score_adj"] == "300" and "7" in init["descriptors"], init
    assert int(child["nice"]) == min(int(init["nice"]) + 5, 19), (init["nice"], child["nice"])
    assert child["status"]["NoNewPrivs"] == "1" and "COLOUR=blue" in child["environment"], child
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        site.migrate(source, "lxc/odd", target)
        assert_same(before, of_container(site[target], "odd"), target)


def test_redis_is_what_it_was(site):
    site.redis("alpha", "shop", IP)
    before = at_rest(lambda: of_container(site["alpha"], "shop"))
    site.migrate("alpha", "lxc/shop", "beta")
    assert_same(before, of_container(site["beta"], "shop"), "beta")


def test_the_container_is_not_marked(site):
    """The same kinds of namespaces, cgroups and mounts as a container that was started there by hand."""
    site.redis("alpha", "shop", IP)
    site.migrate("alpha", "lxc/shop", "beta")
    site["beta"].redis("plain", ip="10.77.0.21/24")
    moved, plain = (look_alone(site["beta"], init_of(site, "beta", name)) for name in ("shop", "plain"))
    assert set(moved["own namespaces"]) - {"time", "time_for_children"} == set(plain["own namespaces"])
    assert [c.replace("shop", "plain") for c in moved["cgroups"]] == plain["cgroups"]
    assert moved["mounts"] == plain["mounts"] and moved["status"].keys() == plain["status"].keys()
    for field in ("Seccomp", "NoNewPrivs", "CapBnd", "SigIgn", "SigBlk"):
        assert moved["status"][field] == plain["status"][field], field


def test_the_monitor_has_nothing_of_ours(site):
    """The process of liblxc that stays beside the container was started by us, and looks as if by hand."""
    site.redis("alpha", "shop", IP)
    site.migrate("alpha", "lxc/shop", "beta")
    site["beta"].redis("plain", ip="10.77.0.21/24")
    ours, plain = (look_alone(site["beta"], monitor_of(site, "beta", name)) for name in ("shop", "plain"))
    assert "[lxc monitor]" in ours["command"] and "[lxc monitor]" in plain["command"]
    # Its log is in the container's own folder, where lxc-start with a log file would put it as well.
    ours["descriptors"] = {fd: seen for fd, seen in ours["descriptors"].items() if seen[0] != "/var/lib/lxc/shop/phaul.log"}
    for text in (json.dumps(ours["descriptors"]), *ours["environment"], ours["cwd"]):
        for word in ("phaul", "criu", "rsync", "images", ".hold"):
            assert word not in text.lower(), text
    assert [c.replace("shop", "plain") for c in ours["cgroups"]] == plain["cgroups"]
    for field in ("limits", "oom_score_adj", "own namespaces", "nice", "policy", "root", "cwd", "terminal"):
        assert ours[field] == plain[field], field
    for field in ("Umask", "Groups", "SigBlk", "SigIgn", "CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp"):
        assert ours["status"][field] == plain["status"][field], field
    # liblxc keeps the cgroups of the container and the status of its init open; anything else has to be usual.
    usual = {target for target, _ in plain["descriptors"].values()}
    more = [target for target, _ in ours["descriptors"].values()
            if target not in usual
            and not re.fullmatch(r"/sys/fs/cgroup(/.*/lxc.(monitor|payload).shop|/[a-z]+)?|/proc/[0-9]+/status", target)]
    assert not more, f"descriptors that a monitor does not have otherwise: {more}"
    for kind in ("socket:", "pipe:"):
        counts = [sum(target == kind for target, _ in seen["descriptors"].values()) for seen in (ours, plain)]
        assert counts[0] <= counts[1], (kind, counts)


def ours(site, host):
    """Processes of phaul and of its tools on a host, but for phauld."""
    lines = site[host].run("ps", "-eo", "comm=,args=").stdout.splitlines()
    return [line for line in lines if line.split()[0].startswith(("phaul-", "criu", "rsync", "lxc-")) and "[lxc monitor]" not in line]


@pytest.mark.parametrize("how", ["done", "cancelled"])
def test_nobody_is_left(site, how):
    site.redis("alpha", "shop", IP)
    identity = site.migrating_held("source", "restore" if how == "done" else "state")
    assert ours(site, "alpha") and ours(site, "beta"), "these are the ones that have to go"
    if how == "cancelled":
        site["alpha"].run("phaul", "cancel", identity)
    site.let_go()
    assert site.result("alpha", identity)["result"] == how
    for host in site.hosts:
        eventually(lambda host=host: not ours(site, host), 60, f"the last process on {host}: {ours(site, host)}")
        mounts = site[host].run("cat", "/proc/mounts").stdout
        assert "/run/phaul/images" not in mounts and "/var/lib/phaul" not in mounts.replace("/var/lib/phaul-lab", ""), mounts
        assert site[host].run("find", "/run/phaul", "-name", f"*{identity}*").stdout == ""
        assert site[host].run("find", "/", "-xdev", "-name", "*.img", "-not", "-path", "/proc/*").stdout == ""


def on_disk(site, host, text):
    """Files on the host's disk that hold a text; looked at from outside, so that no search finds itself."""
    disk = site[host].disk
    done = subprocess.run(["grep", "-r", "-a", "-l", "-F", text, str(disk / "upper"), str(disk / "varlib")], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout.split()


def images(site, host):
    """(file system, path) of every image file that exists on a host just now, mounts and all."""
    return site[host].run("sh", "-c", "for f in $(find / -name '*.img' -not -path '/proc/*' -not -path '/sys/*'); do "
                          "echo $(stat -f -c %T $f) $f; done").stdout.splitlines()


def test_memory_never_reaches_a_disk(site):
    """A secret that only exists in memory: neither in the middle of it nor afterwards is it in any file on a disk."""
    secret = secrets.token_hex(20)
    site.redis("alpha", "shop", IP)
    site.client.run("redis-cli", "-h", IP, "set", "secret", secret)
    site["alpha"].run("sh", "-c", "echo known-to-be-found-here > /root/probe")
    assert on_disk(site, "alpha", "known-to-be-found-here"), "the search does not find what is there"
    identity = site.migrating_held("source", "commit")
    for host in site.hosts:
        seen = images(site, host)
        assert all(line.startswith("tmpfs ") for line in seen), seen
        assert on_disk(site, host, secret) == []
    assert images(site, "beta"), "there are images while the copy is held, and they were looked at"
    site.let_go()
    assert site.result("alpha", identity)["result"] == "done"
    assert site.client.run("redis-cli", "-h", IP, "get", "secret").stdout.strip() == secret
    for host in site.hosts:
        eventually(lambda host=host: images(site, host) == [], 60, f"images on {host}")
        assert on_disk(site, host, secret) == []


def test_images_are_roots_alone(site):
    """The private tmpfs of a migration cannot be read by anybody else."""
    site.redis("alpha", "shop", IP)
    identity = site.migrating_held("source", "commit")
    found = site["beta"].run("find", "/run/phaul/images", "-maxdepth", "1", "-mindepth", "1", "-printf", "%m %u %p\n").stdout
    listing = found.splitlines()
    assert any(identity in line for line in listing) and all(line.startswith("700 root") for line in listing), listing
    denied = site["beta"].run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "sh", "-c",
                              f"ls /run/phaul/images/{identity}-target", check=False)
    assert denied.returncode != 0 and "denied" in denied.stderr
    site.let_go()
    assert site.result("alpha", identity)["result"] == "done"
