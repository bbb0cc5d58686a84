# SPDX-License-Identifier: LGPL-2.1-or-later
"""LXC containers run in a host, and stock lxc-checkpoint moves one to another host with its connections."""

import json
import re

import pytest
from moving import copy_files, move
from simlab import LabError

PROGRAMS = "/usr/local/lib/phaul-lab"


@pytest.fixture
def clean(alpha, beta):
    """Takes every container away afterwards."""
    yield
    for host in (alpha, beta):
        for name in host.run("lxc-ls", "-1").stdout.split():
            host.run("lxc-destroy", "-f", "-n", name)


def running(host, name):
    return "RUNNING" in host.run("lxc-info", "-s", "-n", name, check=False).stdout


@pytest.mark.parametrize("backing", ["dir", "overlay"])
def test_a_container_runs_a_workload_and_answers(clean, alpha, client, backing, eventually):
    alpha.container("echo", ["echo-server", "7007"], ip="10.77.0.30/24", ip6="fd77::30/64", backing=backing)
    assert running(alpha, "echo")
    for address in ("10.77.0.30", "fd77::30"):
        eventually(lambda: client.run("ping", "-c1", "-W1", address, check=False).returncode == 0)
        # Its network is there before its program listens.
        eventually(lambda: client.run(f"{PROGRAMS}/echo-client", address, "7007", "--seconds", "0", check=False).returncode == 0)
        done = client.run(f"{PROGRAMS}/echo-client", address, "7007", "--seconds", "0.3")
        assert json.loads(done.stdout.splitlines()[-1])["connection"] == "kept"


def test_an_existing_name_is_refused(clean, alpha):
    alpha.container("once", ["counter", "/root/n"])
    with pytest.raises(LabError, match="already"):
        alpha.container("once", ["counter", "/root/n"])


def test_arguments_reach_the_init_as_they_are(clean, alpha, eventually):
    words = ["a b", "it's", 'say "hi"', ""]
    alpha.container("words", ["/bin/sh", "-c", 'printf "<%s>" "$@" > /root/words; exec sleep 100', "sh", *words])
    eventually(lambda: alpha.run("cat", "/var/lib/lxc/words/rootfs/root/words", check=False).stdout)
    assert alpha.run("cat", "/var/lib/lxc/words/rootfs/root/words").stdout == "".join(f"<{word}>" for word in words)


def test_lxc_checkpoint_moves_redis_and_its_client_stays_connected(clean, alpha, beta, client, tmp_path, eventually):
    alpha.redis("shop", ip="10.77.0.20/24")
    eventually(lambda: "PONG" in client.run("redis-cli", "-h", "10.77.0.20", "ping", check=False).stdout)
    copy_files(alpha, beta, "shop")  # most of it beforehand: the client counts for five seconds, and has to see the gap
    client.run("rm", "-f", "/tmp/moved")
    counting = client.popen(f"{PROGRAMS}/incr.py", "10.77.0.20", "--seconds", "5", "--status", "/tmp/moved", stdout=-1, text=True)
    eventually(lambda: client.run("test", "-s", "/tmp/moved", check=False).returncode == 0)
    move(alpha, beta, "shop", tmp_path)
    result = json.loads(counting.communicate(timeout=30)[0])
    assert result["connection"] == "kept" and result["lost"] == 0 and not result["errors"]
    assert result["max_gap_ms"] > 20
    assert running(beta, "shop") and not running(alpha, "shop")
    assert int(client.run("redis-cli", "-h", "10.77.0.20", "get", "acknowledged").stdout) == result["acked"]


@pytest.mark.parametrize("program, arguments, healthy", [
    ("memwriter", ["--mib", "64", "--rate", "50"], r"longest gap \d+ ms, 0 errors"),
    ("manyfiles", ["/root/tree", "--files", "500", "--rate", "500"], r"verified 500 files, \d+ changes, 0 errors"),
])
def test_a_moved_workload_finds_nothing_wrong(clean, alpha, beta, tmp_path, eventually, program, arguments, healthy):
    def status(host):
        return host.run("cat", "/var/lib/lxc/work/rootfs/root/status", check=False).stdout

    alpha.container("work", [program, *arguments, "--status", "/root/status"])
    eventually(lambda: "ready" in status(alpha))
    move(alpha, beta, "work", tmp_path)
    before = status(alpha)  # for good: it has ended there
    pid = beta.run("lxc-info", "-n", "work", "-p", "-H").stdout.strip()
    if program == "manyfiles":
        beta.run("kill", "-USR1", pid)
    eventually(lambda: re.search(healthy, status(beta)[len(before):]))
    assert status(beta).startswith(before) and "error:" not in status(beta) and status(alpha) == before


def test_the_programs_run_in_a_container(clean, alpha):
    alpha.container("idle", ["/bin/sleep", "1000"])
    shown = alpha.run("lxc-attach", "-n", "idle", "--", f"{PROGRAMS}/incr.py", "--help").stdout
    assert "acknowledged" in shown
