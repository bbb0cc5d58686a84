# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host with CRIU, and criu-dump-tool (src/criu/test-dump-tool.c) in it as `lab/lab build` made it."""

import sys
import time
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "lab"))

from simlab import Lab  # noqa: E402

BUILT = TREE / "build/lab/src/criu/criu-dump-tool"
TOOL = "/usr/local/bin/criu-dump-tool"


@pytest.fixture(scope="session")
def host():
    made = Lab("test-criu")
    made.down()
    with made.up(1):
        host = made["alpha"]
        host.put(BUILT, TOOL)
        host.run("chmod", "755", TOOL)
        yield host


class Workload:
    """A process with threads and known memory, and an empty directory for its images."""

    def __init__(self, host, mebibytes, *prefix):
        self.host, self.status, self.images = host, "/tmp/workload", "/tmp/images"
        host.run("rm", "-f", self.status)
        host.run("mkdir", "-p", self.images)
        host.run("mount", "-t", "tmpfs", "none", self.images)
        self.pid = int(host.spawn("/dev/null", *prefix, TOOL, "workload", mebibytes, self.status))
        self.wait_for_status()

    def wait_for_status(self):
        deadline = time.monotonic() + 20
        while not (said := self.host.run("cat", self.status, check=False).stdout):
            assert time.monotonic() < deadline, "the workload does not answer"
            time.sleep(0.05)
        return said.split(" ")[0]

    def check(self):
        """Its own verdict on its memory and threads."""
        self.host.run("rm", "-f", self.status)
        self.host.run("kill", "-USR1", self.pid)
        return self.wait_for_status()

    def alive(self):
        return self.host.run("sh", "-c", f"grep -q '^State:.*[RS] ' /proc/{self.pid}/status", check=False).returncode == 0

    def dump(self, *mode):
        return self.host.run(TOOL, "dump", self.pid, self.images, *mode, check=False)

    def restore(self):
        # Its pid has to be free: the host's init may still have to reap it.
        deadline = time.monotonic() + 20
        while self.host.run("test", "-e", f"/proc/{self.pid}", check=False).returncode == 0:
            assert time.monotonic() < deadline, "the workload does not end"
            time.sleep(0.05)
        self.host.run("criu", "restore", "-d", "-D", self.images, "-o", "restore.log", "-v2")

    def files(self):
        return self.host.run("ls", self.images).stdout.split()

    def remove(self):
        self.host.run("kill", "-9", self.pid, check=False)
        self.host.run("umount", "-l", self.images)


@pytest.fixture
def workload(host):
    one = Workload(host, 64)
    yield one
    one.remove()


@pytest.fixture
def networked(host):
    """The same in a network of its own, which CRIU wants to have locked."""
    one = Workload(host, 4, "unshare", "-n")
    yield one
    one.remove()
