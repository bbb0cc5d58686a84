# SPDX-License-Identifier: LGPL-2.1-or-later
"""Compiling phaul inside the hosts' image: one tool chain and one set of libraries everywhere."""

from pathlib import Path

from . import chamber, image
from .sh import LabError, locked, run, say

TREE = Path(__file__).resolve().parents[2]


def _folder(sanitize):
    return TREE / "build" / ("lab-asan" if sanitize else "lab")


def stage(sanitize=False):
    """Where build() installs to; exists only after a complete build."""
    return _folder(sanitize) / "stage"


def build(sanitize=False):
    """Compile and install into stage(); incremental. The tools' output goes to build.log, and to stderr when they fail."""
    log_path = _folder(sanitize) / "build.log"
    with _locked(sanitize), open(log_path, "w", encoding="utf-8") as log:
        try:
            _build(_folder(sanitize), sanitize, log)
        except LabError:
            said = log_path.read_text(encoding="utf-8", errors="replace").splitlines()
            raise LabError("\n".join(["compiling phaul failed:", *said[-40:], f"(all of it: {log_path})"])) from None
    return stage(sanitize)


def copy_stage(target, sanitize=False):
    """Copy what build() installed; False when it never did. A copy, as a lower layer must not change under an overlay."""
    if not stage(sanitize).exists():
        return False
    with _locked(sanitize):
        run("cp", "-a", "--reflink=auto", stage(sanitize), target)
    return True


def _locked(sanitize):
    folder = _folder(sanitize)
    return locked(folder / "lab.lock", f"another command compiles into {folder}, waiting")


def _build(folder, sanitize, log):
    options = ["--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var", "-Dtests=true", "-Dfault_points=true"]
    if sanitize:  # instrumented code makes gcc warn of what cannot happen; the plain build is the one that must be clean
        options += ["-Db_sanitize=address,undefined", "-Db_lundef=false", "-Dwerror=false"]

    def step(*argv):
        chamber.enter(image.host_image(), argv, binds=[f"{TREE}:/src:ro", f"{folder}:/build"], cwd="/build",
                      log=log)

    made_with = folder / "made-with"  # objects know nothing of a library that changed under the same path
    wanted = "\n".join([str(image.host_image()), *options])
    if not made_with.exists() or made_with.read_text() != wanted:
        step("meson", "setup", *(["--wipe"] if (folder / "build.ninja").exists() else []), *options, "/build", "/src")
        made_with.write_text(wanted)
    say(f"compiling into {folder}")
    step("ninja")
    step("sh", "-ec", "rm -rf stage.new && DESTDIR=/build/stage.new meson install --no-rebuild --quiet"
         " && rm -rf stage && mv stage.new stage")
