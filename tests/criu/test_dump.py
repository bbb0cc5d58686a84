# SPDX-License-Identifier: LGPL-2.1-or-later
"""Real dumps by src/criu: what arrives can be restored, and whatever goes wrong leaves the workload running."""

import re

import pytest

POINTS = ["pre-dump", "query-ext-files", "post-dump"]


def test_criu_works_here(host):
    assert re.fullmatch(r"[0-9.]+\n", host.run("criu-dump-tool", "usable").stdout)


@pytest.mark.parametrize("mode", ["pages", "slow", "local"])
def test_what_was_dumped_can_be_restored(workload, mode):
    done = workload.dump(mode)
    assert done.returncode == 0, done.stdout
    assert re.findall(r"notify (\S+)", done.stdout) == POINTS
    assert not workload.alive()
    assert f"pagemap-{workload.pid}.img" in workload.files() and "pages-2.img" in workload.files()
    if mode != "local":
        read, written = re.search(r"pages (\d+) read, (\d+) written", done.stdout).groups()
        assert read == written and int(read) > 68 * 256
    workload.restore()
    assert workload.check() == "ok"


@pytest.mark.parametrize("point", POINTS)
def test_a_no_lets_the_tasks_go(workload, point):
    done = workload.dump("refuse", point)
    assert done.returncode == 1
    assert "criu criu dump failed:" in done.stdout and "Error (criu/" in done.stdout
    assert "(00." not in done.stdout
    assert workload.check() == "ok"


@pytest.mark.parametrize("point", POINTS)
def test_death_of_criu_while_it_waits(workload, point):
    done = workload.dump("kill", point)
    assert f"criu was killed by signal 9 while it waited at {point}" in done.stdout
    assert workload.check() == "ok"


@pytest.mark.parametrize("point", POINTS)
def test_death_of_the_session_while_criu_waits(workload, point):
    """CRIU outlives it and finds nobody to answer."""
    assert workload.dump("leave", point).returncode == 3
    assert workload.check() == "ok"


@pytest.mark.parametrize("batches", [1, 10, 40, 70])
def test_death_of_the_session_in_the_middle_of_the_memory(workload, batches):
    assert workload.dump("leave-pages", batches).returncode == 3
    assert workload.check() == "ok"


@pytest.mark.parametrize("batches", [1, 10, 40])
def test_failure_to_take_the_memory(workload, batches):
    done = workload.dump("fail-pages", batches)
    assert "cannot take memory from criu: No space left on device" in done.stdout
    assert "criu criu dump failed:" in done.stdout
    assert workload.check() == "ok"


def test_cancelling_at_any_time(workload):
    """Hanging up, unlike killing, never costs a thread."""
    for milliseconds in [*range(1, 40, 2), 50]:
        done = workload.dump("cancel-after", milliseconds)
        if done.returncode == 0:
            break
        assert "criu criu was cancelled" in done.stdout, done.stdout
        assert workload.check() == "ok"
        workload.host.run("sh", "-c", f"rm -f {workload.images}/*")


def test_a_second_dump_after_a_refused_one(workload):
    assert workload.dump("refuse", "post-dump").returncode == 1
    workload.host.run("sh", "-c", f"rm -f {workload.images}/*")
    assert workload.dump("pages").returncode == 0
    workload.restore()
    assert workload.check() == "ok"


def test_the_network_is_ours_to_lock(networked):
    """CRIU tells when, does nothing itself, and says when to undo it only if the dump fails."""
    done = networked.dump("refuse", "post-dump")
    assert re.findall(r"notify (\S+)", done.stdout) == ["pre-dump", "network-lock", *POINTS[1:], "network-unlock"]
    networked.host.run("sh", "-c", f"rm -f {networked.images}/*")
    done = networked.dump("pages")
    assert done.returncode == 0, done.stdout
    assert "network-unlock" not in done.stdout
    networked.restore()
    assert networked.check() == "ok"


def test_configuration_files_do_not_matter(workload):
    workload.host.run("sh", "-c", "mkdir -p /etc/criu /root/.criu; echo no-such-option > /etc/criu/default.conf; "
                                  "echo leave-running > /root/.criu/default.conf")
    try:
        done = workload.dump("pages")
    finally:
        workload.host.run("rm", "-f", "/etc/criu/default.conf", "/root/.criu/default.conf")
    assert done.returncode == 0, done.stdout
    assert not workload.alive()
