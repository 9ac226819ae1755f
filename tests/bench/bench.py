"""scripts/bench: runs the benches of benches.py, hutch and QEMU in turn, and prints one
table or one JSON object."""
import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time

import monitors
from benches import ALL
from monitors import CannotRun


def meets(value, asked):
    sign, bound = asked
    return value <= bound if sign == "<=" else value >= bound


def figures(samples):
    return {"median": statistics.median(samples), "min": min(samples), "max": max(samples),
            "samples": samples}


def judge(row, samples):
    """One line of the table: what was measured, what is asked, and whether they agree."""
    ours, theirs = (figures([s[row.figure] for s in samples[m]])
                    for m in (row.monitor, row.beside))
    ratio = ours["median"] / theirs["median"] if theirs["median"] else None
    ok = ((not row.ratio or meets(ratio, row.ratio)) and
          (not row.limit or meets(ours["median"], row.limit)))
    return {"name": row.name, "unit": row.unit, "beside": row.beside,
            "hutch": ours, "qemu" if row.beside == "qemu" else "base": theirs, "ratio": ratio,
            "asked": {"ratio": row.ratio, "value": row.limit},
            "verdict": "" if not (row.ratio or row.limit) else "ok" if ok else "short"}


def measure(make, runs, progress):
    """All monitors of a bench in turn, again and again, so that whatever else the machine
    does meets them alike."""
    with make() as bench:
        subjects = list(dict.fromkeys(m for row in bench.rows for m in (row.monitor, row.beside)))
        samples = {subject: [] for subject in subjects}
        for run in range(runs or bench.runs):
            progress(f"{bench.name}: run {run + 1} of {runs or bench.runs}")
            for subject in subjects:
                samples[subject].append(bench.sample(subject))
        return [judge(row, samples) for row in bench.rows]


@contextlib.contextmanager
def ahead_of_others():
    """While the block runs, this session comes before others on a machine that has more to
    do, where that is permitted: a guest whose threads wait for a processor measures
    nothing.  Sessions compete as groups (sched(7), "The autogroup feature"), so the nice
    value of single processes would be of no use."""
    path = "/proc/self/autogroup"
    try:
        with open(path) as group:
            before = group.read().split()[-1]
        with open(path, "w") as group:
            group.write("-10")
    except (OSError, IndexError):
        yield
        return
    try:
        yield
    finally:
        with open(path, "w") as group:
            group.write(before)


def number(value):
    return f"{value:.3f}" if value < 10 else f"{value:.1f}"


def cell(f):
    return f"{number(f['median'])} ({number(f['min'])}-{number(f['max'])})"


def asked(result):
    words = []
    if result["asked"]["ratio"]:
        words.append("{} {:g}x".format(*result["asked"]["ratio"]))
    if result["asked"]["value"]:
        words.append("{} {:g} {}".format(*result["asked"]["value"], result["unit"]))
    return ", ".join(words) or "-"


def print_table(results, failures):
    lines = [("bench", "unit", "hutch (min-max)", "QEMU, or as said (min-max)", "ratio", "asked",
              "")]
    for r in results:
        theirs = cell(r["qemu"]) if "qemu" in r else f"{r['beside']}: {cell(r['base'])}"
        lines.append((r["name"], r["unit"], cell(r["hutch"]), theirs,
                      "-" if r["ratio"] is None else f"{r['ratio']:.3f}", asked(r), r["verdict"]))
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths)).rstrip())
    for name, why in failures.items():
        print(f"{name}: not run: {why}")


def stolen():
    """Seconds that the host under this machine has kept from its processors (proc(5))."""
    with open("/proc/stat") as stat:
        return int(stat.readline().split()[8]) / os.sysconf("SC_CLK_TCK")


def host():
    version = subprocess.run([monitors.QEMU, "--version"], capture_output=True, text=True).stdout
    return {"kernel": platform.release(), "cpus": os.cpu_count(), "qemu": version.split("\n")[0],
            "load": os.getloadavg()[0]}


def main():
    listing = "\n".join(f"  {b.name:22}{b.help}" for b in ALL)
    parser = argparse.ArgumentParser(
        prog="scripts/bench", formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measures hutch beside QEMU's microvm: medians of interleaved runs.",
        epilog=f"benches:\n{listing}")
    parser.add_argument("names", metavar="NAME", nargs="*", help="benches to run (all of them)")
    parser.add_argument("--runs", type=int, help="runs of each monitor (each bench has its own)")
    parser.add_argument("--json", action="store_true", help="print one object instead of a table")
    options = parser.parse_args()
    known = {b.name: b for b in ALL}
    for name in options.names:
        if name not in known:
            parser.error(f"there is no bench '{name}'; --help lists them")
    try:
        monitors.check_host()
    except CannotRun as why:
        sys.exit(f"bench: {why}")

    results, failures, about = [], {}, host()
    begin, stolen_before = time.monotonic(), stolen()
    for name in options.names or known:
        try:
            with ahead_of_others():
                results += measure(known[name], options.runs,
                                   lambda text: print(f"bench: {text}", file=sys.stderr))
        except CannotRun as why:
            failures[name] = str(why)
    about["stolen"] = (stolen() - stolen_before) / (time.monotonic() - begin) / about["cpus"]
    if options.json:
        json.dump({"host": about, "results": results, "not_run": failures}, sys.stdout, indent=2)
        print()
    else:
        print("host: {kernel}, {cpus} CPUs, load {load:.1f} before, {stolen:.0%} stolen by its "
              "own host; {qemu}".format(**about))
        print_table(results, failures)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
