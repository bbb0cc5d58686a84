# SPDX-License-Identifier: LGPL-2.1-or-later
"""What the machines boot: a disk with Debian 13 as its packages leave it, and its own kernel.

Unlike the simulated hosts' image it has systemd as pid 1, AppArmor, Debian 13's own CRIU and what `make install` needs.
"""

import shutil
from pathlib import Path

from simlab import chamber, image
from simlab.cache import built
from simlab.sh import run

RECIPE = 2      # raise it when anything below changes what the disk contains without changing a package list
SIZE = "3G"     # of the disk; the file is sparse
GUEST = "/var/lib/phaul-guest"  # a container's root file system, to be copied
PACKAGES = """
    linux-image-cloud-amd64 initramfs-tools zstd systemd-sysv udev dbus libpam-systemd kmod apparmor openssh-server
    lxc liblxc-common criu rsync nftables iproute2 iputils-ping procps curl redis-tools make python3
""".split()
_TREE = Path(__file__).resolve().parents[2]

# The boot waits for this one: it makes the machine the one of its name, once.
_SEED = """[Unit]
Description=Take over what the lab gives this machine
DefaultDependencies=no
ConditionPathExists=!/etc/phaul-lab-seeded
After=local-fs.target systemd-udevd.service
Before=sysinit.target network-pre.target systemd-networkd.service ssh.service
Wants=network-pre.target

[Service]
Type=oneshot
ExecStart=/usr/bin/tar -xf /dev/vdb -C / --no-overwrite-dir
ExecStart=/usr/bin/touch /etc/phaul-lab-seeded

[Install]
WantedBy=sysinit.target
"""
# None of this has to do with phaul, and each is seconds of an emulated boot.
_NOT_NEEDED = """
    apt-daily.timer apt-daily-upgrade.timer dpkg-db-backup.timer e2scrub_all.timer e2scrub_reap.service fstrim.timer
    getty@tty1.service serial-getty@ttyS0.service systemd-timesyncd.service lxc-net.service
    systemd-networkd-wait-online.service
""".split()


def vm_image():
    """The directory with disk.img, vmlinuz and initrd.img; built on the first call."""
    packages = PACKAGES + run(_TREE / "tools/setup", "--print", "build").split()
    return built("vm", [RECIPE, SIZE, image.RECIPE, image.BASE, packages, str(image.guest_image()), _SEED, _NOT_NEEDED],
                 lambda folder, log: _build(folder, packages, log))


def _build(folder, packages, log):
    root = folder / "root"
    root.mkdir(parents=True)
    image.bootstrap(root, packages, log)
    (root / "usr/sbin/policy-rc.d").unlink()
    image.strip(root)
    _settle(root, log)
    run("cp", "-a", image.guest_image(), f"{root}{GUEST}")
    for name in ("vmlinuz", "initrd.img"):
        file, = (root / "boot").glob(f"{name}-*")
        shutil.copy(file, folder / name)
    run("mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, folder / "disk.img", SIZE, stdout=log)
    shutil.rmtree(root)


def _settle(root, log):
    """Configuration that all machines share, and an initial RAM disk with the few drivers they need."""
    def systemctl(*words):
        chamber.enter(root, ["systemctl", *words], writable=True, log=log)

    (root / "src").mkdir()
    (root / "etc/fstab").write_text("/dev/vda / ext4 errors=remount-ro 0 1\n")
    (root / "etc/systemd/system/phaul-lab-seed.service").write_text(_SEED)
    systemctl("enable", "phaul-lab-seed.service", "systemd-networkd.service", "ssh.service")
    systemctl("mask", *_NOT_NEEDED)
    (root / "etc/initramfs-tools/conf.d/lab").write_text("MODULES=list\nCOMPRESS=zstd\nRESUME=none\n")
    with open(root / "etc/initramfs-tools/modules", "a", encoding="ascii") as modules:
        modules.write("virtio_pci\nvirtio_blk\nvirtio_net\next4\n")
    chamber.enter(root, ["update-initramfs", "-u", "-k", "all"], writable=True, log=log)
