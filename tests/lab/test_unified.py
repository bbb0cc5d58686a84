# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layout of a machine with cgroup v2 alone, tried wherever a v2 tree is mounted, be it beside v1."""

from pathlib import Path

import pytest
from moving import move
from simlab import Lab, cgroup


@pytest.fixture
def unified(monkeypatch):
    """Two hosts made as if this machine had no v1 hierarchy."""
    only = [tree for tree in cgroup.hierarchies() if tree.unified]
    if not only:
        pytest.skip("no cgroup v2 tree is mounted on this machine")
    monkeypatch.setattr(cgroup, "hierarchies", lambda: only)
    with Lab("test-v2").up(2) as lab:
        yield lab
    assert cgroup.hosts_with_groups("test-v2") == []


@pytest.fixture
def shop(unified, eventually):
    """A container with Redis on alpha that answers."""
    unified["alpha"].redis("shop", ip="10.77.0.20/24")
    eventually(lambda: "PONG" in unified.client.run("redis-cli", "-h", "10.77.0.20", "ping", check=False).stdout)
    return unified


def test_a_host_has_the_v2_tree_alone(shop):
    alpha = shop["alpha"]
    assert alpha.run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").stdout == "cgroup2fs\n"
    assert "0::/\n" in alpha.run("cat", "/proc/self/cgroup").stdout
    init = alpha.run("lxc-info", "-n", "shop", "-pH").stdout.strip()
    assert "0::/lxc.payload.shop\n" in alpha.run("cat", f"/proc/{init}/cgroup").stdout
    assert init in alpha.run("cat", "/sys/fs/cgroup/lxc.payload.shop/cgroup.procs").stdout.split()


def test_lxc_moves_a_container(shop, tmp_path):
    # CRIU looks for the one path that LXC names in every hierarchy that a task is in, whether or not it is mounted.
    if len(Path("/proc/self/cgroup").read_text().splitlines()) > 1:
        pytest.skip("this kernel has v1 hierarchies as well, in which CRIU does not find what LXC has in v2 alone")
    client = shop.client
    client.run("redis-cli", "-h", "10.77.0.20", "set", "where", "anywhere")
    move(shop["alpha"], shop["beta"], "shop", tmp_path)
    assert client.run("redis-cli", "-h", "10.77.0.20", "get", "where").stdout == "anywhere\n"
    assert shop["beta"].run("cat", "/sys/fs/cgroup/lxc.payload.shop/cgroup.procs").stdout
