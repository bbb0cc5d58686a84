# SPDX-License-Identifier: LGPL-2.1-or-later
"""The main job: a container with a live service moves, and its client notices nothing but a short pause."""

import contextlib
import json

import pytest

from site_under_test import PROGRAMS, eventually

IP = "10.77.0.20"


def test_redis_moves_with_its_client(site):
    site.redis("alpha", "shop", IP)
    before = site.traces("beta")
    counting = site.counting(IP)
    report = site.migrate("alpha", "lxc/shop", "beta")
    result = site.finish(counting, IP)

    assert report["result"] == "done" and report["owner"] == "target"
    assert report["source"] == "alpha" and report["target"] == "beta"
    assert report["downtime_ms"] > 0 and result["max_gap_ms"] > 0
    assert site.state("beta", "shop") == "RUNNING" and site.state("alpha", "shop") is None
    # Nothing but the container came to be on the target.
    eventually(lambda: site.traces("beta")["programs"] != [""] and
               not any("criu" in p or "rsync" in p for p in site.traces("beta")["programs"]))
    # Images go with the end of the fill, which the source does not wait for.
    more = lambda: set(site.traces("beta")["mounts"]) ^ set(before["mounts"])  # noqa: E731
    with contextlib.suppress(AssertionError):
        eventually(lambda: not more(), what="the mounts that were there before")
    assert not more()


@pytest.mark.parametrize("backing", ["dir", "overlay"])
def test_both_backings_and_both_address_families(site, backing):
    site["alpha"].container("echo", ["echo-server", "7007"], ip="10.77.0.31/24", ip6="fd77::31/64", backing=backing)
    clients = {}
    for address in ("10.77.0.31", "fd77::31"):
        eventually(lambda: site.client.run("ping", "-c1", "-W1", address, check=False).returncode == 0)
        # Its network is there before its program listens.
        eventually(lambda: site.client.run(f"{PROGRAMS}/echo-client", address, "7007", "--seconds", "0",
                                           check=False).returncode == 0)
        clients[address] = site.client.popen(f"{PROGRAMS}/echo-client", address, "7007", "--seconds", "120",
                                             "--grace-s", "50", stdout=-1, text=True)  # TCP may wait long to send again
    site.migrate("alpha", "lxc/echo", "beta")
    site.client.run("pkill", "-TERM", "-x", "echo-client")
    for address, client in clients.items():
        result = json.loads(client.communicate(timeout=60)[0].splitlines()[-1])
        assert result["connection"] == "kept" and result["lost"] == 0, (address, result)
    assert site.state("beta", "echo") == "RUNNING"


def test_every_lxc_tool_knows_the_restored_container(site):
    site.redis("alpha", "shop", IP)
    site.migrate("alpha", "lxc/shop", "beta")
    beta = site["beta"]
    assert "shop" in beta.run("lxc-ls", "-1").stdout.split()
    assert "shop" in beta.run("lxc-ls", "-1", "--running").stdout.split()
    assert beta.run("lxc-attach", "-n", "shop", "--", "hostname").stdout.strip() == "shop"
    assert beta.run("lxc-cgroup", "-n", "shop", "freezer.state").stdout.strip() == "THAWED"
    beta.run("lxc-freeze", "-n", "shop")
    assert site.state("beta", "shop") == "FROZEN"
    beta.run("lxc-unfreeze", "-n", "shop")
    beta.run("lxc-stop", "-k", "-n", "shop")
    assert site.state("beta", "shop") == "STOPPED"
    beta.run("lxc-start", "-n", "shop")
    eventually(lambda: "PONG" in site.client.run("redis-cli", "-h", IP, "ping", check=False).stdout)


def test_another_name_on_the_target(site):
    site.redis("alpha", "shop", IP)
    counting = site.counting(IP)
    site.migrate("alpha", "lxc/shop", "beta", "--dst-id", "market")
    site.finish(counting, IP)
    assert site.state("beta", "market") == "RUNNING" and site.state("beta", "shop") is None


def test_the_source_keeps_what_it_was_until_forgotten(site):
    site.redis("alpha", "shop", IP)
    alpha = site["alpha"]
    alpha.run("sh", "-c", "echo lxc.start.auto = 1 >> /var/lib/lxc/shop/config")
    report = site.migrate("alpha", "lxc/shop", "beta")
    released = f"/var/lib/phaul/released/{report['id']}"
    assert "shop" not in alpha.run("lxc-ls", "-1").stdout.split()
    assert "shop" not in alpha.run("lxc-autostart", "-L").stdout
    assert alpha.run("find", f"{released}/", "-name", "redis-server").stdout
    alpha.run("phaul", "forget", report["id"])
    assert alpha.run("test", "-e", released, check=False).returncode == 1


def test_files_arrive_as_they_were(site):
    """Hard links, holes, xattrs, ACLs, mmap writers and writers that restore mtimes: the tree checks itself, frozen or not."""
    status = "/var/lib/lxc/tree/rootfs/root/status"
    site["alpha"].container("tree", ["manyfiles", "/root/tree", "--files", "3000", "--rate", "200", "--status", "/root/status"],
                            ip="10.77.0.40/24")
    eventually(lambda: site["alpha"].run("cat", status, check=False).stdout.strip(), 60)
    site.migrate("alpha", "lxc/tree", "beta")
    init = site["beta"].run("lxc-info", "-p", "-H", "-n", "tree").stdout.strip()
    site["beta"].run("kill", "-USR1", init)
    line = eventually(lambda: "verified" in (text := site["beta"].run("cat", status).stdout) and text, 30)
    assert ", 0 errors" in line, line


def test_ten_migrations_back_and_forth_under_load(site):
    site.redis("alpha", "shop", IP)
    counting = site.counting(IP, 600)
    hosts = ["alpha", "beta"]
    for n in range(10):
        here, there = hosts[n % 2], hosts[1 - n % 2]
        site.migrate(here, "lxc/shop", there)
        assert site.state(there, "shop") == "RUNNING" and site.state(here, "shop") is None
        acked = int(site.client.run("cat", f"/tmp/incr-{IP}").stdout)
        assert int(site.client.run("redis-cli", "-h", IP, "get", "acknowledged").stdout) >= acked
    site.finish(counting, IP)


def test_three_containers_at_once(site):
    addresses = {f"c{n}": f"10.77.0.{50 + n}" for n in range(3)}
    for name, ip in addresses.items():
        site.redis("alpha", name, ip)
    clients = {name: site.counting(ip, 300) for name, ip in addresses.items()}
    ids = [site.migrating("alpha", f"lxc/{name}", "beta") for name in addresses]
    for identity in ids:
        assert site.result("alpha", identity, 240)["result"] == "done"
    for name, ip in addresses.items():
        site.finish(clients[name], ip)
        assert site.state("beta", name) == "RUNNING"


def test_memory_arrives_right(site):
    """A writer that checks its own memory all the time finds no wrong byte."""
    site["alpha"].container("memory", ["memwriter", "--mib", "96", "--rate", "20", "--status", "/root/status"], ip="10.77.0.60/24")
    status = "/var/lib/lxc/memory/rootfs/root/status"
    eventually(lambda: site["alpha"].run("cat", status, check=False).stdout.strip())
    site.migrate("alpha", "lxc/memory", "beta")
    before = site["beta"].run("cat", status).stdout
    eventually(lambda: site["beta"].run("cat", status).stdout != before, 30)
    assert site.state("beta", "memory") == "RUNNING"
