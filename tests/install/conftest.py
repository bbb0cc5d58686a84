# SPDX-License-Identifier: LGPL-2.1-or-later
"""A build directory to install from: the one of the unit tests, made when it is not there."""

import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def build():
    made = TREE / "build/asan"
    if not (made / "build.ninja").exists():
        subprocess.run(["meson", "setup", made, "-Dtests=true", "-Db_sanitize=address,undefined", "-Db_lundef=false"], cwd=TREE,
                       check=True, stdout=subprocess.DEVNULL)
    subprocess.run(["ninja", "-C", made, "--quiet"], check=True)
    return made
