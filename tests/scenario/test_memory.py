# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory goes in rounds while the workload runs; what arrives is what it had, whatever it did to its memory meanwhile."""

import re

import pytest

from site_under_test import FULL, eventually

STATUS = "/var/lib/lxc/{}/rootfs/root/status"


def in_container(site, name, *command, host="alpha"):
    site[host].container(name, [*command, "--status", "/root/status"], ip="10.77.0.61/24")
    eventually(lambda: lines(site, host, name), 60, "its first line")


def lines(site, host, name):
    return site[host].run("cat", STATUS.format(name), check=False).stdout.splitlines()


def goes_on(site, host, name, count=2):
    """It runs there, and found nothing wrong: that many new lines."""
    before = len(lines(site, host, name))
    eventually(lambda: len(lines(site, host, name)) >= before + count, 60, f"{name} on {host}")
    text = "\n".join(lines(site, host, name))
    assert "error:" not in text, text[-600:]


def left_out(site, host, report):
    """MB that the dump did not have to carry, or None."""
    log = site[host].run("cat", f"/var/lib/phaul/migrations/{report['id']}/log").stdout
    found = re.search(r"([0-9.]+) MB were there already", log)
    return float(found[1]) if found else None


def init_of(site, host, name):
    return site[host].run("lxc-info", "-p", "-H", "-n", name).stdout.strip()


def tracked(site, host, pid):
    """Whether a tracker has left anything in a process: descriptors, or areas that are watched."""
    flags = site[host].run("cat", f"/proc/{pid}/smaps").stdout
    fds = site[host].run("sh", "-c", f"readlink /proc/{pid}/fd/*").stdout
    return bool(re.search(r"^VmFlags:.* (uw|um|ui)\b", flags, re.M)) or "userfaultfd" in fds


def test_little_is_left_for_the_freeze(site):
    """128 MiB, written at 20 MB/s: all of it goes over while it runs, and a small part once more."""
    in_container(site, "writer", "memwriter", "--mib", "128", "--rate", "20")
    report = site.migrate("alpha", "lxc/writer", "beta")
    goes_on(site, "beta", "writer")
    assert report["tracker"] == "uffd-wp" and report["rounds"] >= 2, report
    assert left_out(site, "alpha", report) > 64
    eventually(lambda: not tracked(site, "beta", init_of(site, "beta", "writer")), what="nothing is watched there")
    report = site.migrate("beta", "lxc/writer", "alpha")
    goes_on(site, "alpha", "writer")
    assert report["tracker"] == "uffd-wp"


def test_without_a_tracker_all_of_it_is_dumped(site):
    in_container(site, "writer", "memwriter", "--mib", "64", "--rate", "20")
    report = site.migrate("alpha", "lxc/writer", "beta", "--tracker", "none")
    goes_on(site, "beta", "writer")
    assert report["tracker"] is None and left_out(site, "alpha", report) is None
    assert "memory" not in [phase["name"] for phase in report["phases"]]


def test_by_contents(site):
    """No feature of the kernel is needed for that; all memory is read once more in the end, but little is sent."""
    in_container(site, "writer", "memwriter", "--mib", "128", "--rate", "20")
    report = site.migrate("alpha", "lxc/writer", "beta", "--tracker", "hash")
    goes_on(site, "beta", "writer")
    assert report["tracker"] == "hash" and report["rounds"] >= 2, report
    assert left_out(site, "alpha", report) > 64


def test_a_tracker_that_this_kernel_lacks(site):
    """Whoever insists on it is told; nothing has happened to the workload."""
    if "softdirty" in site["alpha"].run("cat", "/proc/self/smaps").stdout:
        pytest.skip("this kernel has soft-dirty tracking")
    in_container(site, "writer", "memwriter", "--mib", "16", "--rate", "1")
    done = site.migrate("alpha", "lxc/writer", "beta", "--tracker", "soft-dirty", check=False)
    assert done.returncode == 1 and "CONFIG_MEM_SOFT_DIRTY" in done.stdout + done.stderr, done
    goes_on(site, "alpha", "writer")


@pytest.mark.parametrize("tracker", ["uffd-wp", "hash", "none"])
def test_what_is_there_already_is_not_sent(site, tracker):
    """Zeros, pages like others, and a child's that it shares with its parent. What arrives is all of it."""
    in_container(site, "alike", "alike", "--mib", "48", "--rate", "200")
    report = site.migrate("alpha", "lxc/alike", "beta", "--tracker", tracker)
    goes_on(site, "beta", "alike", 3)
    assert report["zero_bytes"] > 16 << 20 and report["same_bytes"] > 32 << 20, report
    report = site.migrate("beta", "lxc/alike", "alpha", "--tracker", tracker)
    goes_on(site, "alpha", "alike", 3)
    assert report["same_bytes"] > 16 << 20, report


def test_cancelled_in_a_round(site):
    """It runs on, as it was, and is watched no more; the target has nothing of it."""
    in_container(site, "writer", "memwriter", "--mib", "96", "--rate", "10")
    before = site.traces("beta")
    pid = init_of(site, "alpha", "writer")
    fds = site["alpha"].run("ls", f"/proc/{pid}/fd").stdout
    identity = site.migrating("alpha", "lxc/writer", "beta", "--bandwidth", "12M")
    assert site.wait_phase("alpha", identity, "memory")
    eventually(lambda: tracked(site, "alpha", pid), what="it is watched")
    site["alpha"].run("phaul", "cancel", identity)
    assert site.result("alpha", identity)["result"] == "cancelled"
    goes_on(site, "alpha", "writer")
    eventually(lambda: not tracked(site, "alpha", pid), what="it is watched no more")
    assert site["alpha"].run("ls", f"/proc/{pid}/fd").stdout == fds
    site.settled_traces("beta", before)
    site.migrate("alpha", "lxc/writer", "beta")
    goes_on(site, "beta", "writer")


@pytest.mark.parametrize("side", ["source", "target"] if FULL else ["target"])
def test_a_session_killed_in_a_round(site, side):
    in_container(site, "writer", "memwriter", "--mib", "96", "--rate", "10")
    host = "alpha" if side == "source" else "beta"
    before = site.traces("beta")
    pid = init_of(site, "alpha", "writer")
    identity = site.migrating("alpha", "lxc/writer", "beta", "--bandwidth", "12M")
    assert site.wait_phase("alpha", identity, "memory")
    eventually(lambda: tracked(site, "alpha", pid), what="it is watched")
    assert site.kill(site[host], "phaul-session")
    assert site.result("alpha", identity)["result"] == "failed"
    goes_on(site, "alpha", "writer")
    assert site.runs("alpha", "writer")
    eventually(lambda: not tracked(site, "alpha", pid), what="it is watched no more")
    site.settled_traces("beta", before)


@pytest.mark.parametrize("streams", [1, 8])
def test_memory_on_so_many_connections(site, streams):
    """There and back, with one that is checked all the time; as many processes carry it on either side."""
    in_container(site, "writer", "memwriter", "--mib", "64", "--rate", "10")
    site.hold("alpha", "source-freeze")
    identity = site.migrating("alpha", "lxc/writer", "beta", "--streams", str(streams))
    assert site.wait_phase("alpha", identity, "freeze")
    assert [len(site.carriers(site[name])) for name in ("alpha", "beta")] == [streams, streams]
    site.let_go()
    assert site.result("alpha", identity)["result"] == "done"
    goes_on(site, "beta", "writer")
    report = site.migrate("beta", "lxc/writer", "alpha", "--streams", str(streams), "--tracker", "none")
    assert report["bytes_sent"] > 48 << 20, report
    goes_on(site, "alpha", "writer")
    eventually(lambda: not site.carriers(site["alpha"]) + site.carriers(site["beta"]), what="the end of its connections")


@pytest.mark.parametrize("side", ["source", "target"] if FULL else ["source"])
def test_only_the_connection_for_memory_is_lost_in_a_round(site, side):
    """The messages still come and go: nobody may wait for ever for what was on the other connection."""
    in_container(site, "writer", "memwriter", "--mib", "96", "--rate", "10")
    before = site.traces("beta")
    pid = init_of(site, "alpha", "writer")
    identity = site.migrating("alpha", "lxc/writer", "beta", "--bandwidth", "12M")
    assert site.wait_phase("alpha", identity, "memory")
    eventually(lambda: tracked(site, "alpha", pid), what="it is watched")
    site.kill_bulk(site["alpha" if side == "source" else "beta"])
    result = site.result("alpha", identity, 60)
    assert result["result"] == "failed" and result["owner"] == "source", result
    goes_on(site, "alpha", "writer")
    eventually(lambda: not tracked(site, "alpha", pid), what="it is watched no more")
    site.settled_traces("beta", before)
    site.migrate("alpha", "lxc/writer", "beta")
    goes_on(site, "beta", "writer")
