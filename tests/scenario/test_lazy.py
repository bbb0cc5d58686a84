# SPDX-License-Identifier: LGPL-2.1-or-later
"""The workload runs on the target before its memory is there; not one byte of it is wrong, whoever dies meanwhile."""

import json
import re
import time

import pytest

from site_under_test import FULL, PROGRAMS, eventually

LOG = "/var/log/family.log"
STATUS = "/var/lib/lxc/writer/rootfs/root/status"


class Workload:
    """A container or a process tree that checks its own memory all the time."""

    def __init__(self, site, kind, mebibytes):
        self.site, self.kind = site, kind
        if kind != "pid":
            self.what, self.options = "lxc/writer", ()
            site["alpha"].container("writer", ["memwriter", "--mib", str(mebibytes), "--rate", "20", "--status", "/root/status"],
                                    ip="10.77.0.61/24", **({"idmap": 100000} if kind == "mapped" else {}))
        else:
            site.part_pids()
            pid = site["alpha"].spawn(LOG, f"{PROGRAMS}/family", "--children", "2", "--threads", "2", "--mib",
                                      str(mebibytes // 4))
            self.what, self.options = f"pid/{pid}", ("--copy-files",)
        eventually(lambda: self.lines("alpha"), 60, "its first line")

    def lines(self, host):
        return self.site[host].run("cat", LOG if self.kind == "pid" else STATUS, check=False).stdout.splitlines()

    def goes_on(self, host, count=2):
        before = len(self.lines(host))
        eventually(lambda: len(self.lines(host)) >= before + count, 60, f"{self.what} on {host}")
        text = "\n".join(self.lines(host)[-40:])
        assert "error:" not in text and "wrong" not in text, text[-600:]

    def migrating(self):
        return self.site.migrating("alpha", self.what, "beta", *self.options)

    def migrate(self, source, target, *options):
        return self.site.migrate(source, self.what, target, *self.options, *options)


def said(site, host, identity):
    return site[host].run("cat", f"/var/lib/phaul/migrations/{identity}/log").stdout


def services(site, host="beta"):
    return site.pid_of(site[host], "phaul-pages")


def nothing_of_it(site, host, before):
    """No process, no socket, no ledger, no images; and nobody's memory is watched."""
    eventually(lambda: not services(site, host), 60, "the end of the fill")
    site.settled_traces(host, before, 60)


def unlike_before(site, host):
    """What a migration adds to a host for good."""
    traces = site.traces(host)
    return {k: traces[k] for k in ("mounts", "programs")}


@pytest.fixture(params=["lxc", "pid"] if FULL else ["pid"])
def workload(site, request):
    return Workload(site, request.param, 256 if FULL else 96)


@pytest.mark.parametrize("kind", ["lxc", "mapped", "pid"])
def test_it_runs_before_its_memory_is_there(site, kind):
    workload = Workload(site, kind, 256 if FULL else 96)
    site.hold("beta", "target-pages")
    identity = workload.migrating()
    assert site.result("alpha", identity)["result"] == "done"      # the source need not wait
    assert site.wait_phase("beta", identity, "fill")
    eventually(lambda: len(services(site)) == 2, what="both processes of the service")
    workload.goes_on("beta")
    site.let_go()
    assert site.result("beta", identity)["result"] == "done"
    report = json.loads(site["beta"].run("cat", f"/var/lib/phaul/migrations/{identity}/report.json").stdout)
    filled = {phase["name"]: phase for phase in report["phases"]}["fill"]
    assert filled["bytes"] > 32 << 20, filled
    assert "memory is in place" in said(site, "beta", identity)
    eventually(lambda: not services(site), what="the end of the service")
    left = site["beta"].run("sh", "-c", "ls /run/phaul/images; ls /run/phaul/sessions | grep pages; "
                            "grep '^phaul ' /proc/self/mounts", check=False).stdout
    assert left == "", left
    workload.goes_on("beta")
    tasks = site["beta"].run("sh", "-c", "grep -l '^VmFlags:.* um' /proc/[0-9]*/smaps", check=False).stdout
    assert tasks == "", f"still watched: {tasks}"
    fds = site["beta"].run("sh", "-c", "readlink /proc/[0-9]*/fd/* | grep userfaultfd", check=False).stdout
    assert fds == "", f"somebody has kept one: {fds}"


def test_a_service_that_is_killed_all_the_time(site, workload):
    site.hold("beta", "target-pages")
    identity = workload.migrating()
    assert site.wait_phase("beta", identity, "fill")
    for turn in range(30):
        pids = services(site)
        if not pids:
            break
        killed = pids[turn % len(pids)]
        site["beta"].run("kill", "-KILL", str(killed), check=False)
        if turn == 10:
            site.let_go()
        # One that is still dying would count as the other, and the next turn would kill the only one that is left.
        eventually(lambda: killed not in (now := services(site)) and len(now) != 1,  # noqa: B023
                   what="another process of the service")
        time.sleep(0.05)
    site.let_go()
    assert site.result("beta", identity)["result"] == "done"
    assert "died" not in said(site, "beta", identity)
    workload.goes_on("beta", 4)


def test_all_of_that_name_are_killed(site, workload):
    """One of the service has another name, and begins anew with all that they had."""
    beta = site["beta"]
    standby = lambda: [int(p) for p in beta.run("pgrep", "-x", "phaul-standby", check=False).stdout.split()]  # noqa: E731
    site.hold("beta", "target-pages")
    identity = workload.migrating()
    assert site.wait_phase("beta", identity, "fill")
    took_over = 0
    for _ in range(5):
        before, waiting = eventually(lambda: len(now := services(site)) == 2 and standby() and (now, standby()), what="all three")
        beta.run("pkill", "-KILL", "phaul-pages")
        now = eventually(lambda: len(now := services(site)) == 2 and not set(now) & set(before) and now,  # noqa: B023
                         what=f"others than {before}")
        took_over += waiting[0] in now  # or one of the two had time to start another
        workload.goes_on("beta", 1)
    assert took_over
    site.let_go()
    assert site.result("beta", identity)["result"] == "done"
    assert "died" not in said(site, "beta", identity)
    workload.goes_on("beta", 4)
    eventually(lambda: not services(site) and not standby(), what="the end of all of them")


def test_a_session_that_is_killed_meanwhile(site, workload):
    before = unlike_before(site, "beta")
    site.hold("beta", "target-pages")
    identity = workload.migrating()
    assert site.wait_phase("beta", identity, "fill")
    assert site.kill(site["beta"], "phaul-session")
    workload.goes_on("beta")
    site.let_go()
    assert site.result("beta", identity)["owner"] == "target"
    workload.goes_on("beta")
    eventually(lambda: not services(site) and unlike_before(site, "beta")["mounts"] == before["mounts"], 30,
               "nothing of the fill")


def test_a_held_copy_that_is_given_up(site, workload):
    """The service has answered what CRIU asked, and goes with the tasks."""
    before = site.traces("beta")
    site.hold("beta", "target-commit")
    identity = workload.migrating()
    assert site.wait_phase("beta", identity, "commit") and services(site)
    site["alpha"].run("phaul", "cancel", identity, check=False)
    site.kill(site["alpha"], "phaul-session")
    site.let_go()
    assert site.result("alpha", identity)["owner"] == "source"
    workload.goes_on("alpha")
    nothing_of_it(site, "beta", before)


def test_it_is_not_moved_on_before_that_is_over(site, workload):
    site.hold("beta", "target-pages")
    identity = workload.migrating()
    assert site.wait_phase("beta", identity, "fill")
    on = site.migrating("beta", workload.what, "alpha", *workload.options)
    eventually(lambda: "waiting until its memory is in place" in said(site, "beta", on), what="that it waits")
    site.let_go()
    assert site.result("beta", on)["result"] == "done"
    workload.goes_on("alpha", 3)


def test_whatever_a_program_does_meanwhile(site):
    """Maps, unmaps, moves, gives back, forks: with faults alone, and while it is filled."""
    status = "/var/lib/lxc/restless/rootfs/root/status"
    site["alpha"].container("restless", ["restless", "--mib", "24", "--status", "/root/status"], ip="10.77.0.61/24")
    eventually(lambda: site["alpha"].run("cat", status, check=False).stdout, 60, "its first line")
    site.hold("beta", "target-pages")
    identity = site.migrating("alpha", "lxc/restless", "beta")
    assert site.wait_phase("beta", identity, "fill")
    lines = lambda: site["beta"].run("cat", status, check=False).stdout.splitlines()  # noqa: E731
    for held in (True, False):
        before = len(lines())
        # Whoever finds an error keeps the lock of what is shared, so that nobody goes on.
        new = eventually(lambda: any("error:" in line for line in lines()) and lines() or  # noqa: B023
                         len(lines()) >= before + 3 and lines(), 60, f"held {held}")  # noqa: B023
        assert not any("error:" in line for line in new), new[-5:]
        site.let_go()
    assert site.result("beta", identity)["result"] == "done"
    given = float(re.search(r"([0-9.]+) MB given after it ran", said(site, "beta", identity))[1])
    assert given > 0, "nothing came late"


SHARED = """
import mmap, os, sys, time
memory = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for at in range(0, len(memory), 4096):
    memory[at:at + 8] = at.to_bytes(8, "little")
for child in range(3):
    if os.fork() == 0:
        break
while True:
    wrong = [at for at in range(0, len(memory), 4096) if memory[at:at + 8] != at.to_bytes(8, "little")]
    print("wrong" if wrong else "fine", os.getpid(), flush=True)
    time.sleep(0.3)
"""


@pytest.mark.parametrize("options,least,most", [((), 60, 110), (("--unshare",), 230, 400)])
def test_what_a_family_shares(site, options, least, most):
    """Four that have the same 64 MiB by copy on write: so they stay, unless it is not wanted."""
    site.part_pids()
    site["alpha"].run("sh", "-c", "cat > /tmp/shared.py", input=SHARED)
    root = site["alpha"].spawn(LOG, "/usr/bin/python3", "/tmp/shared.py")
    eventually(lambda: len(set(site["alpha"].run("cat", LOG).stdout.splitlines())) == 4, 60, "four of them")
    report = site.migrate("alpha", f"pid/{root}", "beta", "--copy-files", *options)
    assert report["result"] == "done"
    eventually(lambda: not services(site), 60, "the end of the fill")
    said_before = site["beta"].run("cat", LOG).stdout.count("\n")
    eventually(lambda: site["beta"].run("cat", LOG).stdout.count("\n") > said_before + 12, 60, "that they go on")
    assert "wrong" not in site["beta"].run("cat", LOG).stdout
    tasks = [str(root), *site["beta"].run("ps", "--ppid", str(root), "-o", "pid=").stdout.split()]
    assert len(tasks) == 4
    pss = sum(int(re.search(r"^Pss:\s+(\d+)", site["beta"].run("cat", f"/proc/{pid}/smaps_rollup").stdout, re.M)[1])
              for pid in tasks) // 1024
    site["beta"].run("kill", "-KILL", *tasks)
    assert least <= pss <= most, f"{pss} MiB"


def test_without_a_page_service_all_of_it_is_there_before(site):
    """It cannot be started: the log says so, and that is all that anybody notices."""
    workload = Workload(site, "lxc", 64)
    site["beta"].run("mv", "/usr/libexec/phaul/phaul-pages", "/root/phaul-pages.kept")
    try:
        report = workload.migrate("alpha", "beta")
    finally:
        site["beta"].run("mv", "/root/phaul-pages.kept", "/usr/libexec/phaul/phaul-pages")
    assert report["result"] == "done"
    found = re.search(r"all memory is put in place before it runs: (.*)", said(site, "beta", report["id"]))
    assert found and "phaul-pages" in found[1], said(site, "beta", report["id"])
    workload.goes_on("beta")


GUARDED = """
import ctypes, mmap, time
memory = mmap.mmap(-1, 48 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
page = lambda n: n.to_bytes(8, "little") * 512
for n in range(12288):
    memory[n << 12:n + 1 << 12] = page(n)
guarded = range(1024, 1032)
assert ctypes.CDLL(None).madvise(ctypes.c_void_p(start + (1024 << 12)), 8 << 12, 102) == 0, "this kernel guards no pages"
print(start + (1024 << 12), flush=True)
while True:
    for n in range(12288):
        assert n in guarded or memory[n << 12:n + 1 << 12] == page(n), f"page {n} is wrong"
    print("right", flush=True)
    time.sleep(0.05)
"""


def test_pages_that_trap(site):
    """MADV_GUARD_INSTALL, as glibc does it below stacks: the rest of the area comes late, and what trapped does so there."""
    log, alpha, beta = "/var/log/guarded.log", site["alpha"], site["beta"]
    site.part_pids()
    pid = alpha.spawn(log, "python3", "-c", GUARDED)
    lines = lambda host: host.run("cat", log, check=False).stdout.splitlines()  # noqa: E731
    eventually(lambda: "right" in lines(alpha), 60, "its first look")
    report = site.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    before = len(lines(beta))
    eventually(lambda: len(lines(beta)) > before + 2, 60, "it on beta")
    assert "wrong" not in "\n".join(lines(beta))
    eventually(lambda: "memory is in place" in said(site, "beta", report["id"]), what="that it is said")
    look = "import os, sys; os.pread(os.open(f'/proc/{sys.argv[1]}/mem', os.O_RDONLY), 8, int(sys.argv[2]) + int(sys.argv[3]))"
    where = lines(beta)[0]
    assert beta.run("python3", "-c", look, str(pid), where, "-8", check=False).returncode == 0
    assert beta.run("python3", "-c", look, str(pid), where, "0", check=False).returncode != 0
    beta.run("kill", str(pid))
