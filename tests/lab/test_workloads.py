# SPDX-License-Identifier: LGPL-2.1-or-later
"""Every workload works in a host, and notices the faults it is there to notice."""

import json
import re

import pytest

PROGRAMS = "/usr/local/lib/phaul-lab"
TREE = "/var/lib/misc/tree"


@pytest.fixture
def workload(alpha, eventually):
    """Start a workload in alpha; gives it a log reader and takes it away in the end: the next may want its port or files."""
    started = []

    class Running:
        def __init__(self, name, *argv):
            alpha.run("rm", "-f", f"/var/log/{name}.log")
            self.name, self.pid = name, alpha.workload(name, *argv)
            started.append(self)

        def log(self):
            return alpha.run("cat", f"/var/log/{self.name}.log").stdout

        def alive(self):
            return alpha.run("kill", "-0", self.pid, check=False).returncode == 0

        def wait_for(self, pattern, seconds=10):
            return eventually(lambda: re.search(pattern, self.log()), seconds)

    yield Running
    for one in started:
        alpha.run("kill", "-9", one.pid, check=False)
        eventually(lambda: not one.alive())  # noqa: B023
    alpha.run("rm", "-rf", TREE)


def test_memwriter_writes_at_its_rate_without_errors(workload):
    writer = workload("m", "memwriter", "--mib", 32, "--rate", 20, "--seconds", 3)
    writer.wait_for("end: .* 0 errors")
    written = int(re.search(r"end: (\d+) written", writer.log())[1])
    assert 0.6 < written * 4096 / 60e6 < 1.1
    assert re.search(r"longest gap \d+ ms, 0 errors", writer.log())


@pytest.mark.parametrize("page", [0, 4000, 8191])
def test_memwriter_finds_one_wrong_byte(workload, alpha, page, eventually):
    writer = workload("m", "memwriter", "--mib", 32, "--rate", 1)
    base = int(writer.wait_for(r"ready: 8192 pages at 0x([0-9a-f]+)")[1], 16)
    alpha.run("sh", "-c", f"printf X | dd of=/proc/{writer.pid}/mem bs=1 seek={base + page * 4096 + 100} conv=notrunc")
    writer.wait_for(f"error: page {page} ")
    eventually(lambda: not writer.alive())


def test_memwriter_finds_an_old_page(workload, alpha):
    """A page of an earlier round is whole in itself; only its generation tells."""
    writer = workload("m", "memwriter", "--mib", 4, "--rate", 40)
    base = int(writer.wait_for(r"ready: 1024 pages at 0x([0-9a-f]+)")[1], 16)
    copy = (f"dd if=/proc/{writer.pid}/mem of=/root/old bs=4096 skip={base // 4096} count=1024; sleep 1.5; "
            f"dd if=/root/old of=/proc/{writer.pid}/mem bs=4096 seek={base // 4096} conv=notrunc")
    alpha.run("sh", "-c", copy, check=False)  # it may notice, and end, before all is copied
    writer.wait_for("error: page")


def test_alike_goes_on_in_both_without_errors(workload, alpha):
    alike = workload("l", "alike", "--mib", 8)
    turns = alike.wait_for(r"(\d+) and (\d+) turns, 0 errors", 30)
    assert int(turns[1]) > 0 and int(turns[2]) > 0
    alpha.run("kill", alike.pid)
    alike.wait_for("end: 0 errors", 30)


@pytest.mark.parametrize("who", ["parent", "child"])
def test_alike_finds_one_wrong_byte_in_either(workload, alpha, who, eventually):
    alike = workload("l", "alike", "--mib", 8, "--rate", 1)
    base = int(alike.wait_for(r"ready: 2048 pages at 0x([0-9a-f]+)")[1], 16)
    alike.wait_for("turns, 0 errors", 30)
    pid = alike.pid if who == "parent" else alpha.run("pgrep", "-P", alike.pid).stdout.strip()
    alpha.run("sh", "-c", f"printf X | dd of=/proc/{pid}/mem bs=1 seek={base + 3 * 4096 + 100} conv=notrunc")
    alike.wait_for(f"error: a page of the {who} ", 30)
    eventually(lambda: not alike.alive())


def test_counter_counts_without_holes_and_reads_its_mark(workload, alpha, eventually):
    counter = workload("c", "counter", "/root/numbers", "--interval-ms", 5, "--mark-file", "/etc/hostname")
    alpha.run("sleep", "0.5")
    eventually(lambda: len(alpha.run("cat", "/root/numbers", check=False).stdout.splitlines()) > 20)
    alpha.run("kill", counter.pid)
    rows = [line.split() for line in alpha.run("cat", "/root/numbers").stdout.splitlines()]
    assert [int(row[0]) for row in rows] == list(range(1, len(rows) + 1)) and len(rows) > 20
    assert {row[2] for row in rows} == {"alpha"}
    assert [int(row[1]) for row in rows] == sorted(int(row[1]) for row in rows)


@pytest.mark.parametrize("address", ["10.77.0.11", "fd77::11"])
def test_echo_keeps_order_and_loses_nothing(workload, alpha, client, address, eventually):
    workload("e", "echo-server", 7007)
    eventually(lambda: "7007" in alpha.run("ss", "-ltn").stdout)
    done = client.run(f"{PROGRAMS}/echo-client", address, "7007", "--seconds", "3")
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["sent"] > 300 and result["lost"] == 0 and result["connection"] == "kept"


def test_echo_client_logs_a_gap(workload, alpha, client, eventually):
    workload("e", "echo-server", 7007)
    eventually(lambda: "7007" in alpha.run("ss", "-ltn").stdout)
    running = client.popen(f"{PROGRAMS}/echo-client", "10.77.0.11", "7007", "--seconds", "3", stdout=-1, text=True)
    client.run("sleep", "0.7")
    alpha.cut()
    client.run("sleep", "0.4")
    alpha.heal()
    lines = running.communicate(timeout=30)[0].splitlines()
    result = json.loads(lines[-1])
    assert result["lost"] == 0 and result["connection"] == "kept" and result["max_gap_ms"] >= 350
    assert re.match(r"gap \d+ ms, ended at \d+ ms", lines[0])


def test_echo_client_notices_a_dead_server(workload, alpha, client, eventually):
    server = workload("e", "echo-server", 7007)
    eventually(lambda: "7007" in alpha.run("ss", "-ltn").stdout)
    running = client.popen(f"{PROGRAMS}/echo-client", "10.77.0.11", "7007", "--seconds", "5", stdout=-1, text=True)
    eventually(lambda: ":7007" in alpha.run("ss", "-Htn", "state", "established").stdout)
    client.run("sleep", "0.3")
    alpha.run("kill", "-9", server.pid)
    result = json.loads(running.communicate(timeout=30)[0].splitlines()[-1])
    assert running.returncode == 1 and result["connection"] != "kept"


@pytest.fixture
def redis(workload, alpha, eventually):
    server = alpha.spawn("/root/redis.log", "redis-server", "--port", "7379", "--bind", "0.0.0.0",
                         "--protected-mode", "no", "--save", "")
    eventually(lambda: "PONG" in alpha.run("redis-cli", "-p", "7379", "ping", check=False).stdout)
    yield alpha
    alpha.run("kill", "-9", server, check=False)
    eventually(lambda: alpha.run("kill", "-0", server, check=False).returncode)  # the next one wants its port


def test_incr_counts_acknowledged_writes(redis, client):
    done = client.run(f"{PROGRAMS}/incr.py", "10.77.0.11", "7379", "--seconds", "1")
    result = json.loads(done.stdout)
    assert result["acked"] > 500 and result["lost"] == 0 and result["connection"] == "kept" and not result["errors"]
    assert int(redis.run("redis-cli", "-p", "7379", "get", "acknowledged").stdout) == result["acked"]


def test_incr_notices_a_lost_write(redis, client, eventually):
    client.run("rm", "-f", "/tmp/lost")
    running = client.popen(f"{PROGRAMS}/incr.py", "10.77.0.11", "7379", "--seconds", "2", "--status", "/tmp/lost", stdout=-1,
                           text=True)
    eventually(lambda: client.run("test", "-s", "/tmp/lost", check=False).returncode == 0)
    redis.run("redis-cli", "-p", "7379", "decrby", "acknowledged", "3")
    result = json.loads(running.communicate(timeout=30)[0])
    assert running.returncode == 1 and result["lost"] == 3


def test_manyfiles_verifies_its_tree(workload, alpha):
    files = workload("f", "manyfiles", TREE, "--files", 800, "--rate", 2000)
    files.wait_for("ready: 800 files")
    alpha.run("sleep", "0.5")
    alpha.run("kill", "-USR1", files.pid)
    files.wait_for(r"verified 800 files, \d+ changes, 0 errors")
    alpha.run("kill", files.pid)
    files.wait_for(r"0 errors[^$]*0 errors")
    assert alpha.run(f"{PROGRAMS}/manyfiles", TREE, "--verify").returncode == 0


@pytest.mark.parametrize("fault, complaint", [
    ("printf X | dd of=0/0 bs=1 seek=500 conv=notrunc", r"file 0 \(kind 0\): content"),
    ("cp -p 0/8 old; cp -p 0/9 0/8", r"file 8 \(kind 0\): content"),
    ("cp -p 0/4 x; mv x 0/4", r"file 4 \(kind 4\): hard link broken"),
    ("cp --sparse=never 0/5 x; mv x 0/5", r"file 5 \(kind 5\): hole filled"),
    ("setfattr -x user.generation 0/6", r"file 6 \(kind 6\): extended attribute"),
    ("setfacl -b 0/7", r"file 7 \(kind 7\): access control list"),
    ("rm 0/15", r"file 15 \(kind 7\): No such file"),
])
def test_manyfiles_finds_each_kind_of_damage(workload, alpha, fault, complaint):
    files = workload("f", "manyfiles", TREE, "--files", 32, "--rate", 0)
    files.wait_for("ready: 32 files")
    alpha.run("sh", "-ec", f"cd {TREE}; {fault}")
    alpha.run("kill", files.pid)
    files.wait_for(complaint)
