# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC containers in a host, made from the guest image."""

import hashlib
import os
import stat
from pathlib import Path

from . import image, tools
from .sh import LabError, run

IDS = 65536   # of an unprivileged container
REDIS = ["/usr/bin/setpriv", "--reuid=redis", "--regid=redis", "--init-groups", "/usr/bin/redis-server",
         "--bind", "0.0.0.0", "::", "--protected-mode", "no", "--enable-debug-command", "yes", "--save", "", "--dir", "/var/lib/redis"]


def create(host, name, command, ip=None, ip6=None, mac=None, backing="dir", link="br0", idmap=0,
           start=True):
    """Make container name in host with command as its init; a bare workload's name stands for its program.

    ip and ip6 carry a prefix length. The hardware address follows from the name, so it is the same in every run.
    With idmap its ids from 0 are the host's from there on: an unprivileged container.
    """
    folder = f"/var/lib/lxc/{name}"
    if host.run("test", "-e", folder, check=False).returncode == 0:
        raise LabError(f"{host.name} has {folder} already")
    inside = host.disk / "varlib/lxc" / name  # the same folder; /var/lib is a plain directory
    inside.mkdir(parents=True, mode=0o770)
    rootfs = inside / ("rootfs" if backing == "dir" else "lower")
    run("cp", "-a", "--reflink=auto", image.guest_image(), rootfs)
    run("cp", "-a", tools.programs(), rootfs / tools.FOLDER)
    if idmap:
        _shift(rootfs, idmap)
        os.chown(inside, -1, idmap)  # it looks for its root file system with its own ids
        inside.chmod(0o710)
    if backing == "overlay":
        (inside / "overlay/delta").mkdir(parents=True)
        (inside / "rootfs").mkdir()
        for part in ("overlay", "overlay/delta"):
            os.chown(inside / part, idmap, idmap)
        where = f"overlay:{folder}/lower:{folder}/overlay/delta"
    else:
        where = f"dir:{folder}/rootfs"
    command = [tools.path(command[0]) or command[0], *command[1:]]
    (inside / "config").write_text(_config(name, where, command, ip, ip6, mac or _mac(host.lab.name, name), link, idmap))
    if start:
        host.run("lxc-start", "-n", name)


def create_redis(host, name, **options):
    """A container that runs Redis, not as root, and keeps nothing on disk."""
    create(host, name, REDIS, **options)


def _config(name, rootfs, command, ip, ip6, mac, link, idmap):
    lines = [f"lxc.uts.name = {name}", f"lxc.rootfs.path = {rootfs}",
             "lxc.net.0.type = veth", f"lxc.net.0.link = {link}", "lxc.net.0.flags = up", f"lxc.net.0.hwaddr = {mac}"]
    lines += [f"lxc.net.0.ipv4.address = {ip}"] if ip else []
    lines += [f"lxc.net.0.ipv6.address = {ip6}"] if ip6 else []
    lines += ["lxc.mount.auto = proc:mixed sys:ro cgroup:mixed", "lxc.console.path = none", "lxc.tty.max = 0",
              "lxc.autodev = 1"]
    lines += [f"lxc.idmap = {kind} 0 {idmap} {IDS}" for kind in "ug" if idmap]
    apparmor = Path("/sys/module/apparmor/parameters/enabled")
    if apparmor.exists() and apparmor.read_text().startswith("Y"):
        lines.append("lxc.apparmor.profile = unconfined")
    lines.append("lxc.init.cmd = " + " ".join(_quoted(word) for word in command))
    return "\n".join(lines) + "\n"


def _shift(root, first):
    """Give every file to the ids that a container mapped from `first` on sees as the old ones."""
    paths = (os.path.join(folder, name) for folder, folders, files in os.walk(root) for name in (*folders, *files))
    for path in (root, *paths):
        info = os.lstat(path)
        os.lchown(path, info.st_uid + first, info.st_gid + first)
        if not stat.S_ISLNK(info.st_mode):
            os.chmod(path, stat.S_IMODE(info.st_mode))  # lchown takes set-id bits away


def _quoted(word):
    """A word as liblxc splits lxc.init.cmd: blanks separate, either quote groups, nothing escapes."""
    if word and not set(word) & set(" \t'\""):
        return word
    if '"' not in word:
        return f'"{word}"'
    if "'" not in word:
        return f"'{word}'"
    raise LabError(f"lxc.init.cmd cannot carry {word!r}")


def _mac(lab, name):
    digest = hashlib.sha256(f"{lab}/{name}".encode()).digest()
    return "00:16:3e:" + ":".join(f"{byte:02x}" for byte in digest[:3])
