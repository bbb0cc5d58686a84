# SPDX-License-Identifier: LGPL-2.1-or-later
"""The pre-flight says no to what CRIU cannot carry, by name, and what it lets pass moves."""

import json
import re
import subprocess

import pytest

from site_under_test import PROGRAMS, TREE, eventually

ROOT = "/var/lib/lxc/odd/rootfs"

# (what oddity does, id of the item, its grade)
REFUSED = [
    ("mptcp", "sockets", "error"),
    ("vsock", "sockets", "error"),
    ("netlink-unread", "netlink", "warning"),
    ("io-uring", "io_uring", "error"),
    ("userfaultfd", "userfaultfd", "error"),
    ("perf", "perf", "error"),
    ("bpf-map", "bpf", "error"),
    ("bpf-program", "bpf", "error"),
    ("seccomp-listener", "seccomp", "error"),
    ("fscontext", "descriptors", "error"),
    ("fuse", "devices", "error"),
    ("loop-control", "devices", "error"),
    ("deleted-large", "deleted", "error"),
    ("deleted-mapped", "deleted", "error"),
    ("user-namespace", "namespaces", "error"),
    ("pid-namespace", "namespaces", "error"),
    ("time-namespace", "namespaces", "error"),
    ("cgroup-namespace", "namespaces", "error"),
    ("uts-namespace", "namespaces", "error"),
    ("ipc-namespace", "namespaces", "error"),
    ("traced", "tasks", "error"),
    ("dead-leader", "tasks", "error"),
    ("vfork", "tasks", "warning"),
    ("inotify-proc", "watches", "error"),
    ("fanotify-file-system", "watches", "error"),
]
# (what oddity does inside, what another one outside does with the same thing, id of the item, its grade)
SHARED = [
    ("fifo", "fifo", "pipes", "error"),
    ("unix-client", "unix-server", "unix", "error"),
    ("locked", "locked", "locks", "error"),
    ("locked-open-file", "locked-open-file", "locks", "error"),
    ("mapped-file", "mapped-file", "ipc", "error"),
    ("written", "written", "writers", "warning"),
]
CARRIED = ["tcp", "raw", "packet", "unix", "netlink", "seccomp", "deleted-small", "deleted-linked", "inotify", "fanotify",
           "pidfd", "memfd", "null", "tun", "net-namespace", "mnt-namespace", "stopped", "zombie", "fifo", "locked",
           "locked-open-file", "written", "mapped-file", "shared-memory", "pipe", "terminal", "sysv", "unix-server", "unix-client"]


def start(site, host, name):
    """An oddity inside the container, a child of its init."""
    h = site[host]
    h.run("rm", "-f", f"{ROOT}/root/ready")
    h.run("lxc-attach", "-n", "odd", "--", "setsid", "-f", "sh", "-c",
          f"exec {PROGRAMS}/oddity {name} /root/ready </dev/null >/dev/null 2>&1")
    said = eventually(lambda: h.run("cat", f"{ROOT}/root/ready", check=False).stdout, 30, name)
    if said != "ready":
        pytest.skip(f"{name} is not possible here: {said}")
    # lxc-attach itself is on its way out
    eventually(lambda: not site.pid_of(h, "lxc-attach"), 60, "the end of lxc-attach")


def outside(site, host, name):
    """An oddity of the host itself that shares with those inside what lies in their /root."""
    h = site[host]
    h.run("rm", "-f", "/run/ready")
    h.spawn("/dev/null", f"{PROGRAMS}/oddity", name, "/run/ready", f"{ROOT}/root")
    assert eventually(lambda: h.run("cat", "/run/ready", check=False).stdout, 30, name) == "ready"


def stop(site, host):
    """Kill all but the container's init."""
    site[host].run("sh", "-c", "for p in $(pgrep -x oddity); do "
                   "awk '/^NSpid/ { exit !(NF == 3 && $3 == 1) }' /proc/$p/status || kill -9 $p; done", check=False)
    eventually(lambda: oddities(site, host) <= 1, 60, "the end of the oddities")


def oddities(site, host):
    """By name: a process whose first thread has ended has no program any more."""
    return len(site[host].run("pgrep", "-x", "oddity", check=False).stdout.split())


def check(site, source="alpha", target="beta", code=None, options=()):
    done = site[source].run("phaul", "check", "lxc/odd", target, "--json", *options, check=False)
    assert code is None or done.returncode == code, (done.returncode, done.stdout, done.stderr)
    return json.loads(done.stdout)


def items(verdict, identity, grade=None, host=None):
    return [i for i in verdict["items"] if i["id"] == identity and (not grade or i["grade"] == grade)
            and (not host or i["host"] == host)]


def make(site):
    site["alpha"].container("odd", ["oddity", "init"], ip="10.77.0.70/24")
    eventually(lambda: site.runs("alpha", "odd"), 60, "the container")


@pytest.fixture(scope="module")
def odd(whole_site):
    """One container for all that only look."""
    whole_site.ready()
    make(whole_site)
    yield whole_site
    whole_site.clean()


@pytest.fixture
def beta_proc(odd):
    """Whatever is mounted over files of /proc on beta goes away again."""
    yield odd
    odd["beta"].run("sh", "-c", "umount /proc/cpuinfo; rm -f /root/cpuinfo", check=False)


def test_a_plain_container_passes(odd):
    verdict = check(odd, code=0)
    assert verdict["verdict"] == "ok", verdict
    for identity in ("tasks", "outside", "namespaces", "sockets", "criu", "cpu", "clock", "memory", "disk", "name", "bridge"):
        assert items(verdict, identity, "ok"), identity


@pytest.mark.parametrize("what,identity,grade", REFUSED, ids=[r[0] for r in REFUSED])


def test_what_criu_cannot_carry_is_named(odd, what, identity, grade):
    try:
        start(odd, "alpha", what)
        verdict = check(odd, code=3 if grade == "error" else 0)
        found = items(verdict, identity, grade, "alpha")
        assert found and re.search(r"process \d+ \(", found[0]["reason"]), verdict["items"]
        assert items(verdict, "name", "ok", "beta"), "the other host is asked as well"
        others = [i for i in verdict["items"] if i["grade"] != "ok" and i["id"] != identity]
        assert not others, others
    finally:
        stop(odd, "alpha")


@pytest.mark.parametrize("inside,other,identity,grade", SHARED, ids=[s[0] for s in SHARED])


def test_what_is_shared_with_a_process_outside_is_named(odd, inside, other, identity, grade):
    try:
        outside(odd, "alpha", other)
        start(odd, "alpha", inside)
        verdict = check(odd, code=3 if grade == "error" else 0)
        found = items(verdict, identity, grade, "alpha")
        assert found and len(re.findall(r"process \d+", found[0]["reason"])) == 2, verdict["items"]
        others = [i for i in verdict["items"] if i["grade"] != "ok" and i["id"] not in (identity, "writers")]
        assert not others, others
    finally:
        stop(odd, "alpha")


def test_what_was_attached_from_outside_is_named(odd):
    odd["alpha"].run("rm", "-f", f"{ROOT}/root/ready")
    attached = odd["alpha"].popen("lxc-attach", "-n", "odd", "--", f"{PROGRAMS}/oddity", "tcp", "/root/ready",
                                  stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        eventually(lambda: odd["alpha"].run("cat", f"{ROOT}/root/ready", check=False).stdout, 60, "the outsider")
        assert "oddity" in items(check(odd, code=3), "outside", "error")[0]["reason"]
    finally:
        stop(odd, "alpha")
        attached.wait(30)
    assert items(check(odd, code=0), "outside", "ok")


def test_a_processor_that_lacks_something_is_refused(beta_proc):
    """The target's /proc/cpuinfo is replaced by one without an instruction set that this machine has."""
    beta = beta_proc["beta"]
    text = beta.run("cat", "/proc/cpuinfo").stdout
    lacking = next(f for f in ("avx2", "avx", "sse4_2", "fp") if re.search(rf"\b{f}\b", text))
    beta.run("sh", "-c", f"sed 's/\\b{lacking}\\b//g' /proc/cpuinfo > /root/cpuinfo && mount --bind /root/cpuinfo /proc/cpuinfo")
    verdict = check(beta_proc, code=3)
    assert lacking in items(verdict, "cpu", "error", "beta")[0]["reason"].split(": ")[1], verdict
    # Whoever knows better: with --skip-cpu-check it is told, and does not count.
    verdict = check(beta_proc, code=0, options=["--skip-cpu-check"])
    assert lacking in items(verdict, "cpu", "warning", "beta")[0]["reason"] and verdict["verdict"] == "warning"


def test_an_address_that_runs_on_the_target_is_refused(odd):
    odd["beta"].container("twin", ["counter", "/root/n"], ip="10.77.0.70/24")
    try:
        found = items(check(odd, code=3), "address", "error", "beta")
        assert found and "twin" in found[0]["reason"] and "10.77.0.70" in found[0]["reason"]
        odd["beta"].run("lxc-stop", "-k", "-n", "twin")
        assert items(check(odd, code=0), "address", "warning", "beta")
    finally:
        odd["beta"].run("lxc-destroy", "-f", "-n", "twin")


def test_an_address_that_somebody_else_has_is_refused(odd):
    """The target itself, or a neighbour of it, whose hardware address is another than the container's."""
    beta = odd["beta"]
    try:
        beta.run("ip", "address", "add", "10.77.0.70/32", "dev", "br0")
        found = items(check(odd, code=3), "address", "error", "beta")
        assert found and "br0 of this host" in found[0]["reason"] and "10.77.0.70" in found[0]["reason"], found
        beta.run("ip", "address", "del", "10.77.0.70/32", "dev", "br0")
        beta.run("ip", "neighbour", "replace", "10.77.0.70", "lladdr", "02:00:00:00:00:09", "nud", "permanent", "dev", "br0")
        found = items(check(odd, code=3), "address", "error", "beta")
        assert found and "02:00:00:00:00:09 on br0" in found[0]["reason"], found
    finally:
        beta.run("sh", "-c", "ip address del 10.77.0.70/32 dev br0; ip neighbour del 10.77.0.70 dev br0", check=False)
    assert not [i for i in items(check(odd, code=0), "address") if i["grade"] != "ok"]


def test_keys_that_do_not_follow_are_listed(odd):
    alpha = odd["alpha"]
    config = "/var/lib/lxc/odd/config"
    try:
        alpha.run("sh", "-c", f"cp {config} /root/config; echo lxc.net.0.script.up = /bin/true >> {config}; "
                  f"echo lxc.hook.start-host = /bin/true >> {config}")
        found = items(check(odd, code=0), "keys", "warning", "alpha")
        assert found and "lxc.hook.start-host, lxc.net.0.script.up:" in found[0]["reason"], found
        # A liblxc that knows fewer keys names all that it refuses. Both hosts have the same one, so it is asked itself.
        alpha.run("sh", "-c", f"(echo lxc.nonsense = 1; cat {config}; echo lxc.net.0.future = 2) > /root/newer")
        done = alpha.run("sh", "-c", "$(ls /usr/libexec/phaul/phaul-lxc /usr/local/libexec/phaul/phaul-lxc 2>/dev/null | "
                         "head -n 1) verify /root/newer odd", check=False)
        assert "lxc.nonsense, lxc.net.0.future" in done.stdout, done
    finally:
        alpha.run("sh", "-c", f"cp /root/config {config}; rm -f /root/config /root/newer")


def test_a_thousand_processes_do_not_take_long(odd):
    """1000 processes with 10 descriptors each are looked at within the time that a look is given."""
    odd["alpha"].run("lxc-attach", "-n", "odd", "--", "setsid", "-f", "sh", "-c",
                     "exec </dev/null >/dev/null 2>&1; exec 3</dev/null 4<&3 5<&3 6<&3 7<&3 8<&3 9<&3; "
                     "i=0; while [ $i -lt 1000 ]; do sleep 600 & i=$((i+1)); done; wait")
    try:
        eventually(lambda: len(odd.pid_of(odd["alpha"], "sleep")) >= 1000, 60, "the processes")
        eventually(lambda: not odd.pid_of(odd["alpha"], "lxc-attach"), 60, "the end of lxc-attach")
        verdict = check(odd, code=0)
        looked = re.match(r"(\d+) processes with (\d+) ", items(verdict, "tasks", "ok")[0]["reason"])
        assert int(looked[1]) > 1000 and int(looked[2]) >= 10000
    finally:
        # Those inside alone: the host sleeps as well. What ends while it is looked at ends the look.
        def alone():
            odd["alpha"].run("sh", "-c", "kill -9 $(awk '/^NSpid/ && NF == 3 && $3 != 1 { print $2 }' /proc/[0-9]*/status)",
                             check=False)
            return odd["alpha"].run("cat", "/sys/fs/cgroup/freezer/lxc.payload.odd/cgroup.procs").stdout.count("\n") == 1
        eventually(alone, 60, "the end of all but init")


def test_every_item_is_documented(odd):
    documented = set(re.findall(r"^\| ([a-z_-]+) \|", (TREE / "docs/preflight.md").read_text(), re.M))
    assert {i["id"] for i in check(odd)["items"]} <= documented
    reported = set()
    for source in (TREE / "src").rglob("*.c"):
        if source.name.startswith("test-"):
            continue
        text = source.read_text()
        reported |= set(re.findall(r'(?:verdict_)?report\("([a-z_-]+)",', text))
        reported |= set(re.findall(r'say\(\s*&?[a-z]+, "([a-z_-]+)",', text))
        reported |= set(re.findall(r'\[PROBLEM_\w+\] =\s*{"([a-z_-]+)",', text))
    assert len(reported) > 25 and reported <= documented, reported - documented


def test_a_terminal_gets_errors_first_and_wrapped(odd):
    try:
        start(odd, "alpha", "io-uring")
        done = odd["alpha"].run("script", "-qec", "stty cols 90; phaul check lxc/odd beta", "/dev/null", check=False)
        lines = done.stdout.replace("\r", "").splitlines()
        assert lines[0].startswith("error") and "io_uring" in lines[0], done.stdout
        assert max(map(len, lines)) <= 90 and lines[1].startswith(" " * 30), done.stdout
    finally:
        stop(odd, "alpha")


# -- from here on each makes its own container, for which the one of all others is removed


def test_a_terminal_from_outside_is_named(site):
    """lxc-start in the foreground gives the container the terminal it was called from."""
    alpha = site["alpha"]
    alpha.container("odd", ["oddity", "tcp", "/root/ready"], ip="10.77.0.70/24", start=False)
    shell = alpha.popen("script", "-qec", "lxc-start -F -n odd", "/dev/null", stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    try:
        eventually(lambda: site.runs("alpha", "odd"), 60, "the container")
        found = items(check(site, code=3), "terminals", "error", "alpha")
        assert found and "pts/" in found[0]["reason"], check(site)
    finally:
        alpha.run("lxc-stop", "-k", "-n", "odd", check=False)
        shell.kill()


def test_what_a_process_tree_shares_is_named(site):
    """A daemon of the host is fine; one with the host's SysV memory, or at the end of a pipe, is not."""
    alpha = site["alpha"]
    site.part_pids()
    try:
        for what, identity, command in (
                ("memory", "ipc", [f"{PROGRAMS}/oddity", "sysv", "/run/ready"]),
                ("a pipe", "pipes", ["sh", "-c", f"sleep 600 | exec {PROGRAMS}/oddity tcp /run/ready"]),
                ("nothing", None, [f"{PROGRAMS}/oddity", "tcp", "/run/ready"])):
            alpha.run("rm", "-f", "/run/ready")
            alpha.spawn("/dev/null", *command)
            eventually(lambda: alpha.run("cat", "/run/ready", check=False).stdout, 30, what)
            pid = alpha.run("pgrep", "-nx", "oddity").stdout.strip()
            done = alpha.run("phaul", "check", f"pid/{pid}", "beta", "--json", check=False)
            bad = {i["id"] for i in json.loads(done.stdout)["items"] if i["grade"] != "ok" and i["host"] == "alpha"}
            assert (identity in bad if identity else not bad & {"ipc", "pipes", "unix", "locks", "terminals", "writers"}), done.stdout
            assert "unit" not in bad
            site.end(alpha, "oddity")
    finally:
        alpha.run("sh", "-c", "kill -9 $(pgrep -x oddity) $(pgrep -fx 'sleep 600')", check=False)


# What systemd would say, of the system's units and of a user's.
SYSTEMCTL = """#!/bin/sh
echo "$(id -un) ${XDG_RUNTIME_DIR:-none} $*" > /tmp/asked
cat /tmp/shown
"""


@pytest.mark.parametrize("of_user", [False, True])
def test_a_unit_that_is_started_again(site, of_user):
    """It matters whether systemd sees it end: its main process goes, or the last of its cgroup."""
    alpha = site["alpha"]
    mount = alpha.run("awk", '$4 ~ /name=systemd/ || $3 == "cgroup2" { print $2; exit }', "/proc/mounts").stdout.strip()
    if not mount:
        pytest.skip("systemd would have no cgroups here")
    alpha.run("sh", "-c", "cat > /usr/local/bin/systemctl; chmod 755 /usr/local/bin/systemctl; rm -f /tmp/asked; "
              "id mover 2>/dev/null || useradd -m -u 1717 mover", input=SYSTEMCTL)
    uid = alpha.run("id", "-u", "mover").stdout.strip()
    unit = f"user.slice/user-{uid}.slice/user@{uid}.service/app.slice/work.service" if of_user else "system.slice/work.service"
    main, other = (alpha.spawn("/dev/null", f"{PROGRAMS}/oddity", "tcp", f"/run/ready{n}") for n in range(2))
    alpha.run("sh", "-c", f"mkdir -p {mount}/{unit} && echo {main} > {mount}/{unit}/cgroup.procs && "
              f"echo {other} > {mount}/{unit}/cgroup.procs")

    def grade(pid, restart, shown):
        alpha.run("sh", "-c", "cat > /tmp/shown", input=f"Restart={restart}\nMainPID={shown}\n")
        done = alpha.run("phaul", "check", f"pid/{pid}", "beta", "--json", check=False)
        found = items(json.loads(done.stdout), "unit", host="alpha")
        assert len(found) == 1 and "work.service" in found[0]["reason"], done.stdout
        return found[0]["grade"], "goes on here without it" in found[0]["reason"]

    try:
        assert grade(main, "always", main) == ("error", False)
        assert grade(main, "no", main) == ("warning", False)
        assert grade(other, "always", main) == ("warning", True)
        assert grade(main, "always", 0) == ("warning", True)
        alpha.run("kill", "-KILL", str(other))
        eventually(lambda: alpha.run("cat", f"{mount}/{unit}/cgroup.procs").stdout.split() == [str(main)], what="its end")
        assert grade(main, "always", 0) == ("error", False)
        asked = alpha.run("cat", "/tmp/asked").stdout.strip()
        assert asked == (f"mover /run/user/{uid} show --property=Restart,MainPID --user -- work.service" if of_user else
                         "root none show --property=Restart,MainPID -- work.service")
    finally:
        alpha.run("sh", "-c", f"rm -f /usr/local/bin/systemctl /tmp/asked /tmp/shown; kill -9 {main} {other}", check=False)
        eventually(lambda: alpha.run("sh", "-c", f"cd {mount} && rmdir -p --ignore-fail-on-non-empty {unit}",
                                     check=False).returncode == 0, what="the end of its cgroup")


def test_an_address_that_answers_is_refused(site):
    """The container is stopped, and yet somebody answers for its address: the client."""
    site["alpha"].container("odd", ["oddity", "init"], ip="10.77.0.200/24", start=False)
    site["beta"].run("ip", "neighbour", "flush", "dev", "br0")
    done = site["alpha"].run("phaul", "check", "lxc/odd", "beta", "--mode", "restart", "--json", check=False)
    found = items(json.loads(done.stdout), "address", "error", "beta")
    assert done.returncode == 3 and found and "10.77.0.200" in found[0]["reason"], done.stdout


def test_addresses_within_a_container_are_its_own(site):
    """A bridge of its own, with the address that a bridge of the target has as well, as Docker makes them."""
    make(site)
    alpha, beta = site["alpha"], site["beta"]
    init = alpha.run("lxc-info", "-n", "odd", "-pH").stdout.strip()
    bridge = "ip link add docker0 type bridge && ip address add 172.17.0.1/16 dev docker0 && ip link set docker0 up"
    alpha.run("nsenter", "-t", init, "-n", "sh", "-c", bridge)
    beta.run("sh", "-c", bridge)
    try:
        done = alpha.run("phaul", "check", "lxc/odd", "beta", "--mode", "restart", "--json", check=False)
        assert done.returncode == 0 and not items(json.loads(done.stdout), "address", "error"), done.stdout
    finally:
        beta.run("ip", "link", "delete", "docker0")


def test_who_forks_is_not_blamed(site):
    """Children that come and go, with pipes between them: they belong to it, whenever they are met."""
    busy = "while :; do for i in 1 2 3; do { sleep 0.02; echo x; } | cat > /dev/null & done; sleep 0.01; done"
    site["alpha"].container("odd", ["/bin/sh", "-c", busy], ip="10.77.0.62/24")
    eventually(lambda: len(site.pid_of(site["alpha"], "sleep")) > 1, what="children")
    for _ in range(10):
        found = check(site, code=0)
        assert found["verdict"] == "ok", [i for i in found["items"] if i["grade"] != "ok"]


def test_another_architecture_is_refused_in_both_modes(site):
    """beta's phauld sees the machine as one of 32 bits."""
    make(site)
    beta = site["beta"]
    try:
        site.kill(beta, "phauld")
        eventually(lambda: not site.pid_of(beta, "phauld"), what="the end of phauld")
        beta.spawn("/var/log/phauld.log", "setarch", "i686", "phauld")
        eventually(lambda: site.api(beta, "GET", "/host")[0] == 200, what="phauld on beta")
        for mode in ("live", "restart"):
            done = site["alpha"].run("phaul", "check", "lxc/odd", "beta", "--mode", mode, "--json", check=False)
            found = items(json.loads(done.stdout), "cpu", "error", "beta")
            assert done.returncode == 3 and "x86_64" in found[0]["reason"] and "i686" in found[0]["reason"], done.stdout
    finally:
        site.restart(beta)


def test_what_passes_moves(site):
    """Every thing that the pre-flight calls carried, at once, there and back."""
    make(site)
    for what in CARRIED:
        try:
            start(site, "alpha", what)
        except pytest.skip.Exception:
            continue
    before = oddities(site, "alpha")
    assert check(site, code=0)["verdict"] == "ok"
    site.migrate("alpha", "lxc/odd", "beta")
    eventually(lambda: oddities(site, "beta") == before, 60, "all of it on beta")
    site.migrate("beta", "lxc/odd", "alpha")
    eventually(lambda: oddities(site, "alpha") == before, 60, "all of it on alpha")
