# SPDX-License-Identifier: LGPL-2.1-or-later
"""Running commands, saying what happens, and taking locks."""

import contextlib
import fcntl
import os
import subprocess
import sys

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


_held_locks = set()  # descriptors


class LabError(Exception):
    """Something the user can read and act upon; the command line prints it without a traceback."""


def say(text):
    """One line of progress, on stderr: stdout belongs to data."""
    print(f"lab: {text}", file=sys.stderr, flush=True)


def run(*argv, check=True, **options):
    """Run a tool of this machine and return its stdout; a failure becomes a LabError that carries its stderr."""
    argv = [str(a) for a in argv]
    if "input" not in options:
        options.setdefault("stdin", subprocess.DEVNULL)
    options.setdefault("stdout", subprocess.PIPE)
    options.setdefault("pass_fds", held_locks())
    env = {**os.environ, "PATH": PATH, "LC_ALL": "C.UTF-8"}
    try:
        done = subprocess.run(argv, text=True, stderr=subprocess.PIPE, env=env, **options)
    except FileNotFoundError:
        raise LabError(f"{argv[0]} is not installed on this machine") from None
    if check and done.returncode:
        raise LabError(f"{' '.join(argv)}: {done.stderr.strip() or f'exit {done.returncode}'}")
    return done.stdout


def held_locks():
    """Descriptors that tools we wait for inherit: when we are killed, our locks last until our tools have ended too."""
    return tuple(_held_locks)


@contextlib.contextmanager
def locked(path, wait_text):
    """Hold an exclusive lock on a file; the kernel drops it when its holders die, so none is ever stale."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "w", encoding="ascii") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(wait_text)
            fcntl.flock(file, fcntl.LOCK_EX)
        _held_locks.add(file.fileno())
        try:
            yield
        finally:
            _held_locks.discard(file.fileno())
