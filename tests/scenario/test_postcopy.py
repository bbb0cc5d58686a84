# SPDX-License-Identifier: LGPL-2.1-or-later
"""Post-copy: it runs on the target while its last memory is with the frozen original; not one byte of it is wrong."""

import json

import pytest

from site_under_test import FULL, eventually
from test_lazy import said, services
from test_lazy import Workload as Lazy

MIB = 256 if FULL else 96


class Workload(Lazy):
    """It says whether tasks of it stand still on a host, and may take options when it is only begun."""

    def migrating(self, *options):
        return self.site.migrating("alpha", self.what, "beta", *self.options, *options)

    def migrate(self, source, target, *options, **how):
        return self.site.migrate(source, self.what, target, *self.options, *options, **how)

    def frozen(self, host):
        program = "family" if self.kind == "pid" else "memwriter"
        return self.site.pid_of(self.site[host], program)


@pytest.fixture(params=["lxc", "pid"] if FULL else ["lxc"])
def workload(site, request):
    return Workload(site, request.param, MIB)


def report_of(site, host, identity):
    return json.loads(site[host].run("cat", f"/var/lib/phaul/migrations/{identity}/report.json").stdout)


@pytest.mark.parametrize("kind", ["lxc", "mapped", "pid"])
def test_there_and_back(site, kind):
    workload = Workload(site, kind, MIB)
    for source, target, tracker in (("alpha", "beta", "none"), ("beta", "alpha", "auto")):
        report = workload.migrate(source, target, "--postcopy", "--tracker", tracker)
        assert report["result"] == "done" and report["owner"] == "target"
        left = report["postcopy"]
        # With rounds it is what was written since the last of them: perhaps all.
        assert left["left_bytes"] > (32 << 20 if tracker == "none" else 0) and bool(report["tracker"]) == (tracker == "auto"), report
        # Asked for are runs with what lies around; each page that was left came, some of it because a task waited.
        assert left["faulted_bytes"] > 0 and left["faulted_bytes"] + left["background_bytes"] >= left["left_bytes"], left
        assert left["source_needed_ms"] > report["downtime_ms"], report
        eventually(lambda: not services(site, target), 60, "the end of the fill")  # noqa: B023
        eventually(lambda: "memory is in place" in said(site, target, report["id"]), what="that it is said")  # noqa: B023
        workload.goes_on(target, 4)


def test_pages_are_fetched_on_fault(site, workload):
    """With nothing fetched by itself; the original is kept, frozen, until the last page is there."""
    site.hold("beta", "target-pull")
    identity = workload.migrating("--postcopy", "--tracker", "none")
    assert site.wait_phase("beta", identity, "fill") and site.wait_phase("alpha", identity, "fill")
    workload.goes_on("beta")
    there = site.api(site["alpha"], "GET", f"/migrations/{identity}")[1]
    assert there["state"] == "serving" and there["result"] is None, there
    assert "too late" in site["alpha"].run("phaul", "cancel", identity, check=False).stderr
    assert workload.frozen("alpha"), "the original is gone"
    site.let_go()
    assert site.result("alpha", identity)["owner"] == "target"
    left = report_of(site, "alpha", identity)["postcopy"]
    assert left["faulted_bytes"] > 1 << 20, left
    assert not workload.frozen("alpha")
    assert site.result("beta", identity)["result"] == "done"
    there = report_of(site, "beta", identity)["postcopy"]
    assert there["left_bytes"] == left["left_bytes"] and there["source_needed_ms"] is not None
    workload.goes_on("beta")


def test_a_link_that_is_lost_and_comes_back(site, workload):
    site.hold("beta", "target-pull")
    identity = workload.migrating("--postcopy", "--tracker", "none")
    assert site.wait_phase("beta", identity, "fill") and site.wait_phase("alpha", identity, "fill")
    site["beta"].cut()
    site.let_go()
    for host in ("alpha", "beta"):
        def stalled(host=host):
            document = site.api(site[host], "GET", f"/migrations/{identity}")[1]
            return document if document["state"] == "stalled" else None
        document = eventually(stalled, 60, f"that {host} says so")
        assert "link to" in document["reason"] and document["result"] is None, document
        assert "stalled" in site[host].run("phaul", "show", identity).stdout
    assert workload.frozen("alpha")
    site["beta"].heal()
    assert site.result("alpha", identity)["owner"] == "target"
    assert site.result("beta", identity)["result"] == "done"
    assert "the link is back" in said(site, "beta", identity)
    workload.goes_on("beta", 4)


@pytest.mark.parametrize("host", ["alpha", "beta"])
def test_a_session_that_is_killed_meanwhile(site, workload, host):
    """Whichever: the next one goes on, and the original is not let go before it is done."""
    site.hold("beta", "target-pull")
    identity = workload.migrating("--postcopy", "--tracker", "none")
    assert site.wait_phase("beta", identity, "fill") and site.wait_phase("alpha", identity, "fill")
    assert site.kill(site[host], "phaul-session")
    assert workload.frozen("alpha")
    workload.goes_on("beta")
    site.let_go()
    assert site.result("alpha", identity)["owner"] == "target"
    assert site.result("beta", identity)["owner"] == "target"
    eventually(lambda: not services(site), 60, "the end of the fill")
    assert "died" not in said(site, "beta", identity)
    workload.goes_on("beta", 4)


def test_the_way_of_the_pages_is_lost_alone(site, workload):
    site.hold("beta", "target-pull")
    identity = workload.migrating("--postcopy", "--tracker", "none")
    assert site.wait_phase("beta", identity, "fill") and site.wait_phase("alpha", identity, "fill")
    for _ in range(3):
        site.kill_bulk(site["beta"])
        workload.goes_on("beta", 1)
    site.let_go()
    assert site.result("alpha", identity)["owner"] == "target"
    assert site.result("beta", identity)["result"] == "done"
    workload.goes_on("beta", 4)


def test_what_dirties_too_fast_follows(site):
    """The rounds help no more: the rest of it stays, and what they brought counts as long as it is what it was."""
    site["alpha"].container("writer", ["memwriter", "--mib", "48", "--rate", "200", "--status", "/root/status"],
                            ip="10.77.0.61/24")
    workload = Workload.__new__(Workload)
    workload.site, workload.kind, workload.what, workload.options = site, "lxc", "lxc/writer", ()
    eventually(lambda: workload.lines("alpha"), 60, "its first line")
    options = "--bandwidth", "20M", "--max-downtime", "400"
    report = workload.migrate("alpha", "beta", *options, "--diverge", "postcopy")
    assert report["postcopy"] and report["postcopy"]["left_bytes"] > 4 << 20, report
    assert "the rest follows when it runs there" in said(site, "alpha", report["id"])
    eventually(lambda: not services(site), 60, "the end of the fill")
    workload.goes_on("beta", 4)
    report = workload.migrate("beta", "alpha", "--diverge", "postcopy", "--max-downtime", "60000")
    assert report["postcopy"] is None, report
    workload.goes_on("alpha", 2)


def test_where_it_is_not_possible_it_is_said_before(site, workload):
    """No page service could bring what is not there: nothing is frozen for that."""
    site["beta"].run("mv", "/usr/libexec/phaul/phaul-pages", "/root/phaul-pages.kept")
    try:
        done = workload.migrate("alpha", "beta", "--postcopy", check=False)
    finally:
        site["beta"].run("mv", "/root/phaul-pages.kept", "/usr/libexec/phaul/phaul-pages")
    assert done.returncode == 3 and "post-copy is not possible" in done.stdout and "freeze" not in done.stderr, done
    workload.goes_on("alpha")


def test_an_original_that_dies_first(site):
    """The one loss that there is: it is said where it runs, and nothing else waits for it."""
    workload = Workload(site, "pid", MIB)
    site.hold("beta", "target-pull")
    identity = workload.migrating("--postcopy", "--tracker", "none")
    assert site.wait_phase("beta", identity, "fill") and site.wait_phase("alpha", identity, "fill")
    # What keeps the original frozen, and it: dead at once, as with their host.
    site["alpha"].run("sh", "-c", "kill -KILL $(pidof family criu phaul-session); for f in $(find /sys/fs/cgroup -path '*phaul-*' "
                      "-name cgroup.freeze -o -path '*phaul-*' -name freezer.state); do case $f in *freeze) echo 0 > $f;; "
                      "*) echo THAWED > $f;; esac; done", check=False)
    eventually(lambda: not workload.frozen("alpha"), what="the end of the original")
    site.let_go()

    def lost():
        document = site.api(site["beta"], "GET", f"/migrations/{identity}")[1]
        return document if document["state"] == "attention" else None
    document = eventually(lost, 60, "that it is said")
    assert "has lost memory" in document["reason"], document
    assert site.result("alpha", identity)["owner"] == "target"
    site["beta"].run("sh", "-c", "kill -KILL $(pidof family)")
    eventually(lambda: site.api(site["beta"], "GET", f"/migrations/{identity}")[1]["state"] == "ended", 60, "its end")
    assert report_of(site, "beta", identity)["owner"] == "target"
    eventually(lambda: not services(site), what="the end of the service")
