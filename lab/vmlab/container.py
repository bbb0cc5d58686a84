# SPDX-License-Identifier: LGPL-2.1-or-later
"""An LXC container in a machine, with Redis, as an administrator of a stock Debian has it: AppArmor and all."""

from simlab.container import REDIS

from .image import GUEST


def create(machine, name, ip, apparmor="generated", autostart=False, start=True):
    """Make it; ip carries a prefix length. apparmor is what lxc.apparmor.profile says, None to leave it out."""
    lines = [f"lxc.uts.name = {name}", f"lxc.rootfs.path = dir:/var/lib/lxc/{name}/rootfs",
             "lxc.net.0.type = veth", "lxc.net.0.link = br0", "lxc.net.0.flags = up", "lxc.net.0.hwaddr = 00:16:3e:77:00:20",
             f"lxc.net.0.ipv4.address = {ip}", "lxc.mount.auto = proc:mixed sys:mixed cgroup:mixed",
             "lxc.console.path = none", "lxc.tty.max = 0", "lxc.autodev = 1"]
    lines += [f"lxc.apparmor.profile = {apparmor}"] if apparmor else []
    lines += ["lxc.start.auto = 1"] if autostart else []
    lines.append("lxc.init.cmd = " + " ".join(word or '""' for word in REDIS))
    folder = f"/var/lib/lxc/{name}"
    machine.run("mkdir", "-p", "-m", "0770", folder)
    machine.run("cp", "-a", GUEST, f"{folder}/rootfs")
    machine.run("tee", f"{folder}/config", input="\n".join(lines) + "\n")
    if start:
        machine.run("lxc-start", "-n", name)
