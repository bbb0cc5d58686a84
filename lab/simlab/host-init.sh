#!/bin/sh
# SPDX-License-Identifier: LGPL-2.1-or-later
# Turns the calling process, alone in fresh namespaces, into pid 1 of a simulated host.
# Given by environment: NAME, LOWER (overlay layers), DISK (upper work varlib root/), CGROUPS (words "name=options", or "unified").
set -eu

root=$DISK/root
mount -t overlay "$NAME" -o "lowerdir=$LOWER,upperdir=$DISK/upper,workdir=$DISK/work" "$root"
mount --bind "$DISK/varlib" "$root/var/lib"
cd "$root"

mount -t proc -o nosuid,nodev,noexec proc proc
mount -t sysfs -o nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o nosuid,mode=755 tmpfs dev
for node in null zero full random urandom tty fuse userfaultfd; do
    [ ! -e "/dev/$node" ] || cp -a "/dev/$node" dev/
done
mkdir dev/pts dev/shm dev/net
[ ! -e /dev/net/tun ] || cp -a /dev/net/tun dev/net/
mount -t devpts -o newinstance,ptmxmode=0666,mode=620,gid=5 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
for n in 0:stdin 1:stdout 2:stderr; do ln -s "/proc/self/fd/${n%:*}" "dev/${n#*:}"; done
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs dev/shm
mount -t tmpfs -o nosuid,nodev,mode=755 tmpfs run    # must be tmpfs: CRIU caches its probe of the kernel here
mount -t tmpfs -o nosuid,nodev,mode=1777 tmpfs tmp
mkdir -m 1777 run/lock

if [ "$CGROUPS" = unified ]; then
    mount -t cgroup2 cgroup2 sys/fs/cgroup
else
    mount -t tmpfs -o mode=755 tmpfs sys/fs/cgroup
    for tree in $CGROUPS; do
        mkdir "sys/fs/cgroup/${tree%%=*}"
        mount -t cgroup -o "${tree#*=}" cgroup "sys/fs/cgroup/${tree%%=*}"
    done
fi

# pivot_root and not chroot: CRIU refuses mounts whose parents it cannot see.
pivot_root . .
umount -l .
cd /
mount --make-rshared /    # as on every host that runs systemd
hostname "$NAME"
[ ! -d /usr/lib/sysusers.d ] || systemd-sysusers
for file in /usr/lib/tmpfiles.d/phaul*.conf; do
    [ ! -e "$file" ] || systemd-tmpfiles --create "$file"
done
exec </dev/null >/run/console 2>&1
exec env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin tini -s -- sleep infinity
