# SPDX-License-Identifier: LGPL-2.1-or-later
"""The machines' network: one namespace with a switch, a tap for each machine, and the address of the client.

QEMU, ssh and the clients all live in that namespace, so nothing leaves it, and whatever lives in it is the lab's.
"""

import os
import signal
import time
from pathlib import Path

from simlab.sh import run

SWITCH = "sw"
CLIENT = 200
_PREFIX = "phaul-vm."


def space(lab):
    """Name of a lab's network namespace, as `ip netns` knows it."""
    return f"{_PREFIX}{lab}"


def labs():
    """Every lab of this machine that has a namespace."""
    return sorted(p.name.removeprefix(_PREFIX) for p in Path("/run/netns").glob(f"{_PREFIX}*"))


def ipv4(number):
    return f"10.77.0.{number}"


def mac(number):
    return f"02:77:00:00:01:{number:02x}"


def create(lab, taps):
    name = space(lab)
    run("ip", "netns", "add", name)
    commands = ["link set lo up", f"link add {SWITCH} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                f"link set {SWITCH} up", f"addr add {ipv4(CLIENT)}/24 dev {SWITCH}"]
    for tap in taps:
        commands += [f"tuntap add {tap} mode tap", f"link set {tap} master {SWITCH} up"]
    run("ip", "-n", name, "-batch", "-", input="\n".join(commands))


def enter(lab, *argv):
    """The command line that runs argv in the lab's namespace."""
    return ["ip", "netns", "exec", space(lab), *(str(a) for a in argv)]


def destroy(lab):
    """End every process in the namespace and remove it."""
    name = space(lab)
    if not Path(f"/run/netns/{name}").exists():
        return
    deadline = time.monotonic() + 30
    while pids := run("ip", "netns", "pids", name).split():
        for pid in pids:
            _kill(int(pid))
        if time.monotonic() > deadline:
            break
        time.sleep(0.05)
    run("ip", "netns", "del", name)


def _kill(pid):
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
