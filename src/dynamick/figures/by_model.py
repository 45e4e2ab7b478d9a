"""The table that Table 1 and Figs. 4 to 6 share: a row for each model, beside the paper's accuracy."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise, product

from matplotlib.figure import Figure

from dynamick.explanation import composition, share_covered
from dynamick.figures.averages import Row, means, rank, verdict
from dynamick.figures.page import Page, cells, spreads, table
from dynamick.figures.runs import Run, group_by_model
from dynamick.figures.sizes import caption, sizes

PAPER = {
    "cifar10": {"dense": 95.10, "d1": 95.02, "d5": 95.12, "d10": 95.22, "d25": 95.04, "d50": 95.06, "d100": 95.12},
    "folder": {"dense": 53.69, "d1": 27.83, "d5": 53.60, "d10": 53.64, "d25": 53.87, "d50": 53.58, "d100": 53.81},
}
"""Table 1, top-1 of ResNet-18 in %, on CIFAR-10 and on Places365."""
PAPER_RES50 = {"cifar10": {"dense": 95.62, "d25": 95.58}, "folder": {"dense": 54.74, "d25": 55.00}}
TOLERANCE = 0.5
"""How many points a sparse head may be behind dense for "negligible loss". (The paper's largest loss is 0.09, except d1 on
Places365 with 25.86.)"""
CONCEPTS = 5
"""A class counts as covered if at most this many concepts make it up."""
COLUMNS = {"top1": ("top-1, %", 2), "sparse": ("weights below 1e-3, %", 1), "score": ("mean score", 4)}
COLUMNS |= {"detectors": ("detectors", 1), "covered": (f"classes of at most {CONCEPTS} concepts, %", 1)}


def page(runs: Sequence[Run], verdicts: Callable[[list[Row]], list[str]], seen: str = "") -> Page:
    """A page with this table, and no drawing yet.

    Args:
        verdicts: the paper's sentences, from the rows.
        seen: on what the runs were dissected, in words.

    Raises:
        InputError: the runs are of different data, or as `group_by_model`.
    """
    size, rows = sizes(runs, seen), summary(runs)
    intro = [size, "Mean and deviation over runs; the last epoch, never the best."]
    return Page(rows, verdicts(rows), intro, _table(rows), about={"sizes": size})


def drawn(page: Page, drawing: Figure, note: str = "") -> Page:
    """The same page with its drawing, the sizes above it, and what it shows."""
    caption(drawing, page.about["sizes"])
    return replace(page, drawing=drawing, note=note)


def _table(rows: list[Row]) -> str:
    paper = {"paper's top-1, %": lambda row: "" if row["paper"] is None else f"{row['paper']:.2f}"}
    known = {name: column for name, column in COLUMNS.items() if name in rows[0]}
    return table(cells("model", "runs") | paper | spreads(known), rows)


def summary(runs: Sequence[Run]) -> list[Row]:
    """One row a model, from the smallest K up, then L1, then dense: means and deviations over its runs.

    Returns:
        Rows of `model`, `head`, `k`, `depth`, `runs`, `paper` (top-1 in Table 1, or None), and with `_std`: `top1`, `sparse`
        (%, weights below 1e-3), and if the runs are dissected `score` (mean IoU), `detectors`, `covered` (% of the classes
        that at most 5 concepts make up).

    Raises:
        InputError: as `group_by_model`.
    """
    rows = []
    for model, own in group_by_model(runs).items():
        first = own[0]
        paper = (PAPER_RES50 if first.depth == 50 else PAPER)[first.recipe.data.kind].get(first.head)
        row: Row = {"model": model, "head": first.head, "k": first.k, "depth": first.depth, "runs": len(own), "paper": paper}
        rows.append(row | means([_numbers(each) for each in own]))
    return sorted(rows, key=lambda row: rank(row["k"], row["head"], row["model"]))


def _numbers(run: Run) -> Row:
    last = run.history[-1]
    numbers: Row = {"top1": last["top1"], "sparse": 100 * last["sparse_share"]}
    if run.units is not None:
        numbers |= {"score": float(run.units.scores.mean()), "detectors": float(run.units.detectors.sum())}
        numbers["covered"] = 100 * share_covered(composition(run.network, run.units), CONCEPTS)
    return numbers


def accuracy_verdicts(rows: list[Row]) -> list[str]:
    """For each Dynamic-K row whether it loses at most 0.5 points to dense, or no more than in the paper's Table 1."""
    by_depth = {row["depth"]: row for row in rows if row["head"] == "dense"}
    if not by_depth:
        return ["No dense training is among the runs: nothing to hold the others against."]
    return [_behind(row, by_depth.get(row["depth"])) for row in rows if row["k"]]


def _behind(row: Row, dense: Row | None) -> str:
    if dense is None:
        return f"{row['model']}: no dense training of its depth is among the runs"
    loss = dense["top1"] - row["top1"]
    known = row["paper"] is not None and dense["paper"] is not None
    claimed = dense["paper"] - row["paper"] if known else 0.0
    paper = f" (paper: {claimed:+.2f})" if known else ""
    return f"{row['model']} behind dense by {loss:+.2f} points{paper}: {verdict(loss <= max(TOLERANCE, claimed))}"


def neighbours(rows: list[Row], order: Sequence[str]) -> list[tuple[tuple[str, Row], tuple[str, Row]]]:
    """Each row of a head with each of the next head in this order that is there, of one depth.

    A row's name is its head. If several models have the same head, it is the whole model's name.
    """
    heads = [row["head"] for row in rows]
    named = [(str(row["head"] if heads.count(row["head"]) == 1 else row["model"]), row) for row in rows]
    pairs: list[tuple[tuple[str, Row], tuple[str, Row]]] = []
    for depth in dict.fromkeys(row["depth"] for row in rows):
        own = [[each for each in named if (each[1]["depth"], each[1]["head"]) == (depth, head)] for head in order]
        pairs += [pair for one, other in pairwise(filter(None, own)) for pair in product(one, other)]
    return pairs
