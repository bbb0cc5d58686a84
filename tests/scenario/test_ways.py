# SPDX-License-Identifier: LGPL-2.1-or-later
"""Ways to a host where no phauld runs and that is not paired: over ssh, and over descriptors that are open already."""

import contextlib
import json
import socket
import threading

import pytest

from site_under_test import FULL, PROGRAMS, eventually
from test_postcopy import report_of

IP = "10.77.0.20"
FAR = "ssh://root@beta"


class Bridge:
    """Two byte streams between processes of two hosts, through this one, so that they can be cut."""

    def __init__(self):
        self.near, self.far, self._ours = [], [], []
        self._flows, self._gone = threading.Event(), False
        self._flows.set()
        for _ in range(2):
            (near, one), (other, far) = socket.socketpair(), socket.socketpair()
            self.near.append(near)
            self.far.append(far)
            self._ours += [one, other]
            for source, target in ((one, other), (other, one)):
                threading.Thread(target=self._pump, args=(source, target), daemon=True).start()

    def _pump(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._flows.wait()
                if self._gone:
                    break
                target.sendall(data)
        for end in (source, target):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def start(self, host, end, *argv):
        """A phaul command of a host with that end of the bridge as its --fd-control and --fd-data."""
        fds = [s.fileno() for s in end]
        made = host.popen("phaul", *argv, "--fd-control", str(fds[0]), "--fd-data", str(fds[1]), pass_fds=fds, stdout=-1,
                          stderr=-1, text=True)
        for s in end:
            s.close()
        return made

    def pause(self):
        """Nothing gets through, and nobody is told."""
        self._flows.clear()

    def cut(self):
        self._gone = True
        self._flows.set()
        for end in self._ours:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


def phauld_ends(site):
    """The one that `phaul receive` started."""
    eventually(lambda: not site.pid_of(site["beta"], "phauld"), 60, "the end of the far half")


def no_trust(site):
    for host in site.hosts.values():
        assert host.run("sh", "-c", "ls /etc/phaul/peers 2>/dev/null | wc -l").stdout.strip() == "0", host.name


@pytest.fixture
def far(site):
    """alpha as always; beta has phaul and sshd, but no phauld, and they are not paired."""
    alpha, beta = site["alpha"], site["beta"]
    alpha.run("sh", "-c", "[ -e /root/.ssh/id_ed25519 ] || { mkdir -p -m 700 /root/.ssh; ssh-keygen -q -t ed25519 -N '' "
              "-f /root/.ssh/id_ed25519; }")
    beta.run("sh", "-c", "mkdir -p -m 700 /root/.ssh; cat > /root/.ssh/authorized_keys; ssh-keygen -A; mkdir -p /run/sshd",
             input=alpha.run("cat", "/root/.ssh/id_ed25519.pub").stdout)
    alpha.run("sh", "-c", "cat > /root/.ssh/known_hosts",
              input="beta " + beta.run("cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout)
    if not site.pid_of(beta, "sshd"):
        beta.spawn("/var/log/sshd.log", "/usr/sbin/sshd", "-D", "-e")
        eventually(lambda: ":22 " in beta.run("ss", "-tln").stdout, what="sshd")
    for one, other in (("alpha", "beta"), ("beta", "alpha")):
        site[one].run("phaul", "unpair", other)
    site.kill(beta, "phauld")
    phauld_ends(site)
    yield site
    no_trust(site)
    site.let_go()
    beta.heal()
    phauld_ends(site)
    eventually(lambda: not site.kill(beta, "sshd"), what="the end of sshd")


@pytest.fixture
def shop(far):
    """A Redis on alpha, a client on it."""
    far.redis("alpha", "shop", IP, kilobytes=20000)
    counting = far.counting(IP, 300)
    yield counting
    counting.kill()


def stayed(site, shop):
    """As if nothing had been tried, on both hosts."""
    site.finish(shop, IP)
    assert site.runs("alpha", "shop")
    eventually(lambda: not site.pid_of(site["beta"], "phaul-session"), 90, "the target's session")
    assert "shop" not in site["beta"].run("lxc-ls", "-1").stdout.split()


def went(site, shop):
    site.finish(shop, IP)
    assert site.runs("beta", "shop")
    assert "shop" not in site["alpha"].run("lxc-ls", "-1").stdout.split()


def recorded(site, identity, result):
    """What a phauld that is started later on beta knows of it."""
    phauld_ends(site)
    site.start(site["beta"])
    listed = {m["id"]: m for m in json.loads(site["beta"].run("phaul", "list", "--json").stdout)}
    assert listed[identity]["side"] == "target" and listed[identity]["result"] == result, listed
    site.kill(site["beta"], "phauld")


def test_a_container_by_ssh(far, shop):
    far["alpha"].run("sh", "-c", "cat > /root/.ssh/config", input="IgnoreUnknown Novelty\nNovelty yes\nHost *\n"
                     "RemoteCommand ls\nForkAfterAuthentication yes\nStdinNull yes\nSessionType none\nRequestTTY force\n")
    checked = far["alpha"].run("phaul", "check", "lxc/shop", FAR, check=False)
    assert checked.returncode == 0 and "beta" in checked.stdout, checked
    report = far.migrate("alpha", "lxc/shop", FAR)
    assert report["result"] == "done" and (report["source"], report["target"]) == ("alpha", "beta")
    went(far, shop)
    recorded(far, report["id"], "done")
    eventually(lambda: not far.pid_of(far["alpha"], "ssh"), 60, "the end of ssh")
    far["alpha"].run("rm", "/root/.ssh/config")


def test_a_process_by_ssh_as_a_user(far):
    """Whoever is in group phaul uses phauld, and ssh runs as that user, with that user's key."""
    alpha, beta = far["alpha"], far["beta"]
    alpha.run("sh", "-c", "id mover 2>/dev/null || useradd -m mover; usermod -aG phaul mover; "
              "install -d -o mover -m 700 /home/mover/.ssh; cp /root/.ssh/id_ed25519 /root/.ssh/known_hosts /home/mover/.ssh/; "
              "chown -R mover: /home/mover/.ssh")
    alpha.run("sh", "-c", "echo 26000 > /proc/sys/kernel/ns_last_pid")
    pid = alpha.spawn("/var/log/family.log", f"{PROGRAMS}/family")
    eventually(lambda: alpha.run("wc", "-l", "/var/log/family.log").stdout.split()[0] > "1", what="the family")
    done = alpha.run("setpriv", "--reuid", "mover", "--regid", "mover", "--init-groups", "phaul", "migrate", f"pid/{pid}", FAR,
                     "--copy-files", "--json", check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert beta.run("ps", "-o", "comm=", "-p", str(pid)).stdout.strip() == "family"
    before = len(beta.run("cat", "/var/log/family.log").stdout)
    eventually(lambda: len(beta.run("cat", "/var/log/family.log").stdout) > before, what="that it goes on")
    beta.run("kill", str(pid))
    # Without a key of the user's own there is no way in: not by root's.
    alpha.run("rm", "/home/mover/.ssh/id_ed25519")
    pid = alpha.spawn("/dev/null", f"{PROGRAMS}/family")
    done = alpha.run("setpriv", "--reuid", "mover", "--regid", "mover", "--init-groups", "phaul", "check", f"pid/{pid}", FAR,
                     check=False)
    assert done.returncode == 5 and "does not let us in" in done.stderr, done


@pytest.mark.parametrize("phase", ["files", "restore"] if FULL else ["restore"])
def test_cut_before_the_commit_by_ssh(far, shop, phase):
    far.hold("alpha", f"source-{phase}")
    identity = far.migrating("alpha", "lxc/shop", FAR)
    assert far.wait_phase("alpha", identity, phase)
    if phase == "restore":  # the copy is there and held, and will have to be told that it is not wanted
        assert far.wait_phase("beta", identity, "commit")
    far["beta"].cut()
    if phase == "restore":
        assert far["alpha"].run("phaul", "cancel", identity).returncode == 0
    result = far.result("alpha", identity)
    assert result["result"] == ("cancelled" if phase == "restore" else "failed") and result["owner"] == "source", result
    assert far.runs("alpha", "shop")
    if phase == "restore":
        assert far.pid_of(far["beta"], "phaul-hold")
    far["beta"].heal()
    far.let_go()
    stayed(far, shop)
    recorded(far, identity, result["result"])


def told(site, identity):
    return site.api(site["alpha"], "GET", f"/migrations/{identity}")[1]


def test_cut_after_the_commit_by_ssh(far, shop):
    """ssh is run again, and the far half goes on by its record."""
    far.hold("beta", "target-resume")
    identity = far.migrating("alpha", "lxc/shop", FAR)
    assert far.wait_phase("beta", identity, "resume")
    far["beta"].cut()
    eventually(lambda: not far.pid_of(far["beta"], "phaul-session"), 90, "the target's session")
    assert not far.runs("alpha", "shop")
    assert far.api(far["alpha"], "GET", f"/migrations/{identity}")[1]["state"] == "committed"
    # It says why it does not get on.
    eventually(lambda: any("cannot reach beta" in line for line in told(far, identity)["log"]), 60, "the reason")
    far["beta"].heal()
    assert far.result("alpha", identity)["result"] == "done"
    went(far, shop)


@pytest.mark.skipif(not FULL, reason="make test-full")
def test_nobody_answers_after_the_commit(far):
    """It is waited for, by who ordered it too, unless that one goes away; and it goes on when the other host is back."""
    alpha = far["alpha"]
    far.redis("alpha", "shop", IP)
    far.hold("beta", "target-resume")
    ordered = alpha.popen("phaul", "migrate", "lxc/shop", FAR, stdout=-1, stderr=-1, text=True)
    identity = eventually(lambda: [m["id"] for m in json.loads(alpha.run("phaul", "list", "--json").stdout)
                                   if not m["result"]], what="a migration")[0]
    assert far.wait_phase("beta", identity, "resume")
    far["beta"].cut()
    eventually(lambda: told(far, identity)["state"] == "waiting", 120, "the word that it waits")
    document = told(far, identity)
    assert "has not answered since the commit" in document["reason"] and not document["result"]
    assert not far.runs("alpha", "shop")
    # Who looks at it learns why, and may leave it alone.
    alpha.run("rm", "-f", "/tmp/watched")
    alpha.spawn("/tmp/watched", "sh", "-c", f"phaul watch {identity}; echo exit $?")
    for words, signal in (("\nwaiting\n", "INT"), ("too late", "INT"), ("left alone", "0")):
        said = eventually(lambda: (text := alpha.run("cat", "/tmp/watched").stdout) and words in text and text, what=words)  # noqa: B023
        alpha.run("pkill", f"-{signal}", "-f", f"^phaul watch {identity}", check=signal != "0")
    assert "has not answered since the commit" in said
    eventually(lambda: "exit 130" in alpha.run("cat", "/tmp/watched").stdout, what="its exit")
    assert ordered.poll() is None
    far.let_go()
    far["beta"].heal()
    out, err = ordered.communicate(timeout=120)
    assert ordered.returncode == 0 and out.startswith("migrated lxc/shop alpha -> beta"), (out, err)
    assert "\nwaiting\n" in err
    assert far.runs("beta", "shop")


@pytest.mark.skipif(not FULL, reason="make test-full")
def test_the_far_half_is_killed(far, shop):
    """All of it at once, after the commit: the next one that ssh starts goes on by the record."""
    far.hold("beta", "target-resume")
    identity = far.migrating("alpha", "lxc/shop", FAR)
    assert far.wait_phase("beta", identity, "resume")
    for program in ("phauld", "phaul-session", "phaul"):
        far.kill(far["beta"], program)
    far.let_go()
    assert far.result("alpha", identity)["result"] == "done"
    went(far, shop)


def serving(site, identity):
    """It runs on beta; memory that it needs is on alpha."""
    for host in ("alpha", "beta"):
        assert site.wait_phase(host, identity, "fill"), host
    assert not site.runs("alpha", "shop") and told(site, identity)["state"] == "serving", told(site, identity)


def test_postcopy_by_ssh(far, shop):
    """All over one tunnel; cut in the middle, ssh is run again and the pages that are missing come by that."""
    far.hold("beta", "target-pull")
    identity = far.migrating("alpha", "lxc/shop", FAR, "--postcopy", "--tracker", "none")
    serving(far, identity)
    far["beta"].cut()
    eventually(lambda: told(far, identity)["state"] == "stalled", 90, "that it says so")
    far["beta"].heal()
    far.let_go()
    assert far.result("alpha", identity)["result"] == "done"
    assert report_of(far, "alpha", identity)["postcopy"]["left_bytes"] > 4 << 20
    went(far, shop)
    recorded(far, identity, "done")


def refused(site, words, code, target=FAR):
    done = site["alpha"].run("phaul", "migrate", "lxc/shop", target, check=False)
    assert done.returncode == code and words in done.stderr, done
    assert site.runs("alpha", "shop")


@contextlib.contextmanager
def without(host, path):
    host.run("mv", path, f"{path}.away")
    try:
        yield
    finally:
        host.run("mv", f"{path}.away", path)


def test_what_ssh_says_no_to(far):
    alpha, beta = far["alpha"], far["beta"]
    far.redis("alpha", "shop", IP)
    refused(far, "cannot connect to beta by ssh", 1, "ssh://root@beta:2222")
    with without(alpha, "/root/.ssh/known_hosts"):
        refused(far, "does not believe the key of beta", 5)
    with without(beta, "/root/.ssh/authorized_keys"):
        refused(far, "does not let us in", 5)
    with without(beta, "/usr/bin/phaul"):
        refused(far, "phaul is not installed on beta", 3)
        beta.run("sh", "-c", "printf '#!/bin/sh\\necho phaul: there is no verb >&2; exit 2\\n' > /usr/bin/phaul; chmod 755 /usr/bin/phaul")
        refused(far, "a version that does not know `receive`", 3)
        beta.run("sh", "-c", "printf '#!/bin/sh\\necho Welcome to this machine\\n' > /usr/bin/phaul")
        refused(far, "is not phaul: it begins with 'Welcome to this", 3)
    with without(alpha, "/usr/bin/ssh"):
        refused(far, "ssh is not installed on alpha", 3)
    refused(far, "is not ssh://", 2, "ssh://-oProxyCommand=id")
    # Nothing of that has left a trace. And a phauld that runs there is the one that receives.
    far.start(beta)
    pid = far.pid_of(beta, "phauld")
    report = far.migrate("alpha", "lxc/shop", FAR)
    assert far.pid_of(beta, "phauld") == pid and report["id"] in beta.run("phaul", "list").stdout
    far.kill(beta, "phauld")


def test_over_descriptors(far, shop):
    bridge = Bridge()
    far_half = bridge.start(far["beta"], bridge.far, "receive")
    near_half = bridge.start(far["alpha"], bridge.near, "migrate", "lxc/shop", "--json")
    out, err = near_half.communicate(timeout=120)
    assert near_half.returncode == 0, err
    assert far_half.wait(60) == 0, far_half.stderr.read()
    went(far, shop)
    recorded(far, json.loads(out)["id"], "done")


@pytest.mark.skipif(not FULL, reason="make test-full")
def test_descriptors_cut_before_the_commit(far, shop):
    bridge = Bridge()
    far.hold("alpha", "source-state")
    bridge.start(far["beta"], bridge.far, "receive")
    near_half = bridge.start(far["alpha"], bridge.near, "migrate", "lxc/shop", "--detach")
    identity = near_half.communicate(timeout=60)[0].strip()
    assert far.wait_phase("alpha", identity, "state")
    early = Bridge()
    done = early.start(far["alpha"], early.near, "reconnect", identity)
    assert done.wait(30) == 3 and "is under way" in done.stderr.read()
    early.cut()
    bridge.cut()
    result = far.result("alpha", identity)
    assert result["result"] == "failed" and result["owner"] == "source", result
    stayed(far, shop)


@pytest.mark.parametrize("committed", [False, True])
def test_descriptors_cut_when_a_copy_is_held(far, shop, committed):
    """Lost is the word that would end it: nothing runs twice, it is said, and new descriptors end it."""
    bridge = Bridge()
    far.hold(*("beta", "target-resume") if committed else ("alpha", "source-restore"))
    bridge.start(far["beta"], bridge.far, "receive")
    near_half = bridge.start(far["alpha"], bridge.near, "migrate", "lxc/shop")
    identity = eventually(lambda: [m["id"] for m in json.loads(far["alpha"].run("phaul", "list", "--json").stdout)
                                   if not m["result"]], what="a migration")[0]
    assert far.wait_phase("beta", identity, "resume" if committed else "commit")
    if committed:
        bridge.cut()
    else:
        bridge.pause()
        assert far["alpha"].run("phaul", "cancel", identity).returncode == 0
    out, err = near_half.communicate(timeout=120)
    if committed:
        assert near_half.returncode == 8 and "phaul reconnect" in err and identity in err, (out, err)
        assert not far.runs("alpha", "shop")
        far.let_go()
        eventually(lambda: far.runs("beta", "shop"), what="the copy")
    else:
        assert near_half.returncode == 6, (out, err)
        bridge.cut()
        far.let_go()
        assert far.runs("alpha", "shop") and far.pid_of(far["beta"], "phaul-hold")
    again = Bridge()
    again.start(far["beta"], again.far, "receive")
    done = again.start(far["alpha"], again.near, "reconnect", identity)
    assert done.wait(30) == 0, done.stderr.read()
    if committed:
        eventually(lambda: far.result("alpha", identity)["result"] == "done", what="the end")
        went(far, shop)
    else:
        stayed(far, shop)
    again.cut()


def test_descriptors_cut_while_pages_are_missing(far, shop):
    """Post-copy: it stalls, and goes on over new ones."""
    bridge, again = Bridge(), Bridge()
    far.hold("beta", "target-pull")
    bridge.start(far["beta"], bridge.far, "receive")
    bridge.start(far["alpha"], bridge.near, "migrate", "lxc/shop", "--postcopy", "--tracker", "none")
    identity = eventually(lambda: [m["id"] for m in json.loads(far["alpha"].run("phaul", "list", "--json").stdout)
                                   if not m["result"]], what="a migration")[0]
    serving(far, identity)
    bridge.cut()
    eventually(lambda: told(far, identity)["state"] == "stalled", 60, "that it says so")
    assert f"phaul reconnect {identity}" in told(far, identity)["reason"]
    again.start(far["beta"], again.far, "receive")
    done = again.start(far["alpha"], again.near, "reconnect", identity)
    assert done.wait(30) == 0, done.stderr.read()
    far.let_go()
    assert far.result("alpha", identity)["result"] == "done"
    went(far, shop)
    again.cut()


def test_descriptors_that_lead_nowhere(far, shop):
    """Nobody has noticed that nothing gets through any more: the new ones take their place."""
    bridge, again = Bridge(), Bridge()
    far.hold("beta", "target-resume")
    bridge.start(far["beta"], bridge.far, "receive")
    bridge.start(far["alpha"], bridge.near, "migrate", "lxc/shop")
    identity = eventually(lambda: [m["id"] for m in json.loads(far["alpha"].run("phaul", "list", "--json").stdout)
                                   if not m["result"]], what="a migration")[0]
    assert far.wait_phase("beta", identity, "resume")
    bridge.pause()
    again.start(far["beta"], again.far, "receive")
    done = again.start(far["alpha"], again.near, "reconnect", identity)
    assert done.wait(30) == 0, done.stderr.read()
    far.let_go()
    eventually(lambda: far.result("alpha", identity)["result"] == "done", what="the end")
    went(far, shop)
    bridge.cut()
    again.cut()


def test_descriptors_that_are_none(far):
    alpha = far["alpha"]
    bridge, one = Bridge(), socket.socketpair()[0]
    with open("/dev/null", encoding="ascii") as null, socket.socket() as alone:
        alone.bind(("127.0.0.1", 0))
        alone.listen()
        for first, second, words in ((one, None, "belong together"), (one, one, "the same descriptor"),
                                     (null, one, "neither a connected stream socket"), (alone, one, "not a connected stream"),
                                     (9999, one, "not open"), (1, one, "not a number from 3")):
            numbers = [s if isinstance(s, int) else s.fileno() for s in (first, second) if s is not None]
            options = [word for pair in zip(("--fd-control", "--fd-data"), map(str, numbers)) for word in pair]
            done = alpha.run("phaul", "migrate", "lxc/shop", *options, check=False, pass_fds=[n for n in set(numbers) if 2 < n < 9999])
            assert done.returncode == 2 and words in done.stderr, (words, done)
    # Exchanged at one end.
    bridge.far.reverse()
    bridge.start(far["beta"], bridge.far, "receive")
    far.redis("alpha", "shop", IP)
    near_half = bridge.start(alpha, bridge.near, "migrate", "lxc/shop")
    out, err = near_half.communicate(timeout=60)
    assert near_half.returncode == 3 and "control and data are exchanged" in err, (out, err)
    assert far.runs("alpha", "shop")
