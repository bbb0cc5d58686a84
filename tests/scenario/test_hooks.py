# SPDX-License-Identifier: LGPL-2.1-or-later
"""What is done around the switchover: hooks, virtual addresses of ucarp and keepalived, announcements on the wire."""

import contextlib
import json
import socket
import struct
import subprocess
import threading
import time

import pytest

from site_under_test import eventually
from simlab import link  # found through site_under_test
from wire import inside

IP, IP6 = "10.77.0.20", "fd77::20"
HOOKS = "/etc/phaul/hooks.d"
NOTES = "/root/notes"


def write(host, path, text, mode="644"):
    host.run("sh", "-c", 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"', "write", path, mode, input=text)


def notes(host):
    """The environments that the hook has seen, as dictionaries."""
    lines = host.run("cat", NOTES, check=False).stdout.splitlines()
    return [dict(word.split("=", 1) for word in line.split("|") if word) for line in lines]


def log_of(site, host, identity):
    return "\n".join(site.api(site[host], "GET", f"/migrations/{identity}")[1].get("log", []))


@pytest.fixture
def shop(site):
    """A Redis with both kinds of addresses, and on both hosts a hook that writes down what it is told."""
    def sweep():
        for host in site.hosts.values():
            host.run("rm", "-rf", HOOKS, NOTES, "/root/ran")
    sweep()
    for host in site.hosts.values():
        write(host, f"{HOOKS}/50-note", f"#!/bin/sh\nenv | grep ^PHAUL_ | sort | tr '\\n' '|' >> {NOTES}\necho >> {NOTES}\n", "755")
    site.redis("alpha", "shop", IP, ip6=f"{IP6}/64")
    # A fresh address is tentative for a second, and such a one is nobody's to announce.
    eventually(lambda: site.client.run("ping", "-c1", "-W1", IP6, check=False).returncode == 0, what="the IPv6 address")
    yield site
    sweep()


def test_leaving_and_arrived(shop):
    report = shop.migrate("alpha", "lxc/shop", "beta", "--dst-id", "store")
    same = {"PHAUL_ID": report["id"], "PHAUL_KIND": "lxc"}
    (left,) = notes(shop["alpha"])
    (arrived,) = eventually(lambda: notes(shop["beta"]), what="the hook on beta")
    assert set(left.pop("PHAUL_ADDRESSES").split()) == {f"{IP}/24", f"{IP6}/64"}
    assert set(arrived.pop("PHAUL_ADDRESSES").split()) == {f"{IP}/24", f"{IP6}/64"}
    assert left == {**same, "PHAUL_EVENT": "leaving", "PHAUL_SIDE": "source", "PHAUL_NAME": "shop", "PHAUL_PEER": "beta"}
    assert arrived == {**same, "PHAUL_EVENT": "arrived", "PHAUL_SIDE": "target", "PHAUL_NAME": "store", "PHAUL_PEER": "alpha"}


def test_stayed(shop):
    identity = shop.migrating_held("source", "state")
    assert shop["alpha"].run("phaul", "cancel", identity, check=False).returncode == 0
    shop.let_go()
    assert shop.result("alpha", identity)["result"] == "cancelled"
    (stayed,) = notes(shop["alpha"])
    assert set(stayed.pop("PHAUL_ADDRESSES").split()) == {f"{IP}/24", f"{IP6}/64"}
    assert stayed == {"PHAUL_EVENT": "stayed", "PHAUL_SIDE": "source", "PHAUL_KIND": "lxc", "PHAUL_ID": identity, "PHAUL_NAME": "shop",
                      "PHAUL_PEER": "beta"}
    assert notes(shop["beta"]) == []


def test_hooks_that_do_not_work(shop):
    """One fails, one may be changed by others, one hangs, some are none: the migration goes through and says so."""
    alpha, beta = shop["alpha"], shop["beta"]
    write(alpha, f"{HOOKS}/10-fails", "#!/bin/sh\necho no arms, no cookies >&2\nexit 3\n", "755")
    write(alpha, f"{HOOKS}/20-anybodys", "#!/bin/sh\ntouch /root/ran\n", "757")
    write(alpha, f"{HOOKS}/30-not-a-program", "touch /root/ran\n", "644")
    write(alpha, f"{HOOKS}/40-leftover.dpkg-old", "#!/bin/sh\ntouch /root/ran\n", "755")
    write(beta, f"{HOOKS}/10-hangs", "#!/bin/sh\ntrap '' TERM\nsleep 61\n", "755")
    write(beta, f"{HOOKS}/20-owned", "#!/bin/sh\ntouch /root/ran\n", "755")
    beta.run("chown", "nobody", f"{HOOKS}/20-owned")
    counting = shop.counting(IP)
    report = shop.migrate("alpha", "lxc/shop", "beta")
    shop.finish(counting, IP)
    assert report["result"] == "done" and report["downtime_ms"] < 5000, report
    here = log_of(shop, "alpha", report["id"])
    assert "warning: 2 hooks failed" in here and "10-fails ended with 3: no arms, no cookies" in here, here
    # The one that hangs gets ten seconds; nobody waits for it meanwhile, and the next one is still run.
    eventually(lambda: notes(beta), 40, "the hook after the one that hangs")
    there = eventually(lambda: (lambda text: "hooks failed" in text and text)(log_of(shop, "beta", report["id"])),
                       what="a warning on beta")
    assert "warning: 2 hooks failed" in there and "10-hangs" in there, there
    assert [n["PHAUL_EVENT"] for n in notes(alpha) + notes(beta)] == ["leaving", "arrived"]
    for host in (alpha, beta):
        assert host.run("test", "-e", "/root/ran", check=False).returncode == 1, f"{host.name} ran what it must not run"
        assert host.run("pgrep", "-x", "sleep", "-a", check=False).stdout.count("sleep 61") == 0, "what hung is left"


def test_a_directory_of_others_is_not_trusted(shop):
    shop["alpha"].run("chmod", "777", HOOKS)
    report = shop.migrate("alpha", "lxc/shop", "beta")
    assert notes(shop["alpha"]) == []
    assert f"others than root may write to {HOOKS}" in log_of(shop, "alpha", report["id"])
    eventually(lambda: notes(shop["beta"]), what="the hook on beta")


def test_hooks_elsewhere(shop):
    """[switchover] hooks names another directory."""
    alpha = shop["alpha"]
    with configured(shop, "hooks = /root/hooks"):
        for host in shop.hosts.values():
            host.run("sh", "-c", f"rm -rf /root/hooks; mv {HOOKS} /root/hooks")
        shop.migrate("alpha", "lxc/shop", "beta")
        assert [n["PHAUL_EVENT"] for n in notes(alpha)] == ["leaving"]
        eventually(lambda: notes(shop["beta"]), what="the hook on beta")


# -- virtual addresses


@contextlib.contextmanager
def configured(site, line):
    """Both hosts run with a line of [switchover] in their configuration."""
    for host in site.hosts.values():
        host.run("sh", "-c", "cp -a /etc/phaul/phaul.conf /root/phaul.conf.kept 2>/dev/null; mkdir -p /etc/phaul/conf.d")
        write(host, "/etc/phaul/conf.d/switchover.conf", f"[switchover]\n{line}\n")
        site.restart(host)
    try:
        yield
    finally:
        for host in site.hosts.values():
            host.run("rm", "/etc/phaul/conf.d/switchover.conf")
            site.restart(host)


def holders(site, address):
    """The hosts that have an address at this moment."""
    return [name for name, host in site.hosts.items() if f" {address}/" in host.run("ip", "-o", "addr").stdout]


def test_ucarp_gives_the_address_to_the_target(shop):
    """The real ucarp: it is master where the container is, and steps back when the container leaves."""
    virtual = "10.77.0.77"
    for name, host in shop.hosts.items():
        for what in ("add", "del"):
            write(host, f"/root/{what}", f"#!/bin/sh\nip addr {what} {virtual}/24 dev br0 2>/dev/null\nexit 0\n", "755")
        host.spawn("/var/log/ucarp.log", "ucarp", "-i", "br0", f"--srcip={host.address}", "--vhid=7", "--pass=secret", f"--addr={virtual}",
                   "--upscript=/root/add", "--downscript=/root/del", "--advbase=1", f"--advskew={0 if name == 'alpha' else 50}")
        eventually(lambda: holders(shop, virtual) == ["alpha"], 60, f"ucarp on {name}")
    try:
        with configured(shop, "action = ucarp:br0"):
            # What does not happen changes nothing.
            identity = shop.migrating_held("source", "state")
            shop["alpha"].run("phaul", "cancel", identity)
            shop.let_go()
            shop.result("alpha", identity)
            assert holders(shop, virtual) == ["alpha"]
            report = shop.migrate("alpha", "lxc/shop", "beta")
            eventually(lambda: holders(shop, virtual) == ["beta"], 60, "the virtual address on beta")
            time.sleep(2)
            assert holders(shop, virtual) == ["beta"], "it does not stay there"
            assert "ucarp" not in log_of(shop, "alpha", report["id"]) + log_of(shop, "beta", report["id"])
    finally:
        for host in shop.hosts.values():
            shop.kill(host, "ucarp")
            host.run("ip", "addr", "del", f"{virtual}/24", "dev", "br0", check=False)


def test_an_action_that_finds_nobody_is_a_warning(shop):
    with configured(shop, "action = ucarp:/run/none.pid"):
        report = shop.migrate("alpha", "lxc/shop", "beta")
        assert "warning" in log_of(shop, "alpha", report["id"]) and "/run/none.pid" in log_of(shop, "alpha", report["id"])
        assert [n["PHAUL_EVENT"] for n in notes(shop["alpha"])] == ["leaving"]


KEEPALIVED = """global_defs {
    router_id %(name)s
    script_user root
    vrrp_version 3
}
track_file shop {
    file "/run/phaul/keepalived/shop"
    weight 1
}
vrrp_instance SHOP {
    state BACKUP
    interface br0
    virtual_router_id 51
    priority %(priority)d
    advert_int 0.3
    virtual_ipaddress {
        10.77.0.88/24 dev br0
    }
    track_file {
        shop weight 1
    }
}
"""


def test_keepalived_follows_the_container(shop):
    """The real keepalived: alpha is preferred, until the container has left; back again with it."""
    virtual = "10.77.0.88"
    for name, host in shop.hosts.items():
        write(host, "/root/keepalived.conf", KEEPALIVED % {"name": name, "priority": 150 if name == "alpha" else 100})
        host.spawn("/var/log/keepalived.log", "keepalived", "-n", "-l", "-P", "-f", "/root/keepalived.conf")
    try:
        eventually(lambda: holders(shop, virtual) == ["alpha"], 60, "keepalived")
        with configured(shop, "action = keepalived:shop"):
            shop.migrate("alpha", "lxc/shop", "beta")
            eventually(lambda: holders(shop, virtual) == ["beta"], 60, "the virtual address on beta")
            shop.migrate("beta", "lxc/shop", "alpha")
            eventually(lambda: holders(shop, virtual) == ["alpha"], 60, "the virtual address on alpha")
    finally:
        for host in shop.hosts.values():
            host.run("sh", "-c", "pkill -x keepalived; rm -f /run/phaul/keepalived/shop", check=False)
        eventually(lambda: holders(shop, virtual) == [], 60, "the end of keepalived")


# -- announcements


class Ear:
    """Frames that reach the client, where the switch sends everything for all."""

    def __init__(self, site):
        self.socket = inside(site.client, lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)))
        inside(site.client, lambda: self.socket.bind(("eth0", 0)))
        self.socket.settimeout(0.1)
        self.frames, self.over = [], False
        self.thread = threading.Thread(target=self._listen, daemon=True)
        self.thread.start()

    def _listen(self):
        while not self.over:
            with contextlib.suppress(TimeoutError):
                self.frames.append(self.socket.recv(2048))

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.over = True
        self.thread.join()
        self.socket.close()

    def arp(self, mac):
        """Operations of gratuitous ARP for the container: 1 is a request, 2 an answer."""
        address = socket.inet_aton(IP)
        return [struct.unpack_from(">H", f, 20)[0] for f in list(self.frames)
                if f[:6] == b"\xff" * 6 and f[6:12] == mac and f[12:14] == b"\x08\x06" and f[22:28] == mac
                and f[28:32] == address and f[38:42] == address]

    def advertisements(self, mac):
        """Unsolicited neighbour advertisements for the container: override set, with its address, and a good checksum."""
        address = socket.inet_pton(socket.AF_INET6, IP6)
        return [f for f in list(self.frames)
                if f[6:12] == mac and f[12:14] == b"\x86\xdd" and f[20] == 58 and f[21] == 255 and f[54] == 136
                and f[38:54] == socket.inet_pton(socket.AF_INET6, "ff02::1") and f[62:78] == address
                and f[58] & 0x60 == 0x20 and f[78:80] == b"\x02\x01" and f[80:86] == mac and checksum_holds(f[14:])]


def checksum_holds(packet):
    size, = struct.unpack_from(">H", packet, 4)
    data = packet[8:40] + struct.pack(">II", size, 58) + packet[40:40 + size]
    total = sum(struct.unpack(f">{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xffff) + (total >> 16)
    return total == 0xffff


def hardware_address(site, host):
    words = site[host].run("sh", "-c", "grep -h hwaddr /var/lib/lxc/shop/config").stdout.split()
    return bytes.fromhex(words[-1].replace(":", ""))


def test_announced_after_the_migration(shop):
    mac = hardware_address(shop, "alpha")
    with Ear(shop) as ear:
        shop.migrate("alpha", "lxc/shop", "beta")
        eventually(lambda: ear.arp(mac) and ear.advertisements(mac), 60, "announcements")
        assert set(ear.arp(mac)) == {1, 2}
    # The client's own tables believe it.
    assert shop.client.run("ping", "-c1", "-W2", IP).returncode == 0
    assert shop.client.run("ping", "-c1", "-W2", IP6).returncode == 0
    # And the switch has learned where it is: its port is beta's.
    table = subprocess.run(["bridge", "-n", link.switch_space(shop.lab.name), "-j", "fdb", "show", "br", "sw"], check=True,
                           stdout=subprocess.PIPE).stdout
    ports = json.loads(table)
    assert {p["ifname"] for p in ports if p["mac"] == ":".join(f"{b:02x}" for b in mac)} == {"beta"}


def test_announced_after_an_abort(shop):
    mac = hardware_address(shop, "alpha")
    identity = shop.migrating_held("source", "state")
    with Ear(shop) as ear:
        shop["alpha"].run("phaul", "cancel", identity)
        shop.let_go()
        shop.result("alpha", identity)
        eventually(lambda: ear.arp(mac) and ear.advertisements(mac), 60, "announcements")
