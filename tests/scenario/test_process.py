# SPDX-License-Identifier: LGPL-2.1-or-later
"""Process trees of the host itself: they keep their pids, their memory and their place, and leave nothing behind."""

import json
import re

import pytest

from site_under_test import FULL, PROGRAMS, eventually

LOG = "/var/log/family.log"


def family(site, *options, log="/dev/null", name="alpha"):
    """A tree that checks itself; the pid of its root."""
    pid = site[name].spawn(log, f"{PROGRAMS}/family", *options)
    eventually(lambda: [row[4] for row in members(site, name)] == [1, 2, 2], what="the family with all its threads")
    return pid


def members(site, name):
    """[(pid, parent, group, session, threads)] of the family; not of those that have ended and are still to be reaped."""
    text = site[name].run("ps", "-C", "family", "-o", "pid=,ppid=,pgid=,sid=,nlwp=,state=", check=False).stdout
    rows = [tuple(map(int, words[:-1])) for words in map(str.split, text.splitlines()) if words[-1] != "Z"]
    return sorted((pid, parent if parent != 1 else 0, *rest) for pid, parent, *rest in rows)


def lines(site, name, log=LOG):
    return site[name].run("cat", log, check=False).stdout.splitlines()


def sound(site, name, log=LOG):
    """It gets on: more lines come, none of them bad, and every thread took part in one of the last."""
    before = len(lines(site, name, log))
    eventually(lambda: len(lines(site, name, log)) > before + 1, what="lines of the family")
    # A thread that gets no processor for half a second is in the next line.
    found = eventually(lambda: (now := lines(site, name, log)) and
                       any(re.search(r"\b(\d+) of \1 got on", line) for line in now[before + 1:]) and now, what="all threads")
    assert not [line for line in found if "wrong" in line or "error:" in line], found[-3:]


def cgroup(site, name, pid):
    """Its path in the hierarchy whose freezer is used: version 1's where that is mounted."""
    v1 = site[name].run("test", "-e", "/sys/fs/cgroup/freezer", check=False).returncode == 0
    text = site[name].run("cat", f"/proc/{pid}/cgroup").stdout
    return re.search(r"^\d+:freezer:(\S+)" if v1 else r"^0::(\S+)", text, re.M)[1]


def nothing_left(site, name):
    found = site[name].run("find", "/sys/fs/cgroup", "-name", "phaul*", "-o", "-name", "pid-[0-9]*").stdout.split()
    assert found == [], (name, found)


def test_there_and_back(trees):
    pid = family(trees, log=LOG)
    before = members(trees, "alpha")
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        report = trees.migrate(source, f"pid/{pid}", target, "--copy-files")
        assert report["result"] == "done" and report["owner"] == "target" and report["downtime_ms"] > 0
        assert report["tracker"] == "uffd-wp"
        assert members(trees, target) == before and members(trees, source) == []
        sound(trees, target)
        nothing_left(trees, source)
        assert re.fullmatch(rf"/phaul/pid-{pid}-[0-9a-f]{{32}}", cgroup(trees, target, pid))
    # Nothing of ours stays with it, and it ends as it would have.
    status = trees["alpha"].run("cat", f"/proc/{pid}/status").stdout
    for field in ("NoNewPrivs:\t0", "Seccomp:\t0", "SigBlk:\t0000000000000000"):
        assert field in status
    assert trees["alpha"].run("cat", f"/proc/{pid}/oom_score_adj").stdout.strip() == "0"
    trees["alpha"].run("kill", str(pid))
    eventually(lambda: lines(trees, "alpha")[-1] == "end: 0 errors", what="its own end")
    assert trees.pid_of(trees["alpha"], "phaul-restore") == []


def test_a_child_that_nobody_waits_for(trees):
    """It has ended and is in no cgroup any more; it is a child on the target, too, and on the way back."""
    alpha, beta = trees["alpha"], trees["beta"]
    pid = alpha.spawn("/dev/null", "sh", "-c", "true & exec sleep 1000")
    state = lambda host: host.run("ps", "--ppid", str(pid), "-o", "stat=,comm=", check=False).stdout.split()  # noqa: E731
    eventually(lambda: state(alpha)[:1] == ["Z"], what="the end of its child")
    before = state(alpha)
    trees.migrate("alpha", f"pid/{pid}", "beta")
    assert state(beta) == before and state(alpha) == []
    trees.migrate("beta", f"pid/{pid}", "alpha")
    assert state(alpha) == before and state(beta) == []
    alpha.run("kill", str(pid))


def test_what_ends_when_it_arrives(trees):
    """It ran there, to its end, before anybody could see it run: that is no doubt about where it is."""
    pid = trees["alpha"].spawn("/dev/null", "python3", "-c", "import os\nwhile os.uname().nodename == 'alpha': pass\n"
                               "os.write(os.open('/var/log/family.log', os.O_CREAT | os.O_WRONLY), b'ran'); os._exit(0)")
    report = trees.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert report["result"] == "done" and report["owner"] == "target", report
    # Seen to run it was, but perhaps not yet at its end.
    eventually(lambda: trees["beta"].run("test", "-e", f"/proc/{pid}", check=False).returncode == 1, what="its end")
    assert lines(trees, "beta") == ["ran"] and lines(trees, "alpha") == []
    trees["beta"].run("phaul", "ps")
    for name in ("alpha", "beta"):
        nothing_left(trees, name)


def test_who_cannot_be_moved(trees):
    alpha = trees["alpha"]
    alpha.container("box", ["echo-server", "7007"], ip="10.77.0.61/24")
    inside = int(eventually(lambda: alpha.run("sh", "-c", "cat /sys/fs/cgroup/freezer/lxc.payload.box/cgroup.procs",
                                              check=False).stdout.split(), what="the container")[0])
    shell = alpha.run("sh", "-c", "sleep 300 >/dev/null 2>&1 </dev/null & echo $!").stdout.strip()
    phauld = trees.pid_of(alpha, "phauld")[0]
    for what, code, words in (("pid/1", 3, "process 1 is the host"), (f"pid/{phauld}", 3, "phaul itself"),
                              ("pid/3999999", 4, "no process 3999999"), ("pid/web", 2, "not a process id"),
                              (f"pid/{inside}", 3, "lxc/box"), (f"pid/{shell}", 3, "--shell-job")):
        done = trees.migrate("alpha", what, "beta", check=False)
        assert done.returncode == code and words in done.stdout + done.stderr, (what, done)
    pid = family(trees)
    done = trees.migrate("alpha", f"pid/{pid}", "beta", "--dst-id", "12345", check=False)
    assert done.returncode == 3 and "keeps its pids" in done.stdout + done.stderr
    alpha.run("kill", shell)


def checked(site, pid, *options):
    done = site["alpha"].run("phaul", "check", f"pid/{pid}", "beta", "--json", *options, check=False)
    return {item["id"]: [i["reason"] for i in json.loads(done.stdout)["items"] if i["id"] == item["id"] and
                         i["grade"] == "error"] for item in json.loads(done.stdout)["items"]}


def test_what_the_target_lacks_is_named(trees):
    alpha, beta = trees["alpha"], trees["beta"]
    alpha.run("sh", "-c", f"mkdir -p /opt/own && cp {PROGRAMS}/family /opt/own/ && echo one > /opt/own/data")
    pid = alpha.spawn("/dev/null", "sh", "-c", "cd /opt/own && exec ./family < data")
    eventually(lambda: len(members(trees, "alpha")) == 3, what="the family")
    child = members(trees, "alpha")[1][0]
    beta.run("sh", "-c", "mkdir -p /opt/own && echo two > /opt/own/data")
    beta.run("sh", "-c", f"echo {child - 1} > /proc/sys/kernel/ns_last_pid; sleep 60 </dev/null >/dev/null 2>&1 &")
    eventually(lambda: child in trees.pid_of(beta, "sleep"), what="who has its pid there")
    found = checked(trees, pid)
    assert any("/opt/own/family is missing" in reason for reason in found["files"]), found
    assert any("/opt/own/data is different" in reason for reason in found["files"]), found
    assert any(f"pid {child} is taken by 'sleep'" in reason for reason in found["pids"]), found
    assert trees.migrate("alpha", f"pid/{pid}", "beta", check=False).returncode == 3
    beta.run("kill", str(child))
    eventually(lambda: beta.run("kill", "-0", str(child), check=False).returncode, what="its end")
    report = trees.migrate("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert beta.run("cat", "/opt/own/data").stdout == "one\n" and len(members(trees, "beta")) == 3
    assert trees.result("beta", report["id"])["result"] == "done"
    assert beta.run("ls", "-A", "/opt/own").stdout.split() == ["data", "family"]


def test_a_discard_takes_files_back(trees):
    alpha, beta = trees["alpha"], trees["beta"]
    alpha.run("sh", "-c", f"mkdir -p /opt/own/new && cp {PROGRAMS}/family /opt/own/new && echo one > /opt/own/data")
    beta.run("sh", "-c", "mkdir -p /opt/own && echo two > /opt/own/data")
    pid = alpha.spawn("/dev/null", "sh", "-c", "exec /opt/own/new/family < /opt/own/data")
    eventually(lambda: len(members(trees, "alpha")) == 3, what="the family")
    trees.hold("beta", "target-commit")
    identity = trees.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert trees.wait_phase("beta", identity, "commit")
    assert beta.run("cat", "/opt/own/data").stdout == "one\n"
    assert trees.kill(beta, "phaul-session")
    trees.let_go()
    assert trees.result("alpha", identity)["owner"] == "source"
    assert trees.result("beta", identity)["owner"] == "source"
    assert beta.run("sh", "-c", "cat /opt/own/data; find /opt/own -mindepth 1").stdout.split() == ["two", "/opt/own/data"]
    assert members(trees, "beta") == [] and len(members(trees, "alpha")) == 3


def test_a_discard_takes_everything_back(trees):
    """Hundreds of leftovers: a hundred files, each in seven directories of its own."""
    alpha, beta = trees["alpha"], trees["beta"]
    script = """import os, time
for n in range(95):
    os.makedirs(f"/srv/many/{n}/a/b/c/d/e", exist_ok=True)
    open(f"/srv/many/{n}/a/b/c/d/e/file", "w").write(str(n))
held = [open(f"/srv/many/{n}/a/b/c/d/e/file") for n in range(95)]
time.sleep(1000)"""
    pid = alpha.spawn("/dev/null", "python3", "-c", script)
    eventually(lambda: int(alpha.run("sh", "-c", f"ls /proc/{pid}/fd | wc -l").stdout) > 95, what="its files")
    trees.hold("beta", "target-commit")
    identity = trees.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert trees.wait_phase("beta", identity, "commit")
    assert beta.run("cat", "/srv/many/94/a/b/c/d/e/file").stdout == "94"
    trees.kill(beta, "phaul-session")
    trees.let_go()
    assert trees.result("alpha", identity)["owner"] == "source"
    assert trees.result("beta", identity)["owner"] == "source"
    assert beta.run("ls", "-A", "/srv").stdout == ""
    nothing_left(trees, "beta")
    alpha.run("sh", "-c", f"kill {pid}; rm -r /srv/many")


def test_pid_file(trees):
    pid = family(trees)
    for path, words in (("/etc/passwd", "belongs to the host"), ("/root/.bashrc", "does not hold a number")):
        done = trees.migrate("alpha", f"pid/{pid}", "beta", "--dst-pidfile", path, check=False)
        assert done.returncode == 3 and words in done.stdout + done.stderr, done
    trees.migrate("alpha", f"pid/{pid}", "beta", "--dst-pidfile", "/run/family.pid")
    assert eventually(lambda: trees["beta"].run("cat", "/run/family.pid", check=False).stdout) == f"{pid}\n"


@pytest.mark.parametrize("phase", ["freeze", "state", "commit"] if FULL else ["commit"])
def test_cancel(trees, phase):
    pid = family(trees, log=LOG)
    place, before = cgroup(trees, "alpha", pid), members(trees, "alpha")
    trees.hold("alpha", f"source-{phase}")
    identity = trees.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert trees.wait_phase("alpha", identity, phase)
    trees["alpha"].run("phaul", "cancel", identity)
    trees.let_go()
    result = trees.result("alpha", identity)
    assert result["result"] == "cancelled" and result["owner"] == "source", result
    assert members(trees, "alpha") == before and cgroup(trees, "alpha", pid) == place
    sound(trees, "alpha")
    eventually(lambda: not trees.pid_of(trees["beta"], "phaul-session"), 90, "the target's session")
    for name in trees.hosts:
        nothing_left(trees, name)


def test_link_cut(trees):
    pid = family(trees, log=LOG)
    place = cgroup(trees, "alpha", pid)
    trees.hold("alpha", "source-state")
    identity = trees.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert trees.wait_phase("alpha", identity, "state")
    assert cgroup(trees, "alpha", pid).startswith(place.rstrip("/") + "/phaul-")
    trees["beta"].cut()
    trees.let_go()
    assert trees.result("alpha", identity)["owner"] == "source"
    trees["beta"].heal()
    sound(trees, "alpha")
    assert cgroup(trees, "alpha", pid) == place
    eventually(lambda: not trees.pid_of(trees["beta"], "phaul-session"), 90, "the target's session")
    for name in trees.hosts:
        nothing_left(trees, name)


@pytest.mark.parametrize("side,phase", [("source", "state"), ("source", "resume"), ("target", "commit"), ("target", "resume")]
                         if FULL else [("source", "state"), ("source", "resume"), ("target", "resume")])
def test_session_killed(trees, side, phase):
    """The record decides: before COMMIT the tree runs on where it was, after it on the target."""
    pid = family(trees, log=LOG)
    before = members(trees, "alpha")
    host = "alpha" if side == "source" else "beta"
    trees.hold(host, f"{side}-{phase}")
    identity = trees.migrating("alpha", f"pid/{pid}", "beta", "--copy-files")
    assert trees.wait_phase(host, identity, phase)
    assert trees.kill(trees[host], "phaul-session")
    trees.let_go()
    result = trees.result("alpha", identity)
    owner = "target" if phase == "resume" else "source"
    assert result["owner"] == owner, result
    here, there = ("beta", "alpha") if owner == "target" else ("alpha", "beta")
    # A session that was killed is started again a moment later, and then puts things right.
    eventually(lambda: members(trees, there) == [], 120, "the end of the other copy")
    eventually(lambda: not trees.pid_of(trees["beta"], "phaul-session"), 120, "the target's session")
    assert members(trees, here) == before
    sound(trees, here)
    nothing_left(trees, there)


def test_shell_job(trees):
    """What a shell has started on its terminal gets a session and a terminal of its own on the target."""
    alpha = trees["alpha"]
    script = "import pty, time; pty.spawn(['sh', '-ic', '/usr/local/lib/phaul-lab/family --status /var/log/family.log & wait'])"
    alpha.spawn("/dev/null", "python3", "-c", script)
    eventually(lambda: len(members(trees, "alpha")) == 3, what="the family")
    pid = members(trees, "alpha")[0][0]
    assert alpha.run("ps", "-o", "tty=", "-p", str(pid)).stdout.startswith("pts/")
    trees.migrate("alpha", f"pid/{pid}", "beta", "--shell-job", "--copy-files")
    sound(trees, "beta")
    assert trees["beta"].run("ps", "-o", "tty=", "-p", str(pid)).stdout.startswith("pts/")
    keeper = trees.pid_of(trees["beta"], "phaul-restore")
    assert len(keeper) == 1 and members(trees, "beta")[0][1] == keeper[0]
    trees.migrate("beta", f"pid/{pid}", "alpha", "--shell-job", "--copy-files")
    sound(trees, "alpha")
    eventually(lambda: not trees.pid_of(trees["beta"], "phaul-restore"), what="the end of its keeper there")
    nothing_left(trees, "beta")
    alpha.run("kill", str(pid))
    eventually(lambda: not trees.pid_of(alpha, "phaul-restore"), what="the end of its keeper")


ADDRESS = "10.77.0.60"
HOOK = f"""#!/bin/sh
echo "$PHAUL_EVENT $PHAUL_ADDRESSES" >> /var/log/hooks.log
case $PHAUL_EVENT in
arriving|stayed) ip address replace {ADDRESS}/24 dev br0 ;;
leaving|discarded) ip address del {ADDRESS}/24 dev br0 ;;
arrived) ip neighbour flush dev br0; ping -q -c 1 -W 2 -I {ADDRESS} 10.77.0.200 || true ;;
esac
"""


@pytest.fixture
def moving_address(trees):
    """An address that hooks move, a server bound to it on alpha, and what a client there sees."""
    for host in trees.hosts.values():
        host.run("sh", "-c", "mkdir -p /etc/phaul/hooks.d; rm -f /var/log/hooks.log; cat > /etc/phaul/hooks.d/address; "
                 "chmod 755 /etc/phaul/hooks.d/address", input=HOOK)
    alpha = trees["alpha"]
    alpha.run("ip", "address", "replace", f"{ADDRESS}/24", "dev", "br0")
    trees.client.run("ip", "neighbour", "flush", "all")
    pid = alpha.spawn("/dev/null", f"{PROGRAMS}/echo-server", "7007")
    eventually(lambda: "7007" in alpha.run("ss", "-tln").stdout, what="the server")
    yield pid
    for host in trees.hosts.values():
        host.run("sh", "-c", f"rm -f /etc/phaul/hooks.d/address /var/log/hooks.log; ip address del {ADDRESS}/24 dev br0; "
                 "nft flush ruleset", check=False)


def client(site):
    made = site.client.popen(f"{PROGRAMS}/echo-client", ADDRESS, "7007", "--seconds", "300", stdout=-1, text=True)
    eventually(lambda: ADDRESS in site["alpha"].run("ss", "-tn").stdout, what="the connection")
    return made


def result_of(site, made):
    """Of a client that is told to end now."""
    site.client.run("pkill", "-TERM", "-x", "echo-client", check=False)
    return json.loads(made.communicate(timeout=90)[0].splitlines()[-1])


def tables(site):
    return [name for name in site.hosts if "phaul_pid" in site[name].run("nft", "list", "tables").stdout]


def test_a_connection_moves_with_its_address(trees, moving_address):
    made = client(trees)
    report = trees.migrate("alpha", f"pid/{moving_address}", "beta")
    assert report["result"] == "done" and tables(trees) == []
    result = result_of(trees, made)
    assert result["connection"] == "kept" and result["lost"] == 0, result
    assert trees.pid_of(trees["beta"], "echo-server") == [moving_address]
    # The source is told first, then that hook runs.
    eventually(lambda: "arrived" in trees["beta"].run("cat", "/var/log/hooks.log").stdout, what="the last hook")
    assert trees["beta"].run("cat", "/var/log/hooks.log").stdout.split() == ["arriving", ADDRESS, "arrived", ADDRESS]
    assert "leaving" in trees["alpha"].run("cat", "/var/log/hooks.log").stdout


def test_a_connection_stays_when_the_migration_fails(trees, moving_address):
    made = client(trees)
    trees.hold("beta", "target-commit")
    identity = trees.migrating("alpha", f"pid/{moving_address}", "beta")
    assert trees.wait_phase("beta", identity, "commit")
    assert tables(trees) == ["alpha", "beta"]
    assert trees.kill(trees["alpha"], "phaul-session")
    trees.let_go()
    assert trees.result("alpha", identity)["owner"] == "source"
    eventually(lambda: not trees.pid_of(trees["beta"], "phaul-session"), 90, "the target's session")
    result = result_of(trees, made)
    assert result["connection"] == "kept" and result["lost"] == 0, result
    assert tables(trees) == []
    assert ADDRESS not in trees["beta"].run("ip", "address").stdout


def test_connections_are_closed_when_asked(trees, moving_address):
    made = client(trees)
    trees.migrate("alpha", f"pid/{moving_address}", "beta", "--tcp-close")
    assert trees.pid_of(trees["beta"], "echo-server") == [moving_address] and tables(trees) == []
    assert "ESTAB" not in trees["beta"].run("ss", "-tn", "src", ADDRESS).stdout
    assert "7007" in trees["beta"].run("ss", "-tln").stdout
    made.kill()
