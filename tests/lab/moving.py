# SPDX-License-Identifier: LGPL-2.1-or-later
"""Moving a container between hosts with LXC's own tools, by hand."""

import subprocess


def move(source, target, name, folder):
    """Copy its files while it runs, checkpoint, copy what changed, restore; folder is scratch space."""
    copy_files(source, target, name)
    done = source.run("lxc-checkpoint", "-n", name, "-D", "/tmp/images", "-s", check=False)
    assert done.returncode == 0, done.stderr + source.run("tail", "-n", "9", "/tmp/images/dump.log", check=False).stdout
    copy_files(source, target, name, "--checksum")
    source.get("/tmp/images", folder / "images")
    target.put(folder / "images", "/tmp/images")
    # Its monitor keeps the standard descriptors open, so a pipe would never end.
    target.run("sh", "-c", 'lxc-checkpoint -n "$1" -D /tmp/images -r >/root/restore 2>&1 </dev/null', "restore", name)
    for host in (source, target):
        host.run("rm", "-r", "/tmp/images")


def copy_files(source, target, name, *options):
    """From one host's disk to the other's, both plain directories of this machine."""
    old, new = (host.disk / "varlib/lxc" / name for host in (source, target))
    done = subprocess.run(["rsync", "-aHAXS", "--delete", *options, f"{old}/", f"{new}/"], timeout=120)
    assert done.returncode in (0, 24)  # 24: a file vanished meanwhile, as files of a running workload do
