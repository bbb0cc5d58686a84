# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is moved: a memory writer, in a container or by itself, that says how long it stood still."""

import itertools
import re
import time

from simlab import LabError

FIRST_PID = itertools.count(10000, 200)   # of plain processes: free on both hosts


class Workload:
    """Runs on alpha at first, and writes a line each second; `log` is where those are found."""

    options = ()   # of phaul migrate

    def __init__(self, site, mib):
        self.site, self.host, self.mib = site, site.alpha, mib
        self.moved_to, self.began_ms = None, time.time() * 1000

    def lines(self):
        """(time in ms since 1970, pages checked so far, longest gap in ms) of each line."""
        text = (self.moved_to or self.host).run("cat", self.log(), check=False).stdout
        if re.search("^error", text, re.M):
            raise LabError(f"the workload found its memory wrong: {text[-300:]}")
        return [tuple(map(int, found)) for found in re.findall(r"^(\d+) ms: .* (\d+) checked, longest gap (\d+) ms", text, re.M)]

    def wait_ready(self):
        """Until it has filled its memory and written for two seconds."""
        wait_for(lambda: len(self.lines()) >= 2, "the workload does not begin", 120)

    def downtime_ms(self, begin_ms):
        """The longest time it did not run since then, by its own clock."""
        now_ms = time.time() * 1000
        wait_for(lambda: self.lines() and self.lines()[-1][0] > now_ms + 200, "the workload does not go on", 60)
        return max(gap for at, _, gap in self.lines() if at >= begin_ms)

    def pace(self, from_ms, to_ms):
        """Pages it checked per second between two moments, by the lines within; None where there are not two."""
        inside = [line for line in self.lines() if from_ms <= line[0] <= to_ms]
        if len(inside) < 2:
            return None
        (began, first, _), (ended, last, _) = inside[0], inside[-1]
        return (last - first) * 1000 / (ended - began)


class Container(Workload):
    """An LXC container with the writer as its init."""

    def __init__(self, site, mib, rate, memory="private"):
        super().__init__(site, mib)
        self.what, self.name = "lxc/writer", "writer"
        site.alpha.container(self.name, [*_command(mib, rate, memory), "--status", "/root/log"])
        self.wait_ready()

    def log(self):
        return f"/var/lib/lxc/{self.name}/rootfs/root/log"

    def remove(self):
        for host in (self.site.alpha, self.site.beta):
            host.run("timeout", "20", "lxc-destroy", "-f", "-n", self.name, check=False)
            host.run("sh", "-c", f"rm -rf /var/lib/lxc/{self.name} /var/lib/phaul/released/*", check=False)


class Process(Workload):
    """The writer as a process of the host, with its log on either host under the same name."""

    options = ("--copy-files",)   # beta has no such log

    def __init__(self, site, mib, rate, memory="private"):
        super().__init__(site, mib)
        site.alpha.run("sh", "-c", f"echo {next(FIRST_PID)} > /proc/sys/kernel/ns_last_pid")
        self.pid = site.alpha.workload("writer", *_command(mib, rate, memory))
        self.what = f"pid/{self.pid}"
        self.wait_ready()

    def log(self):
        return "/var/log/writer.log"

    def remove(self):
        for host in (self.site.alpha, self.site.beta):
            host.run("kill", "-KILL", str(self.pid), check=False)
            wait_for(lambda: host.run("test", "-e", f"/proc/{self.pid}", check=False).returncode,  # noqa: B023
                     "the workload does not end", 20)
            host.run("rm", "-f", self.log())


def _command(mib, rate, memory):
    return ["memwriter", "--mib", str(mib), "--rate", str(rate), "--memory", memory]


def wait_for(condition, complaint, seconds):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LabError(f"{complaint} within {seconds} s")
        time.sleep(0.1)
