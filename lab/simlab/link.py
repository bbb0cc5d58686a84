# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab's network: a switch in a namespace of its own and a cable to every host. Nothing leaves these namespaces."""

from pathlib import Path

from .sh import LabError, run

SWITCH = "sw"


def switch_space(lab):
    return f"phaul-lab.{lab}"


def space(lab, host):
    """Name of a host's network namespace, as `ip netns` knows it."""
    return f"phaul-lab.{lab}.{host}"


def spaces(lab):
    """All namespaces of a lab that exist, found without any record of the lab."""
    names = [p.name for p in Path("/run/netns").glob("phaul-lab.*")]
    return [n for n in names if n.split(".")[1] == lab]


def labs_with_spaces():
    return sorted({p.name.split(".")[1] for p in Path("/run/netns").glob("phaul-lab.*")})


def create_switch(lab):
    name = switch_space(lab)
    run("ip", "netns", "add", name)
    _quiet(name)
    _batch(name, f"link add {SWITCH} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
           f"link set {SWITCH} up", "link set lo up")


def attach(lab, host, number, bridged=True):
    """A namespace for the host and its cable. Host n has 10.77.0.n and fd77::n, on its bridge br0 when bridged, else on eth0."""
    name = space(lab, host)
    run("ip", "netns", "add", name)
    _quiet(name)
    run("ip", "-n", switch_space(lab), "link", "add", host, "type", "veth", "peer", "name", "eth0", "netns", name)
    _batch(switch_space(lab), f"link set {host} master {SWITCH} up")
    device = "br0" if bridged else "eth0"
    commands = ["link set lo up", "link set eth0 up"]
    if bridged:  # a fixed address, or the bridge takes over the lowest of its ports' each time a container comes
        commands = [f"link add br0 address 02:77:00:00:00:{number:02x} type bridge stp_state 0 forward_delay 0 mcast_snooping 0",
                    "link set eth0 master br0", "link set br0 up", *commands]
    _batch(name, *commands, f"addr add {ipv4(number)}/24 dev {device}", f"addr add {ipv6(number)}/64 dev {device} nodad")


def ipv4(number):
    return f"10.77.0.{number}"


def ipv6(number):
    return f"fd77::{number}"


def detach(lab, host):
    """Pull the cable and drop the host's namespace. The switch's end goes first: a namespace can live on in a process."""
    run("ip", "-n", switch_space(lab), "link", "del", host, check=False)
    run("ip", "netns", "del", space(lab, host), check=False)


def destroy(lab):
    """Remove whatever namespaces a lab has."""
    for name in spaces(lab):
        run("ip", "netns", "del", name)


def set_cut(lab, host, cut):
    """Silence the host's port in the switch, or let it speak again: frames get lost, nobody sees a carrier change."""
    _switch_tool(lab, "bridge", "link", "set", "dev", host, "state", 0 if cut else 3)


def is_cut(lab, host):
    return "state disabled" in _switch_tool(lab, "bridge", "link", "show", "dev", host)


def slow(lab, host, rate):
    """Limit the host's cable in both directions to a rate in tc's words ("100mbit"); "none" lifts it."""
    for name, device in _both_ends(lab, host):
        if rate == "none":
            run("ip", "netns", "exec", name, "tc", "qdisc", "del", "dev", device, "root", check=False)
        else:
            run("ip", "netns", "exec", name, "tc", "qdisc", "replace", "dev", device, "root", "tbf", "rate", rate,
                "burst", "128k", "latency", "100ms")


def delay(lab, host, milliseconds):
    """Add a delay in both directions (0 removes it); says so when this kernel has no netem."""
    for name, device in _both_ends(lab, host):
        tc = ["ip", "netns", "exec", name, "tc", "qdisc"]
        if not milliseconds:
            run(*tc, "del", "dev", device, "root", check=False)
            continue
        try:
            run(*tc, "replace", "dev", device, "root", "netem", "delay", f"{milliseconds}ms", "limit", 100000)
        except LabError as error:
            if "qdisc kind is unknown" in str(error):
                raise LabError("this kernel has no netem (CONFIG_NET_SCH_NETEM), so links cannot be delayed") from None
            raise


def _both_ends(lab, host):
    return (switch_space(lab), host), (space(lab, host), "eth0")


def _switch_tool(lab, *argv):
    return run("ip", "netns", "exec", switch_space(lab), *argv)


def _batch(name, *commands):
    run("ip", "-n", name, "-batch", "-", input="\n".join(commands))


def _quiet(name):
    """Frames between containers pass this machine's bridges untouched, as on a Debian without br_netfilter."""
    run("ip", "netns", "exec", name, "sh", "-c",
        "for f in /proc/sys/net/bridge/bridge-nf-call-*; do [ ! -e $f ] || echo 0 > $f; done")
