"""Two plots that are never mixed: accuracy against static non-zeros a class, and against products routed for each input."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.comparison.heads import HEADS
from dynamick.comparison.table import averages
from dynamick.dissection.plots import COLOURS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELS = {"static": "static non-zeros a class", "routed": "K: products routed for each input"}
# A colour and a marker for each method, by their place in COLOURS; what is fine-tuned has a broken line and a hollow marker.
LOOKS = {"elastic-net": (0, "o"), "l1": (5, "s"), "dice": (2, "^"), "magnitude": (4, "D"), "dynamic-static": (1, "*")}
LOOKS |= {"top-k": (0, "o"), "dynamic-at-most": (1, "*"), "dynamic-exactly": (2, "^")}
SHOWN = 8
"""Points below dense that a plot shows; a head that fails altogether must not press the others together."""


def accuracy(table: Sequence[dict[str, Any]], axis: str) -> "Figure":
    """Accuracy against one kind of budget, a panel for each backbone; the dense head is a line across.

    The budget 1 stands apart, and the legend has the mean of 5 to 30 (SPEC section 8). Points that lie lower than the panel are
    triangles at its foot.

    Args:
        table: `dynamick.comparison.table.rows`.
        axis: `static` or `routed`.
    """
    from matplotlib.figure import Figure

    backbones = list(dict.fromkeys(row["backbone"] for row in table)) or [""]
    figure = Figure(figsize=(6.4 * len(backbones), 6), layout="constrained")
    for axes, backbone in zip(figure.subplots(1, len(backbones), squeeze=False)[0], backbones, strict=True):
        _panel(axes, [row for row in table if row["backbone"] == backbone and row["cells"]], axis)
        axes.set_title(f"backbone {backbone}")
    return figure


def write(table: Sequence[dict[str, Any]], folder: Path) -> None:
    """Write static.svg and routed.svg."""
    for axis in LABELS:
        accuracy(table, axis).savefig(folder / f"{axis}.svg")


def _panel(axes: "Axes", table: Sequence[dict[str, Any]], axis: str) -> None:
    from matplotlib.ticker import FixedLocator

    here = [row for row in table if row["axis"] == axis]
    dense = [row["top1"] for row in table if row["head"] == "dense"]
    top = max([row["top1"] for row in here] + dense, default=100)
    foot = max(0.0, (dense[0] if dense else top) - SHOWN)
    for value in dense:
        axes.axhline(value, color="black", linestyle=":", linewidth=1.2, label=f"dense ({value:.2f})")
    means = {each["head"]: f" (mean of 5 to 30: {each['top1']:.2f})" for each in averages(here)}
    names = list(dict.fromkeys(row["head"] for row in here))
    for place, head in enumerate(names):
        # Side by side within 0.8 of the axis, so that bars of heads that are alike can be told apart.
        shift = 0.8 * ((place + 0.5) / len(names) - 0.5)
        own = [row for row in here if row["head"] == head]
        _line(axes, own, shift, foot, HEADS[head].title + means.get(head, ""))
    axes.set_ylim(foot, top + 0.06 * (top - foot) + 0.01)
    axes.xaxis.set_major_locator(FixedLocator(sorted({row["budget"] for row in here})))
    axes.set_xlabel(LABELS[axis] + f" (triangles at the foot: below {foot:.1f} %)")
    axes.set_ylabel("top-1, %")
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#dddddd", linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        # Below the panel: nothing is hidden behind it.
        axes.legend(fontsize="small", frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.12))


def _line(axes: "Axes", own: Sequence[dict[str, Any]], shift: float, foot: float, label: str) -> None:
    tuned = own[0]["head"].endswith("-tuned")
    place, marker = LOOKS[own[0]["head"].removesuffix("-tuned")]
    look: dict[str, Any] = {"color": COLOURS[place], "linestyle": "--" if tuned else "-", "linewidth": 1.3}
    points: dict[str, Any] = {"marker": marker, "markersize": 9 if marker == "*" else 5, "capsize": 2}
    points["markerfacecolor"] = "white" if tuned else COLOURS[place]
    for apart in (True, False):
        rows = [row for row in own if (row["budget"] == 1) is apart and row["top1"] >= foot]
        x, y = [row["budget"] + shift for row in rows], [row["top1"] for row in rows]
        axes.errorbar(x, y, [row["top1_std"] or 0 for row in rows], label=None if apart else label, **look, **points)
    low = [row["budget"] + shift for row in own if row["top1"] < foot]
    axes.plot(low, [foot] * len(low), "v", color=COLOURS[place], markersize=6, clip_on=False)
