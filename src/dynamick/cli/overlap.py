"""The paper's sentence that Dynamic-K is exactly Algorithm 3 for large s, measured on trained networks."""

from collections.abc import Sequence
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.cli.reproduce import alike, averaged

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from torch import Tensor

MEASURED = 500
"""So many validation images, evenly spaced, are measured."""
K = 5
"""Of networks that have no K of their own; the block size too."""
LEVELS = (0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
"""Values of s."""
SHOWN = (0.1, 0.5, 0.9, 0.99, 1.0)
"""Those of the table."""
KINDS = {
    "normalised, votes": ("normalised", "votes"),
    "normalised, Lemma 2": ("normalised", "local"),
    "literal, votes": ("literal", "votes"),
    "literal, Lemma 2 local": ("literal", "local"),
    "literal, Lemma 2 global": ("literal", "global"),
}
"""Form of q and estimate of L. In the normalised form Lemma 2's local and global constants are one."""
PASSES = ("dense", "routed")
"""Forward passes: Algorithm 3's, and Dynamic-K's."""
NEAR = 0.99

Run = dict[str, Any]
Row = dict[str, Any]


def overlap_figure(runs: list[Run], out: Path, failed: Sequence[str] = ()) -> str:
    """Write overlap.md, overlap.json and overlap.svg, and return the page.

    Args:
        runs: as `dynamick.cli.reproduce.read_run`, all on the same data; not of CapsNets.
        out: a folder; made when there is something to write.
        failed: a line for each training that failed.

    Raises:
        InputError: runs of different data, of a CapsNet, or two of a model that differ in more than their seeds.
    """
    from dynamick.data.images import evenly_spaced
    from dynamick.data.recipe import DataRecipe, open_images
    from dynamick.errors import InputError
    from dynamick.files import write_atomically, write_json

    if len({(run["recipe"]["data"]["kind"], run["recipe"]["data"]["size"], tuple(run["network"].classes)) for run in runs}) > 1:
        raise InputError("reproduce overlap: the runs are of different data; give those of one")
    for run in runs:
        if run["head"].startswith("capsules"):
            raise InputError(f"reproduce overlap: {run['model']} has no linear head; give ResNets")
    alike(runs)
    data: Any = open_images(DataRecipe(**runs[0]["recipe"]["data"]), "val")
    images, labels = data.take(evenly_spaced(len(data), MEASURED))
    rows = summary(runs, [measure(run, images, labels) for run in runs])
    said = [*verdicts(rows), *failed]
    page = as_markdown(rows, said, len(labels))
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "overlap.json", {"rows": rows, "verdicts": said})
    draw(rows).savefig(out / "overlap.svg")
    # The page goes last: where it is, all is there.
    write_atomically(out / "overlap.md", page.encode())
    return page


def measure(run: Run, images: "Tensor", labels: "Tensor") -> list[Row]:
    """A network's rows: at each s, for each form and estimate, how far Algorithm 3 is from Dynamic-K on these images.

    Returns:
        Rows of `kind` (a key of KINDS), `s`, `overlap` (of the coordinates drawn and those routed), and for each forward pass
        `dense` and `routed` the relative distance of the expected sum of sampled gradients from Dynamic-K's gradient, None
        where that is 0 or not finite.
    """
    import torch

    from dynamick.functional import dynamic_linear
    from dynamick.optim import lipschitz, overlap, probabilities

    network, k = run["network"], run["k"] or K
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
    for kind, (form, estimate) in KINDS.items():
        L_BOM = lipschitz(estimate, x_BM, weight_OM, logits["dense"])
        for s in LEVELS:
            q_BOM = probabilities(L_BOM, s, k, form)
            # With the routed forward pass a weight that is not routed has no gradient to draw.
            updates = {"dense": expected(errors["dense"], x_BM, q_BOM)}
            updates["routed"] = expected(errors["routed"], x_BM, q_BOM * routed_BOM)
            away = {name: float((each - dynamic_OM).norm()) / size if known else None for name, each in updates.items()}
            rows.append({"kind": kind, "s": s, "overlap": overlap(q_BOM, routed_BOM), **away})
    return rows


def routes(x_BM: "Tensor", weight_OM: "Tensor", k: int) -> "Tensor":
    """R of Algorithm 2 (rule `at_most`), boolean (B, O, M)."""
    import torch

    from dynamick.functional import dynamic_route

    indices, M = dynamic_route(x_BM, weight_OM, k).indices, x_BM.shape[1]
    # One column more takes what pads the routes.
    found = torch.zeros(*indices.shape[:2], M + 1, dtype=torch.bool)
    return found.scatter_(2, indices % (M + 1), True)[..., :M]


def expected(gy_BO: "Tensor", x_BM: "Tensor", q_BOM: "Tensor") -> "Tensor":
    """E sum_i g~_i = sum_i q_ij g_ij, shape (O, M)."""
    import torch

    return torch.einsum("bo,bm,bom->om", gy_BO, x_BM, q_BOM)


def summary(runs: list[Run], found: list[list[Row]]) -> list[Row]:
    """One row a model, form and estimate, and s: means, and deviations (`_std`), over its runs; None where one has none."""
    rows: list[Row] = []
    for model in dict.fromkeys(run["model"] for run in runs):
        own = [each for run, each in zip(runs, found, strict=True) if run["model"] == model]
        k = next(run["k"] for run in runs if run["model"] == model) or K
        for same in zip(*own, strict=True):
            row: Row = {"model": model, "k": k, "runs": len(own), "kind": same[0]["kind"], "s": same[0]["s"]}
            for name in ("overlap", *PASSES):
                row |= averaged(name, [each[name] for each in same])
            rows.append(row)
    return rows


def verdicts(rows: list[Row]) -> list[str]:
    """For each model and estimate, whether the paper's sentence holds, and by how much it fails."""
    out = []
    for model in dict.fromkeys(row["model"] for row in rows):
        for kind in KINDS:
            own = [row for row in rows if (row["model"], row["kind"]) == (model, kind)]
            last, best = own[-1], max(own, key=lambda row: float(row["overlap"]))
            if last["dense"] is None:
                out.append(f"{model}: {kind}: Dynamic-K's gradient of the head is 0, or not finite: nothing to compare with")
                continue
            text = f"{model}: {kind}: the overlap at s = 1 is {last['overlap']:.3f}"
            if last["overlap"] == 1:
                near = next(row["s"] for row in own if row["overlap"] >= NEAR)
                away = f"{last['dense']:.2f} of its size away with the dense pass, {last['routed']:.2f} with the routed one"
                out.append(f"{text}, above {NEAR} from s = {near:g}: holds for the coordinates; the update is {away}")
            else:
                out.append(f"{text}, and at most {best['overlap']:.3f} (s = {best['s']:g}): fails")
    return out


def as_markdown(rows: list[Row], said: list[str], images: int) -> str:
    """The page."""
    lines = ["# Algorithm 3 for large s against Dynamic-K", ""]
    lines += [f"{images} validation images; every network as its last epoch left it; means and deviations over runs.", ""]
    lines += ["*Overlap*: of the coordinates that Algorithm 3 draws with those that Dynamic-K routes, expected intersection"]
    lines += ["over expected union. *Update*: by how much of its size Dynamic-K's gradient of the head is missed by the"]
    lines += ["expected sampled one at s = 1, when the forward pass is dense, or routed as Dynamic-K's.", ""]
    head = " | ".join(f"s = {s:g}" for s in SHOWN)
    lines += [f"| model | form, estimate of L | {head} | update, dense | update, routed |"]
    lines += ["|---" * (4 + len(SHOWN)) + "|"]
    for model in dict.fromkeys(row["model"] for row in rows):
        for kind in KINDS:
            own = {row["s"]: row for row in rows if (row["model"], row["kind"]) == (model, kind)}
            cells = [_spread(own[s], "overlap") for s in SHOWN] + [_spread(own[1.0], name) for name in PASSES]
            lines.append(f"| {model} (K = {own[1.0]['k']}) | {kind} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {each}" for each in said), "", "![overlap](overlap.svg)", ""])


def draw(rows: list[Row]) -> "Figure":
    """A row a model: overlap against s, and the distance of the update, in the normalised form, with each forward pass."""
    from matplotlib.figure import Figure

    from dynamick.dissection.plots import COLOURS, STROKES

    models = list(dict.fromkeys(row["model"] for row in rows))
    figure = Figure(figsize=(10, 0.8 + 3.1 * len(models)), layout="constrained")
    grid = figure.subplots(len(models), 2, squeeze=False)
    for (left, right), model in zip(grid, models, strict=True):
        for place, kind in enumerate(KINDS):
            own = [row for row in rows if (row["model"], row["kind"]) == (model, kind)]
            look = {"color": COLOURS[place], "marker": "osD^v"[place], "ms": 4}
            stroke = STROKES[place % len(STROKES)]
            left.plot(range(len(own)), [row["overlap"] for row in own], ls=stroke, label=kind, **look)
            if place < len(PASSES):
                for name, line in zip(PASSES, "-:", strict=True):
                    values = [row[name] for row in own]
                    right.plot(range(len(own)), values, ls=line, label=f"{kind.split(', ')[1]}, {name} forward pass", **look)
        left.set_ylabel(f"{model}\noverlap")
        right.set_ylabel("distance of the update")
        left.set_ylim(-0.03, 1.03)
        right.set_ylim(bottom=-0.03)
        for axes in (left, right):
            axes.set_xticks(range(len(LEVELS)), [f"{s:g}" for s in LEVELS], fontsize=7)
    for axes in grid[-1]:
        axes.set_xlabel("s")
    grid[0, 0].set_title("coordinates drawn and coordinates routed", fontsize=10)
    grid[0, 1].set_title("expected update and Dynamic-K's, normalised form", fontsize=10)
    for column, count in ((0, 3), (1, 2)):
        below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.2), "ncols": count, "fontsize": 7}
        grid[-1, column].legend(*grid[0, column].get_legend_handles_labels(), frameon=False, **below)
    return figure


def _spread(row: Row, name: str) -> str:
    if row[name] is None:
        return "none"
    deviation = row[f"{name}_std"]
    return f"{row[name]:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
