# SPDX-License-Identifier: LGPL-2.1-or-later
"""The two root file systems everything starts from: the hosts' image and the containers' guest.

Both are Debian 13, made from the mirror this machine's own apt uses, kept under a name that hashes the recipe, and
renamed into place only when complete.
"""

import shutil

from . import chamber
from .cache import CACHE, built
from .sh import LabError, run, say

RECIPE = 1      # raise it when anything below changes what an image contains without changing a package list
BASE = "trixie"
NEWER = "forky"  # Debian 13's CRIU (4.1) cannot dump TCP sockets on Linux >= 6.16; 4.2 can

FROM_NEWER = "criu libcriu2 libcriu-dev libcompel1 libnet9 libnl-3-200 libnl-genl-3-200".split()
HOST_PACKAGES = """
    lxc lxc-dev liblxc-common redis-server redis-tools rsync nftables iptables iproute2 iputils-arping iputils-ping
    python3 tini procps openssl openssh-client openssh-server acl attr curl jq socat strace ucarp keepalived util-linux
    systemd-standalone-sysusers systemd-standalone-tmpfiles gcc libc6-dev meson ninja-build pkg-config systemd-dev
    libsystemd-dev libmicrohttpd-dev libssl-dev libjansson-dev libprotobuf-c-dev protobuf-c-compiler libxxhash-dev
    libsqlite3-dev libmnl-dev libinih-dev libcmocka-dev libcurl4-openssl-dev libseccomp-dev libcap-dev libzstd-dev
    liblz4-dev libmd-dev
""".split()
GUEST_PACKAGES = "redis-server python3-minimal iproute2 procps".split()

_APT = ["apt-get", "-q", "-y", "--no-install-recommends", "-o", "Dpkg::Options::=--force-unsafe-io",
        "-o", "APT::Keep-Downloaded-Packages=true"]
_PIN = f"""Package: *
Pin: release n={NEWER}
Pin-Priority: -1

Package: {' '.join(FROM_NEWER)}
Pin: release n={NEWER}
Pin-Priority: 990
"""
_GUEST_UNUSED = """
    usr/share/doc usr/share/man usr/share/info usr/share/locale usr/share/zoneinfo usr/share/perl* usr/share/terminfo
    usr/share/bash-completion usr/share/zsh usr/share/pixmaps usr/share/polkit-1 usr/share/tabset usr/share/debconf
    usr/share/common-licenses usr/lib/apt usr/lib/dpkg usr/lib/python3.*/test usr/lib/python3.*/ensurepip
    usr/lib/x86_64-linux-gnu/perl* usr/lib/x86_64-linux-gnu/gconv usr/lib/x86_64-linux-gnu/libapt* usr/lib/x86_64-linux-gnu/security
    usr/bin/perl* usr/bin/apt* usr/bin/dpkg* usr/bin/deb* usr/bin/redis-check-aof usr/bin/redis-benchmark usr/bin/sqv usr/bin/openssl
    var/log var/lib/dpkg var/lib/apt var/cache/debconf
"""
_NO_DOCS = "".join(f"path-exclude=/usr/share/{d}/*\n" for d in ("doc", "man", "info", "locale", "lintian", "bash-completion"))


def host_image():
    """The directory of the hosts' image; built on the first call."""
    return built("image", [RECIPE, BASE, NEWER, FROM_NEWER, HOST_PACKAGES], _build_host)


def guest_image():
    """The directory of the containers' root file system; built on the first call."""
    return built("guest", [RECIPE, BASE, GUEST_PACKAGES, _GUEST_UNUSED], _build_guest)


def apt_source():
    """(mirror, keyring) from this machine's apt configuration: where it has our suite, else where it has Debian."""
    suites = [BASE, "bookworm", NEWER, "stable", "testing", "sid", "unstable"]
    found = []
    for line in run("apt-get", "indextargets", "--format", "$(RELEASE)|$(REPO_URI)|$(SIGNED_BY)",
                    "Created-By: Packages").splitlines():
        release, uri, keyring = line.split("|")
        if release in suites:
            found.append((suites.index(release), uri, keyring))
    if not found:
        raise LabError("this machine's apt sources name no Debian mirror")
    _, uri, keyring = min(found)
    default = "/usr/share/keyrings/debian-archive-keyring.gpg"
    return uri, keyring if keyring.startswith("/") else default


def apt_settings():
    """This machine's settings for fetching: proxies, and leniency about dates where a mirror is frozen in time."""
    wanted = ("Acquire::Check-", "Acquire::http::", "Acquire::https::", "Acquire::ForceIPv", "Acquire::Retries",
              "Acquire::Languages", "Acquire::AllowInsecure")
    lines = run("apt-config", "dump", "Acquire").splitlines()
    return "".join(f"{line}\n" for line in lines if line.startswith(wanted))


def bootstrap(root, packages, log, newer=()):
    """A minimal Debian plus packages in root; no service is started, no documentation unpacked."""
    mirror, keyring = apt_source()
    debs = CACHE / "debs"
    debs.mkdir(parents=True, exist_ok=True)
    say(f"Debian {BASE} from {mirror}")
    run("debootstrap", "--variant=minbase", f"--keyring={keyring}", f"--cache-dir={debs}", BASE, root, mirror, stdout=log)
    suites = [BASE, NEWER] if newer else [BASE]
    etc = root / "etc"
    (etc / "apt/sources.list").write_text("".join(f"deb {mirror} {suite} main\n" for suite in suites))
    (etc / "apt/apt.conf.d/90machine").write_text(apt_settings())
    (etc / "dpkg/dpkg.cfg.d/no-docs").write_text(_NO_DOCS)
    (root / "usr/sbin/policy-rc.d").write_text("#!/bin/sh\nexit 101\n")
    (root / "usr/sbin/policy-rc.d").chmod(0o755)
    shutil.copy("/etc/resolv.conf", etc / "resolv.conf")
    if newer:
        (etc / "apt/preferences.d/newer").write_text(_PIN)

    def apt(*args):
        chamber.enter(root, [*_APT, *args], binds=[f"{debs}:/var/cache/apt/archives"], writable=True, log=log)

    (debs / "partial").mkdir(exist_ok=True)
    apt("update")
    say(f"{len(packages)} packages and what they need")
    apt("install", *packages)
    if newer:
        _install_newer(root, newer, apt, mirror, log)


def _install_newer(root, packages, apt, mirror, log):
    """The few packages of the newer suite; compiled inside the image when their binaries no longer fit this base."""
    say(f"{packages[0]} from {NEWER}")
    try:
        apt("install", *packages)
        return
    except LabError:
        say(f"{NEWER}'s binary does not install on {BASE}: compiling its source, this takes minutes")
    (root / "etc/apt/preferences.d/newer").unlink()
    (root / "etc/apt/sources.list").write_text(f"deb {mirror} {BASE} main\ndeb-src {mirror} {NEWER} main\n")
    apt("update")
    apt("install", "dpkg-dev", "fakeroot")
    apt("build-dep", packages[0])
    chamber.enter(root, ["sh", "-ec", f"mkdir -p /usr/src/newer && cd /usr/src/newer && apt-get -q source {packages[0]}"
                         " && cd */ && DEB_BUILD_OPTIONS=nocheck dpkg-buildpackage -b -uc"], writable=True, log=log)
    built = [f"/usr/src/newer/{deb.name}" for deb in sorted((root / "usr/src/newer").glob("*.deb"))
             if deb.name.split("_")[0] in packages]
    apt("install", *built)
    shutil.rmtree(root / "usr/src/newer")


def _build_host(root, log):
    bootstrap(root, HOST_PACKAGES, log, newer=FROM_NEWER)
    strip(root)
    for mount_point in ("src", "build"):  # of compilations inside the image
        (root / mount_point).mkdir()


def _build_guest(root, log):
    """As small as it gets: each test that migrates a container copies all of it."""
    bootstrap(root, GUEST_PACKAGES, log)
    strip(root)
    for pattern in _GUEST_UNUSED.split():
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (root / "var/log").mkdir()


def strip(root):
    """Remove what apt and debootstrap leave, and what must differ between machines."""
    for pattern in ("var/lib/apt/lists/*", "var/cache/apt/*.bin", "var/cache/apt/archives/*", "var/log/*.log", "etc/machine-id",
                    "etc/ssh/ssh_host_*"):
        for path in root.glob(pattern):
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
    (root / "etc/resolv.conf").unlink()
    (root / "etc/resolv.conf").touch()
