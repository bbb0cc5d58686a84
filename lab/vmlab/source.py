# SPDX-License-Identifier: LGPL-2.1-or-later
"""A copy of this tree, compiled as `make` compiles it, for the machines to run `make install` in."""

from pathlib import Path

from simlab import chamber, image
from simlab.sh import locked, run, say

TREE = Path(__file__).resolve().parents[2]
PLACE = "/src"  # in the machines, and where it was compiled: the paths in build/native stay true


def compiled():
    """The directory of the copy; incremental."""
    folder = TREE / "build/vm"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", f"another command compiles into {folder}, waiting"):
        copy = folder / "src"
        run("rsync", "-a", "--delete", "--exclude=/build", "--exclude=/.git", "--exclude=__pycache__", f"{TREE}/", f"{copy}/")
        say(f"compiling in {copy}")
        with open(folder / "build.log", "w", encoding="utf-8") as log:
            for argv in (["tools/configure", "/usr/local", "/etc"], ["ninja", "-C", "build/native", "--quiet"]):
                chamber.enter(image.host_image(), argv, binds=[f"{copy}:{PLACE}"], cwd=PLACE, log=log)
    return copy
