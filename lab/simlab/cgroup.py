# SPDX-License-Identifier: LGPL-2.1-or-later
"""Each host's own cgroup in every hierarchy of this machine, v1 and v2 alike.

One hierarchy left shared would be enough for one host's cgroups to appear in another's dump.
"""

import contextlib
import functools
import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from .sh import LabError


@dataclass(frozen=True)
class Hierarchy:
    """One mounted cgroup tree; name is what its mount inside a host is called, options are those of that mount."""
    path: Path
    unified: bool
    name: str = ""
    options: str = ""


@functools.cache
def hierarchies(mounts="/proc/mounts"):
    """Every cgroup tree mounted under /sys/fs/cgroup."""
    found = []
    for line in Path(mounts).read_text().splitlines():
        _, path, kind, options, *_ = line.split()
        if kind not in ("cgroup", "cgroup2") or not path.startswith("/sys/fs/cgroup"):
            continue
        if kind == "cgroup2":
            found.append(Hierarchy(Path(path), True))
            continue
        named = [o for o in options.split(",") if o.startswith("name=")]
        controllers = [o for o in options.split(",") if o in _v1_controllers()]
        found.append(Hierarchy(Path(path), False, Path(path).name, ",".join(["none", *named] if named else controllers)))
    if not found:
        raise LabError("no cgroup hierarchy is mounted under /sys/fs/cgroup")
    return found


def _v1_controllers():
    lines = Path("/proc/cgroups").read_text().splitlines()[1:]
    return {line.split()[0] for line in lines}


def mounts_inside():
    """What a host mounts, as "name=options" words. An empty v2 tree beside v1 is left out: lxc-checkpoint aborts on it."""
    v1 = [h for h in hierarchies() if not h.unified]
    return [f"{h.name}={h.options}" for h in v1] or ["unified"]


def _group(tree, lab, host):
    return tree.path / f"phaul-lab.{lab}.{host}"


def create(lab, host):
    """Make the host's cgroups, usable by children at once.

    v2: no controller is handed down, and the host's own processes stay in its topmost cgroup. A real root may have both
    processes and controllers, the root of a cgroup namespace may not, and liblxc enters the root before it runs criu.
    """
    for tree in hierarchies():
        group = _group(tree, lab, host)
        group.mkdir(exist_ok=True)
        if (group / "cpuset.cpus").exists() and not tree.unified:
            for file in ("cpuset.cpus", "cpuset.mems"):  # empty in a new v1 cpuset, which then accepts no process
                (group / file).write_text((tree.path / file).read_text())
            (group / "cgroup.clone_children").write_text("1")


def doors(lab, host):
    """The files that take a process into the host's cgroups, one for each hierarchy."""
    return [str(_group(tree, lab, host) / "cgroup.procs") for tree in hierarchies()]


def join(lab, host):
    """Move the calling process to the host's cgroups; its first one unshares its cgroup namespace after that."""
    for door in doors(lab, host):
        Path(door).write_text("0")


def hosts_with_groups(lab):
    """Names of the lab's hosts that have a cgroup anywhere, found without any record of the lab."""
    prefix = f"phaul-lab.{lab}."
    return sorted({g.name[len(prefix):] for tree in hierarchies() for g in tree.path.glob(f"{prefix}*")})


def labs_with_groups():
    return sorted({g.name.split(".")[1] for tree in hierarchies() for g in tree.path.glob("phaul-lab.*.*")})


def processes(lab, host):
    """Every process in the host's cgroups or below, by this machine's pids."""
    pids = set()
    for tree in hierarchies():
        for folder, _, files in os.walk(_group(tree, lab, host)):
            if "cgroup.procs" in files:
                try:
                    pids.update(int(p) for p in Path(folder, "cgroup.procs").read_text().split())
                except OSError:
                    pass  # the cgroup went away while we looked
    return pids - {0}


def memory_used(host):
    """Bytes of a host's memory that cannot be had again from a disk: anonymous, shared and in a tmpfs."""
    for tree in hierarchies():
        file = _group(tree, host.lab.name, host.name) / "memory.stat"
        if file.exists():
            found = dict(line.split() for line in file.read_text().splitlines())
            names = ("anon", "shmem") if tree.unified else ("total_rss", "total_shmem")
            return sum(int(found[name]) for name in names)
    raise LabError("no memory controller counts what a host uses")


def clear(lab, host, timeout=10):
    """Kill all of a host's processes, frozen ones too, and remove its cgroups; again while stragglers enter them."""
    deadline = time.monotonic() + timeout
    while not _removed(lab, host):
        _thaw(lab, host)
        for pid in processes(lab, host):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if time.monotonic() > deadline:
            raise LabError(f"{host}: processes {sorted(processes(lab, host))} do not die")
        time.sleep(0.01)


def _thaw(lab, host):
    """A v1 freezer holds back even SIGKILL."""
    for tree in hierarchies():
        if tree.unified:
            continue
        for folder, _, files in os.walk(_group(tree, lab, host)):
            if "freezer.state" in files:
                with contextlib.suppress(OSError):
                    Path(folder, "freezer.state").write_text("THAWED")


def _removed(lab, host):
    """Remove the host's cgroups as far as they are empty of processes; True when all are gone."""
    complete = True
    for tree in hierarchies():
        for folder, _, _ in os.walk(_group(tree, lab, host), topdown=False):
            try:
                os.rmdir(folder)
            except FileNotFoundError:
                pass
            except OSError:
                complete = False
    return complete
