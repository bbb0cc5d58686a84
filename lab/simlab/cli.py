# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of the lab."""

import argparse
import os
import sys

from . import build, image, tools
from .cache import prune
from .lab import Lab
from .sh import LabError


def main(argv):
    """Run one command; returns the exit code."""
    arguments, command = _split(argv)
    options = _parser().parse_args(arguments)
    options.command = command or getattr(options, "words", [])
    try:
        if os.geteuid() != 0:
            raise LabError("only root can make hosts")
        return options.run(options) or 0
    except LabError as error:
        print(f"lab: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _split(argv):
    """What is before "--" is ours, what follows is a command for a host."""
    if "--" not in argv:
        return argv, []
    at = argv.index("--")
    return argv[:at], argv[at + 1:]


def _parser():
    parser = argparse.ArgumentParser(prog="lab", description="simulated hosts on one machine")
    parser.add_argument("--lab", metavar="NAME", help="which lab (default: $PHAUL_LAB, or 'lab')")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(run, *arguments, **options):
        made = verbs.add_parser(run.__name__.strip("_").replace("_", "-"), help=run.__doc__, description=run.__doc__)
        for name in arguments:
            made.add_argument(name)
        for name, settings in options.items():
            made.add_argument(name if settings.get("nargs") else f"--{name}", **settings)
        made.set_defaults(run=run)

    flag = {"action": "store_true"}
    words = {"nargs": argparse.REMAINDER}
    verb(_image, prune=flag)
    verb(_build, sanitize=flag)
    verb(_up, hosts={"nargs": "*"}, sanitize=flag)
    verb(_list)
    verb(_exec, "host", words=words)
    verb(_spawn, "host", "log", words=words)
    verb(_workload, "host", "name", words=words)
    container = {"ip": {"metavar": "A.B.C.D/24"}, "ip6": {"metavar": "ADDR/64"}, "mac": {}, "link": {"default": "br0"},
                 "backing": {"choices": ["dir", "overlay"], "default": "dir"}, "stopped": flag}
    verb(_container, "host", "name", **container)
    verb(_redis, "host", "name", **container)
    verb(_put, "host", "source", "target")
    verb(_get, "host", "source", "target")
    verb(_share, "host", "place")
    verb(_cut, "host")
    verb(_heal, "host")
    verb(_slow, "host", "rate")
    verb(_delay, "host", "milliseconds")
    verb(_crash, "host")
    verb(_boot, "host")
    verb(_down, all=flag)
    return parser


def _image(options):
    """build the images and print their directories; --prune removes earlier ones that no lab uses"""
    current = [image.host_image(), image.guest_image()]
    print(*current, sep="\n")
    if options.prune:
        prune({*current, *tools.layers(), tools.enter().parent, *(layer for name in Lab.names() for layer in Lab(name).layers)})


def _build(options):
    """compile phaul for the hosts"""
    print(build.build(options.sanitize))


def _up(options):
    """start a lab: a number of hosts (default 2), or their names"""
    hosts = options.hosts or ["2"]
    lab = Lab(options.lab).up(int(hosts[0]) if len(hosts) == 1 and hosts[0].isdigit() else hosts, options.sanitize)
    _show(lab.name)


def _list(options):
    """every lab's hosts: lab, host, address, state, pid 1 as this machine sees it, link"""
    for name in [options.lab] if options.lab else Lab.names():
        _show(name)


def _show(name):
    lab = Lab(name)
    if not lab.hosts and name in Lab.names():
        print(f"{name}\t-\t-\tleftover (`lab --lab {name} down` removes it)")
    for host in [*lab.hosts.values(), lab.client] if lab.hosts else []:
        pid = host.pid
        link = "-" if not pid else "cut" if host.is_cut() else "ok"
        print(name, host.name, host.address, "up" if pid else "down", pid or "-", link, sep="\t")


def _exec(options):
    """run a command in a host: lab exec HOST -- COMMAND..."""
    Lab(options.lab)[options.host].exec(options.command or ["bash"])


def _spawn(options):
    """start a daemon in a host, its output to a file there; prints its pid there"""
    if not options.command:
        raise LabError("lab spawn HOST LOG -- COMMAND...")
    print(Lab(options.lab)[options.host].spawn(options.log, *options.command))


def _workload(options):
    """start a workload in a host: lab workload HOST NAME PROGRAM ARGUMENTS..., output to /var/log/NAME.log; prints its pid"""
    if not options.command:
        raise LabError("lab workload HOST NAME PROGRAM ARGUMENTS...")
    print(Lab(options.lab)[options.host].workload(options.name, *options.command))


def _container(options):
    """make and start an LXC container: lab container HOST NAME -- COMMAND... (a workload's name will do)"""
    if not options.command:
        raise LabError("lab container HOST NAME -- COMMAND...")
    Lab(options.lab)[options.host].container(options.name, options.command, **_container_options(options))


def _redis(options):
    """make and start an LXC container with Redis in it"""
    Lab(options.lab)[options.host].redis(options.name, **_container_options(options))


def _container_options(options):
    return {key: getattr(options, key) for key in ("ip", "ip6", "mac", "link", "backing")} | {"start": not options.stopped}


def _put(options):
    """copy a file or tree into a host"""
    Lab(options.lab)[options.host].put(options.source, options.target)


def _get(options):
    """copy a file or tree out of a host"""
    Lab(options.lab)[options.host].get(options.source, options.target)


def _share(options):
    """mount the lab's common directory in a host: what several hosts see of one storage"""
    Lab(options.lab)[options.host].share(options.place)


def _cut(options):
    """lose every frame from and to a host, silently"""
    Lab(options.lab)[options.host].cut()


def _heal(options):
    """undo a cut"""
    Lab(options.lab)[options.host].heal()


def _slow(options):
    """limit a host's link to a rate such as 100mbit; 'none' lifts the limit"""
    Lab(options.lab)[options.host].slow(options.rate)


def _delay(options):
    """delay a host's link by milliseconds each way; 0 removes it"""
    Lab(options.lab)[options.host].delay(int(options.milliseconds))


def _crash(options):
    """let everything in a host die at once; its disk stays"""
    Lab(options.lab).crash(options.host)


def _boot(options):
    """start a crashed host again with its disk"""
    Lab(options.lab).boot(options.host)


def _down(options):
    """remove a lab, or all of them, and whatever a crash left of it"""
    for name in Lab.names() if options.all else [options.lab]:
        Lab(name).down()
