# SPDX-License-Identifier: LGPL-2.1-or-later
"""Memory that the kernel writes at a time of its own: asynchronous direct I/O, as databases do it."""

import pytest

from site_under_test import FULL, eventually

LOG, DATA = "/var/log/family.log", "/var/log/aio.data"

# Eight reads of blocks that name themselves are always on their way, into memory that is marked before.
SCRIPT = """
import ctypes, mmap, os, random, struct, sys, time
libc = ctypes.CDLL(None, use_errno=True)
SETUP, GETEVENTS, SUBMIT, BLOCK, BLOCKS, DEPTH = 206, 208, 209, 4096, 256, 8
if not os.path.exists(sys.argv[1]):
    with open(sys.argv[1], "wb") as f:
        for block in range(BLOCKS):
            f.write(struct.pack("<Q", block) * (BLOCK // 8))
fd = os.open(sys.argv[1], os.O_RDONLY | os.O_DIRECT)
memory = mmap.mmap(-1, DEPTH * BLOCK)
base = ctypes.addressof(ctypes.c_char.from_buffer(memory))
context = ctypes.c_ulong(0)
def call(*arguments):
    r = libc.syscall(*map(ctypes.c_long, arguments))
    if r < 0:
        print("error:", arguments[0], os.strerror(ctypes.get_errno()), flush=True), os._exit(1)
    return r
call(SETUP, DEPTH, ctypes.addressof(context))
wanted, keep = {}, {}
def submit(slot):
    block = random.randrange(BLOCKS)
    memory[slot * BLOCK:(slot + 1) * BLOCK] = b"\\xff" * BLOCK
    one = ctypes.create_string_buffer(struct.pack("<QIIHhIQQqQII", slot, 0, 0, 0, 0, fd, base + slot * BLOCK, BLOCK, block * BLOCK, 0, 0, 0))
    table = (ctypes.c_ulong * 1)(ctypes.addressof(one))
    wanted[slot], keep[slot] = block, (one, table)
    call(SUBMIT, context.value, 1, ctypes.addressof(table))
for slot in range(DEPTH):
    submit(slot)
events = ctypes.create_string_buffer(32 * DEPTH)
n, told = 0, 0
while True:
    for i in range(call(GETEVENTS, context.value, 1, DEPTH, ctypes.addressof(events), 0)):
        slot, _, result, _ = struct.unpack_from("<QQqq", events, 32 * i)
        if result != BLOCK or memory[slot * BLOCK:(slot + 1) * BLOCK] != struct.pack("<Q", wanted[slot]) * (BLOCK // 8):
            print("error: block", wanted[slot], result, flush=True), os._exit(1)
        n += 1
        submit(slot)
    if time.monotonic() - told > 0.2:
        told = time.monotonic()
        print(n, flush=True)
"""


@pytest.mark.parametrize("tracker", ["auto", "hash"])
def test_asynchronous_io_there_and_back(trees, tracker):
    pid = trees["alpha"].spawn(LOG, "python3", "-c", SCRIPT, DATA)
    lines = lambda name: trees[name].run("cat", LOG, check=False).stdout.splitlines()  # noqa: E731

    def goes_on(name):
        before = len(lines(name))
        eventually(lambda: len(lines(name)) > before + 3 or "error" in "".join(lines(name)), 60, f"it reads on {name}")
        assert "error" not in "".join(lines(name)), lines(name)[-3:]

    goes_on("alpha")
    for _ in range(5 if FULL else 1):
        for source, target in (("alpha", "beta"), ("beta", "alpha")):
            trees.migrate(source, f"pid/{pid}", target, "--copy-files", "--tracker", tracker)
            goes_on(target)
    for host in trees.hosts.values():
        host.run("sh", "-c", f"kill -9 {pid}; rm -f {DATA}", check=False)
