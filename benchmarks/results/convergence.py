"""Epochs and seconds to a set accuracy of finished CIFAR-10 trainings by the small recipe, by kind of head and optimiser.

python -m benchmarks.results.convergence RUNS... [--rounds 40] [--out FILE.json]

Epochs: where the line through the test accuracies after each epoch first passes the mark. Seconds: those epochs times the steps
of one times the median seconds of a step, all kinds timed by turns in this process, so that what else ran beside a training
does not count. Run it where nothing else runs.
"""

import argparse
import csv
import json
import statistics
from collections import defaultdict
from pathlib import Path

import yaml

from benchmarks.cost.measuring import in_turn, machine
from benchmarks.cost.training import BATCH, stepper
from benchmarks.results.tables import spread, table
from dynamick.training.recipe import run_label

MARKS = (60.0, 70.0, 75.0, 80.0, 82.0)
STEPS = 50_000 // BATCH
SAMPLING = ("s", "block_size", "form", "beta", "estimate")


def main() -> None:
    """Print the table of the runs in these folders."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    curves: dict[str, list[list[float]]] = defaultdict(list)
    steps = {}
    for run in args.runs:
        recipe = yaml.safe_load((run / "config.yaml").read_text())
        kind = run_label(recipe["model"], recipe)
        curves[kind].append(curve(run))
        if kind not in steps:
            steps[kind] = stepper(
                recipe["model"], **{name: recipe["optim"][name] for name in SAMPLING if name in recipe["optim"]}
            )
    step = {kind: statistics.median(each) for kind, each in in_turn(steps, args.rounds).items()}
    found, lines = {}, []
    for kind, runs in curves.items():
        reached = {f"{mark:g}": [epochs(run, mark) for run in runs] for mark in MARKS}
        cells = [kind, str(len(runs)), f"{1000 * step[kind]:.1f}"]
        cells += [told(each, STEPS * step[kind]) for each in reached.values()]
        lines.append([*cells, spread([run[-1] for run in runs], 2)])
        found[kind] = {"curves": runs, "step_seconds": step[kind], "epochs": reached}
    print(table(["trained as", "seeds", "ms a step", *(f"{mark:g} %" for mark in MARKS), "at the end, %"], lines))
    if args.out:
        args.out.write_text(json.dumps({"machine": machine(), "found": found}, indent=1) + "\n")


def curve(run: Path) -> list[float]:
    """Test accuracy after each epoch, in %."""
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["top1"]) for row in csv.DictReader(file)]


def epochs(accuracies: list[float], mark: float) -> float | None:
    """Epochs until the line through the accuracies, from 0 epochs at 10 % (chance) on, first passes the mark."""
    before = 10.0
    for done, after in enumerate(accuracies):
        if after >= mark:
            return done + (mark - before) / (after - before)
        before = after
    return None


def told(reached: list[float | None], seconds: float) -> str:
    """Epochs, and the mean's seconds at so many an epoch."""
    known = [each for each in reached if each is not None]
    if len(known) < len(reached):
        return f"by {len(known)} only"
    return f"{spread(known, 2)}; {statistics.fmean(known) * seconds:.0f} s"


if __name__ == "__main__":
    main()
