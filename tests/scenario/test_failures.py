# SPDX-License-Identifier: LGPL-2.1-or-later
"""Before the commit any failure leaves the container running as it was, with its connections, and the target clean."""

import time

import pytest

from site_under_test import FULL, eventually

IP = "10.77.0.20"
PHASES = ["files", "freeze", "state", "restore", "commit"]


@pytest.fixture
def shop(site):
    """A Redis with enough in it that phases last, a client on it, and both hosts as they must be afterwards."""
    site.redis("alpha", "shop", IP, kilobytes=60000)
    before = {name: site.traces(name) for name in site.hosts}
    counting = site.counting(IP, 300)

    def check():
        site.finish(counting, IP)
        eventually(lambda: site.state("alpha", "shop") == "RUNNING", what="the container")
        for name in site.hosts:
            site.settled_traces(name, before[name])
        assert "shop" not in site["beta"].run("lxc-ls", "-1").stdout.split()
        # And it still can be moved.
        counting_again = site.counting(IP, 120)
        site.migrate("alpha", "lxc/shop", "beta")
        site.finish(counting_again, IP)

    yield check
    counting.kill()


@pytest.mark.parametrize("phase", PHASES if FULL else ["files", "state", "commit"])
def test_cancel(site, shop, phase):
    identity = site.migrating_held("source", phase)
    done = site["alpha"].run("phaul", "cancel", identity, check=False)
    site.let_go()
    result = site.result("alpha", identity)
    assert done.returncode == 0, done.stderr
    assert result["result"] == "cancelled" and result["owner"] == "source", result
    shop()


@pytest.mark.parametrize("phase", ["examine", *PHASES[:-1]] if FULL else ["examine", "freeze", "restore"])
def test_link_cut(site, shop, phase):
    identity = site.migrating_held("source", phase)
    # Only the road between the hosts: the container's bridge port shares alpha's link, so beta's is cut.
    site["beta"].cut()
    result = site.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    assert "beta" in result["reason"]
    site["beta"].heal()
    site.let_go()
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    shop()


@pytest.mark.parametrize("side,phase", [("source", "freeze"), ("target", "state"),
                                        *([("source", "state"), ("target", "freeze")] if FULL else [])])
def test_only_the_connection_for_memory_is_lost(site, shop, side, phase):
    """Frozen it must not stay, although the other host still answers."""
    identity = site.migrating_held("source", phase)
    site.kill_bulk(site["alpha" if side == "source" else "beta"])
    site.let_go()
    result = site.result("alpha", identity, 60)
    assert result["result"] == "failed" and result["owner"] == "source", result
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    shop()


def test_a_restore_that_fails(site, shop):
    """criu on the target dies while it restores."""
    identity = site.migrating_held("target", "commit")
    assert site.kill(site["beta"], "criu")
    site.let_go()
    result = site.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    assert "beta" in result["reason"] and "criu" in result["reason"].lower(), result
    shop()


def test_criu_dies_while_it_dumps(site, shop):
    """After everything is dumped the freezer holds the tasks whatever becomes of criu, and rollback mends the sockets."""
    identity = site.migrating_held("source", "state")
    assert site.kill(site["alpha"], "criu")
    eventually(lambda: not site.pid_of(site["alpha"], "criu"), what="the end of criu")
    site["beta"].cut()
    result = site.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    site["beta"].heal()
    site.let_go()
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    shop()


def test_disk_full_on_the_target_in_the_middle(site, shop):
    beta = site["beta"]
    beta.run("sh", "-c", "mkdir -p /var/lib/lxc && mount -t tmpfs -o size=700m tmpfs /var/lib/lxc")
    try:
        identity = site.migrating_held("source", "files")
        beta.run("sh", "-c", "head -c 690M /dev/zero > /var/lib/lxc/.fill", check=False)
        site.let_go()
        result = site.result("alpha", identity)
        assert result["result"] == "failed" and "No space left" in result["reason"], result
        eventually(lambda: not site.pid_of(beta, "phaul-session"), 90, "the target's session")
    finally:
        # Its rsync may be still dying in there.
        eventually(lambda: beta.run("umount", "/var/lib/lxc", check=False).returncode == 0, what="that nobody is in there")
    shop()


def test_time_limit(site, shop):
    site["beta"].slow("20mbit")
    done = site.migrate("alpha", "lxc/shop", "beta", "--timeout", "3", check=False)
    assert done.returncode == 1, done.stdout + done.stderr
    site["beta"].slow("none")
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    shop()


def test_cancel_after_the_commit_is_too_late(site, shop):
    identity = site.migrating("alpha", "lxc/shop", "beta")
    assert site.result("alpha", identity)["result"] == "done"
    done = site["alpha"].run("phaul", "cancel", identity, check=False)
    assert done.returncode == 1 and "late" in (done.stdout + done.stderr)
    site.migrate("beta", "lxc/shop", "alpha")
    time.sleep(0.2)
