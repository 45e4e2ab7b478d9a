"""Mean and deviation over seeds of finished runs, as the tables of docs/results have them.

python -m benchmarks.results.summary runs/cifar10/*  ->  one line for each model, strength of L1 and recipe
"""

import argparse
import csv
import sys
from collections import defaultdict
from pathlib import Path

import yaml

from benchmarks.results.tables import spread, table
from dynamick.training.recipe import run_label

COLUMNS = {
    "top1": "top-1, %",
    "weights_per_class": "weights/class",
    "weights_per_class_max": "most",
    "routed_units": "routed/input",
    "sparse_share": "share of |w| < 1e-3",
    "dead_units": "dead units",
}


def main() -> None:
    """Print a Markdown table of the runs in these folders; unfinished ones are named and left out."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+", help="folders that `dynamick train` wrote")
    groups: dict[str, list[dict[str, float]]] = defaultdict(list)
    for folder in parser.parse_args().runs:
        if not (folder / "result.json").exists():
            print(f"{folder}: not finished, left out", file=sys.stderr)
            continue
        recipe = yaml.safe_load((folder / "config.yaml").read_text())
        with (folder / "metrics.csv").open(newline="") as file:
            last = list(csv.DictReader(file))[-1]
        groups[run_label(recipe["model"], recipe)].append({name: float(last[name]) for name in COLUMNS})
    places = {column: 3 if column == "sparse_share" else 2 for column in COLUMNS}
    lines = [
        [name, len(rows), *(spread([row[column] for row in rows], places[column]) for column in COLUMNS)]
        for name, rows in groups.items()
    ]
    print(table(["model", "seeds", *COLUMNS.values()], lines))


if __name__ == "__main__":
    main()
