"""Mean and deviation over seeds of finished runs, as the tables of docs/results have them.

python benchmarks/summary.py runs/cifar10/*  ->  one line for each model, strength of L1 and recipe
"""

import csv
import statistics
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from dynamick.training.recipe import run_label

COLUMNS = {
    "top1": "top-1, %",
    "weights_per_class": "weights/class",
    "weights_per_class_max": "most",
    "routed_units": "routed/input",
    "sparse_share": "share of |w| < 1e-3",
    "dead_units": "dead units",
}


def main(folders: list[str]) -> None:
    """Print a Markdown table of the runs in these folders; unfinished ones are named and left out."""
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for folder in map(Path, folders):
        if not (folder / "result.json").exists():
            print(f"{folder}: not finished, left out", file=sys.stderr)
            continue
        recipe = yaml.safe_load((folder / "config.yaml").read_text())
        with (folder / "metrics.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        groups[run_label(recipe["model"], recipe)].append({name: float(last[name]) for name in COLUMNS})
    print(f"| model | seeds | {' | '.join(COLUMNS.values())} |")
    print("|---" * (2 + len(COLUMNS)) + "|")
    for name, rows in groups.items():
        cells = [spread([row[column] for row in rows], 3 if column == "sparse_share" else 2) for column in COLUMNS]
        print(f"| {name} | {len(rows)} | {' | '.join(cells)} |")


def spread(values: list[float], places: int) -> str:
    """Mean ± deviation, or the one value."""
    mean = f"{statistics.fmean(values):.{places}f}"
    return f"{mean} ± {statistics.stdev(values):.{places}f}" if len(values) > 1 else mean


if __name__ == "__main__":
    main(sys.argv[1:])
