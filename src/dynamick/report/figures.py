"""Charts as inline SVG. Their colours are the page's CSS variables, so that one drawing serves light and dark."""

from __future__ import annotations

import io
import re
import warnings
from collections.abc import Sequence
from typing import Any, Literal

import matplotlib
import numpy as np
from markupsafe import escape
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, ScalarFormatter
from numpy.typing import NDArray

Axis = Literal["linear", "from zero", "log"]
POSITIVE, NEGATIVE = "#0072b2", "#d55e00"  # Okabe-Ito. CSS variables do not work inside images, so these suit light and dark
_SERIES = 6
# Matplotlib wants real colours: these stand for the variables until the drawing is text.
_VARIABLES = {"#010101": "--fg", "#010102": "--muted", "#010103": "--line"} | {
    f"#0102{n:02x}": f"--series-{n}" for n in range(1, _SERIES + 1)
}
FG, MUTED, LINE, *SERIES = _VARIABLES
# Five styles and six colours: thirty lines before a pair is repeated.
DASHES: tuple[Any, ...] = ("-", (0, (5, 1.6)), (0, (5, 1.6, 1, 1.6)), (0, (1, 1.3)), (0, (8, 2)))

_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,  # a class called "$x" is a name, not a formula
    "axes.unicode_minus": True,
    "font.size": 9.5,
    "axes.titlesize": 9.5,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "axes.edgecolor": LINE,
    "axes.labelcolor": MUTED,
    "axes.titlecolor": FG,
    "axes.titlelocation": "left",
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": FG,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.labelcolor": MUTED,
    "xtick.major.size": 3,
    "ytick.major.size": 0,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.4,
}


def curves(series: Sequence[tuple[str, Sequence[float], Sequence[float]]], label: str, axis: Axis = "linear") -> str | None:
    """A line chart over epochs: (title, epochs, values). None if there is nothing finite to draw.

    A series' colour and line style depend on its place in `series`, even if another one is empty.
    """
    drawn = [(n, title, *_finite(x, y, axis)) for n, (title, x, y) in enumerate(series)]
    drawn = [line for line in drawn if len(line[2])]
    if not drawn:
        return None

    def draw(figure: Figure) -> None:
        legend_rows = -(-len(drawn) // 4)
        axes = figure.subplots()
        figure.subplots_adjust(left=0.09, right=0.99, bottom=0.13, top=0.9 - 0.065 * legend_rows)
        figure.text(0, 1, label, va="top", color=MUTED)
        for n, _, x, y in drawn:
            style = {"color": SERIES[n % _SERIES], "linestyle": DASHES[n % len(DASHES)], "marker": "o" if len(x) == 1 else None}
            axes.plot(x, y, lw=1.8, ms=4, **style)
        axes.grid(axis="y")
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, nbins=7))
        if all(len(x) == 1 for *_, x, _ in drawn):
            axes.set_xticks(sorted({x[0] for *_, x, _ in drawn}))
        if axis == "log":
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter(ScalarFormatter())
            axes.yaxis.set_minor_locator(NullLocator())
        elif axis == "from zero":
            axes.set_ylim(0, 1.05 * max(float(np.max(y)) for *_, y in drawn) or 1)
        titles = [title for _, title, *_ in drawn]
        place: dict[str, Any] = {"loc": "upper left", "bbox_to_anchor": (0, 0.94), "borderpad": 0, "borderaxespad": 0}
        figure.legend(axes.get_lines(), titles, ncols=4, **place)

    last = ", ".join(f"{title} {y[-1]:.4g}" for _, title, _, y in drawn)
    return _svg(draw, (5.0, 3.1), f"Line chart, {label} over epochs. At the end: {last}.")


def weight_scale(weights: Sequence[NDArray[np.floating]]) -> float:
    """The |weight| that has the full colour in every head's image: the largest one without each head's outliers."""
    tops = [np.quantile(big, 0.98) for weight in weights if len(big := np.abs(weight[np.abs(weight) >= 1e-3]))]
    return float(max(tops, default=1.0))


def unit_order(weight_OM: NDArray[np.floating]) -> NDArray[np.intp]:
    """Units sorted by the class that uses them most, heaviest first; units that no class uses come last."""
    size = np.abs(np.nan_to_num(weight_OM))
    top = size.max(axis=0)
    return np.lexsort((-top, np.where(top >= 1e-3, size.argmax(axis=0), len(size))))


def head(weight_OM: NDArray[np.floating], classes: Sequence[str], scale: float, title: str) -> str:
    """A head's weights as an image, classes down and units across, sorted by `unit_order`."""
    rows = len(classes)

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("constrained")
        axes = figure.subplots()
        _image(axes, _coloured(weight_OM[:, unit_order(weight_OM)], scale))
        _names(axes.yaxis, [_short(name, 18) for name in classes] if rows <= 24 else [])
        axes.set_xlabel(f"{weight_OM.shape[1]} units, sorted by the class that uses them most", loc="left")
        axes.set_ylabel("" if rows <= 24 else f"{rows} classes")
        axes.set_xticks([])

    used = int((np.abs(weight_OM) >= 1e-3).any(axis=0).sum())
    alt = f"Head weights of {title}: {rows} classes by {weight_OM.shape[1]} units, of which {used} carry weight."
    return _svg(draw, (9.5, 0.45 + min(5.0, 0.16 * rows)), alt)


def class_tables(
    weight_OM: NDArray[np.floating],
    units: Sequence[str],
    classes: Sequence[str],
    scale: float,
    parts: Sequence[str],
    part_table: NDArray[np.bool_],
) -> str:
    """The given columns of a head, (O, U), beside the true class-by-part table, (O, P): the same rows, the same order."""

    def draw(figure: Figure) -> None:
        figure.set_layout_engine("constrained")
        learnt, true = figure.subplots(1, 2, width_ratios=[max(len(units), 4), max(len(parts), 4)])
        _image(learnt, _coloured(weight_OM, scale))
        _image(true, _coloured(part_table.astype(float), 1.0))
        _names(learnt.yaxis, [_short(name, 18) for name in classes])
        _names(learnt.xaxis, [_short(name, 18) for name in units])
        _names(true.xaxis, [_short(name, 18) for name in parts])
        true.set_yticks([])
        learnt.set_title("learnt: class by unit", color=MUTED)
        true.set_title("true: class by part", color=MUTED)
        for axes, columns in ((learnt, len(units)), (true, len(parts))):
            axes.tick_params(axis="x", labelrotation=90, labelsize=8)
            axes.set_xticks(np.arange(columns + 1) - 0.5, minor=True)
            axes.set_yticks(np.arange(len(classes) + 1) - 0.5, minor=True)
            axes.grid(which="minor", lw=0.5)
            axes.tick_params(which="minor", length=0)

    alt = f"Two tables with the same {len(classes)} classes as rows: {len(units)} units of the head, {len(parts)} true parts."
    return _svg(draw, (9.5, 1.5 + 0.2 * len(classes)), alt)


def _finite(x: Sequence[float], y: Sequence[float], axis: Axis) -> tuple[NDArray[np.floating], NDArray[np.floating]]:
    length = min(len(x), len(y))
    across, up = np.asarray(x[:length], float), np.asarray(y[:length], float)
    keep = np.isfinite(across) & np.isfinite(up) & ((up > 0) | (axis != "log"))
    return across[keep], up[keep]


def _coloured(values: NDArray[np.floating], scale: float) -> NDArray[np.floating]:
    """Signed values as colour and opacity: zero is the page itself, light or dark. Shape (O, M, 4)."""
    values = np.nan_to_num(values)
    rgb = np.where((values > 0)[..., None], to_rgb(POSITIVE), to_rgb(NEGATIVE))
    return np.concatenate([rgb, np.clip(np.abs(values) / scale, 0, 1)[..., None]], axis=-1)


def _image(axes: Axes, rgba: NDArray[np.floating]) -> None:
    axes.imshow(rgba, aspect="auto", interpolation="none")
    axes.spines[:].set_visible(True)


def _names(axis: Any, names: Sequence[str]) -> None:
    axis.set_ticks(range(len(names)), names)
    axis.set_tick_params(length=0, labelcolor=FG, labelsize=8.5)


def _short(name: str, length: int) -> str:
    return name if len(name) <= length else name[: length - 1] + "…"


def _svg(draw: Any, size: tuple[float, float], alt: str) -> str:
    """Draw, and make the result ready for an HTML page with other drawings. Trusted markup: names in it are escaped."""
    written = io.StringIO()
    with matplotlib.rc_context({**_STYLE, "svg.hashsalt": alt}), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # a glyph its own font lacks: the browser chooses the font
        figure = Figure(figsize=size)
        FigureCanvasSVG(figure)
        draw(figure)
        figure.savefig(written, format="svg", transparent=True)
    text = written.getvalue()
    text = re.sub(r'<metadata>.*?</metadata>|(?<=<g) id="[^"]*"', "", text[text.index("<svg") :], flags=re.DOTALL)
    for colour, variable in _VARIABLES.items():
        text = text.replace(colour, f"var({variable})")
    opening, rest = text.split(">", 1)
    box = re.search(r'viewBox="[^"]*"', opening)
    assert box
    return f'<svg {box[0]} role="img" aria-label="{escape(alt)}">{rest}'
