# SPDX-License-Identifier: LGPL-2.1-or-later
"""All that a process inherits or carries with it, read field by field before it moved and after."""

import json

# Run in the host, which sees the processes of its containers as well. Prints {pid: {field: value}} for those named.
_LOOK = r"""
import json, os, re, sys

def look(pid):
    def read(name):
        with open(f"/proc/{pid}/{name}", errors="replace") as f:
            return f.read()
    def link(name):
        try:
            return os.readlink(f"/proc/{pid}/{name}")
        except OSError as error:
            return error.strerror
    def kind(target):
        return re.sub(r"^(socket|pipe|mnt|net|pid):\[[0-9]*\]$", r"\1:", target)
    def label():
        try:
            return read("attr/current").strip("\0\n")
        except OSError as error:  # no security module that labels
            return error.strerror
    status = dict(line.split(":", 1) for line in read("status").splitlines())
    wanted = "Umask Uid Gid Groups NStgid NSpgid NSsid Threads SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb " \
             "NoNewPrivs Seccomp Seccomp_filters Speculation_Store_Bypass Cpus_allowed_list Mems_allowed_list THP_enabled".split()
    stat = read("stat").rpartition(")")[2].split()
    mounts = [line.split(" - ") for line in read("mountinfo").splitlines()]
    return {
        "status": {key: status[key].strip() for key in wanted if key in status},
        "limits": read("limits").splitlines()[1:],
        "oom_score_adj": read("oom_score_adj").strip(), "coredump_filter": read("coredump_filter").strip(),
        "personality": read("personality").strip(), "loginuid": read("loginuid").strip(), "timerslack": read("timerslack_ns").strip(),
        "environment": sorted(read("environ").split("\0")), "command": read("cmdline"), "comm": read("comm").strip(),
        "threads": sorted(read(f"task/{tid}/comm").strip() for tid in os.listdir(f"/proc/{pid}/task")),
        "cwd": link("cwd"), "root": link("root"), "exe": link("exe"), "label": label(),
        "terminal": stat[4], "nice": stat[16], "real-time priority": stat[37], "policy": stat[38],
        "descriptors": {fd: [kind(link(f"fd/{fd}")), re.search(r"flags:\s+(\S+)", read(f"fdinfo/{fd}"))[1]]
                        for fd in sorted(os.listdir(f"/proc/{pid}/fd"), key=int)},
        "own namespaces": [s for s in sorted(os.listdir(f"/proc/{pid}/ns")) if link(f"ns/{s}") != os.readlink(f"/proc/1/ns/{s}")],
        "cgroups": sorted(line.split(":", 1)[1] for line in read("cgroup").splitlines()),
        "mounts": sorted(f"{left.split()[4]} {left.split()[5]} {right.split()[0]}" for left, right in mounts),
    }

print(json.dumps({pid: look(pid) for pid in sys.argv[1:]}))
"""

# CRIU shifts the clocks, so that CLOCK_MONOTONIC does not jump: that takes a time namespace.
_CLOCKS = {"time", "time_for_children"}


def look_at(host, pids):
    """{pid: {field: value}} of processes, by their pids in the host as text."""
    return json.loads(host.run("python3", "-c", _LOOK, *pids).stdout)


def look(host, pid):
    return look_at(host, [str(pid)])[str(pid)]


def tasks_of(host, name):
    """Pids of a container's processes, as the host counts them."""
    find = f"cat $(find /sys/fs/cgroup -path '*lxc.payload.{name}/cgroup.procs' | head -n 1)"
    return host.run("sh", "-c", find, check=False).stdout.split()


def of_container(host, name):
    """A container's processes by their pid inside, without what differs on every host: their pids outside."""
    found = {}
    for seen in look_at(host, tasks_of(host, name)).values():
        for field in ("NStgid", "NSpgid", "NSsid"):
            seen["status"][field] = seen["status"][field].split()[-1]
        found[seen["status"]["NStgid"]] = seen
    return found


def differences(before, after):
    """What one process was and is, where that is not the same: {field: (before, after)}."""
    found = {key: (before[key], after[key]) for key in before if before[key] != after[key]}
    then, now = found.get("own namespaces", ([], []))
    if set(now) - set(then) <= _CLOCKS and set(then) <= set(now):
        found.pop("own namespaces", None)
    return found


def assert_same(before, after, where, but=()):
    """The same processes, each the same in all fields `but` some."""
    assert after.keys() == before.keys(), where
    for pid in before:
        seen = {field: values for field, values in differences(before[pid], after[pid]).items() if field not in but}
        assert not seen, f"process {pid} on {where}: {seen}"
