# SPDX-License-Identifier: LGPL-2.1-or-later
"""A private chroot: commands in a root directory whose mounts and processes cannot outlive the call, however it ends."""

import os
import subprocess

from .sh import PATH, LabError, held_locks

# Runs in a fresh mount and pid namespace. $1 is the root, $2 its mode (ro, rw), then come words "source:target[:ro]" up to
# "--", then the command.
_ENTER = r"""
set -e
root=$1 mode=$2; shift 2
mount --bind "$root" "$root"
mount -o "remount,bind,$mode" "$root"
mount -t proc proc "$root/proc"
mount -t tmpfs tmpfs "$root/tmp"
mount --rbind /dev "$root/dev"
while [ "$1" != -- ]; do
    IFS=: read -r from to mode <<EOT
$1
EOT
    mount --bind "$from" "$root$to"
    [ -z "$mode" ] || mount -o "remount,bind,$mode" "$root$to"
    shift
done
shift
exec chroot "$root" "$@"
"""


def enter(root, argv, binds=(), writable=False, cwd="/", log=None):
    """Run argv inside root. Output goes to the file object log, or to our own stderr; raises LabError when it fails.

    Writable is for what makes an image: it also has this machine's network, and the proxy it is reached by.
    """
    spaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--ipc", "--uts"]
    command = ["unshare", *spaces, *([] if writable else ["--net"]), "sh", "-c", _ENTER, "chamber", str(root),
               "rw" if writable else "ro", *[str(b) for b in binds], "--", "env", f"--chdir={cwd}", *argv]
    clean = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive"}
    clean.update({k: v for k, v in os.environ.items() if writable and k.lower().endswith("_proxy")})
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log or 2, stderr=subprocess.STDOUT, env=clean,
                          pass_fds=held_locks())
    if done.returncode:
        raise LabError(f"{argv[0]} failed in {root} (exit {done.returncode})")
