# SPDX-License-Identifier: LGPL-2.1-or-later
"""`phaul bugreport`: what helps is in it, and no secret, wherever one was put."""

import base64
import json
import re

import pytest

from site_under_test import eventually
from test_hooks import write

IP = "10.77.0.20"
SECRET = "Xyzzy-7413"   # every planted one begins with it
HOOK = "/etc/phaul/hooks.d/90-careless"
CONFIG = "/etc/phaul/conf.d/90-careless.conf"
REPORTS = "/root/reports"
PLANTED = f"""\
# database password: {SECRET}-conf
# postgres://me:{SECRET}-url@db/shop
# -----BEGIN PRIVATE KEY-----
# {SECRET}-pem
# -----END PRIVATE KEY-----
"""


@pytest.fixture
def careless(site):
    """A host whose administrator and workloads leave secrets everywhere, after a migration; also a code on offer."""
    alpha = site["alpha"]
    for host in site.hosts.values():
        host.run("sh", "-c", f"rm -rf {REPORTS}; mkdir -p {REPORTS}")
    write(alpha, HOOK, f"#!/bin/sh\necho 'my token={SECRET}-hook'\necho 'password: {SECRET}-hook' >&2\nexit 1\n", "755")
    write(alpha, CONFIG, PLANTED)
    site.redis("alpha", "shop", IP)
    report = site.migrate("alpha", "lxc/shop", "beta")
    alpha.container("careless", ["counter", f"/root/{SECRET}-argument"], start=False)
    alpha.run("sh", "-c", f"printf '# template: --password {SECRET}-comment\\nlxc.environment = PASS={SECRET}-environment\\n"
              f"lxc.environment = X={SECRET}-environment\\n' >> /var/lib/lxc/careless/config")
    alpha.run("lxc-start", "-n", "careless")
    process = alpha.popen("python3", "-c", "import time; time.sleep(1000)", f"{SECRET}-argument", f"--password={SECRET}-typed",
                          env={"TOKEN": f"{SECRET}-process"})
    alpha.run("sh", "-c", f"mkdir -p /run/careless && mount -t tmpfs 'https://me:{SECRET}-mounted@nas/x' /run/careless")
    code = alpha.run("phaul", "pair", "--offer").stdout.split()[-1]
    yield site, report["id"], code
    process.kill()
    alpha.run("sh", "-c", f"umount /run/careless; rm -rf {HOOK} {CONFIG} {REPORTS} /run/careless")


def members(host, path):
    names = host.run("tar", "-tf", path).stdout.split()
    return {name.partition("/")[2]: host.run("tar", "-xOf", path, name, errors="replace").stdout for name in names}


def keys_of(host):
    """Lines of every private key, in base64, and their bytes."""
    text = host.run("sh", "-c", "cat $(grep -rl 'PRIVATE KEY' /etc/phaul/pki)").stdout
    lines = re.findall(r"^[A-Za-z0-9+/=]{40,}$", text, re.M)
    assert lines
    return lines + [base64.b64decode(lines[0] + "==="[:-len(lines[0]) % 4]).hex()[:32]]


def test_nothing_secret_and_all_that_helps(careless):
    site, identity, code = careless
    alpha = site["alpha"]
    path = alpha.run("sh", "-c", f"cd {REPORTS} && phaul bugreport").stdout.strip()
    assert alpha.run("stat", "-c", "%a %U", f"{REPORTS}/{path}").stdout.split() == ["600", "root"]
    found = members(alpha, f"{REPORTS}/{path}")
    whole = "\n".join(found.values())

    where = [(name, line) for name, text in found.items() for line in text.splitlines()
             if SECRET.lower() in line.lower()]
    assert not where
    for secret in [code, code.replace("-", ""), code.lower(), *keys_of(alpha), "PRIVATE KEY"]:
        assert secret not in whole, secret
    # What was planted was really on its way in.
    assert "my token=[redacted]" in found[f"migrations/{identity[:8]}/log"]
    assert "lxc.environment = [redacted]" in found["lxc/careless/config"]
    assert "https://[redacted]@nas" in found["system/mounts.txt"]
    assert "database password: [redacted]" in "".join(text for name, text in found.items() if "conf.d" in name)

    assert re.search(r"Version: \d", found["versions/criu.txt"]) and "rsync" in found["versions/rsync.txt"]
    assert "$ criu --no-default-config check" in found["kernel/criu-check.txt"]
    assert "CONFIG_" in found["kernel/config.txt"] or "configuration" in found["README.txt"]
    assert json.loads(found["phaul/hosts.json"])[0]["name"] == "beta"
    assert {w["id"] for w in json.loads(found["phaul/ps.json"])["workloads"]} == {"careless"}
    assert identity in found["phaul/list.json"] and "COMMIT" in found[f"migrations/{identity[:8]}/record"]
    assert json.loads(found[f"migrations/{identity[:8]}/report.json"])["result"] == "done"
    assert "lxc.payload.careless" in found["system/cgroups.txt"]


def test_without_phauld_and_to_any_place(site):
    beta = site["beta"]
    beta.run("sh", "-c", f"rm -rf {REPORTS}; mkdir -p {REPORTS}")
    try:
        site.kill(beta, "phauld")
        eventually(lambda: not site.pid_of(beta, "phauld"), what="the end of phauld")
        done = beta.run("sh", "-c", f"phaul bugreport --output - > {REPORTS}/out.tar")
        assert "phauld does not answer" in done.stderr and done.stdout == ""
        assert "does not answer" in members(beta, f"{REPORTS}/out.tar")["versions/phaul.txt"]
        # A file that is there might be anybody's: it is left alone.
        again = beta.run("phaul", "bugreport", "--output", f"{REPORTS}/out.tar", check=False)
        assert again.returncode == 1 and "exists" in again.stderr
        named = json.loads(beta.run("phaul", "bugreport", "--json", "--output", f"{REPORTS}/named.tar").stdout)
        assert named == {"path": f"{REPORTS}/named.tar"}
        full = beta.run("phaul", "bugreport", "--output", "-", check=False, stdout=open("/dev/full", "wb"))
        assert full.returncode == 1 and "cannot write the report" in full.stderr
    finally:
        site.start(beta)
        beta.run("rm", "-rf", REPORTS)
