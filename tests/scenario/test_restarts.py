"""phauld may die at any time; sessions may die; the record decides how each migration ends."""

import pytest

from site_under_test import eventually

IP = "10.77.0.20"


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP)
    site.client.run("redis-cli", "-h", IP, "debug", "populate", "60000", "filler", "1000")
    counting = site.counting(IP, 300)
    yield counting
    counting.kill()


def one_copy(site):
    running = [name for name in site.hosts if site.state(name, "shop") == "RUNNING"]
    assert len(running) == 1, running
    return running[0]


@pytest.mark.parametrize("host", ["alpha", "beta"])
@pytest.mark.parametrize("phase", ["files", "freeze", "restore"])
def test_phauld_restarted_while_one_migrates(site, shop, host, phase):
    identity = site.migrating("alpha", "lxc/shop", "beta")
    assert site.wait_phase("alpha", identity, phase)
    site.restart(site[host])
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
    assert shown["result"] == "done" and shown["downtime_ms"] == report["downtime_ms"]
    assert report["id"] in site["alpha"].run("phaul", "list").stdout
    assert "beta" in site["alpha"].run("phaul", "show", report["id"]).stdout
    site.finish(shop, IP)


@pytest.mark.parametrize("phase", ["files", "freeze", "state", "restore"])
@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_session_killed_before_the_commit(site, shop, host, phase):
    """Nothing is lost: the source runs on with its connection, or the migration had already gone through."""
    identity = site.migrating("alpha", "lxc/shop", "beta")
    assert site.wait_phase("alpha", identity, phase)
    site.kill(site[host], "phaul-session")
    result = site.result("alpha", identity)
    assert result["owner"] in ("source", "target"), result
    site.finish(shop, IP)
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 120, "the target's session")
    assert one_copy(site) == ("alpha" if result["owner"] == "source" else "beta")
    if result["owner"] == "source":
        assert "shop" not in site["beta"].run("lxc-ls", "-1").stdout.split()


def test_link_lost_after_prepared_and_back(site, shop):
    """A target that holds a prepared copy waits; whichever way it ends, one copy runs and the connection goes on."""
    identity = site.migrating("alpha", "lxc/shop", "beta")
    assert site.wait_phase("beta", identity, "commit") or True
    site["beta"].cut()
    eventually(lambda: site.api(site["alpha"], "GET", f"/migrations/{identity}")[1].get("result") or
               site.api(site["alpha"], "GET", f"/migrations/{identity}")[1].get("phase") in ("resume", "release"), 60)
    site["beta"].heal()
    result = site.result("alpha", identity)
    assert result["owner"] in ("source", "target"), result
    site.finish(shop, IP)
    one_copy(site)
