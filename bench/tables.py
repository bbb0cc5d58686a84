# SPDX-License-Identifier: LGPL-2.1-or-later
"""What was measured: as rows of bench.json, as tables, and against what was aimed at."""

import datetime
from statistics import median


class Row:
    """One way to move one workload, with a sample of each figure for each time it was moved."""

    def __init__(self, case, way):
        self.case, self.way = case, way
        self.tracker = None
        self.samples = {}

    def add(self, workload, moved):
        self.tracker = moved.tracker
        found = {"downtime_ms": workload.downtime_ms(moved.begin_ms), "total_ms": moved.total_ms, "bytes": moved.bytes}
        if moved.plain_ms is not None:
            found |= {"predicted_ms": moved.predicted_ms, "plain_ms": moved.plain_ms, "cpu_s": moved.cpu_s,
                      "memory_bytes": moved.memory_bytes}
            found |= {f"{side}_overhead_mib": mib for side, mib in moved.overhead_mib.items()}
            found |= {f"phase_{name}_ms": ms for name, ms in moved.phases.items()}
            before = workload.pace(workload.began_ms, moved.begin_ms)
            during = workload.pace(moved.begin_ms, moved.frozen_at_ms)
            if before and during:
                found["slow_down_percent"] = round(100 * (1 - during / before), 1)
        for name, value in found.items():
            self.samples.setdefault(name, []).append(value)

    def of(self, name):
        """The median of a figure; None where it was not taken."""
        return median(self.samples[name]) if name in self.samples else None

    def per_resident(self, name):
        return self.of(name) / (self.case.mib * 2**20)

    def option(self, name):
        """What was given for it, or None."""
        options = self.way.options
        return options[options.index(name) + 1] if name in options else None

    def label(self):
        case = self.case
        return " ".join(filter(None, [case.group, case.kind, f"{case.mib} MiB {case.rate} MB/s", self.way.name, *self.way.options]))

    def last(self):
        taken = {name: values[-1] for name, values in self.samples.items()}
        return f"downtime {taken['downtime_ms']} ms, total {taken['total_ms']} ms, {taken['bytes'] / 1e6:.0f} MB"

    def result(self):
        case = self.case
        return {"group": case.group, "method": self.way.name, "kind": case.kind, "mib": case.mib, "dirty_mb_s": case.rate,
                "memory": case.memory, "tracker": self.tracker, "diverge": self.option("--diverge"),
                "streams": self.option("--streams"),
                **{name: spread(values) for name, values in self.samples.items()}}


def spread(samples):
    return {"median": median(samples), "min": min(samples), "max": max(samples)}


def show(rows):
    print(f"\n{datetime.date.today()}; medians (smallest to largest), ratios of medians of this run")
    main_table("Sizes, written at 50 MB/s", [row for row in rows if row.case.group == "sizes"])
    main_table("Dirty rates and what is done when rounds gain nothing", [row for row in rows if row.case.group == "rates"])
    main_table("A System V segment", [row for row in rows if row.case.group == "shared"])
    main_table("So many connections for memory", [row for row in rows if row.case.group == "streams"])
    cost_table([row for row in rows if "plain_ms" in row.samples])
    phase_table([row for row in rows if "plain_ms" in row.samples])
    targets(rows)


def main_table(title, rows):
    """Under phaul's rows each peer, with phaul's best tracker against it."""
    if not rows:
        return
    print(f"\n{title}\n\n{'kind':5}{'MiB':>5}{'MB/s':>5}  {'method':12}{'tracker':12}{'options':20}{'downtime ms':>22}{'predicted':>10}"
          f"{'total ms':>26}{'MB':>7}   phaul/peer: downtime  total")
    for row in rows:
        case, predicted = row.case, row.of("predicted_ms")
        line = (f"{case.kind:5}{case.mib:5}{case.rate:5}  {row.way.name:12}{row.tracker or '-':12}{' '.join(row.way.options) or '-':20}"
                f"{shown(row.samples['downtime_ms']):>22}{'-' if predicted is None else round(predicted):>10}"
                f"{shown(row.samples['total_ms']):>26}{row.of('bytes') / 1e6:7.0f}")
        if row.way.name != "phaul" and (mine := best(rows, case.group, case.kind, case.mib)):
            line += f"{mine.of('downtime_ms') / row.of('downtime_ms'):24.3f}{mine.of('total_ms') / row.of('total_ms'):7.2f}"
        print(line)


def cost_table(rows):
    """What phaul costs. Its bytes are encrypted and checked; those of the plain stream it is compared with are not."""
    if not rows:
        return
    print(f"\nCosts\n\n{'':48}{'sent/resident':>15}{'total/plain':>12}{'slow-down %':>12}{'source MiB':>11}{'target MiB':>11}{'CPU s/GiB':>10}")
    for row in rows:
        slow = row.of("slow_down_percent")
        print(f"{row.label()[:47]:48}{row.per_resident('memory_bytes'):15.2f}{row.of('total_ms') / max(1, row.of('plain_ms')):12.2f}"
              f"{'-' if slow is None else format(slow, '.1f'):>12}{row.of('source_overhead_mib'):11.0f}{row.of('target_overhead_mib'):11.0f}"
              f"{row.per_resident('cpu_s') * 2**30:10.1f}")


def phase_table(rows):
    names = list(dict.fromkeys(name for row in rows for name in row.samples if name.startswith("phase_")))
    if not names:
        return
    print("\nPhases, ms\n\n" + " " * 48 + "".join(f"{name[6:-3]:>9}" for name in names))
    for row in rows:
        print(f"{row.label()[:47]:48}" + "".join(f"{'-' if row.of(name) is None else round(row.of(name)):>9}" for name in names))


def best(rows, group, kind, mib):
    """phaul's row with the best tracker there is: it stands first."""
    return next((row for row in rows if row.way.name == "phaul" and (row.case.group, row.case.kind, row.case.mib) == (group, kind, mib)),
                None)


def targets(rows):
    """What was aimed at, as far as it was measured."""
    pid, lxc = best(rows, "sizes", "pid", 1024), best(rows, "sizes", "lxc", 1024)
    recipe = next((row for row in rows if row.way.name == "lxc-recipe" and row.case.group == "sizes" and row.case.mib == 1024), None)
    small, large = best(rows, "sizes", "pid", 256), best(rows, "sizes", "pid", 4096)
    print("\nAims\n")
    if pid:
        aim("pid 1024 MiB: downtime", pid.of("downtime_ms"), 120, "ms")
        aim("pid 1024 MiB: total, of a plain stream", pid.of("total_ms") / max(1, pid.of("plain_ms")), 1.5)
        if pid.of("slow_down_percent") is not None:
            aim("pid 1024 MiB: slow-down while memory is sent", pid.of("slow_down_percent"), 10, "%")
        aim("pid 1024 MiB: memory overhead on the source", pid.of("source_overhead_mib"), 64, "MiB")
    if pid and recipe:
        aim("pid 1024 MiB: downtime, of the lxc recipe's", pid.of("downtime_ms") / recipe.of("downtime_ms"), 1 / 25)
    if lxc and recipe:
        aim("lxc 1024 MiB: downtime, of the lxc recipe's", lxc.of("downtime_ms") / recipe.of("downtime_ms"), 1 / 12)
    if small and large:
        aim("pid 4096 MiB: downtime, of that of 256 MiB", large.of("downtime_ms") / small.of("downtime_ms"), 1.4)


def aim(what, value, most, unit=""):
    print(f"{what + ':':52} {value:8.3g} {unit:4}at most {most:.3g}{'' if value <= most else '   MISSED'}")


def shown(samples):
    return f"{median(samples):.0f} ({min(samples):.0f} to {max(samples):.0f})"
