# SPDX-License-Identifier: LGPL-2.1-or-later
"""Two virtual machines for all tests of a run, which go on where the one before has left them.

Emulated machines take minutes for everything, so this belongs to `make test-full` and is not even collected otherwise.
"""

import os

import pytest

from system_under_test import System

collect_ignore_glob = [] if os.environ.get("PHAUL_TEST_FULL") else ["test_*.py"]


@pytest.fixture(scope="session")
def system():
    made = System(os.environ.get("PHAUL_LAB", "system"))
    yield made
    made.down()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item):
    """A failed test shows what the daemons said."""
    outcome = yield
    report = outcome.get_result()
    if report.failed and "system" in item.funcargs:
        report.sections.append(("logs of the machines", item.funcargs["system"].logs()))
