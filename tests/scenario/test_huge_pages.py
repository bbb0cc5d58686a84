# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory in huge pages of the kernel's pool (hugetlb): private, shared between processes, and in a memfd."""

import json

import pytest

from site_under_test import eventually

LOG = "/var/log/huge.log"
POOL = "/proc/sys/vm/nr_hugepages"

# Counts in each small page of what it has mapped; its child shares the second and the third.
SCRIPT = """
import mmap, os, struct, sys, time
HUGE, SIZE, PAGE = 0x40000, 4 << 20, 4096
fd = os.memfd_create("huge", os.MFD_HUGETLB)
os.ftruncate(fd, SIZE)
private = mmap.mmap(-1, SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | HUGE)
shared = mmap.mmap(-1, SIZE, flags=mmap.MAP_SHARED | mmap.MAP_ANONYMOUS | HUGE)
memfd = mmap.mmap(fd, SIZE, flags=mmap.MAP_SHARED)
every = range(0, SIZE, PAGE)
def read(m):
    return [struct.unpack_from("QQ", m, at) for at in every]
# A word at a time, as who reads what is shared must never see half of one; struct puts zeros there first.
words = {m: memoryview(m).cast("Q") for m in (private, shared, memfd)}
def write(m, n):
    for at in every:
        words[m][at // 8 + 1] = n
for m in words:
    for at in every:
        words[m][at // 8] = at
child = os.fork()
n = 0
while True:
    if child:
        n += 1
        write(shared, n), write(memfd, n)
    else:
        n += 2
    write(private, n)
    for m in (private,) if not child else (private, shared, memfd):
        found = [(at, what) for at, what in zip(every, read(m)) if what != (at, n)]
        if found:
            print("wrong", (private, shared, memfd).index(m), n, len(found), found[:4], flush=True), os._exit(1)
    if not child:
        later = read(shared), read(memfd)
        found = [(at, what) for pages in later for at, what in zip(every, pages) if what[0] != at]
        if found:
            print("wrong shared", n, len(found), found[:4], flush=True), os._exit(1)
    print("parent" if child else "child", n, later[0][0][1] if not child else n, flush=True)
    time.sleep(0.2)
"""


@pytest.fixture
def pool(site):
    """Pages enough for two copies, as both hosts have the one kernel."""
    alpha = site["alpha"]
    before = alpha.run("cat", POOL).stdout.strip()
    alpha.run("sh", "-c", f"echo {int(before) + 32} > {POOL}")
    if int(alpha.run("cat", POOL).stdout) < int(before) + 32:
        alpha.run("sh", "-c", f"echo {before} > {POOL}")
        pytest.skip("this machine does not have 64 MiB in huge pages to give")
    yield
    for host in site.hosts.values():
        host.run("pkill", "-KILL", "-x", "python3", check=False)
    eventually(lambda: alpha.run("sh", "-c", f"echo {before} > {POOL}; cat {POOL}").stdout.strip() == before, what="the pool as it was")


@pytest.mark.parametrize("tracker", ["auto", "none"])
def test_huge_pages_there_and_back(trees, pool, tracker):
    pid = trees["alpha"].spawn(LOG, "python3", "-c", SCRIPT)
    lines = lambda name: trees[name].run("cat", LOG, check=False).stdout.splitlines()  # noqa: E731

    def goes_on(name):
        before = len(lines(name))
        new = eventually(lambda: len(set(line.split()[0] for line in lines(name)[before + 2:-1])) == 2 and lines(name)[before:-1],
                         60, f"both of them on {name}")
        assert "wrong" not in "".join(lines(name)), new
        # The child sees what its parent writes.
        seen = [int(line.split()[2]) for line in new if line.startswith("child")]
        assert seen == sorted(seen) and seen[-1] > 0, new

    goes_on("alpha")
    done = trees["alpha"].run("phaul", "check", f"pid/{pid}", "beta", "--json", check=False)
    assert [i["grade"] for i in json.loads(done.stdout)["items"] if i["id"] == "hugetlb"] == ["warning"], done.stdout
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        report = trees.migrate(source, f"pid/{pid}", target, "--copy-files", "--tracker", tracker)
        assert report["result"] == "done"
        goes_on(target)
