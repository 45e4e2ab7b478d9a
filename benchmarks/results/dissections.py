"""Mean and deviation over seeds of finished dissections, and the figures of Fig. 5.

python -m benchmarks.results.dissections DIR... --out DIR

Each DIR is an output of `dynamick dissect`, named MODEL-SEED. Prints a Markdown table, and writes best-scores.png (sorted
scores) and detectors.png (detectors by category), both of the first seed.
"""

import argparse
import statistics
from collections import defaultdict
from pathlib import Path

from benchmarks.results.tables import spread, table
from dynamick.dissection import Dissection, plots


def main() -> None:
    """Print the table, draw the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    groups: dict[str, list[Dissection]] = defaultdict(list)
    for folder in sorted(args.folders):
        groups[folder.name.rpartition("-")[0]].append(Dissection.from_json((folder / "dissection.json").read_text()))
    lines = []
    for name, found in groups.items():
        best = [statistics.fmean(sorted(each.scores, reverse=True)[:100]) for each in found]
        summaries = [each.summary() for each in found]
        cells = [
            spread([each.mean_score for each in summaries], 4),
            spread(best, 4),
            spread([each.detectors for each in summaries], 1),
            spread([each.distinct_labels for each in summaries], 1),
        ]
        lines.append([name, len(found), *cells])
    print(table(["model", "seeds", "mean score", "of the best 100", "detectors", "distinct labels"], lines))
    args.out.mkdir(parents=True, exist_ok=True)
    first = {name: found[0] for name, found in groups.items()}
    plots.best_scores(first).savefig(args.out / "best-scores.png", dpi=150)
    plots.detectors_by_category(first).savefig(args.out / "detectors.png", dpi=150)


if __name__ == "__main__":
    main()
