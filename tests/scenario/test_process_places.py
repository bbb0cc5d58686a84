# SPDX-License-Identifier: LGPL-2.1-or-later
"""Process trees that bring their place along: a root directory of their own, and numbers that are taken on the target."""

import json

import pytest

import test_process
from site_under_test import FULL, PROGRAMS, eventually
from test_process import LOG, client, family, lines, members, nothing_left, result_of, sound, tables

moving_address = test_process.moving_address
JAIL = "/srv/jails/one"           # on another file system than /var/lib/phaul
NEAR = "/var/lib/jails/one"       # on the same


@pytest.fixture
def jails(trees):
    yield trees
    for host in trees.hosts.values():
        trees.end(host, "counter|tail|phaul-restore")
        host.run("sh", "-c", "umount /srv/store; rm -rf /srv/jails /srv/store /srv/link /var/lib/jails /run/tree.pid", check=False)


def fill(site, path):
    """A root directory with a counter in it, and some things that are easily lost."""
    site["alpha"].run("sh", "-c", f"""mkdir -p {path}/bin {path}/log {path}/etc {path}/proc {path}/tmp
        cp {PROGRAMS}/counter {path}/bin; echo inside > {path}/etc/hostname; chmod 711 {path}; chown 7:8 {path}/log
        ln {path}/etc/hostname {path}/etc/same; ln -s ../../../etc/passwd {path}/etc/out; mkfifo -m 600 {path}/log/fifo""")


def counting(site, name="alpha"):
    return eventually(lambda: site.pid_of(site[name], "counter"), what="the counter")[0]


def chrooted(site, path=JAIL):
    fill(site, path)
    site["alpha"].spawn("/dev/null", "setsid", "chroot", path, "/bin/counter", "/log/count", "--mark-file", "/etc/hostname")
    return counting(site)


# A mount namespace whose root is the directory, with a /proc and a tmpfs, as container managers make them.
PIVOT = """
import ctypes, os, sys
libc, path = ctypes.CDLL(None, use_errno=True), sys.argv[1].encode()
def done(result):
    assert result == 0, os.strerror(ctypes.get_errno())
done(libc.unshare(0x20000))
done(libc.mount(b"none", b"/", None, 0x44000, None))
done(libc.mount(path, path, None, 0x5000, None))
os.chdir(path)
done(libc.syscall(155, b".", b"tmp"))
os.chdir("/")
done(libc.umount2(b"/tmp", 2))
done(libc.mount(b"proc", b"/proc", b"proc", 0, None))
done(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", 0, None))
with open("/tmp/kept", "w") as kept:
    kept.write("in memory")
out = os.open("/log/out", os.O_RDWR | os.O_CREAT)
for number in range(3):
    os.dup2(out, number)
os.closerange(3, 100)
os.execv("/bin/counter", ["/bin/counter", "/log/count", "--mark-file", "/tmp/kept"])
"""


def pivoted(site, path=NEAR):
    fill(site, path)
    site["alpha"].spawn("/dev/null", "python3", "-c", PIVOT, path)
    return counting(site)


def unbroken(site, name, path=JAIL):
    """The counter gets on there, and not one number is missing or there twice."""
    def numbers():
        return [int(line.split()[0]) for line in lines(site, name, f"{path}/log/count")]
    before = len(numbers())
    found = eventually(lambda: len(numbers()) > before and numbers(), what="the counter")
    assert found == list(range(1, len(found) + 1))


def tree_of(site, name, path):
    """What an owner would look for, without what the counter writes."""
    return site[name].run("sh", "-c", f"cd {path} && find . ! -path ./log/count ! -path ./log -printf '%p %y %m %U:%G %n %l\\n' | sort; "
                          "cat etc/hostname etc/same").stdout


def beside(site, name, path):
    """What lies in the directory above it, hidden names too."""
    return site[name].run("sh", "-c", f"ls -A $(dirname {path}) 2>/dev/null", check=False).stdout.split()


@pytest.mark.parametrize("make,path,option", [(chrooted, JAIL, None), (pivoted, NEAR, None),
                                              *([(chrooted, NEAR, "--new-pid-namespace")] if FULL else []),
                                              (pivoted, JAIL, "--new-pid-namespace")])
def test_a_root_directory_travels(jails, make, path, option):
    pid = make(jails, path)
    before = tree_of(jails, "alpha", path)
    options = ["--pid-root", path, *([option] if option else [])]
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        report = jails.migrate(source, f"pid/{pid}", target, *options)
        assert report["result"] == "done" and report["rounds"] >= 1
        assert jails.pid_of(jails[source], "counter") == []
        nothing_left(jails, source)
        now = counting(jails, target)
        assert option or now == pid
        pid = now
        unbroken(jails, target, path)
        assert tree_of(jails, target, path) == before
        # What it was on the source is kept for a day, out of sight; what the target marked is gone.
        aside = [f".phaul-released-{report['id']}"] if path == JAIL else []
        assert beside(jails, source, path) == aside
        assert jails[source].run("cat", f"/var/lib/phaul/released/{report['id']}/root/etc/hostname").stdout == "inside\n"
        jails[source].run("phaul", "forget", report["id"])
        eventually(lambda: beside(jails, target, path) == ["one"], what="the end of its mark")  # noqa: B023
        eventually(lambda: beside(jails, source, path) == [], what="the end of what was put aside")  # noqa: B023
    if make is pivoted:
        assert jails["alpha"].run("cat", f"/proc/{pid}/root/tmp/kept").stdout == "in memory"
        assert jails["alpha"].run("sh", "-c", f"grep -c . /proc/{pid}/mountinfo").stdout == "3\n"


def refused(site, words, what, *options):
    done = site.migrate("alpha", what, "beta", *options, check=False)
    assert done.returncode == 3 and words in done.stdout + done.stderr, done


def test_a_root_directory_that_is_none(jails):
    pid = chrooted(jails)
    alpha, beta = jails["alpha"], jails["beta"]
    other = family(jails)
    alpha.run("ln", "-s", "/srv/jails", "/srv/link")
    for words, tree, path in (("not a directory", pid, f"{JAIL}/etc/hostname"), ("No such file", pid, "/srv/nothing"),
                              ("symbolic link", pid, "/srv/link/one"), ("not written plainly", pid, f"{JAIL}/"),
                              ("belongs to the host", pid, "/"), ("belongs to the host", pid, "/usr/lib"),
                              (f"is {JAIL}, not {JAIL}/log", pid, f"{JAIL}/log"), ("is /, not", other, JAIL)):
        refused(jails, words, f"pid/{tree}", "--pid-root", path)
    refused(jails, "--pid-root", f"pid/{pid}", "--files", "shared")
    beta.run("sh", "-c", f"mkdir -p {JAIL}/etc")
    refused(jails, "not empty", f"pid/{pid}", "--pid-root", JAIL)
    beta.run("sh", "-c", f"rm -r {JAIL} && mkdir /srv/real && ln -s /srv/real {JAIL}")
    refused(jails, "no plain directory", f"pid/{pid}", "--pid-root", JAIL)
    beta.run("sh", "-c", "rm -r /srv/jails && ln -s /srv/real /srv/jails")
    refused(jails, "what is above it", f"pid/{pid}", "--pid-root", JAIL)
    assert beta.run("sh", "-c", "rm /srv/jails; rmdir /srv/real; ls /srv").stdout == ""
    # Somebody else lives there.
    alpha.run("mkdir", "-p", f"{JAIL}/usr")
    alpha.run("mount", "--bind", "/usr", f"{JAIL}/usr")
    alpha.run("sh", "-c", f"ln -s usr/lib64 {JAIL}/lib64; ln -s usr/lib {JAIL}/lib; setsid chroot {JAIL} /usr/bin/tail -f /etc/hostname </dev/null >/dev/null 2>&1 &")
    eventually(lambda: jails.pid_of(alpha, "tail"), what="the other")
    done = alpha.run("phaul", "check", f"pid/{pid}", "beta", "--pid-root", JAIL, "--json", check=False)
    found = {item["grade"]: item for item in json.loads(done.stdout)["items"] if item["id"] == "root" and item["host"] == "alpha"}
    assert "does not belong to the tree" in found["error"]["reason"] and found["error"]["forcible"]
    assert f"{JAIL}/usr is a mount" in found["warning"]["reason"]
    jails.end(alpha, "tail")
    alpha.run("umount", "-l", f"{JAIL}/usr")
    unbroken(jails, "alpha")


@pytest.mark.parametrize("was_there", [False, True])
def test_a_failure_leaves_no_root_directory(jails, was_there):
    beta = jails["beta"]
    if was_there:
        beta.run("sh", "-c", f"mkdir -p {JAIL} && chmod 1710 {JAIL} && chown 5:6 {JAIL}")
    pid = chrooted(jails)
    jails.hold("beta", "target-commit")
    identity = jails.migrating("alpha", f"pid/{pid}", "beta", "--pid-root", JAIL)
    assert jails.wait_phase("beta", identity, "commit")
    assert beta.run("cat", f"{JAIL}/etc/hostname").stdout == "inside\n"
    assert jails.kill(beta, "phaul-session")
    jails.let_go()
    assert jails.result("alpha", identity)["owner"] == "source"
    assert jails.result("beta", identity)["owner"] == "source"
    eventually(lambda: not jails.pid_of(beta, "phaul-session"), 90, "the target's session")
    found = beta.run("sh", "-c", "find /srv -mindepth 1 -printf '%p %m %U:%G\\n'").stdout.split("\n")
    assert [line for line in found if line] == (["/srv/jails 755 0:0", f"{JAIL} 1710 5:6"] if was_there else [])
    unbroken(jails, "alpha")
    assert counting(jails) == pid and jails.pid_of(beta, "counter") == []
    nothing_left(jails, "beta")


def test_a_root_directory_on_shared_storage(jails):
    for host in jails.hosts.values():
        host.share("/srv/store")
    path = "/srv/store/jail"
    pid = chrooted(jails, path)
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        report = jails.migrate(source, f"pid/{pid}", target, "--pid-root", path, "--files", "shared")
        assert report["result"] == "done"
        assert counting(jails, target) == pid and jails.pid_of(jails[source], "counter") == []
        unbroken(jails, target, path)
    jails.end(jails["alpha"], "counter")
    jails["alpha"].run("rm", "-rf", path)


# -- pids -----------------------------------------------------------------------------------------------------------


def take_pids(site, name, first, count):
    """The numbers from `first` on, at once: whatever else is started there takes the next one."""
    one = "tail -f /dev/null </dev/null >/dev/null 2>&1 & "
    site[name].run("sh", "-c", f"echo {first - 1} > /proc/sys/kernel/ns_last_pid; " + one * count)
    eventually(lambda: len([pid for pid in site.pid_of(site[name], "tail") if pid >= first]) >= count, what="who takes them")


def inside(site, name, pid, field="NSpid"):
    """A number of a process as the host and as the process itself sees it."""
    return [int(n) for n in site[name].run("sed", "-n", f"s/^{field}:\t//p", f"/proc/{pid}/status").stdout.split()]


def in_namespace(site, name):
    """The pid of the only family on a host, which is in a pid namespace of its own; and what it looks like from within."""
    pid = members(site, name)[0][0]
    table = [tuple(inside(site, name, row[0], field)[1] for field in ("NSpid", "NSpgid", "NSsid")) for row in members(site, name)]
    return pid, sorted(table)


def test_pids_that_are_taken(jails):
    alpha, beta = jails["alpha"], jails["beta"]
    pid = family(jails, log=LOG)
    before = [(row[0], row[2], row[3]) for row in members(jails, "alpha")]
    take_pids(jails, "beta", pid, 8)
    refused(jails, "is taken by 'tail'", f"pid/{pid}", "--copy-files")
    now = pid
    for source, target in (("alpha", "beta"), ("beta", "alpha")):
        report = jails.migrate(source, f"pid/{now}", target, "--copy-files", "--new-pid-namespace", "--dst-pidfile", "/run/tree.pid")
        assert any("need not be free" in item["reason"] for item in report["items"] if item["id"] == "pids")
        assert members(jails, source) == []
        eventually(lambda: not jails.pid_of(jails[source], "phaul-restore"), what="the end of its keeper there")  # noqa: B023
        nothing_left(jails, source)
        sound(jails, target)
        now, table = in_namespace(jails, target)
        assert table == before and inside(jails, target, now) == [now, pid]
        assert int(eventually(lambda: jails[target].run("cat", "/run/tree.pid", check=False).stdout)) == now  # noqa: B023
        # It sees the host's files, a /proc of its own with nobody else in it, and no images of memory.
        seen = jails[target].run("nsenter", "-t", str(now), "-p", "-m", "ls", "/proc").stdout.split()
        assert {int(n) for n in seen if n.isdigit()} >= {1, pid} and len([n for n in seen if n.isdigit()]) == 5
        assert jails[target].run("cat", f"/proc/{now}/root/etc/hostname").stdout == f"{target}\n"
        assert "phaul" not in jails[target].run("awk", "{print $1}", f"/proc/{now}/mounts").stdout
    # Where its pids are free it may leave its namespace.
    jails.end(beta, "tail")
    jails.migrate("alpha", f"pid/{now}", "beta", "--copy-files")
    assert [(row[0], row[2], row[3]) for row in members(jails, "beta")] == before and inside(jails, "beta", pid) == [pid]
    sound(jails, "beta")
    nothing_left(jails, "alpha")
    eventually(lambda: not jails.pid_of(alpha, "phaul-restore"), what="the end of its keeper")
    beta.run("kill", str(pid))
    eventually(lambda: lines(jails, "beta")[-1] == "end: 0 errors", what="its own end")


@pytest.mark.parametrize("side,phase", [("target", "commit"), ("target", "resume"), ("source", "state")])
def test_a_namespace_and_a_session_killed(jails, side, phase):
    """Killed where it matters: what is held, and what is seen to run, are found again by the host's numbers."""
    pid = family(jails, log=LOG)
    before = members(jails, "alpha")
    take_pids(jails, "beta", pid, 8)
    jails.migrate("alpha", f"pid/{pid}", "beta", "--copy-files", "--new-pid-namespace")
    source, target = "beta", "alpha"
    pid, table = in_namespace(jails, "beta")
    place = members(jails, "beta")
    host = source if side == "source" else target
    jails.hold(host, f"{side}-{phase}")
    identity = jails.migrating(source, f"pid/{pid}", target, "--copy-files", "--new-pid-namespace")
    assert jails.wait_phase(host, identity, phase)
    assert jails.kill(jails[host], "phaul-session")
    jails.let_go()
    owner = "target" if phase == "resume" else "source"
    assert jails.result(source, identity)["owner"] == owner
    here, there = (target, source) if owner == "target" else (source, target)
    eventually(lambda: members(jails, there) == [] and not jails.pid_of(jails[there], "phaul-restore"), 120, "the end of the other copy")
    eventually(lambda: not jails.pid_of(jails[target], "phaul-session"), 120, "the target's session")
    assert in_namespace(jails, here)[1] == table == [(row[0], row[2], row[3]) for row in before]
    assert owner == "target" or members(jails, source) == place
    sound(jails, here)
    nothing_left(jails, there)


def test_a_connection_moves_into_a_namespace(trees, moving_address):
    made = client(trees)
    take_pids(trees, "beta", moving_address, 3)
    trees.migrate("alpha", f"pid/{moving_address}", "beta", "--new-pid-namespace")
    assert tables(trees) == []
    assert trees.pid_of(trees["beta"], "echo-server") not in ([], [moving_address])
    result = result_of(trees, made)
    assert result["connection"] == "kept" and result["lost"] == 0, result
    trees.end(trees["beta"], "tail")


def test_a_shell_job_that_leads_its_session(jails):
    """As the first process of a terminal does: its session is its own and goes with it, without a controlling terminal."""
    alpha = jails["alpha"]
    alpha.spawn("/dev/null", "python3", "-c", f"import pty; pty.spawn(['{PROGRAMS}/family', '--status', '{LOG}'])")
    eventually(lambda: len(members(jails, "alpha")) == 3, what="the family")
    pid, _, _, session, _ = members(jails, "alpha")[0]
    assert session == pid and alpha.run("ps", "-o", "tty=", "-p", str(pid)).stdout.startswith("pts/")
    jails.migrate("alpha", f"pid/{pid}", "beta", "--shell-job", "--copy-files")
    sound(jails, "beta")
    assert members(jails, "beta")[0][0] == pid and members(jails, "beta")[0][3] == pid
    assert len(jails.pid_of(jails["beta"], "phaul-restore")) == 1


def test_a_shell_job_in_a_namespace(jails):
    alpha = jails["alpha"]
    script = f"import pty; pty.spawn(['sh', '-ic', '{PROGRAMS}/family --status {LOG} & wait'])"
    alpha.spawn("/dev/null", "python3", "-c", script)
    eventually(lambda: len(members(jails, "alpha")) == 3, what="the family")
    pid = members(jails, "alpha")[0][0]
    take_pids(jails, "beta", pid, 4)
    jails.migrate("alpha", f"pid/{pid}", "beta", "--shell-job", "--copy-files", "--new-pid-namespace")
    sound(jails, "beta")
    now = members(jails, "beta")[0][0]
    assert jails["beta"].run("ps", "-o", "tty=", "-p", str(now)).stdout.startswith("pts/")
    assert inside(jails, "beta", now) == [now, pid] and inside(jails, "beta", now, "NSsid")[1] == 1
    jails.migrate("beta", f"pid/{now}", "alpha", "--shell-job", "--copy-files")
    sound(jails, "alpha")
    assert members(jails, "alpha")[0][0] == pid
    eventually(lambda: not jails.pid_of(jails["beta"], "phaul-restore"), what="the end of its keeper there")
