# SPDX-License-Identifier: LGPL-2.1-or-later
"""An LXC container in a machine, with Redis, as an administrator of a stock Debian has it: AppArmor, seccomp and all."""

from simlab.container import REDIS
from simlab.tools import FOLDER

from .image import GUEST


def create(machine, name, ip, command=None, apparmor="generated", autostart=False, start=True):
    """Make it; ip carries a prefix length. apparmor is what lxc.apparmor.profile says, None to leave it out.

    A command is one of the lab's programs with its arguments: they need no system, and there is nothing else in it.
    """
    folder = f"/var/lib/lxc/{name}"
    machine.run("mkdir", "-p", "-m", "0770", folder)
    argv = [f"/sbin/{command[0]}", *command[1:]] if command else REDIS
    if command:
        machine.run("sh", "-c", f"cd {folder} && mkdir -p rootfs/dev rootfs/proc rootfs/sys rootfs/sbin && "
                    f"cp /{FOLDER}/{command[0]} rootfs/sbin/")
    else:
        machine.run("cp", "-a", GUEST, f"{folder}/rootfs")
    machine.run("tee", f"{folder}/config", input=_config(name, ip, argv, apparmor, autostart))
    if start:
        machine.run("lxc-start", "-n", name)


def _config(name, ip, command, apparmor, autostart):
    lines = [f"lxc.uts.name = {name}", f"lxc.rootfs.path = dir:/var/lib/lxc/{name}/rootfs",
             "lxc.net.0.type = veth", "lxc.net.0.link = br0", "lxc.net.0.flags = up", f"lxc.net.0.hwaddr = {_mac(ip)}",
             f"lxc.net.0.ipv4.address = {ip}", "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed",
             "lxc.seccomp.profile = /usr/share/lxc/config/common.seccomp",
             "lxc.console.path = none", "lxc.tty.max = 0", "lxc.autodev = 1"]
    lines += [f"lxc.apparmor.profile = {apparmor}"] if apparmor else []
    lines += ["lxc.start.auto = 1"] if autostart else []
    lines.append("lxc.init.cmd = " + " ".join(word or '""' for word in command))
    return "\n".join(lines) + "\n"


def _mac(ip):
    """It follows from the address, so it is the same in every run, and another for each container."""
    return f"00:16:3e:77:00:{int(ip.partition('/')[0].rpartition('.')[2]):02x}"
