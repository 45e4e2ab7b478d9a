"""The paper's sentence that Dynamic-K is exactly Algorithm 3 for large s, measured on trained networks."""

from collections.abc import Sequence
from math import inf
from typing import Any

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from dynamick.data.images import evenly_spaced
from dynamick.dissection.plots import COLOURS, STROKES
from dynamick.errors import InputError
from dynamick.figures.averages import Row, means, spread
from dynamick.figures.figure import Material, PaperFigure
from dynamick.figures.page import Page, table
from dynamick.figures.runs import Run, group_by_model, refuse_different_data, validation_images
from dynamick.figures.trainings import SCENES
from dynamick.functional import dynamic_linear, dynamic_route
from dynamick.optim import lipschitz, overlap, probabilities

MEASURED = 500
"""How many validation images, evenly spaced, are measured."""
K = 5
"""The K of networks that have none of their own, and the block size."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
"""Values of s."""
IN_TABLE = (0.1, 0.5, 0.9, 0.99, 1.0)
"""Those of the table."""
FORMS = {
    "normalised, votes": ("normalised", "votes"),
    "normalised, Lemma 2": ("normalised", "local"),
    "literal, votes": ("literal", "votes"),
    "literal, Lemma 2 local": ("literal", "local"),
    "literal, Lemma 2 global": ("literal", "global"),
}
"""Form of q and estimate of L. In the normalised form Lemma 2's local and global constants give the same."""
PASSES = ("dense", "routed")
"""Forward passes: Algorithm 3's, and Dynamic-K's."""
NEAR = 0.99
EXPLAINED = """*Overlap*: of the coordinates that Algorithm 3 draws with those that Dynamic-K routes, expected intersection
over expected union. *Update*: by how much of its size Dynamic-K's gradient of the head is missed by the
expected sampled one at s = 1, when the forward pass is dense, or routed as Dynamic-K's."""


def make(material: Material) -> Page:
    """Its page, from runs of one data set; not of CapsNets.

    Raises:
        InputError: runs of different data, of a CapsNet, or two of a model that differ in more than their seeds.
    """
    runs = material.runs
    refuse_different_data(runs, "overlap")
    for run in runs:
        if run.head.startswith("capsules"):
            raise InputError(f"reproduce overlap: {run.model} has no linear head; give ResNets")
    group_by_model(runs)
    data = validation_images(runs[0])
    images, labels = data.take(evenly_spaced(len(data), MEASURED))
    rows = summary(runs, [measure(run, images, labels) for run in runs])
    size = f"{len(labels)} validation images; every network as its last epoch left it; means and deviations over runs."
    return Page(rows, verdicts(rows), [size, EXPLAINED], _table(rows), draw(rows))


def measure(run: Run, images: Tensor, labels: Tensor) -> list[Row]:
    """A network's rows: at each s, for each form and estimate, how far Algorithm 3 is from Dynamic-K on these images.

    Returns:
        Rows of `kind` (a key of FORMS), `s`, `overlap` (of the coordinates drawn and those routed), and for each forward pass
        `dense` and `routed` the relative distance of the expected sum of sampled gradients from Dynamic-K's gradient, None
        where that is 0 or not finite.
    """
    network, k = run.network, run.k or K
    weight_OM, bias = network.fc.weight.detach(), network.fc.bias.detach()
    with torch.no_grad():
        x_BM = torch.cat([network.features(network.preprocessing(batch)) for batch in images.split(100)]).float()
    routed_BOM = routes(x_BM, weight_OM, k)
    logits = {"dense": x_BM @ weight_OM.T + bias, "routed": dynamic_linear(x_BM, weight_OM, bias, k)}
    errors = {name: (each.softmax(1) - torch.eye(len(weight_OM))[labels]) / len(labels) for name, each in logits.items()}
    dynamic_OM = expected(errors["routed"], x_BM, routed_BOM.float())
    size = float(dynamic_OM.norm())
    known = 0 < size < inf
    rows = []
    for kind, (form, estimate) in FORMS.items():
        L_BOM = lipschitz(estimate, x_BM, weight_OM, logits["dense"])
        for s in LEVELS:
            q_BOM = probabilities(L_BOM, s, k, form)
            # With the routed forward pass a weight that is not routed has no gradient to draw.
            updates = {"dense": expected(errors["dense"], x_BM, q_BOM)}
            updates["routed"] = expected(errors["routed"], x_BM, q_BOM * routed_BOM)
            away = {name: float((each - dynamic_OM).norm()) / size if known else None for name, each in updates.items()}
            rows.append({"kind": kind, "s": s, "overlap": overlap(q_BOM, routed_BOM), **away})
    return rows


def routes(x_BM: Tensor, weight_OM: Tensor, k: int) -> Tensor:
    """R of Algorithm 2 (rule `at_most`), boolean (B, O, M)."""
    indices, M = dynamic_route(x_BM, weight_OM, k).indices, x_BM.shape[1]
    # One more column takes the padding of the routes.
    found = torch.zeros(*indices.shape[:2], M + 1, dtype=torch.bool)
    return found.scatter_(2, indices % (M + 1), True)[..., :M]


def expected(gy_BO: Tensor, x_BM: Tensor, q_BOM: Tensor) -> Tensor:
    """E sum_i g~_i = sum_i q_ij g_ij, shape (O, M)."""
    return torch.einsum("bo,bm,bom->om", gy_BO, x_BM, q_BOM)


def summary(runs: Sequence[Run], found: list[list[Row]]) -> list[Row]:
    """One row a model, form and estimate, and s: means, and deviations (`_std`), over its runs; None if one has none."""
    rows: list[Row] = []
    for model in dict.fromkeys(run.model for run in runs):
        own = [each for run, each in zip(runs, found, strict=True) if run.model == model]
        k = next(run.k for run in runs if run.model == model) or K
        for same in zip(*own, strict=True):
            row: Row = {"model": model, "k": k, "runs": len(own), "kind": same[0]["kind"], "s": same[0]["s"]}
            rows.append(row | means([{name: each[name] for name in ("overlap", *PASSES)} for each in same]))
    return rows


def verdicts(rows: Sequence[Row]) -> list[str]:
    """For each model and kind, whether the paper's sentence holds, and by how much it fails."""
    return [f"{model}: {kind}: {_verdict(own)}" for (model, kind), own in by_kind(rows).items()]


def _verdict(own: list[Row]) -> str:
    last, best = own[-1], max(own, key=lambda row: float(row["overlap"]))
    if last["dense"] is None:
        return "Dynamic-K's gradient of the head is 0, or not finite: nothing to compare with"
    text = f"the overlap at s = 1 is {last['overlap']:.3f}"
    if last["overlap"] != 1:
        return f"{text}, and at most {best['overlap']:.3f} (s = {best['s']:g}): fails"
    near = next(row["s"] for row in own if row["overlap"] >= NEAR)
    away = f"{last['dense']:.2f} of its size away with the dense pass, {last['routed']:.2f} with the routed one"
    return f"{text}, above {NEAR} from s = {near:g}: holds for the coordinates; the update is {away}"


def _table(rows: Sequence[Row]) -> str:
    columns: dict[str, Any] = {"model": lambda own: f"{own[1.0]['model']} (K = {own[1.0]['k']})"}
    columns["form, estimate of L"] = lambda own: own[1.0]["kind"]
    columns |= {f"s = {s:g}": lambda own, s=s: spread(own[s], "overlap", 3) for s in IN_TABLE}
    columns |= {f"update, {name}": lambda own, name=name: spread(own[1.0], name, 3) for name in PASSES}
    return table(columns, [{row["s"]: row for row in own} for own in by_kind(rows).values()])


def by_kind(rows: Sequence[Row]) -> dict[tuple[str, str], list[Row]]:
    """The rows of each model and kind, by s."""
    found: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        found.setdefault((row["model"], row["kind"]), []).append(row)
    return found


def draw(rows: Sequence[Row]) -> Figure:
    """A row a model: overlap against s, and the distance of the update, in the normalised form, with each forward pass."""
    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(10, 0.8 + 3.1 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False)
    for (left, right), model in zip(grid, models, strict=True):
        own = {kind: some for (its_model, kind), some in by_kind(rows).items() if its_model == model}
        _draw_model(left, right, own)
        left.set_ylabel(f"{model}\noverlap")
    for axes in grid[-1]:
        axes.set_xlabel("s")
    grid[0, 0].set_title("coordinates drawn and coordinates routed", fontsize=10)
    grid[0, 1].set_title("expected update and Dynamic-K's, normalised form", fontsize=10)
    for column, count in ((0, 3), (1, 2)):
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": count, "fontsize": 7}
        grid[-1, column].legend(*grid[0, column].get_legend_handles_labels(), frameon=False, **below)
    return figure


def _draw_model(left: Axes, right: Axes, rows: dict[str, list[Row]]) -> None:
    for place, (kind, own) in enumerate(rows.items()):
        style: dict[str, Any] = {"color": COLOURS[place], "marker": "osD^v"[place], "ms": 4}
        left.plot(range(len(own)), [row["overlap"] for row in own], ls=STROKES[place % len(STROKES)], label=kind, **style)
        # The first kinds have the normalised form, and there are as many as forward passes.
        for name, line in zip(PASSES, "-:", strict=True) if place < len(PASSES) else ():
            label = f"{kind.split(', ')[1]}, {name} forward pass"
            right.plot(range(len(own)), [row[name] for row in own], ls=line, label=label, **style)
    right.set_ylabel("distance of the update")
    left.set_ylim(-0.03, 1.03)
    right.set_ylim(bottom=-0.03)
    for axes in (left, right):
        axes.set_xticks(range(len(LEVELS)), [f"{s:g}" for s in LEVELS], fontsize=7)


FIGURE = PaperFigure(title="Algorithm 3 for large s against Dynamic-K", make=make, needs={SCENES: ("", "-d5a")})
