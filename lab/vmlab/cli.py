# SPDX-License-Identifier: LGPL-2.1-or-later
"""The command line of the lab of virtual machines."""

import argparse
import os
import sys

from .image import vm_image
from .lab import NAMES, LabError, VmLab


def main(argv):
    """Run one command; returns the exit code."""
    at = argv.index("--") if "--" in argv else len(argv)
    options = _parser().parse_args(argv[:at])
    options.command = argv[at + 1:]
    try:
        if os.geteuid() != 0:
            raise LabError("only root can make machines")
        return options.run(options) or 0
    except LabError as error:
        print(f"vm: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _parser():
    parser = argparse.ArgumentParser(prog="vm", description="virtual machines as hosts")
    parser.add_argument("--lab", metavar="NAME", help="which lab (default: $PHAUL_LAB, or 'lab')")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="COMMAND")

    def verb(run, *arguments, **options):
        made = verbs.add_parser(run.__name__.strip("_"), help=run.__doc__, description=run.__doc__)
        for name in arguments:
            made.add_argument(name)
        for name, settings in options.items():
            made.add_argument(name if settings.get("nargs") else f"--{name}", **settings)
        made.set_defaults(run=run)

    verb(_image)
    verb(_up, names={"nargs": "*"})
    verb(_list)
    verb(_exec, "machine")
    verb(_redis, "machine", "name", ip={"default": "10.77.0.20/24"})
    verb(_crash, "machine")
    verb(_stop, "machine")
    verb(_boot, "machine")
    verb(_reboot, "machine")
    verb(_down, all={"action": "store_true"})
    return parser


def _image(options):
    """build the image the machines boot, and print its directory"""
    print(vm_image())


def _up(options):
    """start the machines (alpha and beta, or those named) and wait until they have booted"""
    VmLab(options.lab).up(options.names or NAMES)


def _list(options):
    """every lab's machines: lab, machine, address, state"""
    for name in [options.lab] if options.lab else VmLab.names():
        lab = VmLab(name)
        for machine in lab.machines.values():
            print(name, machine.name, machine.address, "up" if machine.pid else "off", sep="\t")
        if not lab.machines:
            print(f"{name}\t-\t-\tleftover (`vm --lab {name} down` removes it)")


def _exec(options):
    """run a command in a machine: vm exec MACHINE -- COMMAND..."""
    VmLab(options.lab)[options.machine].exec(options.command)


def _redis(options):
    """make and start an LXC container with Redis in a machine"""
    VmLab(options.lab).container(options.machine, options.name, ip=options.ip)


def _crash(options):
    """let a machine's power fail"""
    VmLab(options.lab)[options.machine].crash()


def _stop(options):
    """shut a machine down"""
    VmLab(options.lab)[options.machine].stop()


def _boot(options):
    """switch a machine on again"""
    machine = VmLab(options.lab)[options.machine]
    machine.start()
    machine.wait_up()


def _reboot(options):
    """restart a machine in order and wait until it has booted"""
    VmLab(options.lab)[options.machine].reboot()


def _down(options):
    """remove a lab, or all of them, and whatever a crash left of it"""
    for name in VmLab.names() if options.all else [options.lab]:
        VmLab(name).down()
