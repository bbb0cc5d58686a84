# SPDX-License-Identifier: LGPL-2.1-or-later
"""Workloads of many small processes."""

import pytest

from site_under_test import FULL, PROGRAMS, eventually
from test_process import LOG, lines, nothing_left


def crowd(children):
    """Each with some memory that nobody else has, apart from the heap that it began with."""
    return ["family", "--children", str(children), "--threads", "1", "--mib", "0.14", "--pause", "400"]


def all_get_on(site, name, children, log):
    """Every one of them does, not one has found a fault."""
    before = len(lines(site, name, log))
    found = eventually(lambda: [line for line in lines(site, name, log)[before:] if f"{children} of {children} got on" in line],
                       60, f"all {children}")
    assert found[-1].endswith("0 errors")


@pytest.mark.parametrize("children", [200, *([600, 1000] if FULL else [])])
def test_a_tree_of_many(trees, children):
    alpha, beta = trees["alpha"], trees["beta"]
    pid = alpha.spawn(LOG, f"{PROGRAMS}/family", *crowd(children)[1:])
    all_get_on(trees, "alpha", children, LOG)
    report = trees.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert report["tracker"] == "uffd-wp"
    all_get_on(trees, "beta", children, LOG)
    assert len(trees.pid_of(beta, "family")) == children + 1 and trees.pid_of(alpha, "family") == []
    nothing_left(trees, "alpha")
    beta.run("kill", str(pid))
    eventually(lambda: lines(trees, "beta")[-1] == "end: 0 errors", 60, "its own end")


@pytest.fixture
def few_descriptors(trees):
    """Hosts where phauld may have no more than 1024 files open, whatever it asks for."""
    def start(command):
        for host in trees.hosts.values():
            trees.kill(host, "phauld")
            eventually(lambda: not trees.pid_of(host, "phauld"), what="the end of phauld")  # noqa: B023
            host.spawn("/var/log/phauld.log", *command)
            eventually(lambda: trees.api(host, "GET", "/host")[0] == 200, what="phauld")  # noqa: B023
    start(["sh", "-c", "ulimit -n 1024; exec phauld"])
    yield trees
    start(["phauld"])


@pytest.mark.skipif(not FULL, reason="make test-full")
def test_more_than_may_be_open(few_descriptors):
    """As many are tracked as leave the others descriptors; the memory of the rest goes with the dump, and comes in time."""
    alpha, beta = few_descriptors["alpha"], few_descriptors["beta"]
    children = 600
    pid = alpha.spawn(LOG, f"{PROGRAMS}/family", *crowd(children)[1:])
    all_get_on(few_descriptors, "alpha", children, LOG)
    report = few_descriptors.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert report["tracker"] == "uffd-wp"
    said = {name: few_descriptors[name].run("cat", f"/var/lib/phaul/migrations/{report['id']}/log").stdout for name in ("alpha", "beta")}
    assert "the hard limit on open files is too low" in said["alpha"], said["alpha"]
    assert "the hard limit on open files, 1024, is too low" in said["beta"], said["beta"]
    all_get_on(few_descriptors, "beta", children, LOG)
    beta.run("kill", str(pid))


@pytest.mark.skipif(not FULL, reason="make test-full: a tree of as many is enough every day")
@pytest.mark.parametrize("children", [200, 600])
def test_a_container_of_many(site, children):
    log = "/var/lib/lxc/crowd/rootfs/root/status"
    site["alpha"].container("crowd", [*crowd(children), "--status", "/root/status"], ip="10.77.0.71/24")
    all_get_on(site, "alpha", children, log)
    report = site.migrate("alpha", "lxc/crowd", "beta")
    assert report["tracker"] == "uffd-wp"
    all_get_on(site, "beta", children, log)
    assert len(site.pid_of(site["beta"], "family")) == children + 1 and site.pid_of(site["alpha"], "family") == []
