"""What this project's parts cost beside what a user would use instead, in time and memory.

    python -m benchmarks.cost SUITE [--pairs N] [--only WORDS ...] [--quick] [--out FILE.json]

A case is timed only after its results were checked. Each case has a process of its own, in which its ways take turns; so other
work on the machine slows all of them. The ratio is the median of the rounds' ratios to the first way, with a 95 % interval.
Memory is the peak that a further process of its own adds. Run it where nothing else runs.
"""

import argparse
import importlib
import json
import multiprocessing
import pkgutil
import statistics
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch

import benchmarks.cost
from benchmarks.cost.measuring import in_turn, interval, machine, peak, peak_anew, ratios
from benchmarks.cost.suite import Suite

COLUMNS = ("case", "way", "ms", "ratio", "95 %", "MB", "ratio of MB", "notes")


def main() -> None:
    """Time a suite's cases, print one table."""
    args = parse()
    suite = load(args.suite)
    if args.data is None and suite.with_data:
        raise SystemExit(f"--data: the suite {args.suite} needs a data set's folder")
    cases = suite.with_data(args.data) if suite.with_data else suite.cases
    wanted = [case for case in cases if all(word in str(case) for word in args.only)]
    if not wanted:
        raise SystemExit(f"--only: no case has {' '.join(args.only)}; there are: {'; '.join(map(str, cases))}")
    print(f"| {' | '.join(COLUMNS)} |")
    print("|---" * len(COLUMNS) + "|")
    found = []
    for case in wanted:
        why = suite.missing(case)
        if why:
            print(f"| {case} | left out: {why} |{' |' * (len(COLUMNS) - 2)}", flush=True)
            continue
        rows = in_process(measure, args.suite, case, args.pairs or suite.pairs, args.quick, args.threads)
        if not args.quick:
            rows = compared([row | memory(args.suite, case, row, args.threads) for row in rows])
        print("\n".join(map(line, rows)), flush=True)
        found += rows
    if args.out:
        about = {"suite": args.suite, "machine": machine()}
        args.out.write_text(json.dumps({**about, "rows": found}, indent=1) + "\n")


def parse() -> argparse.Namespace:
    """The options."""
    suites = names()
    about = "\n".join(f"  {name:20} {load(name).about}" for name in suites)
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        "python -m benchmarks.cost", description=f"{__doc__}\nSuites:\n{about}", formatter_class=form
    )
    parser.add_argument("suite", choices=suites, metavar="SUITE")
    parser.add_argument("--pairs", type=int, help="rounds (by default the suite's own number)")
    parser.add_argument("--only", nargs="+", default=[], metavar="WORD", help="only cases whose names have all these words")
    parser.add_argument("--quick", action="store_true", help="without memory, and without the ways that are timed once")
    parser.add_argument("--threads", type=int, help="PyTorch's threads (by default its own choice)")
    parser.add_argument("--data", type=Path, help="a data set, for suites that need one")
    parser.add_argument("--out", type=Path, help="a JSON file for all that was measured")
    return parser.parse_args()


def names() -> list[str]:
    """The suites that there are: files of this folder with a SUITE."""
    files = (info.name for info in pkgutil.iter_modules(benchmarks.cost.__path__))
    return [name for name in files if not name.startswith("__") and hasattr(module(name), "SUITE")]


def module(name: str) -> Any:
    """A file of this folder."""
    return importlib.import_module(f"benchmarks.cost.{name}")


def load(name: str) -> Suite:
    """A suite by its file's name."""
    suite: Suite = module(name).SUITE
    return suite


def in_process(function: Any, *arguments: Any) -> Any:
    """What a function returns in a fresh process."""
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        return pool.apply(function, arguments)


def measure(name: str, case: Any, pairs: int, quick: bool = False, threads: int | None = None) -> list[dict[str, Any]]:
    """A row for each way to do a case, after the case was checked."""
    torch.set_num_threads(threads or torch.get_num_threads())
    suite = load(name)
    suite.check(case)
    ways = [way for way in suite.ways(case) if not (quick and way in suite.once)]
    results: dict[str, Any] = {}
    steps = {way: keeping(results, way, suite.make(case, way)) for way in ways}
    often = {way: step for way, step in steps.items() if way not in suite.once}
    seconds = in_turn(often, pairs, suite.warm, suite.clock)
    for way in ways:
        if way in suite.once:
            seconds |= in_turn({way: steps[way]}, 1, 1, suite.clock)
    medians = {way: statistics.median(each) for way, each in seconds.items()}
    rows = []
    for way in ways:
        row = {"case": str(case), "way": way, "seconds": medians[way], "rounds": len(seconds[way])}
        if is_dataclass(case) and not isinstance(case, type):
            row["data"] = asdict(case)
        if way == ways[0]:
            row["ratio"] = 1.0
        elif way in suite.once:
            row["ratio"] = medians[way] / medians[ways[0]]
        else:
            against = ratios(seconds, way)
            quartiles = statistics.quantiles(against, n=4) if len(against) > 1 else [against[0]] * 3
            row |= {"ratio": statistics.median(against), "interval": interval(against), "quartiles": quartiles[::2]}
        if suite.added:
            row["bytes"] = suite.added(steps[way])
        rows.append(row | {"notes": suite.notes(case, way, medians, results.get(way))})
    return rows


def keeping(results: dict[str, Any], way: str, step: Any) -> Any:
    """The step, but what it returns is kept for the notes."""

    def run() -> None:
        results[way] = step()

    return run


def memory(name: str, case: Any, row: dict[str, Any], threads: int | None = None) -> dict[str, int]:
    """The bytes that a way adds to the peak of a process of its own, where the suite asks for it."""
    suite = load(name)
    if not suite.memory_steps or (suite.memory and not suite.memory(case, row["way"])):
        return {}
    processes = 1 if row["way"] in suite.once else suite.memory_processes
    added = [in_process(added_memory, name, case, row["way"], threads) for _ in range(processes)]
    return {"bytes": int(statistics.median(added))}


def added_memory(name: str, case: Any, way: str, threads: int | None = None) -> int:
    """In a fresh process: what a way's steps, with their tensors, add to its peak."""
    torch.set_num_threads(threads or torch.get_num_threads())
    suite = load(name)
    if suite.small:
        suite.make(suite.small(case), way)()
    before = peak_anew()
    step = suite.make(case, way)
    for _ in range(suite.memory_steps):
        step()
    return max(1, peak() - before)


def compared(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A case's rows with their memory held against the first one's."""
    first = rows[0].get("bytes")
    return [row | ({"bytes_ratio": row["bytes"] / first} if first and "bytes" in row else {}) for row in rows]


def line(row: dict[str, Any]) -> str:
    """A row of the table."""
    cells = [row["case"], row["way"], f"{1000 * row['seconds']:.2f}", f"{row['ratio']:.2f}"]
    cells += ["{:.2f} to {:.2f}".format(*row["interval"]) if "interval" in row else ""]
    cells += [f"{row['bytes'] / 1e6:.1f}" if "bytes" in row else ""]
    cells += [f"{row['bytes_ratio']:.2f}" if "bytes_ratio" in row else "", row["notes"]]
    return "| " + " | ".join(cells) + " |"
