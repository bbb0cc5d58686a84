# SPDX-License-Identifier: LGPL-2.1-or-later
"""The network: names, both families, cutting, healing, slowing."""

import time

import pytest
from simlab import LabError


def ping(host, target, *options):
    return host.run("ping", "-c1", "-W1", *options, target, check=False).returncode == 0


def test_everyone_reaches_everyone_by_name(alpha, beta, client):
    for host in (alpha, beta, client):
        for target in ("alpha", "beta", "client"):
            assert ping(host, target, "-4") and ping(host, target, "-6"), (host.name, target)


def test_nothing_leads_out(alpha):
    assert "default" not in alpha.run("ip", "route").stdout + alpha.run("ip", "-6", "route").stdout


def test_cut_loses_frames_in_silence_and_heal_ends_it(alpha, beta, client, eventually):
    alpha.cut()
    try:
        assert alpha.is_cut()
        assert not ping(alpha, "beta") and not ping(client, "alpha")
        assert ping(client, "beta")
        assert alpha.run("cat", "/sys/class/net/eth0/carrier").stdout == "1\n"
    finally:
        alpha.heal()
    eventually(lambda: ping(client, "alpha"))


def test_slow_limits_both_directions(alpha, beta, eventually):
    def seconds_for(sender, receiver):
        listener = receiver.popen("socat", "-u", "TCP-LISTEN:7000,reuseaddr", "/dev/null")
        eventually(lambda: "7000" in receiver.run("ss", "-ltn").stdout)
        begin = time.monotonic()
        sender.run("sh", "-c", f"head -c 2500000 /dev/zero | socat -u - TCP:{receiver.name}:7000")
        listener.wait(30)
        return time.monotonic() - begin

    alpha.slow("20mbit")
    try:
        assert seconds_for(alpha, beta) > 0.7   # 1 s at 20 Mbit/s
        assert seconds_for(beta, alpha) > 0.7
    finally:
        alpha.slow("none")
    eventually(lambda: seconds_for(alpha, beta) < 0.7)  # which no limit allows, but a busy machine may take longer once


def test_delay_works_or_says_that_this_kernel_cannot(alpha, client):
    try:
        alpha.delay(50)
    except LabError as error:
        pytest.skip(str(error)) if "netem" in str(error) else pytest.fail(str(error))
    begin = time.monotonic()
    assert ping(client, "alpha") and time.monotonic() - begin > 0.09
    alpha.delay(0)
