# SPDX-License-Identifier: LGPL-2.1-or-later
"""The ways to move a workload from alpha to beta: phaul, and what people do without it, done as well as that goes.

The peers get what makes them fast: files are copied once or twice while the workload runs, by an rsync daemon; images
lie on a tmpfs and go over a plain TCP connection in large pieces (no encryption, no checksums, no small writes); the
last pass over the files runs beside it; everything that waits on the other side is started before anything stands
still; and each side is one script, so that nothing but the tools themselves takes time.
"""

import json
import os
import re
import threading
import time
from dataclasses import dataclass

from simlab import LabError
from simlab.cgroup import memory_used
from workload import wait_for

IMAGES = "/tmp/images"   # a tmpfs
RSYNC = "rsync -aHAXS --numeric-ids --stats --no-human-readable"
DAEMON = "use chroot = no\nuid = 0\ngid = 0\nread only = no\n[lxc]\npath = /var/lib/lxc\n[log]\npath = /var/log\n"

# beta: images come by port 9000; who connects to 9001 says that the files are there as well. Then $1 restores.
RECEIVE = f"""
socat -u TCP-LISTEN:9001,reuseaddr OPEN:/dev/null & files=$!
socat -u -b 1048576 TCP-LISTEN:9000,reuseaddr - | tar -x -b 2048 -C {IMAGES} || exit 1
wait $files || exit 1
eval "$1" > /root/restore 2>&1 < /dev/null
"""

# alpha: $1 stops and dumps the workload, $2 is the last pass over its files.
SEND = f"""
eval "$1" > /root/dump 2>&1 || exit 1
tar -c -b 2048 -C {IMAGES} . | socat -u -b 1048576 - TCP:beta:9000 & images=$!
eval "$2"; files=$?
[ $files = 0 ] || [ $files = 24 ] || exit 1
wait $images || exit 1
socat -u OPEN:/dev/null TCP:beta:9001
du -sb {IMAGES} | sed 's/^/images /'
"""


@dataclass(frozen=True)
class Way:
    """A way to move a workload: move(site, workload, options) gives a Moved."""
    name: str
    move: callable
    options: tuple = ()


def phaul_way(*options):
    return Way("phaul", phaul, options)


@dataclass
class Moved:
    """What one move took; the second half is known of phaul alone."""
    begin_ms: float
    total_ms: int
    bytes: int                      # all that was sent
    memory_bytes: int = None        # without files
    tracker: str = None
    frozen_at_ms: float = None      # CLOCK_REALTIME
    predicted_ms: int = None        # downtime
    phases: dict = None             # name: ms
    cpu_s: float = None             # of both hosts' phauld and all it started
    overhead_mib: dict = None       # {"source", "target"}: at most more than before and than the workload itself
    plain_ms: int = None            # the same bytes by a plain TCP stream


class Site:
    """The two hosts, each with a paired phauld and an rsync daemon."""

    def __init__(self, lab):
        self.alpha, self.beta = lab["alpha"], lab["beta"]
        for host in (self.alpha, self.beta):
            host.spawn("/var/log/phauld.log", "phauld")
            host.run("sh", "-c", "cat > /root/rsyncd.conf", input=DAEMON)
            host.run("rsync", "--daemon", "--config=/root/rsyncd.conf")
        for host in (self.alpha, self.beta):
            wait_for(lambda: self._host(host), f"phauld on {host.name} does not answer", 30)  # noqa: B023
        code = self.beta.run("phaul", "pair", "--offer").stdout.split()[-1]
        self.alpha.run("phaul", "pair", "beta", "--code-file", "-", input=f"{code}\n")

    def cpu_seconds(self):
        """Used so far by each host's phauld and by what it started and has waited for."""
        ticks = 0
        for host in (self.alpha, self.beta):
            stat = host.run("sh", "-c", "cat /proc/$(pidof phauld)/stat").stdout.rpartition(")")[2].split()
            ticks += sum(map(int, stat[11:15]))
        return ticks / os.sysconf("SC_CLK_TCK")

    @staticmethod
    def _host(host):
        said = host.run("curl", "-s", "--unix-socket", "/run/phaul/phauld.sock", "http://phauld/api/v1/host", check=False).stdout
        return json.loads(said) if said else None


def phaul(site, workload, options):
    cpu = site.cpu_seconds()
    with Memory(site, workload) as memory:
        begin = time.time()
        done = site.alpha.run("phaul", "migrate", workload.what, "beta", "--json", *workload.options, *options, check=False, timeout=600)
        end = time.time()
        report = json.loads(done.stdout) if done.stdout else {}
        if done.returncode:
            raise LabError(f"phaul migrate {workload.what}: {report.get('reason') or done.stderr.strip()}")
        workload.moved_to = site.beta
        wait_for(lambda: site.beta.run("pidof", "phaul-session", check=False).returncode, "the fill does not end", 120)
    phases = {phase["name"]: phase["ms"] for phase in report["phases"]}
    frozen = report["started_ms"] + sum(phases.get(name, 0) for name in ("examine", "files", "memory"))
    files = sum(phase["bytes"] for phase in report["phases"] if phase["name"] == "files")
    return Moved(begin * 1000, round((end - begin) * 1000), report["bytes_sent"], report["bytes_sent"] - files, report.get("tracker"),
                 frozen, report["predicted_downtime_ms"], phases, site.cpu_seconds() - cpu, memory.overhead_mib(),
                 plain_stream(site, report["bytes_sent"]))


def plain_stream(site, count):
    """Milliseconds that so many bytes take over one plain TCP connection between the hosts."""
    receiver = site.beta.popen("socat", "-u", "-b", "1048576", "TCP-LISTEN:9002,reuseaddr", "OPEN:/dev/null")
    wait_for(lambda: site.beta.run("ss", "-Hltn", "sport = :9002").stdout, "the receiver does not listen", 20)
    begin = time.time()
    site.alpha.run("socat", "-u", "-b", "1048576", f"OPEN:/dev/zero,readbytes={count}", "TCP:beta:9002", timeout=300)
    if receiver.wait(300):
        raise LabError("the plain stream was not received")
    return round((time.time() - begin) * 1000)


class Memory:
    """What both hosts use, by their cgroups, looked at twenty times a second while a workload moves."""

    def __init__(self, site, workload):
        self.hosts, self.workload = {"source": site.alpha, "target": site.beta}, workload
        self.over = threading.Event()
        self.watcher = threading.Thread(target=self._watch)

    def __enter__(self):
        self.before = {side: memory_used(host) for side, host in self.hosts.items()}
        self.most = dict(self.before)
        self.watcher.start()
        return self

    def __exit__(self, *exception):
        self.over.set()
        self.watcher.join()

    def _watch(self):
        while not self.over.wait(0.05):
            for side, host in self.hosts.items():
                self.most[side] = max(self.most[side], memory_used(host))

    def overhead_mib(self):
        """On the target, beyond the workload itself, which ends up there."""
        grown = {side: (self.most[side] - self.before[side]) / 2**20 for side in self.hosts}
        grown["target"] -= self.workload.mib
        return {side: max(0, round(mib)) for side, mib in grown.items()}


def lxc_recipe(site, workload, _):
    """lxc-checkpoint, rsync, lxc-checkpoint -r."""
    name = workload.name
    copy = f"{RSYNC} --delete /var/lib/lxc/{name}/ rsync://beta/lxc/{name}/"
    return by_hand(site, workload, [copy, copy], copy, f"lxc-checkpoint -n {name} -D {IMAGES} -s",
                   f"lxc-checkpoint -n {name} -D {IMAGES} -r")


def criu_copy(site, workload, _):
    """criu dump, copy, criu restore."""
    log = workload.log()
    copy = f"{RSYNC} {log} rsync://beta/log/"
    return by_hand(site, workload, [copy], copy, f"criu dump -t {workload.pid} -D {IMAGES} -o dump.log",
                   f"criu restore -D {IMAGES} -o restore.log --restore-detached")


def by_hand(site, workload, copies, last_copy, dump, restore):
    for host in (site.alpha, site.beta):
        host.run("sh", "-c", f"rm -rf {IMAGES}; mkdir -m 700 {IMAGES}")
    begin = time.time()
    said = ""
    for copy in copies:
        said += site.alpha.run("sh", "-c", f"{copy}; c=$?; [ $c = 24 ] || exit $c", timeout=300).stdout
    receiver = site.beta.popen("sh", "-c", RECEIVE, "receive", restore)
    wait_for(lambda: site.beta.run("ss", "-Hltn", "( sport = :9000 or sport = :9001 )").stdout.count("\n") >= 2,
             "the receiver does not listen", 20)
    try:
        said += site.alpha.run("sh", "-c", SEND, "send", dump, last_copy, timeout=300).stdout
        code = receiver.wait(300)
    except (LabError, OSError):
        receiver.kill()
        raise LabError(f"cannot dump by hand: {site.alpha.run('tail', '-n', '20', '/root/dump', check=False).stdout}") from None
    end = time.time()
    if code:
        raise LabError(f"cannot restore by hand: {site.beta.run('tail', '-n', '20', '/root/restore', check=False).stdout}")
    workload.moved_to = site.beta
    for host in (site.alpha, site.beta):
        host.run("rm", "-rf", IMAGES)
    sent = sum(int(n) for n in re.findall(r"^Total bytes sent: (\d+)", said, re.M))
    return Moved(begin * 1000, round((end - begin) * 1000), sent + int(re.search(r"^images (\d+)", said, re.M)[1]))
