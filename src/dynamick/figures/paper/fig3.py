"""The paper's Fig. 3 on real images: the inputs that dense, Dynamic-K and routing by agreement select for a class."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamick.data.images import evenly_spaced
from dynamick.errors import InputError
from dynamick.explanation import heatmap
from dynamick.figures.averages import Row, means, verdict
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page, cells, spreads, table
from dynamick.figures.runs import Run, group_by_model, refuse_different_data, validation_images
from dynamick.figures.trainings import CAPSULES, SCENES
from dynamick.models.capsnet import GRID, POSE

MOST = 0.9
"""The selected inputs are the fewest that make up this share of a class's sum."""
MEASURED = 500
"""The medians are over at most this many validation images, evenly spaced."""
CLASSES = 3
"""Classes that are drawn, as many as in the paper: the image's own, and the likeliest others to the first network."""
COLUMNS = {"selected": ("selected", 1), "part": ("selected, %", 1), "top1": ("top-1 of these images, %", 1)}


class Selection(NamedTuple):
    """The terms of the sums of some images' classes.

    Attributes:
        shares: of each input in each class's sum, by size, shape (B, C, N); they add up to 1, or are all 0 if nothing is
            summed. The N inputs are the units of a ResNet, or the primary capsules of a CapsNet.
        maps: where in the image they are, shape (B, C, h, w); evidence against a class is negative.
        logits: shape (B, C).
    """

    shares: Tensor
    maps: Tensor
    logits: Tensor


def make(material: Material) -> Page:
    """Its page, from runs of one data set, such as a dense, a Dynamic-K and some CapsNets.

    Raises:
        InputError: fewer than two runs, runs of different data, no Dynamic-K one, or two of a model that differ in more than
            their seeds.
    """
    runs = material.runs
    refuse_different_data(runs, "fig3")
    if len(runs) < 2 or not any(run.k for run in runs):
        raise InputError("reproduce fig3: give a run with a Dynamic-K head, and one or more others to compare it with")
    first = [own[0] for own in group_by_model(runs).values()]
    data = validation_images(runs[0])
    rows = summary(runs, data)
    size = f"{len(data.classes)} classes, {data.side} pixels; every network as its last epoch left it."
    how = [f"Selected are the fewest inputs that make up {MOST:.0%} of the predicted class's sum, by size."]
    images = len(evenly_spaced(len(data), MEASURED))
    how += [f"Medians over {images} validation images, means and deviations of those over runs."]
    columns = cells("model", "runs", "inputs") | spreads(COLUMNS)
    return Page(rows, verdicts(rows), [size, "\n".join(how)], table(columns, rows), draw(first, data), about={"sizes": size})


def select(network: Any, images: Tensor) -> Selection:
    """The terms of each class's sum, for some images, uint8 (B, 3, H, W).

    A ResNet's class sums W_ci x_i, over all units or over the routed ones; unit i is where its map is. A capsule sums
    R_ci a_i V_ci (a_i is 1 except for EM); a primary capsule is at its place on the grid.
    """
    with torch.no_grad():
        prepared = network.preprocessing(images)
        return _of_capsules(network, prepared) if hasattr(network.fc, "capsules") else _of_units(network, prepared)


def _of_units(network: Any, prepared: Tensor) -> Selection:
    seen: list[Tensor] = []
    hook = network.avgpool.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    try:
        x_BM = network.features(prepared)
    finally:
        hook.remove()
    w_CM = network.fc.weight
    used_BCM = torch.ones(len(x_BM), *w_CM.shape)
    if getattr(network.fc, "threshold", None) == "activations":
        indices = network.fc.route(x_BM).indices
        # One more column takes the padding of the routes.
        used_BCM = torch.zeros(len(x_BM), len(w_CM), w_CM.shape[1] + 1).scatter_(2, indices % (w_CM.shape[1] + 1), 1)[..., :-1]
    maps = torch.einsum("bcm,cm,bmhw->bchw", used_BCM, w_CM, seen[0]) / seen[0][0, 0].numel()
    return Selection(_shares(used_BCM * w_CM * x_BM[:, None]), maps, network.fc(x_BM))


def _of_capsules(network: Any, prepared: Tensor) -> Selection:
    x = network.features(prepared)
    found, poses = network.fc.capsules(x), x.unflatten(1, (-1, POSE))
    parts_BCI = found.coupling * network.fc.votes(poses).norm(dim=-1)
    if network.fc.routing == "em":
        parts_BCI = parts_BCI * poses.norm(dim=-1)[:, None]
    shares = _shares(parts_BCI)
    return Selection(shares, shares.unflatten(2, (-1, GRID, GRID)).sum(2), found.log_odds)


def _shares(parts: Tensor) -> Tensor:
    size = parts.abs()
    return size / size.sum(-1, keepdim=True).clamp(min=1e-30)


def selected(shares: Tensor) -> Tensor:
    """How many of the largest shares, along the last axis, it takes to make up 90 %."""
    ordered = shares.sort(-1, descending=True).values.cumsum(-1)
    return 1 + (ordered < MOST * ordered[..., -1:]).sum(-1)


def measured(data: Any) -> tuple[Tensor, Tensor]:
    """The images that give the medians, evenly spaced, and their labels."""
    return data.take(evenly_spaced(len(data), MEASURED))


def summary(runs: Sequence[Run], data: Any) -> list[Row]:
    """One row a model, in the runs' order: medians over images, then means (and deviations, `_std`) over its runs.

    Returns:
        Rows of `model`, `runs`, `k`, `inputs` (how many there are), `selected` (inputs that make up 90 % of the predicted
        class's sum), `part` (the same in % of all inputs), `top1` (%, of these images).
    """
    images, labels = measured(data)
    rows = []
    for model, own in group_by_model(runs).items():
        found = [_numbers(run, images, labels) for run in own]
        row: Row = {"model": model, "runs": len(own), "k": own[0].k, "inputs": found[0]["inputs"]}
        rows.append(row | means([{name: each[name] for name in COLUMNS} for each in found]))
    return rows


def _numbers(run: Run, images: Tensor, labels: Tensor) -> Row:
    found = [select(run.network, batch) for batch in images.split(100)]
    shares, logits = torch.cat([each.shares for each in found]), torch.cat([each.logits for each in found])
    predicted = logits.argmax(1)
    count = float(selected(shares[torch.arange(len(shares)), predicted]).double().median())
    part, top1 = 100 * count / shares.shape[2], 100 * float((predicted == labels).double().mean())
    return {"inputs": shares.shape[2], "selected": count, "part": part, "top1": top1}


def verdicts(rows: list[Row]) -> list[str]:
    """The paper: Dynamic-K selects at most K inputs, and routing by agreement only inputs that are close together."""
    fewest = min((row for row in rows if row["k"]), key=lambda row: float(row["selected"]))
    out = []
    for row in rows:
        if row is not fewest and not row["k"]:
            holds = verdict(fewest["part"] < row["part"])
            share = f"{fewest['part']:.0f} % of the inputs against {row['part']:.0f} %"
            out.append(f"{fewest['model']} selects a smaller part of its inputs than {row['model']}: {share}: {holds}")
    return out


def draw(runs: Sequence[Run], data: Any) -> Figure:
    """A row a network: the image, the places of what three classes sum, and the share of each input in each class."""
    images, labels = data.take([known_by_all(runs, data)])
    image, label = images[0], int(labels[0])
    found = [select(run.network, image[None]) for run in runs]
    others = [c for c in found[0].logits[0].argsort(descending=True).tolist() if c != label]
    classes = [label, *others[: CLASSES - 1]]
    figure = Figure(figsize=(1.7 * (len(classes) + 1) + 4, 2.2 * len(runs)), layout="constrained")
    widths = [1] * (len(classes) + 1) + [2.6]
    grid = figure.subplots(len(runs), len(widths), squeeze=False, width_ratios=widths)
    for axes, run, each in zip(grid, runs, found, strict=True):
        _row(axes, run, each, image, classes, data.classes)
    bar = figure.colorbar(grid[0, -1].images[0], ax=grid[:, -1], shrink=0.6)
    bar.set_label("share in the class, of its largest", fontsize=8)
    return figure


def known_by_all(runs: Sequence[Run], data: Any) -> int:
    """The validation image, of some evenly spaced, that most networks classify correctly; the first such one."""
    images, labels = measured(data)
    right = torch.zeros(len(labels))
    for run in runs:
        answers = [select(run.network, batch).logits.argmax(1) for batch in images.split(100)]
        right += (torch.cat(answers) == labels).float()
    return evenly_spaced(len(data), MEASURED)[int(right.argmax())]


def _row(axes: list[Axes], run: Run, found: Selection, image: Tensor, classes: list[int], names: list[str]) -> None:
    for each in axes[:-1]:
        each.set_axis_off()
    axes[0].imshow(image.permute(1, 2, 0).numpy())
    axes[0].set_title(f"{run.model}\nsays {names[int(found.logits[0].argmax())]}", fontsize=8, parse_math=False)
    shares, peak = found.shares[0], float(found.maps[0, classes].max())
    for panel, c in zip(axes[1:-1], classes, strict=True):
        panel.imshow(heatmap(image, found.maps[0, c], 0.85, peak))
        count = int(selected(shares[c])) if shares[c].any() else 0
        panel.set_title(f"{names[c]}\n{count} of {shares.shape[1]} inputs", fontsize=8, parse_math=False)
    relative = shares / shares.amax(1, keepdim=True).clamp(min=1e-30)
    axes[-1].imshow(relative.numpy(), aspect="auto", cmap="cividis", vmin=0, vmax=1, interpolation="nearest")
    axes[-1].set_yticks(range(len(names)), names, fontsize=6)
    axes[-1].set_xticks([0, shares.shape[1] - 1], ["1", str(shares.shape[1])], fontsize=7)
    axes[-1].set_title("inputs of every class", fontsize=8)


FIGURE = PaperFigure(
    title="Fig. 3: which inputs a class selects",
    make=make,
    needs={SCENES: ("", "-d5a"), CAPSULES: ("capsnet-dynamic", "capsnet-em", "capsnet-simplified")},
)
