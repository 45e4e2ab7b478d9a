"""The paper's Fig. 2: what a toy network's weights for laptop and television come to, dense against Dynamic-K."""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.cli.reproduce import averaged

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from torch import Tensor

SHOWN = ("laptop", "television")
"""The paper's two classes..."""
SHARED = "screen"
"""... and the part that they share."""
K = 5
SEEDS = 3
SCENES, SIDE = 2000, 32
STEPS, RATE, MOMENTUM, DECAY = 1500, 0.5, 0.9, 1e-3
"""All scenes a step; seconds in all."""
FAINT = 1e-3
"""A weight below it, in absolute value, counts as no connection (Fig. 4b's threshold)."""

Row = dict[str, Any]


def fig2(out: Path, seeds: int = SEEDS) -> str:
    """Train the toy network dense and Dynamic-K, write fig2.md, fig2.json and fig2.svg, and return the page.

    The network is a linear layer on which parts are seen in a generated scene: features as an oracle would give them, so that
    every weight has a meaning. It is trained on all ten classes; laptop and television are drawn.

    Args:
        out: a folder; made where it is missing.
        seeds: so many initial weights; the first one is drawn.
    """
    from dynamick.data import ComposedScenes
    from dynamick.files import write_atomically, write_json

    scenes, unseen = (ComposedScenes(split, SCENES, image_size=SIDE) for split in ("train", "val"))
    x, x_unseen = parts_seen(scenes), parts_seen(unseen)
    kinds = {"dense": None, f"Dynamic-{K}": K}
    heads = {name: [fit(x, scenes.labels, k, seed) for seed in range(seeds)] for name, k in kinds.items()}
    chosen = [scenes.classes.index(name) for name in SHOWN]
    screen = scenes.parts.index(SHARED)
    rows = [summary(name, some, x_unseen, unseen.labels, scenes.table, chosen, screen) for name, some in heads.items()]
    said = verdicts(rows)
    page = as_markdown(rows, said)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "fig2.json", {"rows": rows, "verdicts": said, "settings": settings()})
    first = {name: some[0].weight.detach()[chosen] for name, some in heads.items()}
    draw(first, scenes.parts, scenes.table[chosen]).savefig(out / "fig2.svg")
    # The page goes last: where it is, all is there.
    write_atomically(out / "fig2.md", page.encode())
    return page


def parts_seen(scenes: Any) -> "Tensor":
    """1 for each part of which some pixel is seen in a scene, else 0: (scenes, parts)."""
    import torch

    numbers = torch.arange(1, len(scenes.parts) + 1, dtype=torch.uint8)
    return (scenes.part_maps.flatten(1)[:, :, None] == numbers).any(1).float()


def fit(x: "Tensor", labels: "Tensor", k: int | None, seed: int) -> Any:
    """A linear head trained by SGD with momentum and weight decay; k: None for dense.

    Weights start positive, in both heads the same. Inputs here are never negative, so that a weight that starts negative is
    never among the routed ones, and would stay where it is but for the decay.
    """
    import torch
    from torch import nn

    from dynamick.nn import DynamicLinear

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


def summary(name: str, heads: list[Any], x: "Tensor", labels: "Tensor", table: Any, chosen: list[int], shared: int) -> Row:
    """A head's figures over its seeds, means and deviations (`_std`).

    Returns:
        `head`, `runs`, `top1` (%, unseen scenes), and of laptop and television: `own` (mean weight of their own parts), `other`
        (mean weight of the other parts), `negative` (% of their weights below -1e-3), `right` (% of their own parts whose
        weight is larger than that of every other part), `shared` (the smaller of the two weights of the part that they share).
    """
    import torch

    own = torch.from_numpy(table[chosen])
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
    row: Row = {"head": name, "runs": len(heads)}
    for key in figures[0]:
        row |= averaged(key, [each[key] for each in figures])
    return row


def verdicts(rows: list[Row]) -> list[str]:
    """The paper's sentences about this figure, each with what was found."""
    dense, dynamic = rows
    fewer = "holds" if dynamic["negative"] < dense["negative"] else "fails"
    said = "the dense weights repel other classes' parts, the dynamic ones do not"
    found = f"{dense['negative']:.0f} % of the dense weights and {dynamic['negative']:.0f} % of the dynamic ones are negative"
    clear = "holds" if dynamic["right"] == 100 else "fails"
    own = f"{dynamic['head']}'s largest weights are those of the class's own parts"
    repelled = "holds" if dense["shared"] < 0 else "fails"
    screen = f"the two classes' dense weights of the {SHARED} repel each other: the smaller one is {dense['shared']:.2f}"
    own = f"{own}: in {dynamic['right']:.0f} % of the cases (dense: {dense['right']:.0f} %): {clear}"
    return [f"{said}: {found}: {fewer}", own, f"{screen}: {repelled}"]


def settings() -> str:
    """How the networks were trained, in words."""
    return (
        f"A linear layer on which of 12 parts are seen in {SCENES} scenes of ten classes, {STEPS} steps of SGD, each on all of "
        f"them, learning rate {RATE}, momentum {MOMENTUM}, weight decay {DECAY}, positive initial weights."
    )


def as_markdown(rows: list[Row], said: list[str]) -> str:
    """The page."""
    names = {"top1": "top-1 on unseen scenes, %", "own": "own parts' mean weight", "other": "other parts' mean weight"}
    names |= {
        "negative": "negative weights, %",
        "right": "own parts above all others, %",
        "shared": f"{SHARED}, the smaller weight",
    }
    lines = ["# Fig. 2: what laptop and television are made of", "", settings(), ""]
    lines += ["All but the top-1 is of these two classes; means and deviations over initial weights.", ""]
    lines += [f"| head | runs | {' | '.join(names.values())} |", "|---" * (2 + len(names)) + "|"]
    for row in rows:
        cells = [_spread(row, key, 2 if key in ("own", "other", "shared") else 1) for key in names]
        lines.append(f"| {row['head']} | {row['runs']} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {each}" for each in said), "", "![fig2](fig2.svg)", ""])


def draw(weights: "dict[str, Tensor]", parts: list[str], own: Any) -> "Figure":
    """For each head its network (width: a weight's size; dotted: negative), and below it the weights as curves."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

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


def _network(axes: "Axes", weight: "Tensor", parts: list[str], own: Any, peak: float) -> None:
    from dynamick.dissection.plots import COLOURS

    tall = len(parts) - 1
    places = [tall * 0.75, tall * 0.25]
    for c, (name, place) in enumerate(zip(SHOWN, places, strict=True)):
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


def _curves(axes: "Axes", weight: "Tensor", parts: list[str]) -> None:
    from dynamick.dissection.plots import COLOURS, STROKES

    axes.axhline(0, color="0.6", lw=0.8)
    for c, name in enumerate(SHOWN):
        axes.plot(range(len(parts)), weight[c].tolist(), color=COLOURS[c], ls=STROKES[c], marker="os"[c], ms=4, label=name)
    axes.set_xticks(range(len(parts)), parts, rotation=60, ha="right", fontsize=8)
    axes.legend(fontsize="small", frameon=False)


def _spread(row: Row, key: str, digits: int) -> str:
    deviation = row[f"{key}_std"]
    return f"{row[key]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
