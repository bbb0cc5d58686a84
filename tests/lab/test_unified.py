# SPDX-License-Identifier: LGPL-2.1-or-later
"""The layout of a machine with cgroup v2 alone, tried wherever a v2 tree is mounted, be it beside v1."""

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


def test_lxc_moves_a_container(unified, tmp_path, eventually):
    alpha, beta, client = unified["alpha"], unified["beta"], unified.client
    tree = "/sys/fs/cgroup"
    assert alpha.run("stat", "-f", "-c", "%T", tree).stdout == "cgroup2fs\n"
    assert "0::/\n" in alpha.run("cat", "/proc/self/cgroup").stdout
    alpha.redis("shop", ip="10.77.0.20/24")
    eventually(lambda: "PONG" in client.run("redis-cli", "-h", "10.77.0.20", "ping", check=False).stdout)
    client.run("redis-cli", "-h", "10.77.0.20", "set", "where", "anywhere")
    move(alpha, beta, "shop", tmp_path)
    assert client.run("redis-cli", "-h", "10.77.0.20", "get", "where").stdout == "anywhere\n"
    assert beta.run("sh", "-c", f"cat {tree}/lxc.payload.shop/cgroup.procs").stdout
