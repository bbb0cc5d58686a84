# SPDX-License-Identifier: LGPL-2.1-or-later
"""Process trees on hosts that have cgroup v2 alone, tried wherever a v2 tree is mounted, be it beside v1."""

import os

import pytest
from simlab import cgroup

import test_process
import test_stuck
from site_under_test import Site

# The same tests; their fixtures find the site of this module.
test_there_and_back = test_process.test_there_and_back
test_cancel = test_process.test_cancel
test_session_killed = test_process.test_session_killed
stuck = test_stuck.stuck
test_a_task_that_cannot_be_stopped = test_stuck.test_a_task_that_cannot_be_stopped


@pytest.fixture(scope="module")
def whole_site():
    only = [tree for tree in cgroup.hierarchies() if tree.unified]
    if not only:
        pytest.skip("no cgroup v2 tree is mounted on this machine")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cgroup, "hierarchies", lambda: only)
        made = Site(os.environ.get("PHAUL_LAB", "scenario") + "-v2", sanitize=bool(os.environ.get("PHAUL_TEST_SANITIZE")))
        try:
            assert made["alpha"].run("stat", "-f", "-c", "%T", "/sys/fs/cgroup").stdout == "cgroup2fs\n"
            yield made
        finally:
            made.down()
