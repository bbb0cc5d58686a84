# SPDX-License-Identifier: LGPL-2.1-or-later
"""One simulated host: its disk, its life, and what can be done to it."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

from . import cgroup, container, link, tools
from .sh import PATH, LabError, run

_INIT = Path(__file__).with_name("host-init.sh")


class Host:
    """A host of a lab. Its disk survives crash(); its memory, processes and network do not."""

    def __init__(self, lab, name, number):
        self.lab, self.name, self.number = lab, name, number
        self.disk = lab.disks / name
        self._record = lab.state / f"{name}.pid"

    @property
    def address(self):
        return link.ipv4(self.number)

    @property
    def address6(self):
        return link.ipv6(self.number)

    # Life

    def make_disk(self, varlibs, neighbours):
        """A fresh disk: an empty upper layer but for the host's identity, and a plain /var/lib merged from the layers' own."""
        etc = self.disk / "upper/etc"
        for folder in ("upper/etc", "work", "root", "varlib"):
            (self.disk / folder).mkdir(parents=True)
        for varlib in varlibs:
            run("cp", "-a", "--reflink=auto", f"{varlib}/.", self.disk / "varlib")
        (etc / "hostname").write_text(f"{self.name}\n")
        (etc / "machine-id").write_text(os.urandom(16).hex() + "\n")
        names = [f"{address}\t{host.name}" for host in neighbours for address in (host.address, host.address6)]
        (etc / "hosts").write_text("\n".join(["127.0.0.1\tlocalhost", "::1\tlocalhost", *names, ""]))

    def start(self):
        """Boot. Returns when pid 1 runs; on failure nothing of the host is left but its disk."""
        if self.pid:
            raise LabError(f"{self.name} is up")
        self.kill()
        try:
            cgroup.create(self.lab.name, self.name)
            link.attach(self.lab.name, self.name, self.number, bridged=self is not self.lab.client)
            pid = self._launch()
        except BaseException:
            self.kill()
            raise
        self._record.write_text(f"{pid} {_start_time(pid)}")

    def _launch(self):
        log_path = self.lab.state / f"{self.name}.log"
        env = {"PATH": PATH, "NAME": self.name, "DISK": str(self.disk), "CGROUPS": " ".join(cgroup.mounts_inside()),
               "LOWER": ":".join(str(layer) for layer in self.lab.layers)}
        unshare = ["unshare", "--mount", "--propagation=private", "--uts", "--ipc", "--cgroup", "--pid", "--fork"]
        with open(log_path, "w", encoding="utf-8") as log:
            keeper = subprocess.Popen(
                ["nsenter", f"--net=/run/netns/{link.space(self.lab.name, self.name)}", *unshare, "sh", str(_INIT)], env=env,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                preexec_fn=lambda: cgroup.join(self.lab.name, self.name))
        deadline = time.monotonic() + 30
        while keeper.poll() is None and time.monotonic() < deadline:
            for pid in _children(keeper.pid):
                if _comm(pid) == "tini":
                    keeper.kill()   # it only waited; it is in the host's cgroups but not in its pid namespace
                    keeper.wait()
                    return pid
            time.sleep(0.005)
        keeper.kill()
        keeper.wait()
        raise LabError(f"{self.name} does not start: {log_path.read_text().strip() or 'no reason given'}")

    @property
    def pid(self):
        """Pid 1 of the host as this machine sees it, or None when the host is down."""
        try:
            pid, start = self._record.read_text().split()
            return int(pid) if _start_time(pid) == start else None
        except OSError:
            return None

    def crash(self):
        """Everything in the host dies at once: pid 1 first, the kernel then takes its whole namespace."""
        if not self.pid:
            raise LabError(f"{self.name} is down")
        self.kill()

    def kill(self):
        """As crash(), of whatever is left of the host; harmless when nothing is."""
        if pid := self.pid:
            os.kill(pid, signal.SIGKILL)
        cgroup.clear(self.lab.name, self.name)
        link.detach(self.lab.name, self.name)
        self._record.unlink(missing_ok=True)

    # Commands

    def _enter(self, argv, terminal=False):
        """The command line that runs argv in the host; it dies with the process that waits for it outside."""
        if not self.pid:
            raise LabError(f"{self.name} is down")
        return [str(tools.enter()), *(["--terminal"] if terminal else []), str(self.pid),
                *cgroup.doors(self.lab.name, self.name), "--", *(str(a) for a in argv)]

    def run(self, *argv, check=True, env=None, **options):
        """Run a command and return its CompletedProcess with text output; options go to subprocess.run."""
        options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 120, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        done = subprocess.run(self._enter(argv), env={**_environment(), **(env or {})}, **options)
        if check and done.returncode:
            why = (done.stderr or done.stdout or "").strip()
            raise LabError(f"{self.name}: {' '.join(map(str, argv))}: exit {done.returncode}: {why}")
        return done

    def popen(self, *argv, env=None, **options):
        """Start a command and return its Popen; killing that kills the command."""
        return subprocess.Popen(self._enter(argv), env={**_environment(), **(env or {})}, **options)

    def exec(self, argv):
        """Become the command, with our standard descriptors and no other."""
        command = self._enter(argv, terminal=os.isatty(0))
        os.closerange(3, os.sysconf("SC_OPEN_MAX"))
        os.execvpe(command[0], command, _environment())

    def spawn(self, log, *argv, env=None):
        """Start a daemon whose output goes to the file log in the host; returns its pid there."""
        script = 'echo $$; log=$1; shift; exec "$@" </dev/null >>"$log" 2>&1'
        return int(self.run("setsid", "--fork", "sh", "-c", script, "spawn", log, *argv, env=env).stdout)

    def workload(self, name, program, *argv):
        """Start one of the lab's programs, its output to /var/log/NAME.log in the host; returns its pid there."""
        path = tools.path(program)
        if not path:
            raise LabError(f"{program!r} is not among {', '.join(sorted(p.name for p in tools.programs().iterdir()))}")
        return self.spawn(f"/var/log/{name}.log", path, *argv)

    def container(self, name, command, **options):
        """An LXC container; see container.create()."""
        container.create(self, name, command, **options)

    def redis(self, name, **options):
        """An LXC container that runs Redis."""
        container.create_redis(self, name, **options)

    # Files

    def put(self, source, target):
        """Copy a file or tree of this machine into the host, as cp -a does."""
        self._copy(Path(source), os.O_PATH, lambda fd: _into(fd, Path(source)) + [str(target)])

    def get(self, source, target):
        """Copy a file or tree of the host to this machine, as cp -a does."""
        target = Path(target)
        folder, name = (target, Path(source).name) if target.is_dir() else (target.parent, target.name)
        self._copy(folder, os.O_PATH | os.O_DIRECTORY, lambda fd: ["cp", "-aT", str(source), f"/proc/self/fd/{fd}/{name}"])

    def _copy(self, outside, flags, command):
        """Run a cp in the host that reaches one path of this machine through a descriptor."""
        try:
            fd = os.open(outside, flags)
        except OSError as error:
            raise LabError(f"{outside}: {error.strerror}") from None
        try:
            self.run(*command(fd), pass_fds=[fd], timeout=None)
        finally:
            os.close(fd)

    def share(self, place):
        """Mount the lab's common directory at place: every host that does so sees the same files there."""
        common = self.lab.disks / "shared"
        common.mkdir(exist_ok=True)
        if not self.pid:
            raise LabError(f"{self.name} is down")
        run(sys.executable, Path(__file__).with_name("share.py"), self.pid, common, place)

    # Its cable

    def cut(self):
        link.set_cut(self.lab.name, self.name, True)

    def heal(self):
        link.set_cut(self.lab.name, self.name, False)

    def slow(self, rate):
        link.slow(self.lab.name, self.name, rate)

    def delay(self, milliseconds):
        link.delay(self.lab.name, self.name, milliseconds)

    def is_cut(self):
        return link.is_cut(self.lab.name, self.name)

    def remove_disk(self):
        shutil.rmtree(self.disk)


def _into(fd, source):
    """cp -a of what fd names; a directory's copy must not be called after the descriptor's number."""
    script = ('if [ -d "$3" ]; then to=$3/$2; else to=$3; fi; '
              'if [ -d "$1" ]; then mkdir -p "$to" && exec cp -a "$1/." "$to"; else exec cp -aHT "$1" "$to"; fi')
    return ["sh", "-c", script, "put", f"/proc/self/fd/{fd}", source.resolve().name]


def _environment():
    """What a command in a host sees of our environment: nothing but the kind of terminal."""
    return {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "TERM": os.environ.get("TERM", "dumb")}


def _start_time(pid):
    """Tells a process from a later one of the same pid; None for one that is dead but not reaped yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[19] if fields[0] != "Z" else None


def _children(pid):
    try:
        return [int(p) for p in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def _comm(pid):
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""
