"""A trace drawn as a tree: the class on the left, what it is made of to the right, each part's place on the image."""

from dataclasses import dataclass, field

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import PathPatch
from matplotlib.path import Path

from dynamick.explanation.notebook import AGAINST, FOR, Plot, grey, picture_of, pixels_of
from dynamick.explanation.pictures import heatmap
from dynamick.explanation.tracing import Trace, sum_of_rest

WIDE, THUMB = 2.75, 0.62
"""Inches of a column, and of a picture's side."""
HIGH, LOW, GAP = 0.72, 0.3, 0.16
"""Inches of a row with a picture, of one without, and between the parts of two parents."""


@dataclass
class _Node:
    """A part, or the small ones of a level in one line, and where it is drawn."""

    traces: list[Trace]
    column: int
    y: float = 0.0
    parts: "list[_Node]" = field(default_factory=list)

    @property
    def value(self) -> float:
        return sum(trace.value for trace in self.traces)

    def all(self) -> "list[_Node]":
        return [self, *(node for part in self.parts for node in part.all())]


def figure(trace: Trace, most: int = 3) -> Figure:
    """The tree of a trace; of each level the `most` largest parts, the others in one line.

    A line's width says how large a part is beside the class's largest; blue speaks for the class, orange against it. Heat is
    on one scale a column, blue where it speaks against. Below the third level only the largest part is opened.
    """
    root = _tree(trace, 0, most)
    high = _place(root, 0.1)
    nodes = root.all()
    columns = 1 + max(node.column for node in nodes)
    whole = Plot(figsize=(WIDE * columns, high))
    canvas = whole.add_axes((0, 0, 1, 1))
    widest = max((abs(node.value) for node in nodes if node.column == 1), default=0.0) or 1.0
    for node in nodes:
        for part in node.parts:
            _join(canvas, node, part, min(1.0, abs(part.value) / widest))
    picture = picture_of(trace.picture)
    dark = None if picture is None else grey(picture)
    for column in range(columns):
        ours = [node for node in nodes if node.column == column]
        heats = [node.traces[0].heat for node in ours]
        peak = max((float(heat.abs().max()) for heat in heats if heat is not None), default=0.0)
        for node, heat in zip(ours, heats, strict=True):
            x = 0.1 + WIDE * column
            if picture is not None and dark is not None and (heat is not None or column == 0):
                seen = pixels_of(picture) if heat is None else heatmap(dark, heat, peak=peak, against=True)
                canvas.imshow(seen, extent=(x, x + THUMB, node.y + THUMB / 2, node.y - THUMB / 2), zorder=3)
                x += THUMB + 0.08
            _write(canvas, node, x)
    canvas.set_axis_off()
    canvas.set(xlim=(0, WIDE * columns), ylim=(high, 0), aspect="equal")
    return whole


def _tree(trace: Trace, column: int, most: int, opened: bool = True) -> _Node:
    node = _Node([trace], column)
    if not opened:
        return node
    constant = [part for part in trace.parts if part.kind in ("bias", "constant")]
    small = [part for part in trace.parts if part.kind == "rest"]
    large = [part for part in trace.parts if part.kind not in ("bias", "constant", "rest")]
    shown = large[:most]
    node.parts = [_tree(part, column + 1, most, column < 1 or place == 0) for place, part in enumerate(shown)]
    if line := [*sum_of_rest([*large[most:], *small]), *constant]:
        node.parts.append(_Node(line, column + 1))
    return node


def _place(node: _Node, top: float) -> float:
    """Give a part and its own parts their places below `top`; returns where they end. A part is in the middle of its own."""
    if not node.parts:
        high = LOW if node.traces[0].heat is None and node.column > 0 else HIGH
        node.y = top + high / 2
        return top + high
    end = top
    for part in node.parts:
        end = _place(part, end)
    node.y = max((node.parts[0].y + node.parts[-1].y) / 2, top + HIGH / 2)
    return max(end, node.y + HIGH / 2) + GAP


def _join(canvas: Axes, node: _Node, part: _Node, share: float) -> None:
    left, right = 0.1 + WIDE * (node.column + 1) - 0.6, 0.1 + WIDE * part.column - 0.05
    middle = (left + right) / 2
    curve = Path([(left, node.y), (middle, node.y), (middle, part.y), (right, part.y)], [1, 4, 4, 4])
    colour = FOR if part.value >= 0 else AGAINST
    canvas.add_patch(PathPatch(curve, fill=False, linewidth=0.7 + 6 * share, edgecolor=colour, alpha=0.5))


def _write(canvas: Axes, node: _Node, x: float) -> None:
    if len(node.traces) > 1 or node.traces[0].kind in ("rest", "bias", "constant"):
        text = ",  ".join(f"{each.label} {_number(each.value)}" for each in node.traces)
        canvas.text(x, node.y, text, fontsize=7.5, va="center", color="#555555")
        return
    trace = node.traces[0]
    where = [f"of {trace.layer}"] if trace.kind in ("channel", "shortcut") and trace.layer else []
    end = [f"ends: {trace.ended}"] if trace.ended else []
    words = trace.kind if trace.kind == "shortcut" else trace.label.replace(f" of {trace.layer}", "")
    canvas.text(x, node.y - 0.02, _number(trace.value), fontsize=9, weight="bold", va="bottom")
    canvas.text(x, node.y + 0.02, "\n".join([words, *where, *end]), fontsize=7.5, va="top", parse_math=False)


def _number(value: float) -> str:
    return f"{value:+.2g}".replace("-", "\N{MINUS SIGN}")
