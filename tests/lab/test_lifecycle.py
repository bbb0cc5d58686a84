# SPDX-License-Identifier: LGPL-2.1-or-later
"""Labs come up, stand side by side, and leave nothing behind, even when the tool that made one died half-way."""

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from simlab import Lab, LabError
from simlab.cache import CACHE

TOOL = Path(__file__).resolve().parents[2] / "lab/lab"


def traces(name):
    """Whatever of a lab this machine shows."""
    mounts = [line for line in Path("/proc/self/mountinfo").read_text().splitlines() if f"phaul-lab.{name}" in line
              or f"phaul-lab/{name}/" in line]
    groups = [str(p) for p in Path("/sys/fs/cgroup").glob(f"**/phaul-lab.{name}.*")]
    spaces = [str(p) for p in Path("/run/netns").glob(f"phaul-lab.{name}*")]
    folders = [str(p) for p in (Path("/run/phaul-lab") / name, Path("/var/lib/phaul-lab") / name) if p.exists()]
    return mounts + groups + spaces + folders


def links():
    return subprocess.run(["ip", "-br", "link"], capture_output=True, text=True, check=True).stdout


def test_down_removes_every_trace(tmp_path):
    before = links()
    lab = Lab("test-life").up(["one"])
    assert lab["one"].run("hostname").stdout == "one\n"
    processes = [lab["one"].pid, lab.client.pid]
    lab["one"].spawn("/root/log", "sleep", "1000")
    assert traces("test-life")
    lab.down()
    assert traces("test-life") == []
    assert links() == before
    assert not any(Path(f"/proc/{pid}/root/etc").exists() for pid in processes)


def test_images_that_exist_cost_nothing(lab):
    before = {path: path.stat().st_mtime_ns for path in CACHE.glob("*.log")}  # written by whoever builds
    shown = subprocess.run([TOOL, "image"], check=True, capture_output=True, text=True, timeout=60).stdout.split()
    assert {path: path.stat().st_mtime_ns for path in CACHE.glob("*.log")} == before
    assert all(Path(directory, "etc/debian_version").exists() for directory in shown) and len(shown) == 2


def test_up_twice_is_refused_and_harmless(lab):
    with pytest.raises(LabError, match="is up already"):
        Lab("test-lab").up(1)
    assert lab["beta"].run("hostname").stdout == "beta\n"


@pytest.mark.parametrize("hosts", [["client"], ["a", "a"], ["Bad_Name"], ["x" * 20], 0])
def test_impossible_hosts_are_refused(hosts):
    with pytest.raises(LabError):
        Lab("test-life").up(hosts)
    assert traces("test-life") == []


def test_two_labs_do_not_see_each_other(lab, alpha):
    with Lab("test-life").up(1) as other:
        assert other["alpha"].address == alpha.address
        other["alpha"].run("sh", "-c", "echo other > /etc/which")
        assert alpha.run("test", "-e", "/etc/which", check=False).returncode == 1
        assert other["alpha"].run("ping", "-c1", "-W1", "10.77.0.12", check=False).returncode != 0  # that is beta of the other lab
    assert alpha.run("hostname").stdout == "alpha\n"


@pytest.mark.parametrize("after", [0.05, 0.15, 0.3])
def test_down_cleans_up_after_a_killed_up(after):
    making = subprocess.Popen([TOOL, "--lab", "test-life", "up", "3"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    time.sleep(after)
    os.kill(making.pid, signal.SIGKILL)
    making.wait()
    Lab("test-life").down()
    assert traces("test-life") == []


def test_down_needs_no_record():
    lab = Lab("test-life").up(1)
    pid = lab["alpha"].pid
    for file in Path("/run/phaul-lab/test-life").iterdir():
        file.unlink()
    subprocess.run([TOOL, "--lab", "test-life", "down"], check=True, timeout=60)
    assert traces("test-life") == []
    assert not Path(f"/proc/{pid}/root/etc").exists()


def test_up_begins_afresh_on_leftovers():
    lab = Lab("test-life").up(1)
    lab["alpha"].run("touch", "/etc/old")
    Path("/run/phaul-lab/test-life/lab.json").unlink()
    with Lab("test-life").up(1) as fresh:
        assert fresh["alpha"].run("test", "-e", "/etc/old", check=False).returncode == 1
