"""Two plots that are never mixed: accuracy against static non-zeros a class, and against products routed for each input."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from dynamick.comparison.heads import HEADS
from dynamick.comparison.table import AVERAGED, averages
from dynamick.dissection.plots import COLOURS, svg
from dynamick.files import write_atomically

LABELS = {"static": "static non-zeros a class", "routed": "K: products routed for each input"}
NEAR = (1.0, 0.5)
"""The lower panels reach from this many points below dense to as many above the best head. The upper ones show all."""


def accuracy(table: Sequence[dict[str, Any]], axis: str) -> Figure:
    """Accuracy against one kind of budget, a column for each backbone. Above is the whole range, below the part near dense.

    The dense head is a line across. The budget 1 and the mean of 5 to 30 stand apart (docs/definitions.md, "Sparse heads").

    Args:
        table: `dynamick.comparison.table.rows`.
        axis: `static` or `routed`.
    """
    backbones = list(dict.fromkeys(row["backbone"] for row in table)) or [""]
    figure = Figure(figsize=(5.6 * len(backbones), 8), layout="constrained")
    rows = figure.subplots(2, len(backbones), squeeze=False, sharex=True)
    ticks = _ticks([row for row in table if row["axis"] == axis and row["cells"]])
    for place, backbone in enumerate(backbones):
        own = [row for row in table if row["backbone"] == backbone and row["cells"]]
        dense = next((row["top1"] for row in own if row["head"] == "dense"), None)
        foot = 0.0 if dense is None else dense - NEAR[0]
        for axes, least in zip(rows[:, place], (0.0, foot), strict=True):
            _panel(axes, [row for row in own if row["axis"] == axis], dense, least, ticks)
        rows[0, place].set_title(f"backbone {backbone}" + ("" if dense is None else f", dense {dense:.2f} %"))
        rows[1, place].set_xlabel(LABELS[axis])
        if dense is not None:
            best = max(row["top1"] + (row["top1_std"] or 0) for row in own if row["axis"] in (axis, ""))
            rows[1, place].set_ylim(foot, max(dense, best) + NEAR[1])
            rows[1, place].set_title(f"near dense; what lies below {foot:.2f} % is shown above only", fontsize=9)
    labelled = {label: handle for axes in rows.flat for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    if labelled:
        figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=3, fontsize="small", frameon=False)
    return figure


def write(table: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write static.svg and routed.svg."""
    for axis in LABELS:
        write_atomically(folder / f"{axis}.svg", svg(accuracy(table, axis)))


def _ticks(table: Sequence[dict[str, Any]]) -> dict[int, str]:
    """Places on the axis of all panels, since backbones may have different budgets. A mean has a place apart."""
    budgets = sorted({row["budget"] for row in table})
    mean = {budgets[-1] + 6: f"mean of\n{AVERAGED[0]} to {AVERAGED[-1]}"} if averages(table) else {}
    return {budget: str(budget) for budget in budgets} | mean


def _panel(axes: Axes, table: Sequence[dict[str, Any]], dense: float | None, least: float, ticks: dict[int, str]) -> None:
    if dense is not None:
        axes.axhline(dense, color="black", linestyle=":", linewidth=1.2, label="dense")
    means = {each["head"]: each["top1"] for each in averages(table)}
    apart = max(ticks, default=0)
    names = list(dict.fromkeys(row["head"] for row in table))
    for place, head in enumerate(names):
        # Side by side within 3 of the axis, so that bars of equal heads can be told apart.
        shift = 3 * ((place + 0.5) / len(names) - 0.5)
        own = [row for row in table if row["head"] == head]
        spread = [(row["budget"] + shift, row["top1"], row["top1_std"] or 0) for row in own]
        alone = [(apart + shift, means[head], 0)] if head in means else []
        for points in (
            [each for each in spread if each[0] - shift > 1],
            [each for each in spread if each[0] - shift == 1],
            alone,
        ):
            _line(axes, head, [each for each in points if each[1] >= least])
    axes.set_xticks(list(ticks), list(ticks.values()))
    axes.set_ylabel("top-1, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)


def _line(axes: Axes, head: str, points: Sequence[tuple[float, float, float]]) -> None:
    """Points (budget, top-1, deviation) of one head, joined."""
    if not points:
        return
    drawn = HEADS[head]
    colour = COLOURS[drawn.colour]
    look: dict[str, Any] = {"color": colour, "linestyle": "--" if drawn.tuned else "-", "linewidth": 1.1}
    look |= {"marker": drawn.marker, "markersize": 9 if drawn.marker == "*" else 5, "capsize": 2, "elinewidth": 0.8}
    look["markerfacecolor"] = "white" if drawn.tuned else colour
    x, y, deviation = zip(*points, strict=True)
    axes.errorbar(x, y, deviation, label=drawn.title, **look)
