# SPDX-License-Identifier: LGPL-2.1-or-later
"""A program that does everything to its memory at random, and checks it all the time, is moved back and forth: not one
wrong byte. And it would notice one: it does, when a tracker is broken on purpose."""

import re
import time

import pytest
from test_memory import in_container, tracked
from test_process import LOG, nothing_left

from site_under_test import FULL, PROGRAMS, eventually

STATUS = {"pid": LOG, "lxc": "/var/lib/lxc/restless/rootfs/root/status"}
RESTLESS = ["restless", "--mib", "24", "--pause", "10"]


class Restless:
    """It, as a process of a host or in a container."""

    def __init__(self, site, kind):
        self.site, self.kind, self.host = site, kind, "alpha"
        if kind == "lxc":
            in_container(site, "restless", *RESTLESS, "--data", "/root/data")
            self.name = "lxc/restless"
        else:
            pid = site["alpha"].spawn("/dev/null", f"{PROGRAMS}/{RESTLESS[0]}", *RESTLESS[1:], "--without", "sysv", "--data",
                                      "/var/log/restless.data", "--status", LOG)
            self.name = f"pid/{pid}"
        self.goes_on()

    def lines(self):
        return self.site[self.host].run("cat", STATUS[self.kind], check=False).stdout.splitlines()

    def goes_on(self):
        before = len(self.lines())
        eventually(lambda: len(now := self.lines()) > before + 2 or "error:" in "\n".join(now), 120,
                   f"{self.name} on {self.host}")
        text = "\n".join(self.lines())
        assert "error:" not in text, "\n".join(re.findall(".*(?:error|seed).*", text)[-9:])

    def move(self, tracker):
        other = "beta" if self.host == "alpha" else "alpha"
        options = ["--copy-files"] if self.kind == "pid" else []
        report = self.site.migrate(self.host, self.name, other, "--tracker", tracker, *options)
        assert report["tracker"] == tracker and report["rounds"] >= 2, report
        self.host = other

    def runs(self):
        return bool(self.site.pid_of(self.site[self.host], "restless"))

    def pid(self):
        """The first process of it."""
        return min(self.site.pid_of(self.site[self.host], "restless"))

    def traces(self):
        """On both hosts. Its own interface has another name after each migration."""
        found = {name: self.site.traces(name) for name in ("alpha", "beta")}
        return {name: {**traces, "interfaces": len(traces["interfaces"])} for name, traces in found.items()}

    def descriptors(self):
        """How many files each phauld has open."""
        count = lambda host: len(host.run("ls", f"/proc/{self.site.pid_of(host, 'phauld')[0]}/fd").stdout.split())  # noqa: E731
        return [count(self.site[name]) for name in ("alpha", "beta")]


def settled(site):
    """Nobody of phaul is busy any more."""
    busy = ("phaul-session", "phaul-pages", "criu")
    eventually(lambda: not any(site.pid_of(host, name) for host in site.hosts.values() for name in busy), 60, "the end of it all")


WAYS = [("pid", "uffd-wp", 50 if FULL else 6), ("lxc", "uffd-wp", 50 if FULL else 6),
        ("lxc", "hash", 20 if FULL else 4), *([("pid", "hash", 20)] if FULL else [])]


@pytest.mark.parametrize(("kind", "tracker", "times"), WAYS)
def test_back_and_forth(trees, kind, tracker, times):
    """An even number of times, so that it ends where it began."""
    it = Restless(trees, kind)
    for n in range(times):
        it.move(tracker)
        it.goes_on()
        if n == 1:
            settled(trees)
            traces, descriptors = it.traces(), it.descriptors()
    settled(trees)
    eventually(lambda: it.traces() == traces, 60, f"no other traces than after two times, {traces}")
    eventually(lambda: all(now <= then for now, then in zip(it.descriptors(), descriptors)), 60,
               f"no more files open than {descriptors}")
    assert not tracked(trees, it.host, it.pid())
    if kind == "pid":
        nothing_left(trees, "beta")
        trees["alpha"].run("kill", it.name.split("/")[1])
        eventually(lambda: it.lines()[-1].startswith("end: "), 60, "its own end")
        assert it.lines()[-1].endswith(" 0 errors")


BROKEN = [("pid", "uffd-wp"), *([("lxc", "uffd-wp"), ("pid", "hash"), ("lxc", "hash")] if FULL else [("lxc", "hash")])]


@pytest.mark.parametrize(("kind", "tracker"), BROKEN)
def test_a_page_that_was_withheld_is_noticed(trees, kind, tracker):
    """The migrations succeed, as nobody else can know; else the test above would show nothing. What is withheld may be
    unmapped before anybody looks, so there is more than one."""
    it = Restless(trees, kind)
    for host in ("alpha", "beta"):
        trees.hold(host, "source-withhold")
    for _ in range(8):
        it.move(tracker)
        # All of it is looked at several times in these seconds.
        for _ in range(80):
            if not it.runs() or any("error:" in line for line in it.lines()):
                return
            time.sleep(0.1)
    pytest.fail("it does not notice")
