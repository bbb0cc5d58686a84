# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's own programs: the way into a host, and overlay layers of the workloads and of the shim that criu needs on some machines."""

import functools
from pathlib import Path

from . import chamber, image
from .cache import built
from .sh import LabError

LAB = Path(__file__).resolve().parents[1]
FOLDER = "usr/local/lib/phaul-lab"   # programs are static, so containers can have a copy
STATIC = "-static -O2 -g -Wall -Wextra -Werror -D_GNU_SOURCE"
CAP_SYS_RESOURCE = 24


def layers():
    """The layers that lie over the image, uppermost first."""
    return [*([_shim()] if shim_needed() else []), _workloads()]


@functools.cache
def enter():
    """The program of this machine that runs a command in a host; see enter.c."""
    def build(root, log):
        root.mkdir()
        _gcc(root, log, f"{STATIC} -o /build/enter /src/enter/enter.c")
    return built("enter", _ingredients("enter"), build) / "enter"


def programs():
    """The directory of the workloads; the same as /usr/local/lib/phaul-lab in every host."""
    return _workloads() / FOLDER


def path(name):
    """Path of a workload in hosts and containers, or None when there is none of that name."""
    return f"/{FOLDER}/{name}" if "/" not in name and (programs() / name).exists() else None


def shim_needed():
    """Without CAP_SYS_RESOURCE criu cannot read the limits of another user's process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("CapBnd:"):
            return not int(line.split()[1], 16) >> CAP_SYS_RESOURCE & 1
    raise LabError("/proc/self/status shows no CapBnd")


def _shim():
    def build(root, log):
        criu = root / "usr/local/sbin/criu"
        criu.parent.mkdir(parents=True)
        (root / FOLDER).mkdir(parents=True)
        _gcc(root / FOLDER, log, "-shared -fPIC -O2 -Wall -Wextra -Werror -o /build/prlimit-shim.so /src/shim/prlimit-shim.c")
        criu.write_text(f"#!/bin/sh\nLD_PRELOAD=\"/{FOLDER}/prlimit-shim.so $LD_PRELOAD\" exec /usr/sbin/criu \"$@\"\n")
        criu.chmod(0o755)
    return built("shim", _ingredients("shim"), build)


def _workloads():
    def build(root, log):
        (root / FOLDER).mkdir(parents=True)
        for source in sorted((LAB / "workloads").glob("*.c")):
            _gcc(root / FOLDER, log, f"{STATIC} -o /build/{source.stem} /src/workloads/{source.name}")
        for script in (LAB / "workloads").glob("*.py"):
            target = root / FOLDER / script.name
            target.write_bytes(script.read_bytes())
            target.chmod(0o755)
    return built("workloads", _ingredients("workloads"), build)


def _ingredients(folder):
    return [str(image.host_image()), Path(__file__).read_text(),
            [[p.name, p.read_text()] for p in sorted((LAB / folder).iterdir()) if p.is_file()]]


def _gcc(folder, log, arguments):
    chamber.enter(image.host_image(), ["gcc", "-std=gnu17", *arguments.split()],
                  binds=[f"{LAB}:/src:ro", f"{folder}:/build"], log=log)
