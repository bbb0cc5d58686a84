# SPDX-License-Identifier: LGPL-2.1-or-later
"""A workload that dirties its memory faster than the link takes it: what is done about that, and that it is undone."""

import re

import pytest
from test_memory import goes_on, in_container
from test_process import nothing_left

from site_under_test import PROGRAMS, eventually

CPU = "/sys/fs/cgroup/cpu/lxc.payload.{0}", "/sys/fs/cgroup/lxc.payload.{0}"
RESTLESS = ["memwriter", "--mib", "32", "--rate", "200"]


def limit(site, host, name):
    """Of its CPU time, as the kernel has it: quota and period."""
    return site[host].run("sh", "-c", " || ".join(
        f"cat {d}/cpu.max {d}/cpu.cfs_quota_us {d}/cpu.cfs_period_us 2>/dev/null | grep ." for d in map(lambda c: c.format(name), CPU)
    ) + " || true").stdout.split()


def set_limit(site, host, name, quota):
    v1, v2 = (c.format(name) for c in CPU)
    site[host].run("sh", "-c", f"if test -e {v1}; then echo {quota} > {v1}/cpu.cfs_quota_us; else echo {quota} > {v2}/cpu.max; fi")


def log_of(site, host, identity):
    return site[host].run("cat", f"/var/lib/phaul/migrations/{identity}/log", check=False).stdout


def kept(site, host, identity):
    """Megabytes that the dump left out."""
    return float(re.search(r"([\d.]+) MB were there already", log_of(site, host, identity))[1])


def test_slowed_down_it_converges(site):
    """Without that it is stopped although the downtime will be long; both say so beforehand, and are right."""
    in_container(site, "restless", *RESTLESS)
    free = limit(site, "alpha", "restless")
    assert len(free) == 2 and free[0] in ("-1", "max"), free
    options = "--bandwidth", "20M", "--max-downtime", "800"
    stopped = site.migrate("alpha", "lxc/restless", "beta", *options)
    goes_on(site, "beta", "restless")
    assert "slowed down" not in log_of(site, "alpha", stopped["id"])
    assert stopped["predicted_downtime_ms"] > 800 < stopped["downtime_ms"], stopped

    slowed = site.migrate("beta", "lxc/restless", "alpha", *options, "--diverge", "throttle")
    goes_on(site, "alpha", "restless")
    assert "slowed down" in log_of(site, "beta", slowed["id"])
    assert slowed["predicted_downtime_ms"] < stopped["predicted_downtime_ms"], (slowed, stopped)
    # Of 33 MB, 800 ms of the link are 16.
    assert kept(site, "alpha", stopped["id"]) < 10 < 13 < kept(site, "beta", slowed["id"])
    assert limit(site, "alpha", "restless") == free


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_the_limit_is_what_it_was(site, end):
    """One that somebody has set, too; also when the session dies with the workload slowed down."""
    in_container(site, "restless", *RESTLESS)
    set_limit(site, "alpha", "restless", 90000)
    before = limit(site, "alpha", "restless")
    assert before == ["90000", "100000"]
    identity = site.migrating("alpha", "lxc/restless", "beta", "--bandwidth", "8M", "--max-downtime", "1", "--diverge", "throttle")
    eventually(lambda: "slowed down" in log_of(site, "alpha", identity), 60, "it is slowed down")
    assert limit(site, "alpha", "restless") != before
    if end == "killed":
        assert site.kill(site["alpha"], "phaul-session")
    else:
        site["alpha"].run("phaul", "cancel", identity)
    assert site.result("alpha", identity)["owner"] == "source"
    eventually(lambda: limit(site, "alpha", "restless") == before, what="the limit that was there before")
    goes_on(site, "alpha", "restless")


@pytest.fixture
def tree(site):
    """The same as a process of the host; its pid."""
    site.part_pids()
    pid = site["alpha"].spawn("/dev/null", f"{PROGRAMS}/{RESTLESS[0]}", *RESTLESS[1:], "--status", "/tmp/restless")
    eventually(lambda: tree_lines(site, "alpha"), 60, "its first line")
    yield pid
    for host in site.hosts.values():
        host.run("sh", "-c", f"kill {pid}; rm -f /tmp/restless", check=False)


def tree_lines(site, host):
    return site[host].run("cat", "/tmp/restless", check=False).stdout.splitlines()


def tree_goes_on(site, host):
    before = len(tree_lines(site, host))
    eventually(lambda: len(tree_lines(site, host)) >= before + 2, 60, f"the tree on {host}")
    assert not [line for line in tree_lines(site, host) if "error:" in line]


def cgroups(site, host, pid):
    return sorted(site[host].run("cat", f"/proc/{pid}/cgroup").stdout.splitlines())


def tree_limits(site, host, pid):
    """Of cgroups that were made for it: quotas."""
    return site[host].run("sh", "-c", f"cat /sys/fs/cgroup/cpu*/phaul-{pid}-*/cpu.cfs_quota_us "
                          f"/sys/fs/cgroup/phaul-{pid}-*/cpu.max 2>/dev/null || true").stdout.split()


def limits_are_possible(site):
    return site["alpha"].run("sh", "-c", "test -e /sys/fs/cgroup/cpu || grep -qw cpu /sys/fs/cgroup/cgroup.controllers",
                             check=False).returncode == 0


def test_a_tree_of_processes_is_slowed_down(site, tree):
    """In a cgroup of its own, which is gone when it is; without CPU limits here it is stopped, and that is said."""
    report = site.migrate("alpha", f"pid/{tree}", "beta", "--copy-files", "--bandwidth", "20M", "--max-downtime", "800", "--diverge",
                          "throttle")
    tree_goes_on(site, "beta")
    log = log_of(site, "alpha", report["id"])
    if limits_are_possible(site):
        assert re.search(r"slowed down to [\d.]+ %", log), log
        assert kept(site, "alpha", report["id"]) > 13
    else:
        assert "cannot be slowed down" in log, log
    nothing_left(site, "alpha")
    assert tree_limits(site, "beta", tree) == []


@pytest.mark.parametrize("end", ["cancelled", "killed"])
def test_a_tree_is_back_in_its_cgroups(site, tree, end):
    """As it was before it was slowed down, also when the session dies while it is."""
    if not limits_are_possible(site):
        pytest.skip("no cgroup here limits CPU time")
    before = cgroups(site, "alpha", tree)
    identity = site.migrating("alpha", f"pid/{tree}", "beta", "--copy-files", "--bandwidth", "8M", "--max-downtime", "1", "--diverge",
                              "throttle")
    eventually(lambda: "slowed down to" in log_of(site, "alpha", identity), 60, "it is slowed down")
    assert cgroups(site, "alpha", tree) != before
    assert [q for q in tree_limits(site, "alpha", tree) if q not in ("-1", "max")]
    if end == "killed":
        assert site.kill(site["alpha"], "phaul-session")
    else:
        site["alpha"].run("phaul", "cancel", identity)
    assert site.result("alpha", identity)["owner"] == "source"
    eventually(lambda: cgroups(site, "alpha", tree) == before, what="the cgroups that it was in")
    nothing_left(site, "alpha")
    tree_goes_on(site, "alpha")
