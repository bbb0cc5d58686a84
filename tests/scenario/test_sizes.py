# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is large in another way than by its bytes: areas, threads, processes. Most of it goes in rounds while it runs, it
runs before its memory is there, and all of that is right in the end."""

import re

import pytest
from test_lazy import said, services
from test_many_processes import crowd
from test_process import LOG, nothing_left

from site_under_test import FULL, PROGRAMS, eventually

THREADS = ["family", "--children", "1", "--threads", "1000", "--mib", "0.1", "--pause", "400"]
AREAS = ["patchwork", "--areas", "10000"]


class Large:
    """A workload that writes lines about itself, as a tree of processes or in a container."""

    def __init__(self, site, kind, command):
        self.site, self.kind, self.program = site, kind, command[0]
        self.log = LOG if kind == "pid" else "/var/lib/lxc/large/rootfs/root/status"
        if kind == "pid":
            self.what = f"pid/{site['alpha'].spawn('/dev/null', f'{PROGRAMS}/{command[0]}', *command[1:], '--status', LOG)}"
        else:
            site["alpha"].container("large", [*command, "--status", "/root/status"], ip="10.77.0.72/24")
            self.what = "lxc/large"

    def lines(self, host):
        return self.site[host].run("cat", self.log, check=False).stdout.splitlines()

    def goes_on(self, host, line="0 errors"):
        before = len(self.lines(host))
        eventually(lambda: [text for text in self.lines(host)[before:] if line in text and text.endswith("0 errors")], 120,
                   f"a line with {line!r} on {host}")
        assert not [text for text in self.lines(host) if "error:" in text or "wrong" in text], self.lines(host)[-3:]

    def pids(self, host):
        return self.site.pid_of(self.site[host], self.program)

    def move(self, source, target, line):
        """It goes on with the page service held back, and when that is let go and has ended."""
        site, options = self.site, ["--copy-files"] if self.kind == "pid" else []
        site.hold(target, "target-pages")
        identity = site.migrating(source, self.what, target, *options)
        report = site.result(source, identity, 300)["report"]
        assert report["result"] == "done" and report["tracker"] == "uffd-wp" and report["rounds"] >= 2, report
        kept = float(re.search(r"([\d.]+) MB were there already", said(site, source, identity))[1])
        self.goes_on(target, line)
        site.let_go(target)
        eventually(lambda: not services(site, target), 120, "the end of the fill")
        late = re.search(r"([\d.]+) MB given after it ran", site.result(target, identity) and said(site, target, identity))
        assert float(late[1]) > 10, "its memory was put in place before it ran"
        self.goes_on(target, line)
        assert self.pids(source) == []
        return kept

    def end(self, host):
        if self.kind == "pid":
            nothing_left(self.site, "beta" if host == "alpha" else "alpha")
            self.site[host].run("kill", self.what.split("/")[1])
            eventually(lambda: self.lines(host)[-1].startswith("end: "), 120, "its own end")
            assert self.lines(host)[-1].endswith("0 errors")


KINDS = ["pid", *(["lxc"] if FULL else [])]


@pytest.mark.parametrize("kind", KINDS)
def test_ten_thousand_areas(trees, kind):
    it = Large(trees, kind, AREAS)
    it.goes_on("alpha")
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        pid = max(it.pids(source))
        areas = int(trees[source].run("sh", "-c", f"wc -l < /proc/{pid}/maps").stdout)
        assert areas > 10000
        assert it.move(source, target, "written") > 20
    it.end("alpha")


@pytest.mark.parametrize("kind", KINDS)
def test_a_thousand_threads(trees, kind):
    it = Large(trees, kind, THREADS)
    it.goes_on("alpha", "1000 of 1000 got on")
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        it.move(source, target, "1000 of 1000 got on")
        threads = sum(int(trees[target].run("sh", "-c", f"ls /proc/{pid}/task | wc -l").stdout) for pid in it.pids(target))
        assert threads == 1001
    it.end("alpha")


@pytest.mark.parametrize("kind", KINDS)
def test_two_hundred_processes(trees, kind):
    it = Large(trees, kind, crowd(200))
    it.goes_on("alpha", "200 of 200 got on")
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        it.move(source, target, "200 of 200 got on")
        assert len(it.pids(target)) == 201
    it.end("alpha")
