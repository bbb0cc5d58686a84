# SPDX-License-Identifier: LGPL-2.1-or-later
"""The lab the tests of the lab run in."""

import sys
import time
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(TREE / "lab"))

from simlab import Lab  # noqa: E402

PROGRAMS = "/usr/local/lib/phaul-lab"


@pytest.fixture(scope="session")
def lab():
    """Two hosts and a client, shared by the tests that leave them as they were."""
    made = Lab("test-lab")
    made.down()
    with made.up(2):
        yield made


@pytest.fixture
def alpha(lab):
    return lab["alpha"]


@pytest.fixture
def beta(lab):
    return lab["beta"]


@pytest.fixture
def client(lab):
    return lab["client"]


@pytest.fixture
def eventually():
    """Wait until something holds, or fail with its last exception or value."""
    def wait(condition, seconds=10):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"still {value!r} after {seconds} s"
            time.sleep(0.05)
        return value
    return wait
