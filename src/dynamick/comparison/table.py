"""The table of a comparison: cells of several seeds and backbones in one row each, as CSV, JSON and Markdown."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from dynamick.comparison.cell import FIGURES, Cell, FailedCell
from dynamick.comparison.heads import HEADS
from dynamick.files import write_atomically, write_json

COLUMNS = {
    "ece": ("ECE, %", 2),
    "nec": ("non-zeros/class", 2),
    "max_per_class": ("most in a class", 0),
    "routed": ("summed/input", 2),
    "units": ("units", 1),
    "shared": ("shared, %", 0),
    "detectors": ("detectors", 1),
    "iou": ("mean IoU", 4),
    "n98": ("n98", 1),
    "deletion": ("deletion", 3),
    "seconds": ("seconds", 1),
}
"""Titles and digits; a column that no cell has a figure for is left out."""
AVERAGED = (5, 10, 15, 20, 25, 30)
"""The published average of static heads is over these budgets (docs/definitions.md, "Sparse heads"). 1 is not in it."""
LEGEND = """\
Top-1 and ECE (15 bins) on the validation images. Mean over backbones, each being the mean over its heads' seeds; ± is the
deviation over backbones, or over the heads' seeds where there is one backbone. `most in a class`: in the worst case. `units`:
with a weight that is not 0; `shared`: those of them that serve several classes. `n98`: units that hold 98 % of the predicted
class's score (median). `deletion`: its mean probability while its 32 largest contributions are taken away one by one; lower is
more faithful. `seconds`: of CPU time to train, all that the head builds on included. `2 of 3 cells`: the others failed
or were not computed."""
SEEN = "`detectors`: units that detect a concept (IoU of 0.04 or more); `mean IoU`: of the units with their best concepts."

Row = dict[str, Any]


def rows(cells: Iterable[tuple[str, str, Cell | FailedCell]]) -> list[Row]:
    """One row for each backbone's kind, head and budget.

    Args:
        cells: the backbone's kind (such as `res8`), its name (such as `res8-0`), and a cell.

    Returns:
        Rows with `backbone`, `head`, `axis`, `budget`, `cells` (how many succeeded), `lacking` (how many failed, and one for
        each backbone of the kind that has none), the mean of each of `FIGURES` (`max_per_class`: the largest), for `top1` and
        `ece` the deviation (`top1_std`; None of one cell), `each` (the top-1 of each backbone that has one), `of` (how many
        backbones there are of the kind), and `failed`: the backbone, seed and reason of each failure.
    """
    groups: dict[tuple[str, str, int], list[tuple[str, Cell | FailedCell]]] = {}
    names: dict[str, set[str]] = {}
    for kind, name, cell in cells:
        groups.setdefault((kind, cell.head, cell.budget), []).append((name, cell))
        names.setdefault(kind, set()).add(name)
    order = list(HEADS)
    keys = sorted(groups, key=lambda key: (key[0], order.index(key[1]), key[2]))
    return [_row(key, groups[key], names[key[0]]) for key in keys]


def averages(table: Sequence[Row]) -> list[Row]:
    """Static heads' accuracy over the budgets of `AVERAGED`, on the backbones that have all of them.

    Returns:
        Rows of `backbone`, `head`, `top1`, `names` (of those backbones) and `of` (how many there are of the kind).
    """
    out = []
    for backbone, head in dict.fromkeys((row["backbone"], row["head"]) for row in table if row["axis"] == "static"):
        own = {row["budget"]: row for row in table if (row["backbone"], row["head"]) == (backbone, head)}
        each = [own[budget]["each"] for budget in AVERAGED if budget in own]
        if len(each) == len(AVERAGED) and (names := _common(each)):
            top1, of = mean(_mean(one, names) for one in each), own[AVERAGED[0]]["of"]
            out.append({"backbone": backbone, "head": head, "top1": top1, "names": names, "of": of})
    return out


def verdict(table: Sequence[Row], budget: int = 5) -> list[Row]:
    """How far the deployed head is ahead of the elastic-net path, and behind dense, at one budget.

    The goal: ahead by 2 points, or by half of the path's distance to dense if that is less, and within 0.5 of dense.
    All are means over the same backbones: those that have these three heads.

    Returns:
        For each kind with such backbones: `backbone`, `static`, `path`, `tuned` (the path's weights fitted again without L1;
        None if one of them lacks it), `dense` (top-1, %), `ahead`, `asked`, `behind` (points), `met`, `names` (of those
        backbones) and `of` (how many there are of the kind).
    """
    out = []
    for backbone in dict.fromkeys(row["backbone"] for row in table):
        own = {(row["head"], row["budget"]): row["each"] for row in table if row["backbone"] == backbone}
        each = [own.get(key, {}) for key in (("dynamic-static", budget), ("elastic-net", budget), ("dense", 0))]
        if not (names := _common(each)):
            continue
        static, path, dense = (_mean(top1, names) for top1 in each)
        again = own.get(("elastic-net-tuned", budget), {})
        tuned = _mean(again, names) if set(names) <= set(again) else None
        asked = min(2.0, max(0.0, dense - path) / 2)
        ahead, behind = static - path, dense - static
        met = ahead >= asked and behind <= 0.5
        row = {"backbone": backbone, "static": static, "path": path, "tuned": tuned, "dense": dense, "ahead": ahead}
        of = next(row["of"] for row in table if row["backbone"] == backbone)
        out.append({**row, "asked": asked, "behind": behind, "met": met, "names": names, "of": of})
    return out


def write(table: Sequence[Row], detection: Sequence[Row], folder: Path) -> None:
    """Write table.csv, table.json and table.md, with the out-of-distribution rows if there are any."""
    names = ["backbone", "head", "axis", "budget", "cells", "lacking", *FIGURES, "top1_std", "ece_std", "failed"]
    write_atomically(folder / "table.csv", as_csv(table, names).encode())
    whole = {"rows": table, "averages": averages(table), "verdict": verdict(table), "out_of_distribution": detection}
    write_json(folder / "table.json", whole)
    write_atomically(folder / "table.md", as_markdown(table, detection).encode())


def as_csv(table: Sequence[Row], names: Sequence[str]) -> str:
    """Rows as CSV with these columns. Missing values are empty, and other values are left out."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, restval="", extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(table)
    return text.getvalue()


def as_markdown(table: Sequence[Row], detection: Sequence[Row] = ()) -> str:
    """The whole comparison as text. Static heads and routed heads are never in one table."""
    lines = ["# Heads compared", "", LEGEND, *([SEEN] if "iou" in _columns(table) else [])]
    for backbone in dict.fromkeys(row["backbone"] for row in table):
        own = [row for row in table if row["backbone"] == backbone]
        lines += ["", f"## Backbone {backbone}", "", *_grid([row for row in own if row["axis"] == ""], "no budget")]
        lines += ["", "### Static non-zeros a class", "", *_grid([row for row in own if row["axis"] == "static"], "NEC")]
        lines += ["", "### Products routed for each input", "", *_grid([row for row in own if row["axis"] == "routed"], "K")]
        lines += _failures(own)
    lines += verdict_lines(table)
    if detection:
        lines += ["", "## Out-of-distribution detection", "", *_detection(detection)]
    lines += ["", "![static](static.svg)", "", "![routed](routed.svg)", ""]
    return "\n".join(lines)


def verdict_lines(table: Sequence[Row]) -> list[str]:
    """`verdict` in words, with a heading; empty if there is none."""
    lines = []
    for each in verdict(table):
        tuned = "" if each["tuned"] is None else f" ({each['tuned']:.2f} fine-tuned)"
        part = _part(len(each["names"]), each["of"], "networks")
        lines.append(
            f"- {each['backbone']}{part}: Dynamic-K static {each['static']:.2f} %, "
            f"elastic-net path {each['path']:.2f}{tuned} %, dense {each['dense']:.2f} %: "
            f"ahead of the path by {each['ahead']:.2f} (asked {each['asked']:.2f}), "
            f"behind dense by {each['behind']:.2f} (asked at most 0.5): {'met' if each['met'] else 'missed'}"
        )
    return ["", "## At 5 non-zeros a class", "", *lines] if lines else []


def _common(each: Sequence[dict[str, float]]) -> list[str]:
    """The backbones that are in all of these."""
    return [name for name in each[0] if all(name in top1 for top1 in each)]


def _mean(top1: dict[str, float], names: Sequence[str]) -> float:
    return mean(top1[name] for name in names)


def _row(key: tuple[str, str, int], cells: list[tuple[str, Cell | FailedCell]], names: set[str]) -> Row:
    backbone, head, budget = key
    good: dict[str, list[dict[str, float | None]]] = {}
    for name, cell in cells:
        if isinstance(cell, Cell):
            good.setdefault(name, []).append(cell.figures)
    failed = [f"{name}, seed {cell.seed}: {cell.reason}" for name, cell in cells if isinstance(cell, FailedCell)]
    row: Row = {"backbone": backbone, "head": head, "axis": HEADS[head].axis, "budget": budget}
    row |= {"cells": len(cells) - len(failed), "lacking": len(failed) + len(names - {name for name, _ in cells})}
    computed = {figure for each in good.values() for figures in each for figure in figures}
    for figure in (each for each in FIGURES if each in computed):
        of = [[value for figures in each if (value := figures.get(figure)) is not None] for each in good.values()]
        # Head seeds of one backbone are not independent trainings.
        means = [mean(each) for each in of if each]
        row[figure] = mean(means) if means else None
        if figure == "max_per_class":
            row[figure] = max(value for each in of for value in each)
        if figure in ("top1", "ece"):
            # If only one of several backbones has it, there is no deviation over backbones.
            values = means if len(names) > 1 else of[0]
            row[f"{figure}_std"] = stdev(values) if len(values) > 1 else None
    row["each"] = {name: mean(figures["top1"] or 0.0 for figures in each) for name, each in good.items()}
    row |= {"of": len(names), "failed": "; ".join(failed)}
    return row


def _grid(table: Sequence[Row], count: str) -> list[str]:
    if not table:
        return ["Nothing was computed."]
    columns = _columns(table)
    titles = " | ".join(title for title, _ in columns.values())
    lines = [f"| head | {count} | top-1, % | {titles} |", "|---" * (len(columns) + 3) + "|"]
    empty = "| " * (len(columns) - 1) + "|"
    for row in table:
        part = _part(row["cells"], row["cells"] + row["lacking"], "cells") if row["cells"] else ""
        title = f"| {HEADS[row['head']].title}{part} | {row['budget'] or ''} "
        if not row["cells"]:
            lines.append(f"{title}| failed | {empty}")
            continue
        cells = [_figure(row, name, digits) for name, (_, digits) in columns.items()]
        lines.append(f"{title}| {_figure(row, 'top1', 2)} | {' | '.join(cells)} |")
    for each in averages(table):
        part = _part(len(each["names"]), each["of"], "networks")
        lines.append(f"| {HEADS[each['head']].title}{part} | mean of 5 to 30 | {each['top1']:.2f} | {empty}")
    return lines


def _part(there: int, of: int, what: str) -> str:
    return f" ({there} of {of} {what})" if there < of else ""


def _columns(table: Sequence[Row]) -> dict[str, tuple[str, int]]:
    return {name: column for name, column in COLUMNS.items() if any(name in row for row in table)}


def _figure(row: Row, name: str, digits: int) -> str:
    if row.get(name) is None:
        return "none"
    deviation = row.get(f"{name}_std")
    return f"{row[name]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")


def _failures(table: Sequence[Row]) -> list[str]:
    failed = [row for row in table if row["failed"]]
    lines = [f"- {HEADS[row['head']].title}, {row['budget']}: failed: {row['failed']}" for row in failed]
    return ["", *lines] if lines else []


def _detection(table: Sequence[Row]) -> list[str]:
    lines = ["| backbone | out | distance | score | AUROC, % | FPR95, % |", "|---|---|---|---|---|---|"]
    for row in table:
        where = f"{row['backbone']} | {row['out']} | {row['distance']} | {row['score']}"
        lines.append(f"| {where} | {_figure(row, 'auroc', 2)} | {_figure(row, 'fpr95', 2)} |")
    return lines
