# SPDX-License-Identifier: LGPL-2.1-or-later
"""What cannot work is refused before anything is touched, and what is malformed before anything is asked."""

import json

import pytest

from site_under_test import eventually

IP = "10.77.0.20"


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP)
    before = {name: site.traces(name) for name in site.hosts}
    counting = site.counting(IP)
    yield site
    site.finish(counting, IP)
    assert site.state("alpha", "shop") == "RUNNING"
    for name in site.hosts:
        site.settled_traces(name, before[name])


def refused(site, what, target, *options, code=3, text=""):
    done = site["alpha"].run("phaul", "migrate", what, target, *options, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert text.lower() in (done.stdout + done.stderr).lower(), done.stderr
    return done


def test_no_such_container(shop):
    refused(shop, "lxc/nothing", "beta", code=4, text="nothing")


def test_stopped_container(shop):
    shop["alpha"].container("idle", ["counter", "/root/n"], start=False)
    try:
        refused(shop, "lxc/idle", "beta", text="stopped")
    finally:
        shop["alpha"].run("lxc-destroy", "-n", "idle")


def test_name_taken_on_the_target(shop):
    shop["beta"].container("shop", ["counter", "/root/n"], start=False)
    try:
        refused(shop, "lxc/shop", "beta", text="exists already")
    finally:
        shop["beta"].run("lxc-destroy", "-n", "shop")


def test_target_is_the_source(shop):
    refused(shop, "lxc/shop", "alpha", text="alpha")


def test_host_not_paired(shop):
    refused(shop, "lxc/shop", "gamma", code=4, text="gamma")


def test_host_not_reachable(shop):
    shop["beta"].cut()
    done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", check=False)
    assert done.returncode == 1 and "beta" in done.stderr
    shop["beta"].heal()


def test_phauld_of_the_target_is_down(shop):
    shop.kill(shop["beta"], "phauld")
    eventually(lambda: not shop.pid_of(shop["beta"], "phauld"), what="the end of phauld")
    done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta", check=False)
    assert done.returncode == 1 and "beta" in done.stderr, done.stderr
    shop.start(shop["beta"])


@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_criu_unusable(shop, host):
    """criu is asked to check itself, not its version."""
    h = shop[host]
    h.run("sh", "-c", "cp -a /usr/local/sbin/criu /root/criu.kept 2>/dev/null; "
          "printf '#!/bin/sh\\necho \"Error (cr-check.c:1): this kernel is of no use\" >&2\\nexit 1\\n' > /usr/local/sbin/criu; "
          "chmod 755 /usr/local/sbin/criu")
    try:
        refused(shop, "lxc/shop", "beta", text="this kernel is of no use")
    finally:
        h.run("sh", "-c", "rm /usr/local/sbin/criu; [ ! -e /root/criu.kept ] || mv /root/criu.kept /usr/local/sbin/criu")


def test_bridge_missing_on_the_target(site):
    alpha = site["alpha"]
    alpha.run("ip", "link", "add", "br7", "type", "bridge")
    alpha.run("ip", "link", "set", "br7", "up")
    alpha.container("far", ["counter", "/root/n"], link="br7")
    refused(site, "lxc/far", "beta", text="br7")
    assert site.state("alpha", "far") == "RUNNING"
    alpha.run("lxc-destroy", "-f", "-n", "far")
    alpha.run("ip", "link", "del", "br7")


def test_no_room_for_files(shop):
    shop["beta"].run("sh", "-c", "mkdir -p /var/lib/lxc && mount -t tmpfs -o size=10m tmpfs /var/lib/lxc")
    try:
        refused(shop, "lxc/shop", "beta", text="room")
    finally:
        eventually(lambda: not shop.pid_of(shop["beta"], "phaul-session"), 90, "the target's session")
        shop["beta"].run("umount", "/var/lib/lxc")


def test_already_migrating(shop):
    identity = shop.migrating_held("source", "files")
    refused(shop, "lxc/shop", "beta", text="already")
    shop["alpha"].run("phaul", "cancel", identity)
    assert shop.result("alpha", identity)["result"] == "cancelled"
    shop.let_go()
    eventually(lambda: not shop.pid_of(shop["beta"], "phaul-session"), 90)


BAD = ["a;b", "$(reboot)", "a b", "../../etc", "a\nb", "a" * 300, "", "-rf", ".hidden", "naïve", "a\x01b"]


def test_bad_names(shop):
    for name in BAD:
        refused(shop, f"lxc/{name}", "beta", code=2)
        refused(shop, "lxc/shop", name, code=2)
        refused(shop, "lxc/shop", "beta", f"--dst-id={name}", code=2)


def test_names_that_are_not_utf8(shop):
    done = shop["alpha"].run("sh", "-c", "phaul migrate \"$(printf 'lxc/a\\377b')\" beta", check=False)
    assert done.returncode == 2 and "\\xff" in done.stderr


def test_bad_names_by_the_api(shop):
    for name in BAD:
        for body in ({"kind": "lxc", "id": name, "host": "beta"}, {"kind": "lxc", "id": "shop", "host": name},
                     {"kind": "lxc", "id": "shop", "host": "beta", "target_id": name}):
            status, problem = shop.api(shop["alpha"], "POST", "/migrations", json.dumps(body))
            assert status == 400 and problem["kind"] == "usage", (name, status, problem)


def test_check_says_the_same_beforehand(shop):
    done = shop["alpha"].run("phaul", "check", "lxc/shop", "beta", "--json", check=False)
    verdict = json.loads(done.stdout)
    assert done.returncode == 0 and verdict["verdict"] in ("ok", "warning"), verdict
    assert {"alpha", "beta"} <= {item["host"] for item in verdict["items"]}
    shop["beta"].container("shop", ["counter", "/root/n"], start=False)
    done = shop["alpha"].run("phaul", "check", "lxc/shop", "beta", "--json", check=False)
    assert done.returncode == 3 and json.loads(done.stdout)["verdict"] == "error", done.stdout
    shop["beta"].run("lxc-destroy", "-n", "shop")
