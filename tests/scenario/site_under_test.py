# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two paired hosts with phauld in a lab, and what scenarios do with them."""

import contextlib
import http.client
import json
import os
import re
import socket
import sys
import time
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "lab"))

from simlab import Lab  # noqa: E402

PROGRAMS = "/usr/local/lib/phaul-lab"
SOCKET = "/run/phaul/phauld.sock"
FULL = bool(os.environ.get("PHAUL_TEST_FULL"))  # make test-full: every combination
WORKLOADS = "family|restless|patchwork|memwriter|echo-server|counter|oddity|ucarp|keepalived"


def eventually(condition, seconds=60, what="it"):
    """Wait until condition() is true and return its value."""
    deadline, pause = time.monotonic() + seconds, 0.03
    while not (value := condition()):
        assert time.monotonic() < deadline, f"{what}: still {value!r} after {seconds} s"
        time.sleep(pause)
        pause = min(pause * 1.4, 0.3)  # looking is work, too: most conditions start programs in a host
    return value


class Connection(http.client.HTTPConnection):
    """To the phauld of a host, from outside: its root directory can be reached through its pid 1."""

    def __init__(self, host, timeout=30):
        super().__init__("phauld", timeout=timeout)
        self.path = f"/proc/{host.pid}/root{SOCKET}"

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self.path)
        self.plain = self.sock  # http.client forgets it when the answer has no end


class Site:
    """A lab whose hosts run phauld and trust each other."""

    def __init__(self, name, hosts=2, sanitize=False):
        self.lab = Lab(name)
        self.lab.down()
        self.lab.up(hosts, sanitize=sanitize)
        self.client = self.lab["client"]
        self.hosts = dict(self.lab.hosts)
        for host in self.hosts.values():
            self.start(host)
        names = list(self.hosts)
        for i, one in enumerate(names):
            for other in names[i + 1:]:
                self.pair(one, other)

    def __getitem__(self, name):
        return self.hosts[name]

    def down(self):
        self.lab.down()

    # -- daemons

    def start(self, host):
        host.spawn("/var/log/phauld.log", "phauld")
        eventually(lambda: self.api(host, "GET", "/host")[0] == 200, what=f"phauld on {host.name}")

    def part_pids(self):
        """What is started from now on has pids that are free on the other hosts."""
        for number, host in enumerate(self.hosts.values(), 1):
            host.run("sh", "-c", f"echo {20000 * number} > /proc/sys/kernel/ns_last_pid")

    def pid_of(self, host, program):
        """Pids of a program in the host, as the host counts them."""
        return [int(p) for p in host.run("pidof", program, check=False).stdout.split()]

    def kill(self, host, program, signal="KILL"):
        pids = self.pid_of(host, program)
        if pids:
            host.run("kill", f"-{signal}", *map(str, pids), check=False)
        return pids

    def end(self, host, names, seconds=20):
        """Kill all programs of these names, joined by |, and wait until they are gone: those too that nobody has reaped yet."""
        if host.run("pkill", "-KILL", "-x", names, check=False).returncode == 0:
            eventually(lambda: host.run("pgrep", "-x", names, check=False).returncode == 1, seconds, f"the end of {names}")

    def carriers(self, host):
        """The processes of a host that carry memory and state."""
        return [p for p in self.pid_of(host, "phaul-net")
                if "phaul-ring" in host.run("cat", f"/proc/{p}/maps", check=False).stdout]

    def kill_bulk(self, host):
        """One of them; the others, and what carries the messages, live on. One that was lost is made anew a moment later."""
        host.run("kill", "-KILL", str(eventually(lambda: self.carriers(host), what="a connection for memory")[0]))

    def restart(self, host):
        self.kill(host, "phauld")
        eventually(lambda: not self.pid_of(host, "phauld"), what="the end of phauld")
        self.start(host)

    def pair(self, one, other):
        code = self.hosts[other].run("phaul", "pair", "--offer").stdout.split()[-1]
        done = self.hosts[one].run("phaul", "pair", f"{other}:12345", "--name", other, "--code-file", "-", input=code + "\n",
                                   check=False)
        assert done.returncode == 0, done.stderr

    def api(self, host, method, path, body=None):
        """(status, JSON or text) of a request to the host's phauld; (0, None) when nobody answers."""
        connection = Connection(host)
        try:
            connection.request(method, f"/api/v1{path}", body=body if body is None or isinstance(body, str) else json.dumps(body),
                               headers={"Content-Type": "application/json"} if body is not None else {})
            answer = connection.getresponse()
            text = answer.read().decode()
        except (OSError, http.client.HTTPException):
            return 0, None
        finally:
            connection.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text

    # -- workloads

    def state(self, host, name):
        found = re.search(r"State:\s+(\w+)", self.hosts[host].run("timeout", "5", "lxc-info", "-n", name, check=False).stdout)
        return found[1] if found else None

    def runs(self, host, name):
        """Whether the container's tasks run: liblxc calls one that we froze still RUNNING."""
        script = (f"[ $(cat /sys/fs/cgroup/freezer/lxc.payload.{name}/freezer.state) = THAWED ] && "
                  f"grep -q '[0-9]' /sys/fs/cgroup/freezer/lxc.payload.{name}/cgroup.procs")
        return self.state(host, name) == "RUNNING" and self.hosts[host].run("sh", "-c", script, check=False).returncode == 0

    def redis(self, host, name, ip, kilobytes=0, **options):
        """A container with Redis, with that much in it."""
        self.hosts[host].redis(name, ip=f"{ip}/24", **options)
        eventually(lambda: "PONG" in self.client.run("redis-cli", "-h", ip, "ping", check=False).stdout, what=f"Redis at {ip}")
        if kilobytes:
            said = self.client.run("redis-cli", "-h", ip, "debug", "populate", str(kilobytes), "filler", "1000").stdout
            assert said.strip() == "OK", said

    def counting(self, ip, seconds=120):
        """A client that INCRs all the time; end it with finish()."""
        self.client.run("rm", "-f", f"/tmp/incr-{ip}")
        made = self.client.popen(f"{PROGRAMS}/incr.py", ip, "--seconds", str(seconds), "--status", f"/tmp/incr-{ip}",
                                 stdout=-1, text=True)
        eventually(lambda: int(self.client.run("cat", f"/tmp/incr-{ip}", check=False).stdout or 0) > 50, what="writes")
        return made

    def finish(self, counting, ip):
        """Stop the client; its result, with every acknowledged write found in Redis."""
        before = int(self.client.run("cat", f"/tmp/incr-{ip}").stdout or 0)
        eventually(lambda: int(self.client.run("cat", f"/tmp/incr-{ip}").stdout or 0) > before, 60, "writes going on")
        self.client.run("pkill", "-TERM", "-f", f"incr.py {ip}")
        result = json.loads(counting.communicate(timeout=30)[0])
        stored = int(self.client.run("redis-cli", "-h", ip, "get", "acknowledged").stdout)
        assert result["connection"] == "kept" and result["lost"] == 0 and not result["errors"], result
        assert stored in (result["acked"], result["acked"] + 1), (stored, result)
        self.client.run("redis-cli", "-h", ip, "del", "acknowledged")
        return result

    def migrate(self, source, what, target, *options, check=True):
        """phaul migrate --json; the report. With check=False the finished process."""
        done = self.hosts[source].run("phaul", "migrate", what, target, "--json", *options, check=False)
        if not check:
            return done
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{self.logs()}"
        return json.loads(done.stdout)

    def hold(self, host, place):
        """Let the next phaul-session of that host wait when it comes to a place such as "source-freeze"."""
        self.hosts[host].run("sh", "-c", f"mkdir -p /run/phaul/faults && touch /run/phaul/faults/{place}")

    def let_go(self, host=None):
        for h in [self.hosts[host]] if host else self.hosts.values():
            h.run("rm", "-rf", "/run/phaul/faults")

    def migrating_held(self, side, phase):
        """Migrate lxc/shop from alpha to beta; it waits at the beginning of a phase on one side. Its id."""
        host = "alpha" if side == "source" else "beta"
        self.hold(host, f"{side}-{phase}")
        identity = self.migrating("alpha", "lxc/shop", "beta")
        assert self.wait_phase(host, identity, phase), f"{identity} ended before {phase}"
        return identity

    def migrating(self, source, what, target, *options):
        """Start it and return its id at once."""
        done = self.hosts[source].run("phaul", "migrate", what, target, "--detach", *options, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout.split()[-1]

    def wait_phase(self, host, identity, phase, seconds=60):
        """Until the migration is in that phase (or beyond the end of it: then False)."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            status, body = self.api(self.hosts[host], "GET", f"/migrations/{identity}")
            if status == 200 and body.get("phase") == phase:
                return True
            if status == 200 and body.get("result"):
                return False
            time.sleep(0.01)
        raise AssertionError(f"{identity} did not come to {phase}")

    def result(self, host, identity, seconds=120):
        """The report of a migration when it has one."""
        def look():
            status, body = self.api(self.hosts[host], "GET", f"/migrations/{identity}")
            return body if status == 200 and body.get("result") else None
        return eventually(look, seconds, f"the end of {identity}")

    def logs(self):
        text = []
        for name, host in self.hosts.items():
            if not host.pid:
                continue  # the site is being taken down
            text.append(f"-- {name}: phauld.log\n" + host.run("tail", "-n", "20", "/var/log/phauld.log", check=False).stdout)
            text.append(host.run("sh", "-c", "tail -n 15 $(ls -t /var/lib/phaul/migrations/*/log | head -n 4) 2>/dev/null", check=False).stdout)
        return "\n".join(text)

    def ready(self):
        """As every test finds it: nothing of the one before, daemons that run and are paired, and nobody talks to them."""
        self.clean()
        for host in self.hosts.values():
            if not self.pid_of(host, "phauld"):
                self.start(host)
        self._paired()
        for host in self.hosts.values():
            eventually(lambda: not self.pid_of(host, "phaul-net"), 60, f"quiet on {host.name}")  # noqa: B023

    def _paired(self):
        """Pair anew what a test left unpaired."""
        names = list(self.hosts)
        for i, one in enumerate(names):
            for other in names[i + 1:]:
                known = [h["name"] for h in json.loads(self.hosts[one].run("phaul", "hosts", "--json").stdout)
                         if h.get("state") == "reachable"]
                if other not in known:
                    self.pair(one, other)

    def sanitizer_findings(self):
        """What ASan and UBSan said in any log of a phaul built with them."""
        command = ("grep -rhE -A 20 'ERROR: (Address|Leak)Sanitizer|runtime error:' /var/log/phauld.log "
                   "/var/lib/phaul/migrations/*/log 2>/dev/null | head -n 60")
        return "".join(host.run("sh", "-c", command, check=False).stdout for host in self.hosts.values())

    # -- what must not be left

    def traces(self, host):
        """Everything of a host that a migration could leave behind."""
        h = self.hosts[host]
        shell = lambda command: sorted(h.run("sh", "-c", command, check=False).stdout.split("\n"))  # noqa: E731
        return {
            "mounts": shell("awk '{print $5}' /proc/self/mountinfo"),
            "interfaces": shell("ls /sys/class/net"),
            "cgroups": shell("find /sys/fs/cgroup -maxdepth 3 -type d -name 'lxc.*' ! -name lxc.pivot | sort"),
            "programs": shell("ps -eo comm= | grep -E '^(criu|rsync|phaul-|lxc-)' | sort"),
            "directories": shell("find /var/lib/lxc /run/phaul/images /run/phaul/sessions -mindepth 1 -maxdepth 1 2>/dev/null"),
            "rules": shell("nft list ruleset"),
        }

    def settled_traces(self, host, before, seconds=30):
        """Wait until the traces are as before; the difference is what fails the test."""
        def difference():
            now = self.traces(host)
            return {k: (sorted(set(before[k]) - set(now[k])), sorted(set(now[k]) - set(before[k])))
                    for k in now if now[k] != before[k]}
        with contextlib.suppress(AssertionError):
            eventually(lambda: not difference(), seconds)
        assert not difference(), f"{host} is not as it was: {difference()}"

    def clean(self):
        """No container anywhere, links whole."""
        self.let_go()
        for host in self.hosts.values():
            host.run("sh", "-c", "umount /var/lib/lxc; [ ! -e /root/criu.kept ] || mv /root/criu.kept /usr/local/sbin/criu", check=False)
            host.heal()
            host.slow("none")
            host.run("pkill", "-KILL", "-x", WORKLOADS, check=False)
            host.run("rm", "-rf", "/opt/own", "/var/log/family.log", "/var/log/restless.data", "/run/family.pid", check=False)
            if host.run("find", "/etc/phaul/conf.d", "/etc/phaul/hooks.d", "-type", "f", "-delete", "-print", check=False).stdout:
                self.kill(host, "phauld")
                eventually(lambda: not self.pid_of(host, "phauld"), what="the end of phauld")  # noqa: B023
            for name in host.run("timeout", "10", "lxc-ls", "-1", check=False).stdout.split():
                host.run("timeout", "20", "lxc-destroy", "-f", "-n", name, check=False)
        for host in self.hosts.values():
            eventually(lambda: not self.pid_of(host, "phaul-session"), 90, f"the end of sessions on {host.name}")  # noqa: B023
            with contextlib.suppress(AssertionError):  # unless the test that failed has left it frozen
                self.end(host, WORKLOADS, 10)
