# SPDX-License-Identifier: LGPL-2.1-or-later
"""What makes one machine differ from the next: a tar archive, its second disk, that it unpacks over / at its first boot."""

import io
import tarfile

from . import net, source

_NETDEV = """[NetDev]
Name=br0
Kind=bridge
MACAddress={mac}

[Bridge]
STP=no
ForwardDelaySec=0
MulticastSnooping=no
"""


def write(path, machine, neighbours, key, tree, programs):
    """Write the archive: identity, network, who may log in, the compiled tree, and the lab's own programs."""
    hosts = "".join(f"{net.ipv4(n)}\t{name}\n" for name, n in neighbours)
    files = {
        "etc/hostname": f"{machine.name}\n",
        "etc/hosts": "127.0.0.1\tlocalhost\n::1\tlocalhost\n" + hosts,
        "etc/systemd/network/10-br0.netdev": _NETDEV.format(mac=net.mac(machine.number)),
        "etc/systemd/network/20-eth0.network": "[Match]\nName=eth0\n\n[Network]\nBridge=br0\n",
        "etc/systemd/network/30-br0.network": "[Match]\nName=br0\n\n[Network]\n"
                                              f"Address={net.ipv4(machine.number)}/24\nLinkLocalAddressing=no\nIPv6AcceptRA=no\n",
        "root/.ssh/authorized_keys": key,
    }
    with tarfile.open(path, "w", format=tarfile.GNU_FORMAT) as tar:
        for name, text in files.items():
            tar.addfile(_entry(name, len(text)), io.BytesIO(text.encode()))
        tar.add(tree, source.PLACE.lstrip("/"), filter=_of_root)
        tar.add(programs, "usr/local/lib/phaul-lab", filter=_of_root)


def _entry(name, size):
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = size, 0o600 if "/.ssh/" in name else 0o644
    return entry


def _of_root(entry):
    """Owned by root; with no sub-second times, so that nothing is newer than what was made of it."""
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = "root"
    return entry
