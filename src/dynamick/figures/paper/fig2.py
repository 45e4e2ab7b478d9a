"""The paper's Fig. 2: the weights that a toy network learns for laptop and television, dense and Dynamic-K."""

from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from torch import Tensor, nn

from dynamick.data import ComposedScenes
from dynamick.dissection.plots import COLOURS, STROKES
from dynamick.figures.averages import Row, means, verdict
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page, cells, spreads, table
from dynamick.nn import DynamicLinear

PAIR = ("laptop", "television")
"""The paper's two classes..."""
SHARED = "screen"
"""... and the part that they share."""
K = 5
SCENES, SIDE = 2000, 32
STEPS, RATE, MOMENTUM, DECAY = 1500, 0.5, 0.9, 1e-3
"""All scenes a step; seconds in all."""
FAINT = 1e-3
"""A weight below it, in absolute value, does not count as a connection (Fig. 4b's threshold)."""
COLUMNS = {"top1": ("top-1 on unseen scenes, %", 1), "own": ("own parts' mean weight", 2)}
COLUMNS |= {"other": ("other parts' mean weight", 2), "negative": ("negative weights, %", 1)}
COLUMNS |= {"right": ("own parts above all others, %", 1), "shared": (f"{SHARED}, the smaller weight", 2)}


def make(material: Material) -> Page:
    """Train the toy network dense and Dynamic-K, and compare.

    The network is a linear layer. Its inputs say which parts are seen in a generated scene, as an oracle would, so every weight
    has a meaning. It is trained on all ten classes, and laptop and television are drawn. Of several initial weights
    (`material.seeds`) the first ones are drawn.
    """
    scenes, unseen = (ComposedScenes(split, SCENES, image_size=SIDE) for split in ("train", "val"))
    x, x_unseen = parts_seen(scenes), parts_seen(unseen)
    kinds = {"dense": None, f"Dynamic-{K}": K}
    heads = {name: [fit(x, scenes.labels, k, seed) for seed in range(material.seeds)] for name, k in kinds.items()}
    chosen = [scenes.classes.index(name) for name in PAIR]
    screen = scenes.parts.index(SHARED)
    rows = [summary(name, some, x_unseen, unseen.labels, scenes.table, chosen, screen) for name, some in heads.items()]
    first = {name: some[0].weight.detach()[chosen] for name, some in heads.items()}
    drawing = draw(first, scenes.parts, scenes.table[chosen])
    intro = [settings(), "All but the top-1 is of these two classes; means and deviations over initial weights."]
    return Page(
        rows,
        verdicts(rows),
        intro,
        table(cells("head", "runs") | spreads(COLUMNS), rows),
        drawing,
        about={"settings": settings()},
    )


def parts_seen(scenes: Any) -> Tensor:
    """1 for each part of which some pixel is seen in a scene, else 0: (scenes, parts)."""
    numbers = torch.arange(1, len(scenes.parts) + 1, dtype=torch.uint8)
    return (scenes.part_maps.flatten(1)[:, :, None] == numbers).any(1).float()


def fit(x: Tensor, labels: Tensor, k: int | None, seed: int) -> Any:
    """A linear head trained by SGD with momentum and weight decay; k: None for dense.

    Weights start positive, in both heads the same. Inputs here are never negative. So a weight that starts negative would never
    be routed, and only decay would change it.
    """
    M, C = x.shape[1], int(labels.max()) + 1
    head = nn.Linear(M, C) if k is None else DynamicLinear(M, C, k)
    generator = torch.Generator().manual_seed(seed)
    nn.init.uniform_(head.weight, 0, M**-0.5, generator=generator)
    nn.init.zeros_(head.bias)
    optimizer = torch.optim.SGD(head.parameters(), RATE, MOMENTUM, weight_decay=DECAY)
    for _ in range(STEPS):
        optimizer.zero_grad()
        nn.functional.cross_entropy(head(x), labels).backward()  # type: ignore[no-untyped-call]
        optimizer.step()
    return head


def summary(name: str, heads: list[Any], x: Tensor, labels: Tensor, parts: Any, chosen: list[int], shared: int) -> Row:
    """A head's figures over its seeds, means and deviations (`_std`).

    Returns:
        `head`, `runs`, `top1` (%, unseen scenes), and of laptop and television: `own` (mean weight of their own parts), `other`
        (mean weight of the other parts), `negative` (% of their weights below -1e-3), `right` (% of their own parts whose
        weight is larger than that of every other part), `shared` (the smaller of the two weights of the part that they share).
    """
    own = torch.from_numpy(parts[chosen])
    figures = []
    for head in heads:
        weight = head.weight.detach()[chosen]
        best_other = weight.masked_fill(own, -torch.inf).max(1, keepdim=True).values
        with torch.no_grad():
            top1 = (head(x).argmax(1) == labels).float().mean()
        figures.append(
            {
                "top1": 100 * float(top1),
                "own": float(weight[own].mean()),
                "other": float(weight[~own].mean()),
                "negative": 100 * float((weight < -FAINT).float().mean()),
                "right": 100 * float((weight > best_other)[own].float().mean()),
                "shared": float(weight[:, shared].min()),
            }
        )
    return {"head": name, "runs": len(heads), **means(figures)}


def verdicts(rows: list[Row]) -> list[str]:
    """The paper's sentences about this figure, each with what was found."""
    dense, dynamic = rows
    fewer = verdict(dynamic["negative"] < dense["negative"])
    said = "the dense weights repel other classes' parts, the dynamic ones do not"
    found = f"{dense['negative']:.0f} % of the dense weights and {dynamic['negative']:.0f} % of the dynamic ones are negative"
    clear = verdict(dynamic["right"] == 100)
    own = f"{dynamic['head']}'s largest weights are those of the class's own parts"
    repelled = verdict(dense["shared"] < 0)
    screen = f"the two classes' dense weights of the {SHARED} repel each other: the smaller one is {dense['shared']:.2f}"
    own = f"{own}: in {dynamic['right']:.0f} % of the cases (dense: {dense['right']:.0f} %): {clear}"
    return [f"{said}: {found}: {fewer}", own, f"{screen}: {repelled}"]


def settings() -> str:
    """How the networks were trained, in words."""
    return (
        f"A linear layer on which of 12 parts are seen in {SCENES} scenes of ten classes, {STEPS} steps of SGD, each on all of "
        f"them, learning rate {RATE}, momentum {MOMENTUM}, weight decay {DECAY}, positive initial weights."
    )


def draw(weights: dict[str, Tensor], parts: list[str], own: Any) -> Figure:
    """For each head its network (width: a weight's size; dotted: negative), and below it the weights as curves."""
    figure = Figure(figsize=(5 * len(weights), 8), layout="constrained")
    grid = figure.subplots(2, len(weights), squeeze=False, height_ratios=[1.25, 1], sharey="row")
    peak = max(float(weight.abs().max()) for weight in weights.values())
    for (name, weight), upper, lower in zip(weights.items(), *grid, strict=True):
        _network(upper, weight, parts, own, peak)
        upper.set_title(name)
        _curves(lower, weight, parts)
    grid[1, 0].set_ylabel("weight")
    lines = [Line2D([], [], color="black", lw=3), Line2D([], [], color="black", lw=3, ls=":")]
    figure.legend(lines, ["positive weight", "negative weight"], loc="outside lower center", ncols=2, frameon=False)
    return figure


def _network(axes: Axes, weight: Tensor, parts: list[str], own: Any, peak: float) -> None:
    tall = len(parts) - 1
    places = [tall * 0.75, tall * 0.25]
    for c, (name, place) in enumerate(zip(PAIR, places, strict=True)):
        for i, value in enumerate(weight[c].tolist()):
            if abs(value) >= FAINT:
                stroke, width = ":" if value < 0 else "-", 6 * abs(value) / peak
                axes.plot([0, 1], [tall - i, place], stroke, color=COLOURS[c], lw=width, zorder=1)
        axes.plot([1], [place], "o", ms=16, color=COLOURS[c], zorder=2)
        axes.text(1.06, place, name, va="center")
    for i, name in enumerate(parts):
        needed = own[:, i].any()
        axes.plot([0], [tall - i], "o", ms=9, color="black", mfc="black" if needed else "white", zorder=2)
        axes.text(-0.06, tall - i, name, va="center", ha="right", weight="bold" if needed else "normal")
    axes.set(xlim=(-0.75, 1.5), ylim=(-0.7, tall + 0.7))
    axes.set_axis_off()


def _curves(axes: Axes, weight: Tensor, parts: list[str]) -> None:
    axes.axhline(0, color="0.6", lw=0.8)
    for c, name in enumerate(PAIR):
        axes.plot(range(len(parts)), weight[c].tolist(), color=COLOURS[c], ls=STROKES[c], marker="os"[c], ms=4, label=name)
    axes.set_xticks(range(len(parts)), parts, rotation=60, ha="right", fontsize=8)
    axes.legend(fontsize="small", frameon=False)


FIGURE = PaperFigure(title="Fig. 2: what laptop and television are made of", make=make)
