# SPDX-License-Identifier: LGPL-2.1-or-later
"""A task that cannot be stopped: it waits in the kernel, and neither a freezer nor ptrace gets hold of it."""

import pytest

from site_under_test import eventually
from test_process import cgroup, lines, nothing_left

LOG = "/var/log/stuck.log"

# The root counts; its child, at SIGUSR1, lets the kernel write into memory that a userfaultfd withholds, which this
# script has, and it is not of the tree. At SIGUSR1 the script closes it, and the memory is there.
SCRIPT = """
import ctypes, fcntl, os, signal, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = ctypes.c_void_p
def stuck():
    page = libc.mmap(None, ctypes.c_size_t(4096), 3, 0x22, -1, ctypes.c_size_t(0))
    number = libc.syscall(323, 0o2000000)
    fcntl.ioctl(number, 0xC018AA3F, struct.pack("QQQ", 0xAA, 0, 0))
    fcntl.ioctl(number, 0xC020AA00, struct.pack("QQQQ", page, 4096, 1, 0))
    os.write(out, b"%d %d" % (os.getpid(), number))
    wanted = []
    signal.signal(signal.SIGUSR1, lambda *_: wanted.append(1))
    while not wanted:
        time.sleep(0.05)
        if os.path.exists("/run/taken") and number >= 0:
            os.close(number)
            number = -1
    text = ctypes.create_string_buffer(b"here")
    local, remote = ((ctypes.c_size_t * 2)(address, 4) for address in (ctypes.addressof(text), page))
    assert libc.process_vm_writev(os.getpid(), local, 1, remote, 1, 0) == 4
    while True:
        time.sleep(1)
def count():
    log, n = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0
    while True:
        n += 1
        os.write(log, b"%d %s\\n" % (n, os.uname().nodename.encode()))
        time.sleep(0.05)
told, out = os.pipe()
root = os.fork()
if root == 0:
    os.setsid()
    os.close(told)
    if os.fork() == 0:
        stuck()
    os.close(out)
    count()
pid, number = map(int, os.read(told, 64).split())
os.close(told)
os.close(out)
held = libc.syscall(438, os.pidfd_open(pid), number, 0)
assert held >= 0
with open("/run/taken", "w") as taken:
    taken.write(f"{root} {pid}")
signal.signal(signal.SIGUSR1, lambda *_: os.close(held))
os.wait()
"""


@pytest.fixture
def stuck(trees):
    yield trees
    for host in trees.hosts.values():
        host.run("pkill", "-KILL", "-x", "python3", check=False)
        host.run("rm", "-f", LOG, "/run/taken")


def unbroken(site, name):
    """The root counts on there, without a gap and without anything twice."""
    before = len(lines(site, name, LOG))
    found = eventually(lambda: (now := lines(site, name, LOG))[before + 3:] and now, what=f"the root on {name}")[:-1]
    assert [int(line.split()[0]) for line in found] == list(range(1, len(found) + 1))


def state(site, pid):
    return site["alpha"].run("ps", "-o", "state=", "-p", str(pid), check=False).stdout.strip()


def migrating_stuck(site):
    """A migration whose rounds of memory are about to begin, with a task that cannot be stopped: (root, task, script, place, id)."""
    alpha = site["alpha"]
    script = alpha.spawn("/dev/null", "python3", "-c", SCRIPT, LOG)
    root, task = map(int, eventually(lambda: alpha.run("cat", "/run/taken", check=False).stdout, what="the tree").split())
    eventually(lambda: "userfaultfd" not in alpha.run("ls", "-l", f"/proc/{task}/fd").stdout, what="the end of its descriptor")
    place = cgroup(site, "alpha", root)
    site.hold("alpha", "source-memory")
    identity = site.migrating("alpha", f"pid/{root}", "beta", "--copy-files")
    assert site.wait_phase("alpha", identity, "memory")
    alpha.run("kill", "-USR1", str(task))
    eventually(lambda: state(site, task) == "D", what="a task that waits")
    return root, task, script, place, identity


def migration_log(site, identity):
    return site["alpha"].run("cat", f"/var/lib/phaul/migrations/{identity}/log").stdout


def test_a_task_that_cannot_be_stopped(stuck):
    """The rounds end, the dump fails, and everything else of the tree runs on meanwhile and afterwards."""
    root, task, script, place, identity = migrating_stuck(stuck)
    stuck.let_go()
    result = stuck.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    said = migration_log(stuck, identity)
    assert "no more memory is sent beforehand" in said and "did not freeze" in said, said
    assert state(stuck, task) == "D"
    for one in (root, task):
        assert cgroup(stuck, "alpha", one) == place
    unbroken(stuck, "alpha")
    # It is as it was: when it gets what it waits for it goes on, and can be migrated.
    stuck["alpha"].run("kill", "-USR1", str(script))
    eventually(lambda: state(stuck, task) == "S", what="the end of its wait")
    eventually(lambda: not stuck.pid_of(stuck["beta"], "phaul-session"), 90, "the target's session")
    for name in stuck.hosts:
        nothing_left(stuck, name)
    assert stuck.migrate("alpha", f"pid/{root}", "beta", "--copy-files")["result"] == "done"
    unbroken(stuck, "beta")


def test_a_task_that_cannot_be_stopped_for_a_while(stuck):
    """Without the rounds that it did away with the migration takes longer, and succeeds."""
    root, task, script, _, identity = migrating_stuck(stuck)
    stuck.hold("alpha", "source-freeze")
    stuck["alpha"].run("rm", "/run/phaul/faults/source-memory")
    assert stuck.wait_phase("alpha", identity, "freeze")
    assert "did not freeze" in migration_log(stuck, identity)
    unbroken(stuck, "alpha")
    stuck["alpha"].run("kill", "-USR1", str(script))
    eventually(lambda: state(stuck, task) == "S", what="the end of its wait")
    stuck.let_go()
    assert stuck.result("alpha", identity)["result"] == "done"
    unbroken(stuck, "beta")
    assert sorted(stuck.pid_of(stuck["beta"], "python3")) == sorted([root, task])
    nothing_left(stuck, "alpha")
