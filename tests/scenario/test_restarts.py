# SPDX-License-Identifier: LGPL-2.1-or-later
"""phauld may die at any time; sessions may die; the record decides how each migration ends."""

import time

import pytest

from site_under_test import FULL, eventually

IP = "10.77.0.20"


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP, kilobytes=60000)
    counting = site.counting(IP, 300)
    yield counting
    counting.kill()


def one_copy(site):
    running = [name for name in site.hosts if site.runs(name, "shop")]
    assert len(running) == 1, running
    return running[0]


@pytest.mark.parametrize("host", ["alpha", "beta"])
@pytest.mark.parametrize("phase", ["files", "freeze", "restore"] if FULL else ["freeze", "restore"])
def test_phauld_restarted_while_one_migrates(site, shop, host, phase):
    identity = site.migrating_held("source", phase)
    site.restart(site[host])
    site.let_go()
    result = site.result("alpha", identity)
    # New connections need the far phauld: without it a phase may fail, but then the source runs on.
    assert result["result"] == "done" or (result["result"] == "failed" and result["owner"] == "source"), result
    if host == "alpha":
        assert result["result"] == "done", result
    site.finish(shop, IP)
    assert one_copy(site) == ("beta" if result["result"] == "done" else "alpha")


def test_phauld_restarted_while_containers_run(site, shop):
    site.restart(site["alpha"])
    site.migrate("alpha", "lxc/shop", "beta")
    site.restart(site["beta"])
    assert site.state("beta", "shop") == "RUNNING"
    listed = site["beta"].run("phaul", "ps").stdout
    assert "shop" in listed
    site.finish(shop, IP)


def test_history_survives_restarts(site, shop):
    report = site.migrate("alpha", "lxc/shop", "beta")
    site.restart(site["alpha"])
    shown = site.api(site["alpha"], "GET", f"/migrations/{report['id']}")[1]
    assert shown["result"] == "done" and shown["report"]["downtime_ms"] == report["downtime_ms"]
    assert report["id"] in site["alpha"].run("phaul", "list").stdout
    assert "beta" in site["alpha"].run("phaul", "show", report["id"]).stdout
    site.finish(shop, IP)


KILLS = [("source", "files"), ("source", "state"), ("source", "commit"), ("source", "resume"), ("target", "restore"),
         ("target", "commit"), ("target", "resume")]


@pytest.mark.parametrize("side,phase", [(side, phase) for side in ("source", "target") for phase in
                                        ("files", "state", "restore", "commit", "resume")] if FULL else KILLS)
def test_session_killed(site, shop, side, phase):
    """Its record decides: before COMMIT the source runs on with its connection, after it the target does."""
    identity = site.migrating_held(side, phase)
    assert site.kill(site["alpha" if side == "source" else "beta"], "phaul-session")
    site.let_go()
    result = site.result("alpha", identity)
    expected = "target" if phase == "resume" else "source"
    assert result["owner"] == expected, result
    site.finish(shop, IP)
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 120, "the target's session")
    assert one_copy(site) == ("alpha" if expected == "source" else "beta")
    if expected == "source":
        assert "shop" not in site["beta"].run("lxc-ls", "-1").stdout.split()
    else:
        assert site.state("alpha", "shop") is None


@pytest.mark.parametrize("side,phase", [("target", "commit"), ("target", "resume"), ("source", "resume")])
def test_link_lost_after_prepared_and_back(site, shop, side, phase):
    """A target that holds a prepared copy waits and asks again; a committed source asks until it hears."""
    identity = site.migrating_held(side, phase)
    site["beta"].cut()
    site.let_go()
    if (side, phase) == ("target", "commit"):
        site.result("alpha", identity)  # it hears nothing and takes it back
    else:
        time.sleep(8)  # longer than either is silent
    assert len([name for name in site.hosts if site.runs(name, "shop")]) <= 1
    site["beta"].heal()
    result = site.result("alpha", identity)
    assert result["owner"] == ("source" if (side, phase) == ("target", "commit") else "target"), result
    site.finish(shop, IP)
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 120, "the target's session")
    one_copy(site)
