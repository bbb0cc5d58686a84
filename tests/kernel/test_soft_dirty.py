# SPDX-License-Identifier: LGPL-2.1-or-later
"""The soft-dirty tracker, on kernels that remember written pages: Debian's do."""

import re
from pathlib import Path

import pytest
from vmlab import guest

BUILT = Path(__file__).resolve().parents[2] / "build/lab/src/memory"


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
@pytest.mark.parametrize("test", ["test-tracker-others", "test-tracker-torture"])
def test_tracker(suite, test):
    """Linux 6.1, whose page tables must be read entry by entry, and 6.12, which tells where there is anything."""
    code, output = guest.boot(suite, [BUILT / test], f"/test/{test} soft-dirty", 900)
    assert code == 0, output
    assert re.search(r"\[  PASSED  \] [1-9]", output), output
