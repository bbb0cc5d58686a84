"""A private chroot: commands in a root directory whose mounts and processes cannot outlive the call, however it ends."""

import os
import subprocess

from .sh import PATH, LabError

# Runs in a fresh mount and pid namespace: $1 is the root, then pairs "source:target[:ro]" up to "--", then the command.
_ENTER = r"""
set -e
root=$1; shift
mount --bind "$root" "$root"
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


def enter(root, argv, binds=(), network=False, cwd="/", log=None, env=None):
    """Run argv inside root. Output goes to the file object log, or to our own stderr; raises LabError when it fails."""
    spaces = ["--mount", "--propagation=private", "--pid", "--fork", "--kill-child=KILL", "--ipc", "--uts"]
    command = ["unshare", *spaces, *([] if network else ["--net"]), "sh", "-c", _ENTER, "chamber", str(root),
               *[str(b) for b in binds], "--", "env", f"--chdir={cwd}", *argv]
    clean = {"PATH": PATH, "HOME": "/root", "LANG": "C.UTF-8", "DEBIAN_FRONTEND": "noninteractive", **(env or {})}
    clean.update({k: v for k, v in os.environ.items() if network and k.lower().endswith("_proxy")})
    done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log or 2, stderr=subprocess.STDOUT, env=clean)
    if done.returncode:
        raise LabError(f"{argv[0]} failed in {root} (exit {done.returncode})")
