# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two paired virtual machines with phaul installed as README.md tells its users, and what tests do with them."""

import contextlib
import json
import re
import signal
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "lab"))

from site_under_test import eventually  # noqa: E402
from vmlab import VmLab  # noqa: E402

MINUTE = 60
USER, UID = "ada", 1500

# What README.md says after `apt install`, which the image has been through.
README = ["criu check", "make -C /src install", "systemd-sysusers && systemd-tmpfiles --create",
          "systemctl daemon-reload && systemctl enable --now phauld"]


class System:
    """A lab of virtual machines in which phauld runs by its unit."""

    def __init__(self, name):
        self.lab = VmLab(name)
        self.lab.down()
        try:
            self._up()
        except BaseException:
            self.lab.down()
            raise

    def _up(self):
        self.lab.up()
        self.machines = self.lab.machines
        self.before = {name: self.files(name) for name in self.machines}
        self._everywhere(self._install)
        self._everywhere(self._add_user)
        code = self["beta"].run("phaul", "pair", "--offer").stdout.split()[-1]
        self["alpha"].run("phaul", "pair", "beta", "--code-file", "-", input=code + "\n")

    def __getitem__(self, name):
        return self.machines[name]

    def down(self):
        self.lab.down()

    def _everywhere(self, work):
        """Both at once: an emulated machine uses one core of this one."""
        with ThreadPoolExecutor() as pool:
            list(pool.map(work, self.machines.values()))

    def _install(self, machine):
        for line in README:
            machine.run("sh", "-c", line, timeout=20 * MINUTE)

    def _add_user(self, machine):
        """Somebody who may log in; home directories and user ids are the same on both."""
        machine.run("useradd", "--create-home", "--uid", UID, "--shell", "/bin/bash", USER)
        machine.run("sh", "-c", f"cp -r /root/.ssh ~{USER} && chown -R {USER}: ~{USER}/.ssh")

    def files(self, name):
        """All files and directories that an installation could bring; not the tree that it comes from."""
        without = " -o ".join(f"-path {folder}" for folder in ("/src", "/root", "/home", "/var", "/tmp"))
        return set(self[name].sh(f"find / -xdev \\( {without} \\) -prune -o -print").splitlines())

    def restarted(self, name):
        """The machine has booted: phauld came up with it, and each reaches the other."""
        eventually(lambda: self[name].sh("systemctl is-active phauld").strip() == "active", 2 * MINUTE, f"phauld on {name}")
        other, = self.machines.keys() - {name}
        for one, peer in ((name, other), (other, name)):
            eventually(lambda one=one, peer=peer: self.reaches(one, peer), 5 * MINUTE, f"{one} reaches {peer}")

    def reaches(self, name, other):
        done = self[name].run("phaul", "hosts", "--json", check=False)
        return done.returncode == 0 and [h for h in json.loads(done.stdout) if h["name"] == other and h.get("state") == "reachable"]

    def migrate(self, source, what, target, *options):
        """phaul migrate --json; the report."""
        done = self[source].run("phaul", "migrate", what, target, "--json", *options, check=False, timeout=20 * MINUTE)
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        report = json.loads(done.stdout)
        assert report["result"] == "done" and report["owner"] == "target", report
        return report

    def logs(self):
        said = []
        for name, machine in self.machines.items():
            with contextlib.suppress(Exception):  # it may be off
                look = ("journalctl -b -q -n 30 --no-hostname -u phauld; systemctl --failed --no-legend; "
                        "tail -n 10 $(ls -t /var/lib/phaul/migrations/*/log | head -n 3)")
                said.append(f"-- {name}\n" + machine.sh(look, timeout=2 * MINUTE))
        return "\n".join(said)

    # -- containers with Redis, and a client that counts

    def redis(self, name, container, ip, **options):
        self.lab.container(name, container, ip=f"{ip}/24", **options)
        eventually(lambda: self.answers(ip), 2 * MINUTE, f"Redis at {ip}")

    def answers(self, ip):
        return "PONG" in self["alpha"].run("timeout", "20", "redis-cli", "-h", ip, "ping", check=False).stdout

    def state(self, name, container):
        """RUNNING, STOPPED, or None where nobody knows it."""
        found = re.search(r"State:\s+(\w+)", self[name].sh(f"lxc-info -n {container} -s"))
        return found[1] if found else None

    def acknowledged(self, ip):
        status = self.lab.state / f"incr-{ip}"
        return int(status.read_text()) if status.exists() else 0

    def counting(self, ip):
        """A client that INCRs over one connection all the time; end it with finish()."""
        (self.lab.state / f"incr-{ip}").unlink(missing_ok=True)
        made = self.lab.client("incr.py", ip, "--seconds", str(120 * MINUTE), "--patience", str(10 * MINUTE),
                               "--status", self.lab.state / f"incr-{ip}")
        eventually(lambda: self.acknowledged(ip) > 50, 2 * MINUTE, "writes")
        return made

    def goes_on(self, ip):
        before = self.acknowledged(ip)
        eventually(lambda: self.acknowledged(ip) > before + 20, 5 * MINUTE, f"writes to {ip} going on")

    def finish(self, counting, ip):
        """Stop the client; every write that Redis acknowledged is in it."""
        self.goes_on(ip)
        counting.send_signal(signal.SIGTERM)
        result = json.loads(counting.communicate(timeout=MINUTE)[0])
        stored = int(self["alpha"].run("redis-cli", "-h", ip, "get", "acknowledged").stdout)
        assert result["connection"] == "kept" and result["lost"] == 0 and not result["errors"], result
        assert stored in (result["acked"], result["acked"] + 1), (stored, result)
        self["alpha"].run("redis-cli", "-h", ip, "del", "acknowledged")
        return result

    # -- process trees

    def tree(self, name, pid):
        """Pids of a process and its children; none when it does not exist."""
        return self[name].run("ps", "-o", "pid=", "-p", pid, "--ppid", pid, check=False).stdout.split()

    def unit_is_gone(self, name, unit):
        return self[name].run("systemctl", "is-active", unit, check=False).stdout.strip() in ("inactive", "failed", "unknown")
