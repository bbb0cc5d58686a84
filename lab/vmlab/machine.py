# SPDX-License-Identifier: LGPL-2.1-or-later
"""One virtual machine: its disk, its life, and commands in it."""

import contextlib
import hashlib
import os
import shlex
import subprocess
import time
from pathlib import Path

from simlab.sh import PATH, LabError, run

from . import net
from .image import vm_image

BOOT = 600      # seconds; emulated, on a machine that does other things as well
_CPUINFO = Path("/proc/cpuinfo")


def accelerator():
    """KVM where the processor's flags promise it, else emulation."""
    words = _CPUINFO.read_text().split()
    return "kvm" if {"vmx", "svm"} & set(words) and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"


class Machine:
    """A machine of a lab. Its disk survives crash(); stop() shuts it down as its power button does."""

    def __init__(self, lab, name, number):
        self.lab, self.name, self.number = lab, name, number
        self.disk, self.seed = lab.disks / f"{name}.qcow2", lab.disks / f"{name}.seed"
        self.console = lab.state / f"{name}.console"
        self._record, self._monitor = lab.state / f"{name}.pid", lab.state / f"{name}.monitor"

    @property
    def address(self):
        return net.ipv4(self.number)

    def _identity(self):
        return hashlib.sha256(f"phaul-vm/{self.lab.name}/{self.name}".encode()).hexdigest()[:32]

    # Life

    def make_disk(self):
        run("qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", vm_image() / "disk.img", self.disk)
        os.truncate(self.seed, -(-self.seed.stat().st_size // 512) * 512)  # a disk has whole sectors

    def start(self):
        """Switch it on; wait_up() says when it can be used."""
        if self.pid:
            raise LabError(f"{self.name} is up")
        tcg = accelerator() == "tcg"
        append = ("root=/dev/vda rw console=ttyS0 quiet net.ifnames=0 systemd.show_status=no "
                  f"fsck.mode=skip systemd.hostname={self.name} systemd.machine_id={self._identity()}")
        # Emulation takes all that there is, for minutes; whoever works on this machine goes first.
        command = ["nice", "-n", "19", "qemu-system-x86_64", "-name", f"{self.lab.name}-{self.name}",
                   "-nodefaults", "-no-user-config", "-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi" if tcg else "kvm",
                   "-cpu", "max,la57=off,pku=off" if tcg else "host", "-smp", "1", "-m", "1024",
                   "-kernel", vm_image() / "vmlinuz", "-initrd", vm_image() / "initrd.img", "-append", append,
                   "-drive", f"file={self.disk},if=virtio,cache=unsafe",
                   "-drive", f"file={self.seed},if=virtio,format=raw,readonly=on",
                   "-netdev", f"tap,id=net,ifname={self.name},script=no,downscript=no",
                   "-device", f"virtio-net-pci,netdev=net,mac={net.mac(self.number + 100)}",
                   "-device", "virtio-rng-pci", "-serial", f"file:{self.console}",
                   "-monitor", f"unix:{self._monitor},server=on,wait=off"]
        with open(self.lab.state / f"{self.name}.qemu", "w", encoding="utf-8") as log:
            process = subprocess.Popen(net.enter(self.lab.name, *command), stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                       start_new_session=True, env={"PATH": PATH})
        self._record.write_text(f"{process.pid} {_start_time(process.pid)}")  # `ip netns exec` and `nice` become QEMU: same pid

    def wait_up(self, seconds=BOOT, other_than=None):
        """Until it takes commands and systemd has started everything; the boot's id must not be other_than."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if not self.pid:
                raise LabError(f"{self.name}: {(self.lab.state / f'{self.name}.qemu').read_text().strip() or 'QEMU ended'}")
            try:
                boot = self.run("cat", "/proc/sys/kernel/random/boot_id", timeout=60).stdout
                if boot != other_than:
                    self.run("systemctl", "is-system-running", "--wait", check=False, timeout=seconds)
                    return boot
            except (LabError, subprocess.TimeoutExpired):
                pass
            self.hang_up()
            time.sleep(1)
        raise LabError(f"{self.name} does not come up; its console: {self.console}")

    @property
    def pid(self):
        """QEMU's pid, or None when the machine is off."""
        try:
            pid, start = self._record.read_text().split()
            return int(pid) if _start_time(pid) == start else None
        except OSError:
            return None

    def stop(self, seconds=BOOT):
        """Shut down in order."""
        self._leave("poweroff")
        deadline = time.monotonic() + seconds
        while self.pid:
            if time.monotonic() > deadline:
                raise LabError(f"{self.name} does not shut down")
            time.sleep(0.2)

    def _leave(self, verb):
        with contextlib.suppress(subprocess.TimeoutExpired):  # the connection may go away without a word
            self.run("systemctl", verb, check=False, timeout=60)
        self.hang_up()

    def crash(self):
        """The power fails."""
        if not self.pid:
            raise LabError(f"{self.name} is off")
        os.kill(self.pid, 9)
        while self.pid:
            time.sleep(0.02)
        self.hang_up()

    def reboot(self, seconds=BOOT):
        """Restart it in order, and wait until it is up again."""
        boot = self.run("cat", "/proc/sys/kernel/random/boot_id").stdout
        self._leave("reboot")
        self.wait_up(seconds, other_than=boot)

    # Commands

    def _ssh(self, *options, user="root"):
        """ssh takes the first of what is said twice: options win over those that all commands have."""
        state = self.lab.state
        return net.enter(self.lab.name, "ssh", "-F", "/dev/null", *options, "-i", state / "key", "-o", "BatchMode=yes",
                         "-o", "LogLevel=ERROR", "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null",
                         "-o", "ConnectTimeout=30", "-o", "ServerAliveInterval=20", "-o", "ServerAliveCountMax=6",
                         "-o", "ControlMaster=auto", "-o", f"ControlPath={state}/{self.name}.ssh", "-o", "ControlPersist=yes",
                         f"{user}@{self.address}")

    def hang_up(self):
        """Forget the connection: the machine on its other end is gone."""
        if (self.lab.state / f"{self.name}.ssh").exists():
            subprocess.run(self._ssh("-O", "exit"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                           stderr=subprocess.DEVNULL, timeout=60)

    def run(self, *argv, check=True, **options):
        """Run a command and return its CompletedProcess with text output; options go to subprocess.run."""
        options = {"text": True, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "timeout": 600, **options}
        if "input" not in options:
            options.setdefault("stdin", subprocess.DEVNULL)
        self._open()
        done = subprocess.run([*self._ssh(), "--", shlex.join(map(str, argv))], **options)
        if check and done.returncode:
            raise LabError(f"{self.name}: {shlex.join(map(str, argv))}: exit {done.returncode}: {(done.stderr or done.stdout).strip()}")
        return done

    def sh(self, script, **options):
        """A line of shell; its output, whatever it exits with."""
        return self.run("sh", "-c", script, check=False, **options).stdout

    def popen(self, *argv, **options):
        """Start a command and return its Popen; it goes on when that is killed."""
        self._open()
        return subprocess.Popen([*self._ssh(), "--", shlex.join(map(str, argv))], **{"stdin": subprocess.DEVNULL, **options})

    def login(self, user, *argv, terminal=False, **options):
        """Log in as a user and start a command: a session of its own, which lasts as long as the Popen that is returned.

        The user must have root's authorized_keys. With a terminal it is an interactive session.
        """
        alone = ["-o", "ControlMaster=no", "-o", "ControlPath=none", *(["-tt"] if terminal else [])]
        command = [*self._ssh(*alone, user=user), "--", shlex.join(map(str, argv))]
        return subprocess.Popen(command, **{"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True, **options})

    def exec(self, argv):
        """Become the command."""
        self._open()
        command = [*self._ssh(*(["-t"] if os.isatty(0) else [])), *(["--", shlex.join(argv)] if argv else [])]
        os.execvp(command[0], command)

    def _open(self):
        """The connection all commands share. Made here: a master that a command leaves behind would keep its output open."""
        if not self.pid:
            raise LabError(f"{self.name} is off")
        if not (self.lab.state / f"{self.name}.ssh").exists():
            done = subprocess.run(self._ssh("-f", "-N"), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL, timeout=120)
            if done.returncode:
                raise LabError(f"{self.name} does not answer")


def _start_time(pid):
    """Tells a process from a later one of the same pid; None for one that is dead but not reaped yet."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return fields[19] if fields[0] != "Z" else None
