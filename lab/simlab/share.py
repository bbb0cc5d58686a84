# SPDX-License-Identifier: LGPL-2.1-or-later
"""A directory of this machine, mounted into hosts: what two hosts see of a common storage.

Runs as a program of its own in between: `share.py PID DIRECTORY PLACE`. A mount cannot be bound from one mount namespace
into another, but a detached copy of it can be taken along: open_tree() here, setns(), move_mount() there.
"""

import ctypes
import os
import sys

_SYS_OPEN_TREE, _SYS_MOVE_MOUNT = 428, 429
_OPEN_TREE_CLONE, _CLOEXEC, _MOVE_MOUNT_F_EMPTY_PATH = 1, os.O_CLOEXEC, 4
_CLONE_NEWNS = 0x20000
_AT_FDCWD = -100


def _checked(result, what):
    if result < 0:
        raise OSError(ctypes.get_errno(), f"{what}: {os.strerror(ctypes.get_errno())}")
    return result


def main(pid, directory, place):
    libc = ctypes.CDLL(None, use_errno=True)
    tree = _checked(libc.syscall(_SYS_OPEN_TREE, _AT_FDCWD, directory.encode(), _OPEN_TREE_CLONE | _CLOEXEC), directory)
    namespace = os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    _checked(libc.setns(namespace, _CLONE_NEWNS), "setns")
    os.makedirs(place, exist_ok=True)
    _checked(libc.syscall(_SYS_MOVE_MOUNT, tree, b"", _AT_FDCWD, place.encode(), _MOVE_MOUNT_F_EMPTY_PATH), place)


if __name__ == "__main__":
    main(*sys.argv[1:])
