# SPDX-License-Identifier: LGPL-2.1-or-later
"""A host is a machine of its own: processes, files, descriptors, environment, cgroups, crash and boot."""

import os
import pty
import subprocess
from pathlib import Path

import pytest
from simlab import LabError

LAB = Path(__file__).resolve().parents[2] / "lab/lab"


def lab_command(*argv, **options):
    options = {"stdin": subprocess.DEVNULL, **options}
    return subprocess.run([LAB, "--lab", "test-lab", *argv], text=True, capture_output=True, timeout=60, **options)


def test_list_shows_every_host_and_the_client(lab):
    rows = [line.split("\t") for line in lab_command("list").stdout.splitlines()]
    mine = [row for row in rows if row[0] == "test-lab"]
    assert [row[1] for row in mine] == ["alpha", "beta", "client"]
    assert all(row[3] == "up" and row[5] == "ok" for row in mine)


@pytest.mark.parametrize("script, code", [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", -15)])
def test_exec_passes_the_exit_code_on(lab, script, code):
    assert lab_command("exec", "alpha", "--", "sh", "-c", script).returncode == code


def test_exec_of_an_unknown_host_or_command_says_so(lab):
    assert "no host 'zeta'" in lab_command("exec", "zeta", "--", "true").stderr
    missing = lab_command("exec", "alpha", "--", "no-such-command")
    assert missing.returncode == 127 and "no-such-command" in missing.stderr


def test_exec_has_a_clean_environment(lab):
    shown = lab_command("exec", "alpha", "--", "env", env={**os.environ, "SECRET": "1", "LD_LIBRARY_PATH": "/x"}).stdout
    assert {line.split("=")[0] for line in shown.splitlines()} == {"PATH", "HOME", "TERM", "LANG"}


def test_exec_inherits_no_descriptor(lab):
    read, write = os.pipe()
    os.set_inheritable(read, True)
    listed = lab_command("exec", "alpha", "--", "ls", "/proc/self/fd", close_fds=False).stdout.split()
    os.close(read)
    os.close(write)
    assert listed == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_exec_passes_stdin_and_a_terminal(lab):
    assert lab_command("exec", "alpha", "--", "cat", stdin=None, input="hello").stdout == "hello"
    leader, follower = pty.openpty()
    done = subprocess.run([LAB, "--lab", "test-lab", "exec", "alpha", "--", "test", "-t", "0"], stdin=follower, timeout=60)
    os.close(leader)
    os.close(follower)
    assert done.returncode == 0


def test_a_command_is_in_its_hosts_namespaces_and_cgroups(alpha, beta):
    assert alpha.run("hostname").stdout == "alpha\n"
    assert "sleep" in alpha.run("ps", "-e").stdout and "python" not in alpha.run("ps", "-e").stdout
    assert {line.rsplit(":", 1)[1] for line in alpha.run("cat", "/proc/self/cgroup").stdout.split()} == {"/"}
    for kind in ("mnt", "pid", "net", "uts", "ipc", "cgroup"):
        spaces = {host.run("readlink", f"/proc/self/ns/{kind}").stdout for host in (alpha, beta)}
        assert len(spaces | {os.readlink(f"/proc/self/ns/{kind}")}) == 3, kind


def test_killing_exec_kills_its_command(lab, alpha, eventually):
    def sleeps():
        """Itself, not what is about to become it."""
        return "sleep 4321" in alpha.run("ps", "-eo", "args").stdout.splitlines()

    waiting = subprocess.Popen([LAB, "--lab", "test-lab", "exec", "alpha", "--", "sleep", "4321"])
    eventually(sleeps)
    waiting.kill()
    waiting.wait()
    eventually(lambda: not sleeps())


def test_spawn_outlives_its_caller_and_logs_in_the_host(lab, alpha, eventually):
    pid = int(lab_command("spawn", "alpha", "/root/log", "--", "sh", "-c", "echo here; exec sleep 1234").stdout)
    eventually(lambda: alpha.run("cat", "/root/log").stdout == "here\n")
    assert "1234" in alpha.run("ps", "-o", "args=", "-p", pid).stdout
    descriptors = lambda: alpha.run("sh", "-c", f"readlink /proc/{pid}/fd/*", check=False).stdout.split()  # noqa: E731
    eventually(lambda: alpha.run("ps", "-o", "args=", "-p", pid).stdout == "sleep 1234\n")
    eventually(lambda: descriptors() == ["/dev/null", "/root/log", "/root/log"])  # its libraries are open for a moment
    ignored = int(alpha.run("sed", "-n", r"s/^SigIgn:\t//p", f"/proc/{pid}/status").stdout, 16)
    assert not ignored & 0x4007, f"HUP, INT, QUIT or TERM is ignored: {ignored:x}"
    alpha.run("kill", pid)


def test_var_lib_is_one_plain_directory(alpha):
    kind = alpha.run("stat", "-f", "-c", "%T", "/", "/var/lib").stdout.split()
    assert kind[0] == "overlayfs" and kind[1] != "overlayfs"
    script = "mkdir /var/lib/lxc/x && mv -T /var/lib/lxc/x /var/lib/misc/x && rmdir /var/lib/misc/x"
    alpha.run("strace", "-f", "-e", "inject=copy_file_range:error=EXDEV", "-o", "/dev/null", "sh", "-c", script)


def test_put_and_get_carry_trees_with_attributes(alpha, tmp_path):
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_text("content")
    os.chown(tree / "file", 1000, 1001)
    os.setxattr(tree / "file", "user.colour", b"green")
    alpha.put(tree, "/root/tree")
    alpha.put(tree / "file", "/root/single")
    assert alpha.run("stat", "-c", "%u:%g", "/root/tree/file").stdout == "1000:1001\n"
    assert alpha.run("cat", "/root/single").stdout == "content"
    alpha.get("/root/tree", tmp_path / "back")
    assert (tmp_path / "back/file").read_text() == "content"
    assert os.getxattr(tmp_path / "back/file", "user.colour") == b"green"


def test_crash_takes_everything_but_the_disk(lab, alpha, client, eventually):
    alpha.run("sh", "-c", "echo kept > /var/lib/misc/kept; echo kept > /etc/kept; echo gone > /run/gone")
    alpha.spawn("/root/log", "sleep", "5555")
    before = alpha.pid
    lab.crash("alpha")
    assert alpha.pid is None and not Path(f"/proc/{before}/root/etc").exists()
    with pytest.raises(LabError, match="alpha is down"):
        alpha.run("true")
    assert client.run("ping", "-c1", "-W1", "alpha", check=False).returncode != 0
    lab.boot("alpha")
    assert alpha.run("cat", "/var/lib/misc/kept", "/etc/kept").stdout == "kept\nkept\n"
    assert alpha.run("test", "-e", "/run/gone", check=False).returncode == 1
    assert "5555" not in alpha.run("ps", "ax").stdout
    eventually(lambda: client.run("ping", "-c1", "-W1", "alpha", check=False).returncode == 0)


def test_criu_dumps_another_users_process_and_hands_no_preload_on(alpha, eventually):
    check = alpha.run("criu", "check")
    assert "Looks good" in check.stdout + check.stderr
    pid = alpha.spawn("/root/log", "setpriv", "--reuid=redis", "--regid=redis", "--clear-groups", "sleep", "1000")
    eventually(lambda: alpha.run("ps", "-o", "user=,comm=", "-p", pid).stdout.split() == ["redis", "sleep"])
    alpha.run("sh", "-c", "printf '#!/bin/sh\\nenv > /tmp/env\\n' > /tmp/seen; chmod +x /tmp/seen; mkdir -p /tmp/dumped")
    alpha.run("criu", "dump", "-t", pid, "-D", "/tmp/dumped", "--action-script", "/tmp/seen")
    alpha.run("criu", "restore", "-d", "-D", "/tmp/dumped")
    assert "LD_PRELOAD" not in alpha.run("cat", "/tmp/env", f"/proc/{pid}/environ").stdout
    alpha.run("kill", pid)
