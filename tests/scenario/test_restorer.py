# SPDX-License-Identifier: LGPL-2.1-or-later
"""CRIU that gets stuck or dies after the commit, before the copy's first instruction: nothing ran, so the source goes on."""

import pytest

from site_under_test import FULL, PROGRAMS, eventually

IP = "10.77.0.20"
LOG = "/var/log/family.log"
full = pytest.mark.skipif(not FULL, reason="the same of a process tree is enough every day")


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP)
    counting = site.counting(IP, 300)
    yield counting
    counting.kill()


def stuck(site, what, place, *options):
    """Migrate; CRIU on beta waits in its action script at that place. The migration's id."""
    site.hold("beta", f"hold-{place}")
    identity = site.migrating("alpha", what, "beta", *options)
    script = f"grep -lz '^CRTOOLS_SCRIPT_ACTION={place}$' /proc/[0-9]*/environ"
    eventually(lambda: site["beta"].run("sh", "-c", script, check=False).stdout, 90, f"CRIU at {place}")
    assert site.api(site["alpha"], "GET", f"/migrations/{identity}")[1].get("result") is None
    return identity


def ended_here(site, identity, seconds=120):
    result = site.result("alpha", identity, seconds)
    assert result["result"] == "failed" and result["owner"] == "source", result
    site.let_go()
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    assert site.result("beta", identity)["owner"] == "source"


@pytest.mark.parametrize("victim", ["phaul-session", "criu"])
def test_a_container_that_never_ran(site, shop, victim):
    before = {name: site.traces(name) for name in site.hosts}
    identity = stuck(site, "lxc/shop", "network-unlock")
    assert site.kill(site["beta"], victim)
    ended_here(site, identity)
    site.finish(shop, IP)
    assert site.runs("alpha", "shop") and not site.runs("beta", "shop")
    for name in site.hosts:
        site.settled_traces(name, before[name])


@full
def test_a_container_caught_before_its_first_instruction(site):
    """Its sockets live already, so what a client sends there is lost; a connection that is at rest is kept."""
    site.redis("alpha", "shop", IP)
    script = (f"import socket, sys\ns = socket.create_connection(('{IP}', 6379))\n"
              "def ask():\n    s.sendall(b'INCR n\\r\\n')\n    return s.recv(99).decode().strip()\n"
              "print(ask(), flush=True)\nsys.stdin.readline()\ns.settimeout(30)\nprint(ask(), flush=True)\n")
    client = site.client.popen("python3", "-c", script, stdin=-1, stdout=-1, text=True)
    try:
        assert client.stdout.readline() == ":1\n"
        identity = stuck(site, "lxc/shop", "pre-resume")
        assert site.kill(site["beta"], "phaul-session")
        ended_here(site, identity)
        assert site.runs("alpha", "shop") and not site.runs("beta", "shop")
        assert client.communicate("\n", timeout=60)[0] == ":2\n"
    finally:
        client.kill()


@full
def test_a_container_that_gets_through(site, shop):
    identity = stuck(site, "lxc/shop", "pre-resume")
    site.let_go()
    result = site.result("alpha", identity)
    assert result["result"] == "done" and result["owner"] == "target", result
    site.finish(shop, IP)
    assert site.runs("beta", "shop") and site.state("alpha", "shop") is None


def members(site, name):
    return sorted(site[name].run("pgrep", "-x", "family", check=False).stdout.split())


@pytest.fixture
def family(site):
    site.part_pids()
    pid = site["alpha"].spawn(LOG, f"{PROGRAMS}/family")
    eventually(lambda: len(members(site, "alpha")) == 3, what="the family")
    return pid


def gets_on(site, name):
    count = lambda: len(site[name].run("cat", LOG, check=False).stdout.splitlines())  # noqa: E731
    before = count()
    eventually(lambda: count() > before + 1, what="lines of the family")


def test_a_tree_that_never_ran(site, family):
    before = members(site, "alpha")
    identity = stuck(site, f"pid/{family}", "pre-resume", "--copy-files")
    written = site["beta"].run("cat", LOG).stdout
    assert members(site, "beta") == before, "the copy is there, caught before its first instruction"
    assert site.kill(site["beta"], "phaul-session")
    ended_here(site, identity)
    eventually(lambda: members(site, "beta") == [], what="the end of the copy")  # the last of it is only to be reaped
    assert members(site, "alpha") == before
    assert written in ("", site["alpha"].run("cat", LOG).stdout[:len(written)])
    gets_on(site, "alpha")


def test_a_tree_that_gets_through_without_its_session(site, family):
    """The new session finds that CRIU came through, although it was not there."""
    before = members(site, "alpha")
    identity = stuck(site, f"pid/{family}", "pre-resume", "--copy-files")
    phauld = site.pid_of(site["beta"], "phauld")[0]
    site["beta"].run("kill", "-STOP", str(phauld))
    try:
        assert site.kill(site["beta"], "phaul-session")
        site.let_go()
        eventually(lambda: not site.pid_of(site["beta"], "criu"), 60, "the end of criu")
    finally:
        site["beta"].run("kill", "-CONT", str(phauld))
    result = site.result("alpha", identity)
    assert result["result"] == "done" and result["owner"] == "target", result
    eventually(lambda: members(site, "alpha") == [], what="the end of the original")
    assert members(site, "beta") == before
    gets_on(site, "beta")
