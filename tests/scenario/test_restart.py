# SPDX-License-Identifier: LGPL-2.1-or-later
"""Restart mode: stopped here, started there, with what it has on disk. Until the commit every failure starts it again here."""

import time

import pytest

from simlab.container import REDIS
from site_under_test import FULL, eventually

IP = "10.77.0.20"
DURABLE = [*REDIS[:-4], "--save", "", "--appendonly", "yes", "--dir", "/var/lib/redis"]


def answers(site, ip=IP):
    return "PONG" in site.client.run("timeout", "2", "redis-cli", "-h", ip, "ping", check=False).stdout


@pytest.fixture
def shop(site):
    """A Redis that writes to disk what it is told, and that shuts down when its init gets SIGTERM."""
    alpha = site["alpha"]
    alpha.container("shop", DURABLE, ip=f"{IP}/24", start=False)
    alpha.run("sh", "-c", "echo lxc.signal.halt = SIGTERM >> /var/lib/lxc/shop/config")
    alpha.run("lxc-start", "-n", "shop")
    eventually(lambda: answers(site), what="Redis")
    site.client.run("redis-cli", "-h", IP, "set", "kept", "since the beginning")
    return site


def has_its_data(site):
    eventually(lambda: answers(site), 60, "Redis")
    assert site.client.run("redis-cli", "-h", IP, "get", "kept").stdout.strip() == "since the beginning"


def runs_on_alpha_only(site):
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 120, "the target's session")
    eventually(lambda: site.state("alpha", "shop") == "RUNNING", 60, "the container on alpha")
    has_its_data(site)
    assert "shop" not in site["beta"].run("lxc-ls", "-1").stdout.split()
    assert not site["beta"].run("sh", "-c", "ls -A /var/lib/lxc", check=False).stdout.split()


def test_there_and_back_with_its_data(shop):
    report = shop.migrate("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert report["mode"] == "restart" and report["result"] == "done" and report["owner"] == "target", report
    assert report["downtime_ms"] > 0 and {"files", "stop", "state", "resume"} <= {p["name"] for p in report["phases"]}
    assert shop.state("beta", "shop") == "RUNNING" and shop.state("alpha", "shop") is None
    # liblxc's word that init began: by its absence a start that failed is known never to have run.
    assert "Exec'ing" in shop["beta"].run("cat", "/var/lib/lxc/shop/phaul.log").stdout
    assert "shut down by itself" in shop["alpha"].run("phaul", "show", report["id"]).stdout
    has_its_data(shop)
    assert shop["alpha"].run("test", "-d", f"/var/lib/phaul/released/{report['id']}/rootfs", check=False).returncode == 0
    shop.client.run("redis-cli", "-h", IP, "set", "there", "too")
    shop.migrate("beta", "lxc/shop", "alpha", "--mode", "restart")
    has_its_data(shop)
    assert shop.client.run("redis-cli", "-h", IP, "get", "there").stdout.strip() == "too"
    # And it is an ordinary container: it can be moved live again.
    shop.migrate("alpha", "lxc/shop", "beta")
    has_its_data(shop)


def test_what_does_not_shut_down_is_killed(site):
    """A counter has no handler for the signal, so that its init never gets it; an overlay arrives like a directory."""
    site["alpha"].container("idle", ["counter", "/root/n"], backing="overlay")
    report = site.migrate("alpha", "lxc/idle", "beta", "--mode", "restart", "--stop-timeout", "1")
    log = site["alpha"].run("phaul", "show", report["id"]).stdout
    assert "within 1 s and was killed" in log, log
    assert site.runs("beta", "idle") and site.state("alpha", "idle") is None


def test_not_started(shop):
    report = shop.migrate("alpha", "lxc/shop", "beta", "--mode", "restart", "--no-start")
    assert report["result"] == "done" and shop.state("alpha", "shop") is None
    assert shop.state("beta", "shop") == "STOPPED" and not answers(shop)
    # A stopped one goes back and stays stopped; live it is refused.
    done = shop.migrate("beta", "lxc/shop", "alpha", check=False)
    assert done.returncode == 3 and "restart" in done.stdout, done.stdout
    report = shop.migrate("beta", "lxc/shop", "alpha", "--mode", "restart")
    assert report["downtime_ms"] is None and shop.state("alpha", "shop") == "STOPPED" and shop.state("beta", "shop") is None
    shop["alpha"].run("lxc-start", "-n", "shop")
    has_its_data(shop)


PHASES = ["files", "stop", "state", "restore", "commit"] if FULL else ["commit"]


@pytest.mark.parametrize("phase", PHASES)
def test_cancelled(shop, phase):
    shop.hold("alpha", f"source-{phase}")
    identity = shop.migrating("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert shop.wait_phase("alpha", identity, phase)
    # While it is down nobody can start it by hand or with the host.
    if phase == "commit":
        assert shop["alpha"].run("lxc-start", "-n", "shop", check=False).returncode != 0
        assert "shop" not in shop["beta"].run("lxc-ls", "-1").stdout.split()
    assert shop["alpha"].run("phaul", "cancel", identity, check=False).returncode == 0
    shop.let_go()
    result = shop.result("alpha", identity)
    assert result["result"] == "cancelled" and result["owner"] == "source", result
    runs_on_alpha_only(shop)


KILLS = [("source", "state"), ("target", "resume"), ("source", "resume")]


@pytest.mark.parametrize("side,phase", [(side, phase) for side in ("source", "target") for phase in
                                        ("files", "state", "restore", "commit", "resume")
                                        if (side, phase) != ("target", "state")] +
                         [("source", "stop")] if FULL else KILLS)
def test_session_killed(shop, side, phase):
    host = "alpha" if side == "source" else "beta"
    shop.hold(host, f"{side}-{phase}")
    identity = shop.migrating("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert shop.wait_phase(host, identity, phase)
    assert shop.kill(shop[host], "phaul-session")
    shop.let_go()
    result = shop.result("alpha", identity)
    if (side, phase) == ("source", "resume"):
        assert result["owner"] == "target", result
        has_its_data(shop)
        assert shop.state("beta", "shop") == "RUNNING" and shop.state("alpha", "shop") is None
    else:
        # Killed with STARTING durable and nothing begun, it certainly never ran there: the source has it back.
        assert result["owner"] == "source", result
        runs_on_alpha_only(shop)


def test_phauld_killed_while_it_is_down(shop):
    shop.hold("alpha", "source-state")
    identity = shop.migrating("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert shop.wait_phase("alpha", identity, "state")
    shop.restart(shop["alpha"])
    shop.let_go()
    result = shop.result("alpha", identity)
    assert result["result"] == "done", result
    has_its_data(shop)


def test_a_start_that_fails_there(shop):
    """Its configuration cannot work on beta: nothing ran there, so it is started again here."""
    alpha = shop["alpha"]
    alpha.run("sh", "-c", "echo lxc.hook.pre-start = /root/only-here >> /var/lib/lxc/shop/config")
    for host, code in ((alpha, 0), (shop["beta"], 1)):
        host.run("sh", "-c", f"printf '#!/bin/sh\\nexit {code}\\n' > /root/only-here; chmod 755 /root/only-here")
    done = shop.migrate("alpha", "lxc/shop", "beta", "--mode", "restart", check=False)
    assert done.returncode == 1 and "beta" in done.stdout, done.stdout + done.stderr
    runs_on_alpha_only(shop)


@pytest.mark.skipif(not FULL, reason="make test-full: every combination")
def test_link_lost_while_it_is_down(shop):
    shop.hold("alpha", "source-state")
    identity = shop.migrating("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert shop.wait_phase("alpha", identity, "state")
    shop["beta"].cut()
    result = shop.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    shop["beta"].heal()
    shop.let_go()
    time.sleep(0.1)
    runs_on_alpha_only(shop)


def test_started_while_it_is_moved(shop):
    """A stopped one that somebody starts meanwhile stays, and runs."""
    alpha = shop["alpha"]
    alpha.run("lxc-stop", "-n", "shop")
    shop.hold("alpha", "source-stop")
    identity = shop.migrating("alpha", "lxc/shop", "beta", "--mode", "restart")
    assert shop.wait_phase("alpha", identity, "stop")
    alpha.run("lxc-start", "-n", "shop")
    shop.let_go()
    result = shop.result("alpha", identity)
    assert result["result"] == "failed" and "meanwhile" in result["reason"], result
    runs_on_alpha_only(shop)
