"""What `pretrained` makes of finished trainings: what units see, and the tables."""

import re
import statistics
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.results.tables import spread, table
from dynamick.dissection import Dissection
from dynamick.dissection.result import DETECTOR
from dynamick.explanation import composition, share_covered
from dynamick.files import read_json
from dynamick.metrics.sparsity import THRESHOLD

HEADS = [
    "head",
    "seeds",
    "top-1, %",
    "of the probe, %",
    "top-5, %",
    "weights/class",
    "most",
    "inputs",
    "decay",
    "negative, %",
    "n98",
]


def slug(title: str) -> str:
    """A way's name in names of files: `units-dynamic-5`."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower())


def slug_of(file: Path) -> str:
    """The same of a file that ends with a seed."""
    return file.name.rpartition("-")[0]


def part_of(whole: Dissection, first: int, end: int) -> Dissection:
    """The dissection of some units in a row."""
    rows = [row._replace(unit=number) for number, row in enumerate(whole.rows[first:end], 1)]
    names = ("thresholds", "intersections", "areas", "top_images", "top_values", "nan_counts")
    return replace(whole, rows=rows, **{name: getattr(whole, name)[first:end] for name in names})


def seen_by(weight: Tensor, units: Dissection) -> dict[str, float]:
    """What the units see that a head (C, M) keeps: mean score and detectors, with scene labels and without; classes covered."""
    kept = (weight.abs() >= THRESHOLD).any(0)
    scores = {"": [row.score for row in units.rows]}
    others = [column for column, name in enumerate(units.columns) if name != "scene"]
    scores["_without_scenes"] = [max(row.matches[column].iou for column in others) for row in units.rows]
    result: dict[str, float] = {}
    for which, values in scores.items():
        used = torch.tensor(values)[kept]
        result |= {f"score{which}": used.mean().item(), f"detectors{which}": int((used >= DETECTOR).sum())}
    model = nn.Sequential(nn.Linear(weight.shape[1], len(weight)))
    model[0].weight = nn.Parameter(weight * (weight.abs() >= THRESHOLD))
    return result | {"covered": share_covered(composition(model, units), 5)}


def print_table(out: Path, titles: Sequence[str]) -> None:
    """Markdown: mean and deviation over the seeds."""
    groups = {
        title: [read_json(file) for file in sorted(out.glob(f"{slug(title)}-[0-9].json"))] for title in ("probe", *titles)
    }
    best = statistics.fmean(each["row"]["top1"] for each in groups["probe"])
    print(table(HEADS, [cells(title, found, best) for title, found in groups.items() if found]))
    seen = {title: [read_json(file) for file in sorted(out.glob(f"{slug(title)}-[0-9].units.json"))] for title in titles}
    names = list(next((found[0] for found in seen.values() if found), {}))
    lines = [
        [title, len(found), *(spread([each[name] for each in found], 3) for name in names)]
        for title, found in seen.items()
        if found
    ]
    print(table(["head", "seeds", *names], lines))


def cells(title: str, found: list[dict[str, Any]], best: float) -> list[Any]:
    """A line of the table."""
    rows = [each["row"] for each in found]
    top1 = [row["top1"] for row in rows]
    line = [
        title,
        len(found),
        spread(top1, 2),
        f"{100 * statistics.fmean(top1) / best:.1f}",
        spread([row["top5"] for row in rows], 2),
    ]
    line += [spread([row["weights"] for row in rows], 2), max(row["max_per_class"] for row in rows)]
    line += [spread([row["units"] for row in rows], 0), "" if rows[0]["decay"] is None else f"{rows[0]['decay']:g}"]
    if "negative" not in found[0]:
        return [*line, "", ""]
    return [
        *line,
        f"{100 * statistics.fmean(each['negative'] for each in found):.0f}",
        spread([each["measured"]["n98"] for each in found], 1),
    ]
