# SPDX-License-Identifier: LGPL-2.1-or-later
"""Directories that are built once, kept under a name that hashes what went into them, and appear only when complete."""

import hashlib
import json
import shutil
from pathlib import Path

from .sh import LabError, locked, say

CACHE = Path("/var/cache/phaul-lab")


def built(kind, ingredients, build):
    """CACHE/kind-HASH. When missing, build(directory, log) fills a temporary directory that is renamed; a crash leaves no half."""
    digest = hashlib.sha256(json.dumps(ingredients).encode()).hexdigest()[:12]
    final = CACHE / f"{kind}-{digest}"
    if final.exists():
        return final
    with locked(CACHE / f"{kind}.lock", f"another lab builds the {kind}, waiting"):
        if final.exists():
            return final
        temporary, log_path = CACHE / f"{kind}.new", CACHE / f"{kind}.log"
        shutil.rmtree(temporary, ignore_errors=True)
        with open(log_path, "w", encoding="utf-8") as log:
            try:
                build(temporary, log)
            except LabError as error:
                raise LabError(f"building the {kind}: {error}; see {log_path}") from None
        temporary.rename(final)
        say(f"{final} is ready")
    return final


def prune(kept):
    """Remove every finished directory but those kept."""
    for directory in CACHE.glob("*-" + "[0-9a-f]" * 12):
        if directory not in kept:
            say(f"removing {directory}")
            shutil.rmtree(directory)
