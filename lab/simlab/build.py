"""Compiling phaul inside the hosts' image: one tool chain and one set of libraries everywhere."""

from pathlib import Path

from . import chamber, image
from .sh import say

TREE = Path(__file__).resolve().parents[2]


def _folder(sanitize):
    return TREE / "build" / ("lab-asan" if sanitize else "lab")


def stage(sanitize=False):
    """Where build() installs to; exists only after a complete build."""
    return _folder(sanitize) / "stage"


def build(sanitize=False):
    """Compile and install into stage(); incremental. Output goes to stderr."""
    folder = _folder(sanitize)
    folder.mkdir(parents=True, exist_ok=True)
    options = ["--prefix=/usr", "--sysconfdir=/etc", "--localstatedir=/var", "-Dtests=true"]
    if sanitize:
        options += ["-Db_sanitize=address,undefined", "-Db_lundef=false"]

    def step(*argv):
        chamber.enter(image.host_image(), argv, binds=[f"{TREE}:/src:ro", f"{folder}:/build"], cwd="/build")

    if not (folder / "build.ninja").exists():
        step("meson", "setup", *options, "/build", "/src")
    say(f"compiling into {folder}")
    step("ninja")
    step("sh", "-ec", "rm -rf stage.new && DESTDIR=/build/stage.new meson install --no-rebuild --quiet"
         " && rm -rf stage && mv stage.new stage")
    return stage(sanitize)
