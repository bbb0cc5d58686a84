# SPDX-License-Identifier: LGPL-2.1-or-later
"""Containers whose ids are mapped (lxc.idmap) move like others, and stay as unprivileged as they were."""

import pytest

from site_under_test import eventually

IP = "10.77.0.20"
FIRST = 100000   # the container's root, outside
REDIS_ID = "/etc/passwd /usr/bin/setpriv /var/lib/redis /root/mine"


def ids(host, root):
    """(mode, user, group, path) of some files and of every process of the container, as the host has them."""
    files = host.run("sh", "-c", f"cd {root} && stat -c '%a %u %g %n' {' '.join('.' + p for p in REDIS_ID.split())}").stdout
    pids = host.run("cat", "/sys/fs/cgroup/freezer/lxc.payload.shop/cgroup.procs").stdout.split()
    processes = [host.run("sh", "-c", f"grep -E '^(Uid|Gid|Groups|CapEff|Name):' /proc/{pid}/status; "
                          f"cat /proc/{pid}/uid_map /proc/{pid}/gid_map").stdout for pid in pids]
    return files, processes


@pytest.fixture(params=["dir", "overlay"])
def shop(site, request):
    """An unprivileged Redis with a file of its own user, and where its root file system is on either host."""
    site.redis("alpha", "shop", IP, idmap=FIRST, backing=request.param)
    site["alpha"].run("lxc-attach", "-n", "shop", "--", "sh", "-c",
                      "echo mine > /root/mine && chown redis:daemon /root/mine && chmod 4711 /root/mine")
    return site


def seen(site, name):
    """The container's files as its init sees them."""
    host = site[name]
    pid = host.run("sh", "-c", "head -n 1 /sys/fs/cgroup/freezer/lxc.payload.shop/cgroup.procs").stdout.strip()
    return ids(host, f"/proc/{pid}/root")


def test_there_and_back(shop):
    before = seen(shop, "alpha")
    assert f" {FIRST} {FIRST} ./etc/passwd" in before[0] and "4711" in before[0]
    assert all(f"{FIRST}      65536" in text for text in before[1])
    traces = shop.traces("beta")
    counting = shop.counting(IP)
    shop.migrate("alpha", "lxc/shop", "beta")
    assert seen(shop, "beta") == before
    assert shop.state("alpha", "shop") is None and shop.runs("beta", "shop")
    # Its cable was brought over from where CRIU made it, and nothing else of that is left.
    assert len(set(shop.traces("beta")["interfaces"]) - set(traces["interfaces"])) == 1
    shop.migrate("beta", "lxc/shop", "alpha")
    shop.finish(counting, IP)
    assert seen(shop, "alpha") == before


def test_every_lxc_tool_works_afterwards(shop):
    shop.migrate("alpha", "lxc/shop", "beta")
    beta = shop["beta"]
    assert beta.run("lxc-attach", "-n", "shop", "--", "sh", "-c", "id -u; cat /root/mine").stdout.split() == ["0", "mine"]
    beta.run("lxc-attach", "-n", "shop", "--", "touch", "/root/written-here")
    beta.run("lxc-stop", "-k", "-n", "shop")
    eventually(lambda: shop.state("beta", "shop") == "STOPPED", what="the end")
    beta.run("lxc-start", "-n", "shop")
    eventually(lambda: "PONG" in shop.client.run("redis-cli", "-h", IP, "ping", check=False).stdout, what="Redis anew")
    assert "written-here" in beta.run("lxc-attach", "-n", "shop", "--", "ls", "/root").stdout


def test_ranges_that_the_target_does_not_hand_out(site):
    """Where shadow hands out ranges, liblxc insists that root has them."""
    site["alpha"].container("shop", ["counter", "/root/n"], idmap=FIRST)
    beta = site["beta"]
    beta.run("sh", "-c", "for p in newuidmap newgidmap; do install -m 4755 /bin/true /usr/local/bin/$p; done; "
             "for f in subuid subgid; do echo 'root:200000:65536' > /etc/$f; done")
    try:
        done = site["alpha"].run("phaul", "migrate", "lxc/shop", "beta", check=False)
        assert done.returncode == 3 and "root:100000:65536" in done.stderr and "/etc/subuid" in done.stderr, done.stderr
        beta.run("sh", "-c", "echo 'root:100000:65536' >> /etc/subuid")
        done = site["alpha"].run("phaul", "check", "lxc/shop", "beta", check=False)
        assert done.returncode == 3 and "/etc/subgid" in done.stdout, done.stdout
        beta.run("sh", "-c", "echo '0:99000:80000' >> /etc/subgid")
        done = site["alpha"].run("phaul", "check", "lxc/shop", "beta", check=False)
        assert done.returncode == 0 and "ids from 100000 on" in done.stdout, done.stdout
    finally:
        beta.run("sh", "-c", "rm -f /usr/local/bin/newuidmap /usr/local/bin/newgidmap /etc/subuid /etc/subgid")
    assert site.runs("alpha", "shop")
