# SPDX-License-Identifier: LGPL-2.1-or-later
"""The demo tells the truth. A stand-in for phaul obeys its commands, and the test does what phaul would do."""

import importlib.machinery
import importlib.util
import re
import threading
from pathlib import Path

import pytest
import simlab.lab
from moving import move
from simlab import Lab, LabError

TREE = Path(__file__).resolve().parents[2]
STAND_IN = """#!/bin/sh
case $1 in
pair) [ "$2" = --offer ] && { echo "type this on the other host:"; echo the-code; exit; }; [ "$(cat)" = the-code ] ;;
migrate) touch /run/wanted; until [ -e /run/done ]; do sleep 0.05; done; echo "migrated $2" ;;
esac
"""


@pytest.fixture
def demo(tmp_path, monkeypatch):
    """The demo as a module whose hosts come with the stand-in."""
    for program, text in (("phaul", STAND_IN), ("phauld", "#!/bin/sh\nexec sleep 1000\n")):
        path = tmp_path / "stage/usr/bin" / program
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        path.chmod(0o755)
    monkeypatch.setattr(simlab.lab.build, "stage", lambda sanitize=False: tmp_path / "stage")
    monkeypatch.setattr(simlab.lab.build, "build", lambda sanitize=False: None)
    loader = importlib.machinery.SourceFileLoader("demo", str(TREE / "demo/demo"))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader("demo", loader))
    loader.exec_module(module)
    monkeypatch.setattr(module, "NAME", "test-demo")
    monkeypatch.setattr(module.signal, "signal", lambda *_: None)
    yield module
    Lab("test-demo").down()


@pytest.fixture
def when_asked(eventually):
    """Does something with the demo's hosts, in the background, when phaul migrate is called."""
    threads = []

    def arrange(action):
        def wait():
            def asked():
                hosts = Lab("test-demo").hosts
                return hosts and hosts["alpha"].run("test", "-e", "/run/wanted", check=False).returncode == 0

            eventually(asked, 150)
            lab = Lab("test-demo")
            try:
                action(lab)
            finally:
                lab["alpha"].run("touch", "/run/done")

        threads.append(threading.Thread(target=wait))
        threads[0].start()

    yield arrange
    for thread in threads:
        thread.join()


def test_a_migration_that_works_is_summed_up_in_the_last_line(demo, when_asked, tmp_path, capfd):
    when_asked(lambda lab: move(lab["alpha"], lab["beta"], "shop", tmp_path))
    assert demo.main() == 0
    lines = capfd.readouterr().out.splitlines()
    assert lines[0].startswith("[1/8] ") and "migrated lxc/shop" in lines
    verdict = r"demo: lxc/shop alpha -> beta, downtime (\d+) ms, (\d+) writes acknowledged, 0 lost, connection kept"
    downtime, writes = map(int, re.fullmatch(verdict, lines[-1]).groups())
    assert downtime > 0 and writes >= 1000
    assert "test-demo" not in Lab.names()


@pytest.mark.parametrize("action, complaint", [
    (lambda lab: lab["alpha"].run("lxc-stop", "-k", "-n", "shop"), "the client saw"),
    (lambda lab: None, "shop runs on alpha"),
])
def test_one_that_does_not_work_is_told_and_cleaned_up(demo, when_asked, capfd, action, complaint):
    when_asked(action)
    assert demo.main() == 1
    assert complaint in capfd.readouterr().err
    assert "test-demo" not in Lab.names()


def test_a_second_demo_is_refused(demo, capfd):
    with demo.only_one():
        assert demo.main() == 1
    assert "another demo is running" in capfd.readouterr().err


def test_a_failing_command_carries_the_log_of_phauld(demo, eventually):
    with Lab("test-demo").up(1) as lab:
        lab["alpha"].spawn(demo.LOG, "echo", "phauld has something to say")
        eventually(lambda: lab["alpha"].run("cat", demo.LOG).stdout)
        with pytest.raises(LabError, match="something to say"):
            demo.wait_for(lambda: False, "nothing happens", lab["alpha"], seconds=0.2)
