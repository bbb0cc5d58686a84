# SPDX-License-Identifier: LGPL-2.1-or-later
"""Only a paired host gets anywhere, and garbage is dropped."""

import json
import re

import pytest

from site_under_test import SOCKET, eventually

PORT = 12345


def hosts(site, host):
    return site[host].run("phaul", "hosts").stdout


def test_paired_hosts_see_each_other(site):
    assert "beta" in hosts(site, "alpha") and "alpha" in hosts(site, "beta")


def test_a_code_is_good_once(site):
    code = site["beta"].run("phaul", "pair", "--offer").stdout.split()[-1]
    assert len(code.replace("-", "")) * 5 >= 100
    wrong = "0" * len(code)
    done = site["alpha"].run("phaul", "pair", "beta:12345", "--name", "beta", "--code-file", "-", input=wrong, check=False)
    assert done.returncode in (1, 2, 5), done.stderr
    done = site["alpha"].run("phaul", "pair", "beta:12345", "--name", "beta", "--code-file", "-", input=code, check=False)
    assert done.returncode == 0, done.stderr
    done = site["alpha"].run("phaul", "pair", "beta:12345", "--name", "beta", "--code-file", "-", input=code, check=False)
    assert done.returncode != 0


@pytest.mark.parametrize("forgetful", ["alpha", "beta"])
def test_unpaired_gets_nowhere_until_paired_again(site, forgetful):
    site.redis("alpha", "shop", "10.77.0.20")
    other = "beta" if forgetful == "alpha" else "alpha"
    site[forgetful].run("phaul", "unpair", other)
    done = site.migrate("alpha", "lxc/shop", "beta", check=False)
    assert done.returncode in (1, 4, 5), done.stderr
    assert "pair" in done.stdout + done.stderr, done.stderr
    assert site.state("alpha", "shop") == "RUNNING"
    site.pair("alpha", "beta")
    site.migrate("alpha", "lxc/shop", "beta")


def test_expired_peer_gets_nowhere(site):
    """beta's authority as alpha knows it has expired: neither side talks to the other."""
    alpha, beta = site["alpha"], site["beta"]
    known = "/etc/phaul/peers/beta.json"
    kept = alpha.run("cat", known).stdout
    expired = beta.run("openssl", "x509", "-in", "/etc/phaul/pki/ca.crt", "-signkey", "/etc/phaul/pki/ca.key", "-not_before",
                       "20200101000000Z", "-not_after", "20210101000000Z", "-extfile", "/dev/stdin", "-extensions", "v3",
                       input="[v3]\nbasicConstraints=critical,CA:TRUE\n").stdout
    for host in ("alpha", "beta"):
        site[host].container(f"on-{host}", ["counter", "/root/n"])
    alpha.run("sh", "-c", f"cat > {known}", input=json.dumps({**json.loads(kept), "certificate": expired}))
    site.restart(alpha)
    try:
        assert "expired" in alpha.run("phaul", "hosts").stdout
        for source, target in (("alpha", "beta"), ("beta", "alpha")):
            done = site.migrate(source, f"lxc/on-{source}", target, check=False)
            assert done.returncode == 5 and re.search("not one of a paired host|does not know this host", done.stdout), done
            assert site.state(source, f"on-{source}") == "RUNNING"
    finally:
        alpha.run("sh", "-c", f"cat > {known}", input=kept)
        site.restart(alpha)
    site.migrate("alpha", "lxc/on-alpha", "beta")


@pytest.mark.parametrize("what", ["garbage", "http", "nothing", "tls"])
def test_strangers_are_dropped(site, what):
    send = {"garbage": "head -c 100000 /dev/urandom; sleep 1", "http": "printf 'GET / HTTP/1.0\\r\\n\\r\\n'; sleep 1",
            "nothing": "sleep 14", "tls": None}[what]
    before = site.pid_of(site["beta"], "phaul-net")
    if send:
        site.client.run("timeout", "20", "sh", "-c", f"({send}) | socat -t1 - TCP:10.77.0.12:{PORT}", check=False)
    else:
        done = site.client.run("timeout", "10", "sh", "-c", f"echo | openssl s_client -connect 10.77.0.12:{PORT} -tls1_3 2>&1; "
                               f"echo | openssl s_client -connect 10.77.0.12:{PORT} -tls1_2 2>&1", check=False)
        assert "alert" in done.stdout, done.stdout
    eventually(lambda: len(site.pid_of(site["beta"], "phaul-net")) <= len(before), 60, "the end of phaul-net")
    assert site.api(site["beta"], "GET", "/host")[0] == 200


def test_many_strangers_do_not_keep_a_paired_host_out(site):
    crowd = site.client.popen("timeout", "15", "sh", "-c",
                              f"for i in $(seq 60); do (sleep 12 | socat - TCP:10.77.0.12:{PORT}) & done; wait")
    site.redis("alpha", "shop", "10.77.0.20")
    eventually(lambda: site.migrate("alpha", "lxc/shop", "beta", check=False).returncode == 0, 60, "a migration")
    crowd.wait()


def test_only_root_and_the_group_may_ask(site):
    done = site["alpha"].run("setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups", "phaul", "list", check=False)
    assert done.returncode in (1, 5), done.stderr
    mode = site["alpha"].run("stat", "-c", "%a %U", SOCKET).stdout.split()
    assert mode == ["660", "root"]


def test_secrets_are_roots_alone(site):
    listing = site["alpha"].run("find", "/etc/phaul/pki", "/var/lib/phaul", "-perm", "/077", "-name", "*.key").stdout
    assert listing == ""
    assert site["alpha"].run("stat", "-c", "%a", "/var/lib/phaul").stdout.strip() == "700"
