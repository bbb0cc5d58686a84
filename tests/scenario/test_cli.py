# SPDX-License-Identifier: LGPL-2.1-or-later
"""What a person and a script see: progress, results, events, history."""

import json
import os
import pty
import re
import select
import time

import pytest

from site_under_test import eventually

IP = "10.77.0.20"


@pytest.fixture
def shop(site):
    site.redis("alpha", "shop", IP, kilobytes=30000)
    return site


class Terminal:
    """A command of a host on a real terminal of 100 columns."""

    def __init__(self, host, *command):
        master, slave = pty.openpty()
        os.set_blocking(master, False)
        self.master = master
        self.text = ""
        self.process = host.popen(*command, stdin=slave, stdout=slave, stderr=slave)
        os.close(slave)

    def read(self, until, seconds=60):
        deadline = time.monotonic() + seconds
        while not until(self.text) and time.monotonic() < deadline:
            if select.select([self.master], [], [], 0.2)[0]:
                try:
                    self.text += os.read(self.master, 65536).decode("utf-8", "replace")
                except OSError:
                    break
        return self.text


def test_the_last_line_says_it_all(shop):
    done = shop["alpha"].run("phaul", "migrate", "lxc/shop", "beta")
    assert re.fullmatch(r"migrated lxc/shop alpha -> beta in [\d.]+ s, downtime (\d+ ms|[\d.]+ s), [\d.]+ [kMG]?B sent, \d+ rounds?",
                        done.stdout.strip().splitlines()[-1]), done.stdout
    assert "files" in done.stderr and "freeze" in done.stderr


def test_progress_redraws_one_line_on_a_terminal(shop):
    terminal = Terminal(shop["alpha"], "phaul", "migrate", "lxc/shop", "beta")
    text = terminal.read(lambda t: "migrated lxc/shop" in t)
    terminal.process.wait(30)
    assert "migrated lxc/shop alpha -> beta" in text
    assert "\r" in text and "files" in text


def test_ctrl_c_cancels(shop):
    shop["beta"].slow("50mbit")
    process = shop["alpha"].popen("phaul", "migrate", "lxc/shop", "beta", stdout=-1, stderr=-1, text=True)
    eventually(lambda: any(m["phase"] == "files" for m in shop.api(shop["alpha"], "GET", "/migrations")[1]
                           if m["state"] != "ended"), 30, "the files phase")
    for pid in shop.pid_of(shop["alpha"], "phaul"):
        shop["alpha"].run("kill", "-INT", str(pid))
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 6, (output, errors)
    assert "still runs" in output + errors
    shop["beta"].slow("none")
    assert shop.state("alpha", "shop") == "RUNNING"


def test_json_has_every_promised_member(shop):
    report = shop.migrate("alpha", "lxc/shop", "beta")
    for member in ("id", "kind", "name", "source", "target", "mode", "result", "owner", "reason", "total_ms", "downtime_ms",
                   "frozen_ms", "bytes_sent", "rounds", "tracker", "phases"):
        assert member in report, member
    assert {"examine", "files", "freeze", "state", "restore"} <= {p["name"] for p in report["phases"]}
    assert report["bytes_sent"] > 1000000 and 0 < report["downtime_ms"] <= report["total_ms"]


def test_list_show_watch_and_ps(shop):
    alpha = shop["alpha"]
    identity = shop.migrating("alpha", "lxc/shop", "beta")
    watcher = alpha.popen("phaul", "watch", identity, "--json", stdout=-1, text=True)
    assert shop.result("alpha", identity)["result"] == "done"
    lines = [json.loads(line) for line in watcher.communicate(timeout=30)[0].splitlines()]
    assert lines and lines[-1].get("result", lines[-1].get("data", {}).get("result")) == "done", lines[-3:]
    listed = json.loads(alpha.run("phaul", "list", "--json").stdout)
    assert identity in json.dumps(listed)
    assert "done" in alpha.run("phaul", "show", identity).stdout
    assert "shop" in alpha.run("phaul", "ps", "beta").stdout
    assert "redis-server" in shop["beta"].run("phaul", "ps").stdout


def test_a_failure_names_phase_host_and_criu(site):
    """CRIU's own words reach the person: here a corked UDP socket, which it cannot dump and nobody can see from outside."""
    site["alpha"].container("corked", ["oddity", "corked-udp", "/root/ready"], ip="10.77.0.61/24")
    eventually(lambda: site["alpha"].run("cat", "/var/lib/lxc/corked/rootfs/root/ready", check=False).stdout == "ready")
    done = site.migrate("alpha", "lxc/corked", "beta", check=False)
    report = json.loads(done.stdout)
    assert done.returncode == 1 and report["result"] == "failed" and report["owner"] == "source"
    assert "Error (criu/" in report["reason"] and "corked" in report["reason"], report["reason"]
    assert report["failure"]["phase"] == "freeze" and site.runs("alpha", "corked")


def test_unknown_things_are_not_found(shop):
    for words in (["show", "0" * 32], ["cancel", "0" * 32], ["watch", "0" * 32], ["forget", "0" * 32], ["unpair", "nobody"]):
        done = shop["alpha"].run("phaul", *words, check=False)
        assert done.returncode == 4, (words, done.returncode, done.stderr)
    for words in ([], ["frobnicate"], ["migrate"], ["migrate", "lxc/shop"], ["migrate", "shop", "beta"], ["show", "x"],
                  ["migrate", "lxc/shop", "beta", "--timeout", "-1"], ["migrate", "lxc/shop", "beta", "--bandwidth", "fast"]):
        done = shop["alpha"].run("phaul", *words, check=False)
        assert done.returncode == 2, (words, done.returncode, done.stderr)


def test_without_phauld(site):
    site.kill(site["alpha"], "phauld", "TERM")
    eventually(lambda: not site.pid_of(site["alpha"], "phauld"))
    done = site["alpha"].run("phaul", "list", check=False)
    assert done.returncode == 1 and "phauld" in done.stderr
    site.start(site["alpha"])
