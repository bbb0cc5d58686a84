# SPDX-License-Identifier: LGPL-2.1-or-later
"""Who was started by a tree and is not of it any more: daemons that were forked twice."""

import json

import pytest

from site_under_test import eventually
from test_process import cgroup, lines, nothing_left

ROOT_LOG, ORPHAN_LOG = "/var/log/family.log", "/var/log/orphan.log"

# A root that counts, and that makes an orphan when it is told to (SIGUSR1: by a double fork), which counts, too. With
# "pipe" the orphan keeps a pipe that the root has.
SCRIPT = """
import os, signal, sys, time
def count(path):
    log, n = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), 0
    while True:
        n += 1
        os.write(log, b"%d %s\\n" % (n, os.uname().nodename.encode()))
        time.sleep(0.05)
ends = os.pipe() if sys.argv[1] == "pipe" else None
def make(*_):
    child = os.fork()
    if child == 0:
        if os.fork() == 0:
            signal.signal(signal.SIGUSR1, signal.SIG_DFL)
            count(sys.argv[2])
        os._exit(0)
    os.waitpid(child, 0)
signal.signal(signal.SIGUSR1, make)
if sys.argv[1] == "before":
    make()
count(sys.argv[3])
"""


@pytest.fixture
def orphans(trees):
    yield trees
    for host in trees.hosts.values():
        host.run("pkill", "-KILL", "-x", "python3", check=False)
        host.run("rm", "-f", ORPHAN_LOG, ROOT_LOG)


def tree(site, what):
    pid = site["alpha"].spawn("/dev/null", "python3", "-c", SCRIPT, what, ORPHAN_LOG, ROOT_LOG)
    eventually(lambda: lines(site, "alpha", ROOT_LOG), what="the tree")
    return pid


def orphan(site, root):
    """The pid of the one that is there, whose parent has ended (which is seen by the same name for a moment)."""
    def look():
        text = site["alpha"].run("pgrep", "-P", "1", "-f", ORPHAN_LOG, check=False).stdout.split()
        return [int(p) for p in text if int(p) != root]
    return eventually(look, what="the orphan")[0]


def unbroken(site, name, log):
    """It counts on there, without a gap and without anything twice; on which hosts."""
    before = len(lines(site, name, log))
    found = eventually(lambda: (now := lines(site, name, log))[before + 3:] and now, what=f"{log} on {name}")[:-1]
    assert [int(line.split()[0]) for line in found] == list(range(1, len(found) + 1))
    return {line.split()[1] for line in found}


def migration_log(site, name, identity):
    return site[name].run("cat", f"/var/lib/phaul/migrations/{identity}/log").stdout


def test_an_orphan_from_before_stays(orphans):
    """It is named by the pre-flight, as it is still in the session of the tree, and nothing is done to it."""
    pid = tree(orphans, "before")
    left = orphan(orphans, pid)
    place = cgroup(orphans, "alpha", left)
    done = orphans["alpha"].run("phaul", "check", f"pid/{pid}", "beta", "--json", check=False)
    found = [i for i in json.loads(done.stdout)["items"] if i["id"] == "orphans"]
    assert [i["grade"] for i in found] == ["warning"] and f"process {left} (python3)" in found[0]["reason"], done.stdout
    orphans.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert "beta" in unbroken(orphans, "beta", ROOT_LOG)
    assert unbroken(orphans, "alpha", ORPHAN_LOG) == {"alpha"} and cgroup(orphans, "alpha", left) == place
    assert orphans.pid_of(orphans["alpha"], "python3") == [left] and orphans.pid_of(orphans["beta"], "python3") == [pid]
    nothing_left(orphans, "alpha")


def becomes_one_meanwhile(site, what, phase="freeze"):
    """A migration that is held when the tree is gathered, and has an orphan then: (root, orphan, its place, id)."""
    pid = tree(site, what)
    place = cgroup(site, "alpha", pid)
    site.hold("alpha", f"source-{phase}")
    identity = site.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert site.wait_phase("alpha", identity, phase)
    site["alpha"].run("kill", "-USR1", str(pid))
    left = orphan(site, pid)
    assert "/phaul-" in cgroup(site, "alpha", left)
    return pid, left, place, identity


def test_an_orphan_of_the_meantime_stays(orphans):
    pid, left, place, identity = becomes_one_meanwhile(orphans, "plain")
    orphans.let_go()
    assert orphans.result("alpha", identity)["result"] == "done"
    assert "beta" in unbroken(orphans, "beta", ROOT_LOG)
    assert unbroken(orphans, "alpha", ORPHAN_LOG) == {"alpha"} and cgroup(orphans, "alpha", left) == place
    assert orphans.pid_of(orphans["alpha"], "python3") == [left] and orphans.pid_of(orphans["beta"], "python3") == [pid]
    assert f"process {left} (python3) has left the tree" in migration_log(orphans, "alpha", identity)
    nothing_left(orphans, "alpha")


def test_an_orphan_and_a_rollback(orphans):
    """It was put back when the tree was frozen, and the tree is put back after the failure."""
    pid, left, place, identity = becomes_one_meanwhile(orphans, "plain")
    orphans.hold("beta", "target-commit")
    orphans.let_go("alpha")
    assert orphans.wait_phase("beta", identity, "commit")
    # The tree stands still, the orphan does not.
    assert unbroken(orphans, "alpha", ORPHAN_LOG) == {"alpha"} and cgroup(orphans, "alpha", left) == place
    before = lines(orphans, "alpha", ROOT_LOG)
    assert lines(orphans, "alpha", ROOT_LOG) == before
    assert orphans.kill(orphans["beta"], "phaul-session")
    orphans.let_go()
    assert orphans.result("alpha", identity)["owner"] == "source"
    assert unbroken(orphans, "alpha", ROOT_LOG) == {"alpha"} and cgroup(orphans, "alpha", pid) == place
    assert unbroken(orphans, "alpha", ORPHAN_LOG) == {"alpha"}
    eventually(lambda: not orphans.pid_of(orphans["beta"], "phaul-session"), 90, "the target's session")
    for name in orphans.hosts:
        nothing_left(orphans, name)


def test_an_orphan_of_the_meantime_that_shares_a_pipe(orphans):
    """What the pre-flight would have refused is refused then: the pipe is whole, and both run on."""
    pid, left, place, identity = becomes_one_meanwhile(orphans, "pipe")
    orphans.let_go()
    result = orphans.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    assert f"process {left} (python3) left the tree" in result["reason"] and "shares a pipe" in result["reason"], result
    for one, log in ((pid, ROOT_LOG), (left, ORPHAN_LOG)):
        assert unbroken(orphans, "alpha", log) == {"alpha"} and cgroup(orphans, "alpha", one) == place
    eventually(lambda: not orphans.pid_of(orphans["beta"], "phaul-session"), 90, "the target's session")
    for name in orphans.hosts:
        nothing_left(orphans, name)
