# SPDX-License-Identifier: LGPL-2.1-or-later
"""phaul on a system as users have it: systemd, cgroup v2 alone, AppArmor, Debian's own kernel, CRIU and LXC.

The tests go on where the one before has left the machines, in the order of this file.
"""

import json
import re

import pytest
from field_by_field import assert_same, look_at, of_container
from site_under_test import PROGRAMS, eventually
from system_under_test import MINUTE, USER

SHOP, QUIET = "10.77.0.20", "10.77.0.21"
HOME = f"/home/{USER}"
THERE_AND_BACK = (("alpha", "beta"), ("beta", "alpha"))


# -- the container of the demo


def test_the_system_is_one_that_users_have(system):
    """What this whole file is about: were it otherwise, its tests would show nothing."""
    for machine in system.machines.values():
        assert machine.sh("cat /proc/1/comm") == "systemd\n"
        assert machine.sh("stat -f -c %T /sys/fs/cgroup; grep -c ^cgroup /proc/mounts").split() == ["cgroup2fs", "1"]
        assert machine.sh("cat /sys/module/apparmor/parameters/enabled") == "Y\n"
        assert re.search(r"^CapBnd:\s+000001ffffffffff$", machine.sh("cat /proc/self/status"), re.M)
        assert machine.sh("systemctl is-active phauld; systemctl is-enabled phauld").split() == ["active", "enabled"]


def test_a_container_migrates_there_and_back(system):
    """Its client loses nothing, and every process is what it was: confined by AppArmor and seccomp as LXC has done it."""
    system.redis("alpha", "shop", SHOP, autostart=True)
    counting = system.counting(SHOP)
    before = of_container(system["alpha"], "shop")
    assert before["1"]["status"]["Seccomp"] == "2" and "lxc-shop" in before["1"]["label"], before["1"]
    for source, target in THERE_AND_BACK:
        report = system.migrate(source, "lxc/shop", target)
        assert report["downtime_ms"] > 0
        system.goes_on(SHOP)
        assert (system.state(source, "shop"), system.state(target, "shop")) == (None, "RUNNING")
        assert_same(before, of_container(system[target], "shop"), target)
    system.finish(counting, SHOP)


PROFILE = """profile lxc-counting flags=(attach_disconnected,mediate_deleted) {
  capability, network, file, mount, umount, pivot_root, signal, ptrace, unix, dbus,
}
"""


def test_a_profile_that_the_target_lacks(system):
    """Refused by name; loaded there, it confines what arrives."""
    alpha, beta = system["alpha"], system["beta"]
    alpha.run("apparmor_parser", "-r", input=PROFILE)
    system.lab.container("alpha", "guarded", command=["echo-server", "7007"], ip=f"{QUIET}/24", apparmor="lxc-counting")
    done = alpha.run("phaul", "migrate", "lxc/guarded", "beta", check=False, timeout=10 * MINUTE)
    assert done.returncode == 3 and "lxc-counting" in done.stderr, done
    assert system.state("alpha", "guarded") == "RUNNING"
    beta.run("apparmor_parser", "-r", input=PROFILE)
    system.migrate("alpha", "lxc/guarded", "beta")
    label = beta.sh("cat /proc/$(lxc-info -n guarded -p -H)/attr/current").strip()
    assert label == "lxc-counting (enforce)", label
    beta.run("lxc-destroy", "-f", "-n", "guarded")


# -- processes of a user session

# What it inherits from its session is no default, so that it shows when something gets lost.
PECULIAR = f"""
umask 027; ulimit -n 700; ulimit -c 0; trap '' USR1; cd {HOME}; echo 300 > /proc/self/oom_score_adj
exec 7< /usr/share/lxc/config/common.conf; export COLOUR=blue
setsid nice -n 5 env --block-signal=USR2 setpriv --no-new-privs {PROGRAMS}/family --status {HOME}/family.log \
    < /dev/null > /dev/null 2>&1 &
echo $!; wait $!; echo ended $?; cat
"""
UNIT = ["systemd-run", "--user", "--quiet", "--unit=work", *(f"--property={p}" for p in (
    "SystemCallFilter=~@mount", "LimitNOFILE=300", "OOMScoreAdjust=200", "UMask=0027", "StandardOutput=null", "StandardError=null",
    f"WorkingDirectory={HOME}")), f"{PROGRAMS}/family", "--status", f"{HOME}/family.log"]


@pytest.fixture
def login(system):
    """A user's session on alpha, on a terminal or not: login(command...) returns its process. All are ended afterwards."""
    for name, last in (("alpha", 100000), ("beta", 200000)):  # both count from 1, and pids are kept
        system[name].sh(f"pkill -KILL -x family; echo {last} > /proc/sys/kernel/ns_last_pid; rm -f {HOME}/family.log")
    opened = []

    def start(*argv, **options):
        opened.append(system["alpha"].login(USER, *argv, **options))
        return opened[-1]
    yield start
    for process in opened:
        process.kill()
        process.wait()
    for machine in system.machines.values():
        machine.run("pkill", "-KILL", "-x", "family", check=False)
        eventually(lambda m=machine: not sessions(m), MINUTE, f"the end of all sessions on {machine.name}")


def sessions(machine):
    """Ids of the sessions of the user, as logind knows them."""
    listed = json.loads(machine.run("loginctl", "list-sessions", "--json=short").stdout or "[]")
    return [one["session"] for one in listed if one["user"] == USER and not one.get("class", "").startswith("manager")]


def cgroup_of(machine, pid):
    return machine.run("cat", f"/proc/{pid}/cgroup").stdout.strip().removeprefix("0::")


def family_of(system, name, pid):
    """Its pids, when it is complete: all of its threads have said that they get on."""
    last = lambda: system[name].sh(f"tail -n 1 {HOME}/family.log")  # noqa: E731
    eventually(lambda: re.search(r"\b(\d+) of \1 got on", last()), MINUTE, "all of the family")
    return eventually(lambda: len(found := system.tree(name, pid)) == 3 and found, MINUTE, "the family")


def sound(machine):
    """It gets on: more lines come, none of them bad."""
    lines = lambda: machine.sh(f"cat {HOME}/family.log").splitlines()  # noqa: E731
    before = len(lines())
    eventually(lambda: len(lines()) > before + 1, MINUTE, "lines of the family")
    assert not [line for line in lines() if "wrong" in line or "error:" in line], lines()[-3:]


def move(system, source, pid, target, before, *options, but=()):
    """Migrate a tree and compare; it leaves no cgroup, and is of no session or unit on the target, as ARCHITECTURE.md says.

    Its mounts are those of the host that it is on.
    """
    system.migrate(source, f"pid/{pid}", target, "--copy-files", *options)
    eventually(lambda: not system.tree(source, pid), MINUTE, "the end of it on the source")
    family = family_of(system, target, pid)
    assert_same(before, look_at(system[target], family), target, but=("cgroups", "mounts", *but))
    assert {re.sub("[0-9a-f]{32}$", "TOKEN", cgroup_of(system[target], member)) for member in family} == {f"/phaul/pid-{pid}-TOKEN"}
    assert system[source].sh("find /sys/fs/cgroup -name 'phaul-[0-9]*' -o -name 'pid-[0-9]*'") == ""
    sound(system[target])


def test_a_process_of_a_session_migrates_there_and_back(system, login):
    alpha, beta = system["alpha"], system["beta"]
    shell = login("sh", "-c", PECULIAR)
    pid = shell.stdout.readline().strip()
    before = look_at(alpha, family_of(system, "alpha", pid))
    session, = sessions(alpha)
    scope = alpha.run("loginctl", "show-session", session, "--property=Scope", "--value").stdout.strip()
    for seen in before.values():
        assert seen["cgroups"] == [f":/user.slice/user-{seen['loginuid']}.slice/{scope}"], seen
        status = seen["status"]
        assert (status["Umask"], status["NoNewPrivs"], seen["oom_score_adj"], seen["nice"]) == ("0027", "1", "300", "5")
        assert "7" in seen["descriptors"] and "COLOUR=blue" in seen["environment"]
        assert int(status["SigIgn"], 16) & 1 << 9 and int(status["SigBlk"], 16) & 1 << 11

    move(system, "alpha", pid, "beta", before)
    # The session on the source saw one of its processes killed, and is otherwise what it was.
    assert shell.stdout.readline() == "ended 137\n"
    assert sessions(alpha) == [session] and sessions(beta) == []
    assert alpha.run("loginctl", "show-session", session, "--property=State", "--value").stdout == "active\n"
    shell.stdin.close()
    eventually(lambda: sessions(alpha) == [] and system.unit_is_gone("alpha", scope), MINUTE, "the end of the session")
    assert scope not in alpha.sh("systemctl --failed --no-legend")

    move(system, "beta", pid, "alpha", before)
    assert sessions(alpha) == []
    alpha.run("kill", pid)
    eventually(lambda: alpha.sh(f"tail -n 1 {HOME}/family.log") == "end: 0 errors\n", MINUTE, "its own end")


def test_a_unit_of_a_user_migrates_there_and_back(system, login):
    """It runs under systemd's seccomp filters, in a cgroup that is delegated to the user's own manager."""
    alpha = system["alpha"]
    shell = login("sh", "-c", " ".join(UNIT) + "; systemctl --user show work -P MainPID; read go; "
                  "systemctl --user show work -P Result; cat")
    pid = shell.stdout.readline().strip()
    before = look_at(alpha, family_of(system, "alpha", pid))
    for seen in before.values():
        assert seen["cgroups"][0].endswith(".service/app.slice/work.service"), seen
        assert (seen["status"]["Seccomp"], seen["status"]["NoNewPrivs"], seen["oom_score_adj"]) == ("2", "1", "200"), seen
        assert int(seen["status"]["Seccomp_filters"]) > 0
    move(system, "alpha", pid, "beta", before)
    shell.stdin.write("\n")
    shell.stdin.flush()
    assert shell.stdout.readline() == "signal\n"
    move(system, "beta", pid, "alpha", before)


def test_a_shell_job_of_a_session_migrates_there_and_back(system, login):
    """Typed at a terminal; it gets a session and a terminal of its own, which its keeper holds."""
    alpha = system["alpha"]
    terminal = login(terminal=True)
    terminal.stdin.write(f"umask 027; {PROGRAMS}/family --status {HOME}/family.log &\n")
    terminal.stdin.flush()
    pid = eventually(lambda: alpha.sh("pgrep -o -x family").strip(), MINUTE, "the family")
    before = look_at(alpha, family_of(system, "alpha", pid))
    assert before[pid]["terminal"] != "0" and before[pid]["status"]["Umask"] == "0027"
    for source, target in THERE_AND_BACK:
        move(system, source, pid, target, before, "--shell-job", but=("terminal", "status", "descriptors"))
        after = look_at(system[target], family_of(system, target, pid))
        for member, seen in before.items():
            assert {**after[member]["status"], "NSsid": ""} == {**seen["status"], "NSsid": ""}
            assert after[member]["terminal"] != "0" and after[member]["descriptors"].keys() == seen["descriptors"].keys()


# -- memory

WRITER = ["memwriter", "--mib", "64", "--rate", "2"]


class Writer:
    """Writes to its memory and checks all of it, in a container or as a process of a unit."""

    def __init__(self, system, kind):
        self.system, self.kind = system, kind
        alpha = system["alpha"]
        if kind == "lxc":
            self.status, self.what, self.options = "/var/lib/lxc/writer/rootfs/status", "lxc/writer", []
            system.lab.container("alpha", "writer", command=[*WRITER, "--status", "/status"], ip="10.77.0.22/24")
        else:
            for name, last in (("alpha", 100000), ("beta", 200000)):  # both count from 1, and pids are kept
                system[name].sh(f"echo {last} > /proc/sys/kernel/ns_last_pid")
            self.status, self.options = "/var/log/writer.log", ["--copy-files"]
            alpha.run("systemd-run", "--quiet", "--collect", "--unit=writer", "--property=StandardOutput=null",
                      "--property=StandardError=null", f"{PROGRAMS}/{WRITER[0]}", *WRITER[1:], "--status", self.status)
            self.what = "pid/" + alpha.run("systemctl", "show", "writer", "-P", "MainPID").stdout.strip()
        self.goes_on("alpha")

    def lines(self, name):
        return self.system[name].run("cat", self.status, check=False).stdout.splitlines()

    def goes_on(self, name):
        """Two more lines: in that time it has looked at every page once, and was content."""
        before = len(self.lines(name))
        eventually(lambda: len(self.lines(name)) > before + 2, 5 * MINUTE, f"{self.what} on {name}")
        assert not [line for line in self.lines(name) if "error:" in line], self.lines(name)[-3:]

    def move(self, source, target, *options):
        """The report, and how many megabytes the dump did not have to carry."""
        report = self.system.migrate(source, self.what, target, *self.options, *options)
        self.goes_on(target)
        log = self.system[source].sh(f"cat /var/lib/phaul/migrations/{report['id']}/log")
        return report, float(re.search(r"([0-9.]+) MB were there already", log)[1])

    def end(self, name):
        if self.kind == "lxc":
            self.system[name].run("lxc-destroy", "-f", "-n", "writer")
        else:
            self.system[name].run("kill", self.what.removeprefix("pid/"))


@pytest.mark.parametrize("kind", ["pid", "lxc"])
def test_what_was_written_is_found_by_soft_dirty_bits(system, kind):
    """On the kernel that has them; and what is best there is found without being told."""
    writer = Writer(system, kind)
    release = system["beta"].sh("uname -r")
    version = tuple(int(n) for n in re.match(r"(\d+)\.(\d+)", release).groups())
    report, kept = writer.move("alpha", "beta", "--tracker", "soft-dirty")
    assert report["tracker"] == "soft-dirty" and report["rounds"] >= 2 and kept > 32, (report, kept)
    report, kept = writer.move("beta", "alpha")
    assert report["tracker"] == ("uffd-wp" if version >= (6, 7) else "soft-dirty") and kept > 32, (release, report, kept)
    writer.end("alpha")


# -- power and reboots


def test_lxc_start_auto_is_obeyed_on_the_target_alone(system):
    """What was released does not come back with its host, and where it is now it starts with the host if it says so."""
    system.lab.container("alpha", "quiet", command=["echo-server", "7007"], ip=f"{QUIET}/24")
    counting = system.counting(SHOP)
    for name in ("shop", "quiet"):
        system.migrate("alpha", f"lxc/{name}", "beta")
    system["alpha"].reboot()
    system.restarted("alpha")
    assert system["alpha"].sh("systemctl is-active lxc").strip() == "active"
    assert [system.state("alpha", name) for name in ("shop", "quiet")] == [None, None]
    assert system["alpha"].sh("pgrep -x redis-server") == ""
    assert [system.state("beta", name) for name in ("shop", "quiet")] == ["RUNNING", "RUNNING"]
    system.finish(counting, SHOP)  # all that time on one connection

    system["beta"].crash()
    system["beta"].start()
    system["beta"].wait_up()
    system.restarted("beta")
    eventually(lambda: system.state("beta", "shop") == "RUNNING", 2 * MINUTE, "the container that starts by itself")
    eventually(lambda: system.answers(SHOP), 2 * MINUTE, "its Redis")
    assert system.state("beta", "quiet") == "STOPPED"


# -- and all of it goes


def test_uninstall_leaves_configuration_state_and_workloads(system):
    for name, machine in system.machines.items():
        look = "find /etc/phaul /var/lib/phaul -type f -print0 | xargs -0 sha256sum | sort"
        machine.run("systemctl", "disable", "--now", "phauld")  # its database is one file when it has ended
        kept = machine.sh(look)
        machine.run("make", "-C", "/src", "uninstall", timeout=20 * MINUTE)
        machine.run("systemctl", "daemon-reload")
        # Accounts stay, as packages leave theirs: a number that was once a user's must not become another's.
        accounts = re.compile(r"/etc/((passwd|group|g?shadow|sub[ug]id)-?|\.pwd\.lock|phaul(/.*)?)")
        left = {path for path in system.files(name) - system.before[name] if not accounts.fullmatch(path)}
        assert left == set(), left
        assert machine.sh(look) == kept and "/etc/phaul/phaul.conf" in kept
        assert machine.sh("systemctl show phauld -P LoadState") == "not-found\n" and machine.sh("pgrep -a phaul") == ""
    assert system.state("beta", "shop") == "RUNNING" and system.answers(SHOP)
