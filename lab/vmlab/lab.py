# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab of virtual machines: machines, a client and the switch between them, under one name."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

from simlab import tools
from simlab.sh import LabError, locked, run

from . import container, net, seed, source
from .image import vm_image
from .machine import Machine

STATE = Path("/run/phaul-vm")
DISKS = Path("/var/lib/phaul-vm")
NAMES = ["alpha", "beta"]


class VmLab:
    """A lab by name. Nothing is held open: any process may make a VmLab of the same name and work with it."""

    def __init__(self, name=None):
        self.name = name or os.environ.get("PHAUL_LAB") or "lab"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"a lab's name is made of a-z, 0-9 and '-', unlike {self.name!r}")
        self.state, self.disks = STATE / self.name, DISKS / self.name
        record = self._record()
        names = json.loads(record.read_text()) if record.exists() else []
        self.machines = {name: Machine(self, name, 11 + n) for n, name in enumerate(names)}

    def _record(self):
        return self.state / "lab.json"

    def __getitem__(self, name):
        if name not in self.machines:
            raise LabError(f"lab {self.name} has no machine {name!r}: it has {', '.join(self.machines) or 'none, it is down'}")
        return self.machines[name]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.down()

    def up(self, names=NAMES):
        """Start the machines and wait until they have booted."""
        vm_image()
        programs, tree = tools.programs(), source.compiled()
        with self._lock():
            if self.machines:
                raise LabError(f"lab {self.name} is up already; `vm down` ends it")
            self._clean()
            try:
                self._start(names, tree, programs)
            except BaseException:
                self._clean()
                raise
        for machine in self.machines.values():
            machine.wait_up()
        return self

    def _start(self, names, tree, programs):
        self.state.mkdir(parents=True, mode=0o700)
        self.disks.mkdir(parents=True, mode=0o700)
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.state / "key")
        self.machines = {name: Machine(self, name, 11 + n) for n, name in enumerate(names)}
        everyone = [*((m.name, m.number) for m in self.machines.values()), ("client", net.CLIENT)]
        net.create(self.name, names)
        for machine in self.machines.values():
            seed.write(machine.seed, machine, everyone, (self.state / "key.pub").read_text(), tree, programs)
            machine.make_disk()
            machine.start()
        self._record().write_text(json.dumps(names))

    def down(self):
        """Remove the lab and all it left behind, whether or not it is whole."""
        with self._lock():
            self._clean()

    def _clean(self):
        net.destroy(self.name)
        for folder in (self.state, self.disks):
            if folder.exists():
                shutil.rmtree(folder)
        self.machines = {}

    def _lock(self):
        return locked(STATE / f".{self.name}.lock", f"another command changes lab {self.name}, waiting")

    def client(self, *argv, **options):
        """Start one of the lab's Python programs as a client of the machines; returns its Popen."""
        program = tools.programs() / argv[0]
        command = net.enter(self.name, "python3", program, *argv[1:])
        return subprocess.Popen(command, **{"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "text": True, **options})

    def container(self, machine, name, **options):
        """A container in one of the machines, with Redis if nothing else is said; see container.create()."""
        container.create(self[machine], name, **options)

    @staticmethod
    def names():
        """Every lab of this machine, whole or not."""
        kept = [p.name for top in (STATE, DISKS) if top.exists() for p in top.iterdir() if p.is_dir()]
        return sorted({*kept, *net.labs()})
