# SPDX-License-Identifier: LGPL-2.1-or-later
"""A machine that is a kernel of Debian's and a few programs, no more: for what depends on the kernel alone.

It boots in seconds, emulated too, because there is no disk: what it runs, with the libraries from the hosts' image, is in
its initial RAM disk. It runs one line of shell and switches itself off.
"""

import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from simlab import chamber, image
from simlab.cache import built
from simlab.sh import PATH, LabError, run, say

from .machine import accelerator

PROGRAMS = ["/bin/sh", "/bin/mount", "/bin/mkdir", "/bin/sleep"]
_INIT = """#!/bin/sh
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir /dev/shm
( {line}
) </dev/null >/dev/ttyS0 2>&1
echo "guest: exit $?" >/dev/ttyS0
echo o >/proc/sysrq-trigger
while :; do :; done
"""


def kernel(suite):
    """The file of the kernel that a suite of Debian's has for virtual machines; fetched on the first call."""
    folder = built("kernel", [suite, 1], lambda folder, log: _fetch(suite, folder, log))
    return folder / "vmlinuz"


def _fetch(suite, folder, log):
    """By an apt whose lists and settings are its own: this machine may be of another suite."""
    mirror, keyring = image.apt_source()
    for name in ("lists/partial", "archives/partial", "deb"):
        (folder / name).mkdir(parents=True)
    (folder / "sources").write_text(f"deb [signed-by={keyring}] {mirror} {suite} main\n")
    (folder / "settings").write_text(image.apt_settings())
    apt = ["-q", "-c", folder / "settings", "-o", f"Dir::Etc::sourcelist={folder}/sources", "-o", "Dir::Etc::sourceparts=-",
           "-o", f"Dir::State::lists={folder}/lists", "-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache={folder}"]
    say(f"the kernel of Debian {suite} from {mirror}")
    run("apt-get", *apt, "update", stdout=log)
    depends = run("apt-cache", *apt, "depends", "linux-image-cloud-amd64")
    name = re.search(r"Depends: (linux-image-[0-9]\S*-cloud-amd64)", depends)[1]
    run("apt-get", *apt, "download", name, stdout=log, cwd=folder)
    deb, = folder.glob("*.deb")
    run("dpkg-deb", "-x", deb, folder / "deb")
    found, = (folder / "deb/boot").glob("vmlinuz-*")
    shutil.move(found, folder / "vmlinuz")
    for rest in ("lists", "archives", "deb"):
        shutil.rmtree(folder / rest)
    deb.unlink()


def _libraries(programs, binds):
    """What the dynamic linker of the hosts' image would load for them: paths in it."""
    with tempfile.TemporaryFile("w+") as said:
        chamber.enter(image.host_image(), ["ldd", *programs], binds=binds, log=said)
        said.seek(0)
        return sorted(set(re.findall(r"(/\S+) \(0x", said.read())))


def _ram_disk(folder, tests, line):
    """An archive of /bin with PROGRAMS, /test with the tests (files compiled for the hosts' image), and their libraries."""
    root, host = folder / "root", image.host_image()
    for name in ("bin", "test", "proc", "sys", "dev", "tmp", "etc"):
        (root / name).mkdir(parents=True)
    for test in tests:
        shutil.copy(test, root / "test" / test.name)
    binds = [f"{root}/test:/src:ro"]
    for path in PROGRAMS + _libraries(PROGRAMS + [f"/src/{test.name}" for test in tests], binds):
        to = root / path[1:]
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(host / path[1:], to)
    (root / "init").write_text(_INIT.format(line=line))
    (root / "init").chmod(0o755)
    with open(folder / "initrd", "wb") as archive:
        names = "\n".join(str(p.relative_to(root)) for p in sorted(root.rglob("*")))
        subprocess.run(["cpio", "--quiet", "-o", "-H", "newc"], input=names.encode(), stdout=archive, cwd=root, check=True)
    return folder / "initrd"


def boot(suite, tests, line, seconds):
    """Run a line of shell on that kernel; (exit status, output). LabError when it does not come to an end."""
    vmlinuz = kernel(suite)
    with tempfile.TemporaryDirectory(prefix="phaul-guest-") as name:
        folder = Path(name)
        console = folder / "console"
        command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-machine", "q35",
                   "-accel", accelerator(), "-cpu", "max,la57=off" if accelerator() == "tcg" else "host", "-m", "512",
                   "-kernel", vmlinuz, "-initrd", _ram_disk(folder, tests, line), "-append", "console=ttyS0 quiet panic=-1",
                   "-serial", f"file:{console}"]
        try:
            done = subprocess.run([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.STDOUT, text=True, env={"PATH": PATH}, timeout=seconds)
        except subprocess.TimeoutExpired:
            raise LabError(f"no end after {seconds} s; the console: {console.read_text(errors='replace')[-4000:]}") from None
        output = console.read_text(errors="replace") if console.exists() else done.stdout
        end = re.search(r"^guest: exit (\d+)", output, re.M)
        if not end:
            raise LabError(f"it ended by itself: {output[-4000:]}")
        return int(end[1]), output[:end.start()]
