# SPDX-License-Identifier: LGPL-2.1-or-later
"""On a clean machine: an installation brings all that phaul consists of, and uninstalling takes all of it away again."""

import os
import re
import subprocess
from pathlib import Path

import pytest

TREE = Path(__file__).resolve().parents[2]
FULL = bool(os.environ.get("PHAUL_TEST_FULL"))
MARK = "# mine\n"


def files(root):
    return {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}


def is_program(path):
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"


class Machine:
    """A root directory with somebody's system in it, and how phaul gets into it and out."""

    def __init__(self, root, prefix, sysconfdir, install, uninstall):
        self.root, self.prefix, self.sysconfdir = root, root / prefix.strip("/"), root / sysconfdir.strip("/")
        self.real_prefix = prefix
        self._install, self._uninstall = install, uninstall
        for path in (self.prefix / "bin/other", self.prefix / "share/man/man8/other.8", self.prefix / "lib/systemd/system/other.service"):
            path.parent.mkdir(parents=True)
            path.write_text(MARK)
        self.before = self.all()

    def all(self):
        return {str(path.relative_to(self.root)) for path in self.root.rglob("*")}

    def install(self):
        self._run(self._install)

    def uninstall(self):
        self._run(self._uninstall)

    def _run(self, command):
        done = subprocess.run(command, cwd=TREE, env={**os.environ, "DESTDIR": str(self.root)}, text=True,
                              stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        assert done.returncode == 0, done.stdout

    def programs(self):
        found = {}
        for folder in ("bin", "sbin", "libexec"):
            found.update({path.name: path for path in (self.prefix / folder).rglob("phaul*") if path.is_file() and is_program(path)})
        return found


def by_tools(build, root):
    """What `make install` and `make uninstall` run, on the build directory of the unit tests."""
    return Machine(root, "/usr/local", "/usr/local/etc", ["tools/install", build], ["tools/uninstall", build])


def by_make(root):
    """The real thing, which compiles once more."""
    set_up = ["PREFIX=/usr", "SYSCONFDIR=/etc"]
    return Machine(root, "/usr", "/etc", ["make", "-s", "install", f"DESTDIR={root}", *set_up],
                   ["make", "-s", "uninstall", f"DESTDIR={root}", *set_up])


@pytest.fixture(params=["tools", "make"] if FULL else ["tools"])
def machine(request, tmp_path):
    return by_make(tmp_path) if request.param == "make" else by_tools(request.getfixturevalue("build"), tmp_path)


def built(build):
    """Names of all programs that the sources make, but for tests."""
    return {path.name for path in (build / "src").rglob("phaul*") if path.is_file() and not path.suffix and is_program(path)}


def test_everything_comes_and_everything_goes(machine, build):
    machine.install()
    programs = machine.programs()
    assert set(programs) == built(build) and {"phaul", "phauld", "phaul-session", "phaul-net"} <= set(programs)
    # What liblxc takes for CRIU when ids are mapped; it stands where nobody calls it by that name.
    assert is_program(machine.prefix / "libexec/phaul/apart/criu")
    assert all(path.stat().st_mode & 0o7777 == 0o755 for path in programs.values())

    machine.uninstall()
    left = machine.all() - machine.before
    conf = machine.sysconfdir / "phaul/phaul.conf"
    kept = {str(path.relative_to(machine.root)) for path in (conf, *conf.parents) if machine.root in path.parents}
    assert left <= kept and conf.exists(), left - kept
    assert machine.before <= machine.all()


def test_every_program_has_its_page(machine):
    machine.install()
    pages = {path.stem: path for path in machine.prefix.glob("share/man/man[158]/phaul*")}
    assert set(machine.programs()) | {"phaul.conf"} == set(pages)
    for name, page in pages.items():
        text = page.read_text()
        assert f".Nm {name}\n" in text and f".Dt {name.upper()} {page.suffix[1]}\n" in text, page
        for seen, section in re.findall(r"^\.Xr (phaul[\w.-]*) (\d)", text, re.M):
            assert pages[seen].suffix == f".{section}", (page, seen)
    shown = subprocess.run([machine.programs()["phaul"], "help"], capture_output=True, text=True, check=True).stdout
    verbs = re.findall(r"^  ([a-z]+) ", shown, re.M)
    manual = pages["phaul"].read_text()
    assert "migrate" in verbs and not [verb for verb in verbs if f"\n.It Cm {verb}" not in manual]


def test_what_a_system_needs_around_the_programs(machine):
    machine.install()
    unit = (machine.prefix / "lib/systemd/system/phauld.service").read_text()
    started = re.findall(r"^ExecStart=(\S+)", unit, re.M)
    assert started == [f"{machine.real_prefix}/sbin/phauld"] and (machine.root / started[0].strip("/")).exists()
    users = (machine.prefix / "lib/sysusers.d/phaul.conf").read_text()
    assert re.search(r"^g phaul ", users, re.M) and re.search(r"^u phaul-net ", users, re.M)
    folders = (machine.prefix / "lib/tmpfiles.d/phaul.conf").read_text()
    assert re.search(r"^d /var/lib/phaul +0700 root", folders, re.M) and re.search(r"^d /run/phaul +0755", folders, re.M)
    assert (machine.sysconfdir / "phaul/phaul.conf").stat().st_mode & 0o777 == 0o644
    assert (machine.prefix / "share/phaul/openapi.yaml").exists()
    for text in ("README.md", "LICENSE", "examples/phaul.conf"):
        assert (machine.prefix / "share/doc/phaul" / text).exists()


def test_configuration_and_state_are_the_administrators(machine):
    machine.install()
    mine = [machine.sysconfdir / "phaul/phaul.conf", machine.sysconfdir / "phaul/conf.d/10-mine.conf",
            machine.sysconfdir / "phaul/pki/authority.key", machine.root / "var/lib/phaul/history.db"]
    for path in mine:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(MARK)
    machine.install()  # an upgrade
    assert all(path.read_text() == MARK for path in mine)
    machine.uninstall()
    assert all(path.read_text() == MARK for path in mine)
    assert not machine.programs()
    machine.install()  # and anew
    assert machine.programs() and all(path.read_text() == MARK for path in mine)


def test_uninstalling_without_a_record(machine, build):
    """Somebody cloned anew, or cleaned the build directory: what would be installed is what goes."""
    machine.install()
    record = (build if machine.real_prefix == "/usr/local" else TREE / "build/native") / "installed.json"
    record.unlink()
    machine.uninstall()
    assert not machine.programs() and not files(machine.prefix / "share/man") - {"man8/other.8"}
    assert "other" in {path.name for path in (machine.prefix / "bin").iterdir()}
