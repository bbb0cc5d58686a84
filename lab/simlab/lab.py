# SPDX-License-Identifier: LGPL-2.1-or-later
"""A lab: hosts, a client and the switch between them, under one name."""

import json
import os
import re
import shutil
from pathlib import Path

from . import build, cgroup, image, link, tools
from .host import Host
from .sh import LabError, locked, say

STATE = Path("/run/phaul-lab")
DISKS = Path("/var/lib/phaul-lab")
NAMES = ["alpha", "beta", "gamma", "delta"]
CLIENT = "client"


class Lab:
    """A lab by name. Nothing is held open: any process may make a Lab of the same name and work with it."""

    def __init__(self, name=None):
        self.name = name or os.environ.get("PHAUL_LAB") or "lab"
        if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,30}", self.name):
            raise LabError(f"a lab's name is made of a-z, 0-9 and '-', unlike {self.name!r}")
        self.state, self.disks = STATE / self.name, DISKS / self.name
        self.hosts, self.client, self.layers = {}, None, []
        record = self._record()
        if record.exists():
            content = json.loads(record.read_text())
            self._name_hosts(content["hosts"])
            self.layers = [Path(layer) for layer in content["layers"]]

    def _record(self):
        return self.state / "lab.json"

    def _name_hosts(self, names):
        self.hosts = {name: Host(self, name, 11 + n) for n, name in enumerate(names)}
        self.client = Host(self, CLIENT, 200)

    def __getitem__(self, name):
        """A host, or the client, by its name."""
        if name == CLIENT and self.client:
            return self.client
        if name not in self.hosts:
            what = f"its hosts are {', '.join(self.hosts)}" if self.hosts else "it is down"
            raise LabError(f"lab {self.name} has no host {name!r}: {what}")
        return self.hosts[name]

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.down()

    def up(self, hosts=2, sanitize=False):
        """Start the lab: a number of hosts, or their names. phaul is in them when `lab build` has been done before."""
        names = _host_names(hosts)
        image.host_image()
        tools.layers()
        tools.enter()
        with self._lock():
            if self._record().exists():
                raise LabError(f"lab {self.name} is up already; `lab down` ends it")
            self._clean()
            try:
                self._start(names, sanitize)
            except BaseException:
                self._clean()
                raise
        return self

    def _start(self, names, sanitize):
        self.state.mkdir(parents=True)
        self.disks.mkdir(parents=True, mode=0o700)
        self.layers = [*tools.layers(), image.host_image()]
        varlibs = [image.host_image() / "var/lib"]
        stage = self.disks / ".stage"
        if build.copy_stage(stage, sanitize):
            self.layers.insert(0, stage)
            varlibs += [stage / "var/lib"] if (stage / "var/lib").exists() else []
        else:
            say("phaul is not built (`lab build`), the hosts come without it")
        if tools.shim_needed():
            say("this machine lacks CAP_SYS_RESOURCE: criu in the hosts reads limits through a shim")
        self._name_hosts(names)
        link.create_switch(self.name)
        everyone = [*self.hosts.values(), self.client]
        for host in everyone:
            host.make_disk(varlibs, everyone)
            host.start()
        complete = self._record().with_suffix(".new")  # others look at it at any time
        complete.write_text(json.dumps({"hosts": names, "layers": [str(layer) for layer in self.layers]}))
        complete.rename(self._record())

    def down(self):
        """Remove the lab and all it left behind, whether or not it is whole."""
        with self._lock():
            self._clean()
        self.hosts, self.client, self.layers = {}, None, []

    def _clean(self):
        for name in cgroup.hosts_with_groups(self.name):
            cgroup.clear(self.name, name)
        link.destroy(self.name)
        for folder in (self.state, self.disks):
            if folder.exists():
                shutil.rmtree(folder)

    def _lock(self):
        return locked(STATE / f".{self.name}.lock", f"another command changes lab {self.name}, waiting")

    def crash(self, name):
        with self._lock():
            self[name].crash()

    def boot(self, name):
        with self._lock():
            self[name].start()

    @staticmethod
    def names():
        """Every lab of this machine, whole or not."""
        kept = [p.name for top in (STATE, DISKS) if top.exists() for p in top.iterdir() if p.is_dir()]
        return sorted({*kept, *cgroup.labs_with_groups(), *link.labs_with_spaces()})


def _host_names(hosts):
    if isinstance(hosts, int):
        if not 1 <= hosts <= 100:
            raise LabError("a lab has 1 to 100 hosts")
        return [NAMES[n] if n < len(NAMES) else f"h{n + 1}" for n in range(hosts)]
    for name in hosts:
        if not re.fullmatch(r"[a-z][a-z0-9-]{0,13}", name) or name in (CLIENT, link.SWITCH, "lo", "localhost"):
            raise LabError(f"{name!r} cannot be a host's name: a-z, 0-9 and '-', at most 14, and not {CLIENT!r}")
    if len(set(hosts)) != len(hosts):
        raise LabError("two hosts cannot have the same name")
    return list(hosts)
