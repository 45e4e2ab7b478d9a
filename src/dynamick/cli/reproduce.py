"""`dynamick reproduce table1|fig2|...|fig7 [RUN ...] --out DIR`: a figure of the paper, from given trainings or its own."""

import argparse
import sys
from collections.abc import Sequence
from itertools import pairwise, product
from pathlib import Path
from statistics import mean, stdev
from typing import TYPE_CHECKING, Any

from dynamick.data import sources
from dynamick.data.recipe import DataRecipe

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER = {
    "cifar10": {"dense": 95.10, "d1": 95.02, "d5": 95.12, "d10": 95.22, "d25": 95.04, "d50": 95.06, "d100": 95.12},
    "folder": {"dense": 53.69, "d1": 27.83, "d5": 53.60, "d10": 53.64, "d25": 53.87, "d50": 53.58, "d100": 53.81},
}
"""Table 1, top-1 of ResNet-18 in %, on CIFAR-10 and on Places365."""
PAPER_RES50 = {"cifar10": {"dense": 95.62, "d25": 95.58}, "folder": {"dense": 54.74, "d25": 55.00}}
PAPER_DATA = {"cifar10": "CIFAR-10, 200 epochs", "folder": "Places365 (365 classes, 224 pixels), 70 epochs"}
TITLES = {
    "table1": "Table 1: accuracy by K",
    "fig2": "Fig. 2: the weights of a toy network",
    "fig3": "Fig. 3: the inputs that each method selects",
    "fig4": "Fig. 4: training curves and sparsity on CIFAR-10",
    "fig5": "Fig. 5: accuracy, sparsity and dissection by K",
    "fig6": "Fig. 6: the concepts that a class is made of",
    "fig7": "Fig. 7: the units that decide about an image",
    "overlap": "Algorithm 3 for large s against Dynamic-K",
}
ANY = tuple(sources.names())
KINDS = {"table1": ("cifar10", "folder"), "fig3": ANY, "fig4": ("cifar10",), "overlap": ANY}
"""Data that a figure's runs may be trained on, where it is not folders of scenes alone."""
DISSECTED = ("fig5", "fig6", "fig7")
TOLERANCE = 0.5
"""So many points a sparse head may lie behind dense for "negligible loss" to hold (the paper's largest loss is 0.09, but for d1
on Places365, which the paper itself gives 25.86)."""
ORDER = ("d1", "d5", "l1", "dense")
"""Fig. 4b: from the sparsest to the densest."""
CONCEPTS, CLASSES = 5, 95
"""Fig. 6: at most so many concepts make up more than so many percent of the classes."""

Run = dict[str, Any]
Row = dict[str, Any]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "figure", nargs="?", help="table1, fig2 (trains its own), fig3, fig4 (CIFAR-10), fig5 to fig7 (dissected), overlap"
    )
    parser.add_argument("runs", type=Path, nargs="*", help="folders that `dynamick train` wrote; none: it trains its own")
    parser.add_argument("--seeds", type=int, default=3, help="of its own trainings (default %(default)s)")
    parser.add_argument("--data", type=Path, default=Path("data"), help="CIFAR-10, miniplaces64, minibroden (%(default)s)")
    parser.add_argument("--trainings", type=Path, help="folder for its own trainings (default: OUT/runs); the same one resumes")
    parser.add_argument(
        "--dissections",
        type=Path,
        help="folder with RUN/tally.csv of each run, for fig5 to fig7; fig6 also reads its dissection.json",
    )
    parser.add_argument(
        "--concepts",
        type=Path,
        help="images with label maps that were dissected; fig6 shows the top ones, fig7 says what IBD leaves",
    )
    parser.add_argument("--out", type=Path, default=Path("reproduced"), help="folder for what is made (default %(default)s)")


def run(args: argparse.Namespace) -> None:
    from dynamick.errors import InputError

    check(args)
    failed = [] if args.runs or args.figure == "fig2" else make_runs(args)
    try:
        make_figure(args, failed)
    except InputError as error:
        # What the figure lacks may be what failed.
        raise InputError("; ".join([str(error), *failed])) from error
    if failed:
        sys.exit(1)


def make_runs(args: argparse.Namespace) -> list[str]:
    """Train (and dissect) what the figure needs and is not there; sets args.runs, and args.dissections and args.concepts.

    Returns:
        A line for each training that failed.

    Raises:
        InputError: the data is missing, or none of the trainings came to its end.
    """
    from dynamick.cli.needed import dissect_all, needed, train_all
    from dynamick.data.checking import open_concepts
    from dynamick.errors import InputError

    scored = None
    if args.figure in DISSECTED:
        args.concepts = args.concepts or args.data / "minibroden"
        args.dissections = args.dissections or args.out / "dissections"
        # Before hours of training.
        concepts = open_concepts(args.concepts)
        scored = concepts if args.figure == "fig5" else None
    trainings = needed(args.figure, args.trainings or args.out / "runs", args.seeds, args.data)
    failed = train_all(trainings, scored)
    args.runs = [each.folder for each in trainings if each.done]
    if not args.runs:
        raise InputError(f"reproduce {args.figure}: no training came to its end ({failed[0]})")
    if args.figure in DISSECTED:
        dissect_all(args.runs, args.concepts, args.dissections)
    return failed


def make_figure(args: argparse.Namespace, failed: list[str]) -> None:
    """Read the runs, and write the figure's page; trainings that failed are listed on it."""
    from dynamick.cli.fig4_to_fig6 import DRAWINGS, add_pictures, scores_shown
    from dynamick.files import write_atomically, write_json

    if args.figure == "fig2":
        from dynamick.cli.fig2 import fig2

        print(fig2(args.out, args.seeds))
        return
    runs = [read_run(path, args.figure) for path in args.runs]
    if args.figure == "fig3":
        from dynamick.cli.fig3 import fig3

        print(fig3(runs, args.out, failed))
        return
    if args.figure == "overlap":
        from dynamick.cli.overlap import overlap_figure

        print(overlap_figure(runs, args.out, failed))
        return
    dissected = [read_dissection(args.dissections, path) for path in args.runs] if args.figure in DISSECTED else []
    for each, units in zip(runs, dissected, strict=False):
        each["units"] = units
    seen = dissected_on(args) if dissected else ""
    if args.figure == "fig7":
        from dynamick.cli.fig7 import fig7

        print(fig7(runs, sizes(runs, seen), args.out, args.concepts, failed))
        return
    size, rows = sizes(runs, seen), summary(runs)
    shown = {"fig5": scores_shown, "fig6": lambda runs: add_pictures(runs, args.dissections, args.concepts)}
    drawn = shown[args.figure](runs) if args.figure in shown else ""
    verdicts = {"table1": accuracy_verdicts, "fig4": sparsity_verdicts, "fig5": dissection_verdicts, "fig6": cover_verdicts}
    said = [*verdicts[args.figure](rows), *failed]
    args.out.mkdir(parents=True, exist_ok=True)
    text = as_markdown(args.figure, rows, said, size, drawn)
    write_atomically(args.out / f"{args.figure}.md", text.encode())
    write_json(args.out / f"{args.figure}.json", {"rows": rows, "verdicts": said, "sizes": size})
    if args.figure in DRAWINGS:
        figure = DRAWINGS[args.figure](runs)
        caption(figure, size)
        figure.savefig(args.out / f"{args.figure}.svg")
    print(text)


def check(args: argparse.Namespace) -> None:
    """Hold the options to what is allowed.

    Raises:
        InputError: a figure that there is not, no seeds, runs where none is read, a run given twice, no dissections of given
            runs where they are needed, or a file in the place of a folder.
    """
    from dynamick.errors import InputError
    from dynamick.files import why_no_folder

    known = f"give {', '.join(TITLES)}"
    if args.figure is None:
        raise InputError(f"reproduce: no figure is named; {known}, such as `dynamick reproduce table1`")
    if args.figure not in TITLES:
        raise InputError(f"reproduce {args.figure}: no such figure; {known}")
    if args.seeds < 1:
        raise InputError(f"--seeds {args.seeds}: give an integer from 1 up")
    if args.runs and args.figure == "fig2":
        raise InputError(f"reproduce fig2: {args.runs[0]} would not be read; give no runs, it trains its own networks")
    # Dissections of given runs are read only.
    for option in ("out",) if args.runs else ("out", "dissections"):
        folder = getattr(args, option)
        if folder is not None and (why := why_no_folder(folder)) is not None:
            raise InputError(f"--{option} {folder}: {why}; give another name")
    if args.runs and args.figure in DISSECTED and args.dissections is None:
        raise InputError(f"reproduce {args.figure}: give --dissections DIR, with RUN/tally.csv of each run")
    _refuse_twice(args.runs, args.figure)


def _refuse_twice(runs: list[Path], figure: str) -> None:
    """A run counts once; where runs are dissected, their folders' names must differ too.

    Raises:
        InputError: two are one, or have one name.
    """
    from dynamick.errors import InputError

    places = [path.resolve() for path in runs]
    names = [place.name for place in places]
    for path, place in zip(runs, places, strict=True):
        if places.count(place) > 1:
            raise InputError(f"{path}: is given twice; give each run once")
        if figure in DISSECTED and names.count(place.name) > 1:
            raise InputError(f"{path}: two runs are called {place.name}; rename one, as dissections are found by name")


def read_run(folder: Path, figure: str) -> Run:
    """A finished training: its `folder`, `model`, `depth`, `head` (dense, l1, d5, ..., or sampled, by Interpretable SGD), `k`,
    `recipe`, `history` (metrics.csv) and `network` (last epoch).

    Raises:
        InputError: the folder holds none, it is damaged or not finished, or it is on other data than the figure.
    """
    import yaml

    from dynamick import checkpoint, models
    from dynamick.errors import InputError
    from dynamick.training.callbacks import read_history
    from dynamick.training.recipe import Recipe, run_label

    try:
        part = "config.yaml"
        settings = Recipe.from_dict(yaml.safe_load((folder / part).read_text()))
        settings.check()
        recipe = settings.to_dict()
        kind, epochs, model = settings.data.kind, settings.optim.epochs, settings.model
        part = "metrics.csv"
        (folder / part).stat()  # a file that is missing is no damaged one
        history = read_history(folder)
        for row in history:
            row["epoch"], row["top1"], row["sparse_share"]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise InputError(f"{folder}: no finished training ({Path(error.filename).name} is missing)") from None
    except (yaml.YAMLError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{folder / part}: damaged, or no training's; give a folder that `dynamick train` wrote") from None
    allowed = KINDS.get(figure, ("folder",))
    if kind not in allowed:
        raise InputError(f"{folder}: trained on {kind}; the paper's {figure} is of {' or '.join(allowed)}")
    if len(history) < epochs:
        raise InputError(f"{folder}: {len(history)} of {epochs} epochs are done; train it to its end first")
    name = models.parse(model)
    network = checkpoint.load(folder / "last.safetensors")
    head = name.label if settings.optim.s is None else "sampled"
    return {
        "folder": folder,
        "depth": name.depth,
        "model": run_label(model, recipe),
        "head": head,
        "k": name.routed,
        "recipe": recipe,
        "history": history,
        "network": network,
    }


def read_dissection(folder: Path, run: Path) -> Any:
    """The dissection of a run's last maps, FOLDER/RUN/tally.csv.

    Raises:
        InputError: it is missing or damaged.
    """
    from dynamick.dissection import Dissection
    from dynamick.errors import InputError

    path = folder / run.resolve().name / "tally.csv"
    if not path.exists():
        raise InputError(f"{path}: no such file; write it by `dynamick dissect`")
    return Dissection.read_tally(path)


def dissected_on(args: argparse.Namespace) -> str:
    """On which concepts the runs were dissected, as their `state/` and --concepts say, and on which IBD's are learnt.

    Raises:
        InputError: they were dissected on different data, or --concepts is no data set of concepts.
    """
    from dynamick.data.checking import open_concepts
    from dynamick.dissection.saving import recorded
    from dynamick.errors import InputError

    found = {recorded(args.dissections / run.resolve().name / "state") for run in args.runs}
    if len(found - {None}) > 1:
        several = " and ".join(sorted(_concepts(each) for each in found if each))
        raise InputError(f"{args.dissections}: the runs were dissected on different data ({several}); give those of one")
    record = next((each for each in found if each), None)
    if args.concepts is None:
        return f"dissected on {_concepts(record)}" if record else "dissected on concepts of which no state/ tells"
    data = open_concepts(args.concepts)
    given = len(data), len(data.labels)
    named = f"{args.concepts.absolute().name} ({_concepts(given)})"
    seen = f"dissected on {named if record in (None, given) else _concepts(record)}"
    return f"{seen}, IBD's concepts of {named}" if args.figure == "fig7" else seen


def _concepts(count: tuple[int, int]) -> str:
    return f"{count[0]:,} images, {count[1]:,} concepts"


def summary(runs: list[Run]) -> list[Row]:
    """One row a model, from the smallest K up, then L1, then dense: means and deviations over its runs.

    Returns:
        Rows of `model`, `head`, `k`, `runs`, `paper` (top-1 in Table 1, or None), and with `_std`: `top1`, `sparse` (%, weights
        below 1e-3), and where the runs are dissected `score` (mean IoU), `detectors`, `covered` (% of the classes that at
        most 5 concepts make up).

    Raises:
        InputError: as `alike`.
    """
    rows = []
    for model, own in alike(runs).items():
        head, k, kind = own[0]["head"], own[0]["k"], own[0]["recipe"]["data"]["kind"]
        paper = (PAPER_RES50 if model.startswith("res50") else PAPER)[kind].get(head)
        row: Row = {"model": model, "head": head, "k": k, "depth": own[0]["depth"], "runs": len(own), "paper": paper}
        figures = [_figures(each) for each in own]
        for name in figures[0]:
            row |= averaged(name, [each[name] for each in figures])
        rows.append(row)
    return sorted(rows, key=rank)


def rank(row: Row) -> tuple[bool, int, str]:
    """Orders rows, or runs: from the smallest K up, then L1, then dense."""
    return row["k"] is None, row["k"] or int(row["head"] == "dense"), row["model"]


def averaged(name: str, values: Sequence[float | None]) -> Row:
    """A figure's mean and deviation (`_std`) over runs; None where a run has none: one over the others would pass for all."""
    known = [value for value in values if value is not None]
    if len(known) < len(values):
        return {name: None, f"{name}_std": None}
    return {name: mean(known), f"{name}_std": stdev(known) if len(known) > 1 else None}


def alike(runs: list[Run]) -> dict[str, list[Run]]:
    """The runs of each model, which may be averaged.

    Raises:
        InputError: two of a model differ in more than their seeds.
    """
    from dynamick.errors import InputError
    from dynamick.training.recipe import Recipe, differences

    groups: dict[str, list[Run]] = {}
    for each in runs:
        first = groups.setdefault(each["model"], [each])[0]
        if each is first:
            continue
        changes = differences(each["recipe"], Recipe.from_dict(first["recipe"]))
        changes = [line for line in changes if not line.startswith(("seed:", "data.root:"))]
        if changes:
            raise InputError(
                f"{each['folder']}: another {each['model']} than {first['folder']} ({changes[0]}); "
                "only runs that differ in their seeds are averaged"
            )
        groups[each["model"]].append(each)
    return groups


def accuracy_verdicts(rows: list[Row]) -> list[str]:
    """For each Dynamic-K row whether it loses at most 0.5 points to dense, or no more than in the paper's Table 1."""
    by_depth = {row["depth"]: row for row in rows if row["head"] == "dense"}
    if not by_depth:
        return ["No dense training is among the runs: nothing to hold the others against."]
    out = []
    for row in rows:
        dense = by_depth.get(row["depth"])
        if row["k"] and dense is None:
            out.append(f"{row['model']}: no dense training of its depth is among the runs")
        elif row["k"] and dense is not None:
            loss = dense["top1"] - row["top1"]
            known = row["paper"] is not None and dense["paper"] is not None
            claimed = dense["paper"] - row["paper"] if known else 0.0
            paper = f" (paper: {claimed:+.2f})" if known else ""
            holds = loss <= max(TOLERANCE, claimed)
            out.append(f"{row['model']} behind dense by {loss:+.2f} points{paper}: {'holds' if holds else 'fails'}")
    return out


def sparsity_verdicts(rows: list[Row]) -> list[str]:
    """For each neighbouring pair of the paper's order d1 > d5 > L1 > dense whether it holds."""
    return [
        f"{one} sparser than {other}: {a['sparse']:.1f} % against {b['sparse']:.1f} % of weights below 1e-3: "
        + ("holds" if a["sparse"] > b["sparse"] else "fails")
        for (one, a), (other, b) in _neighbours(rows, ORDER)
    ]


def _neighbours(rows: list[Row], order: Sequence[str]) -> list[tuple[tuple[str, Row], tuple[str, Row]]]:
    """Each row of a head with each of the next head in this order that is there, of one depth.

    A row comes with its head as its name; with its whole kind where several have one head.
    """
    heads = [row["head"] for row in rows]
    named = [(str(row["head"] if heads.count(row["head"]) == 1 else row["model"]), row) for row in rows]
    pairs: list[tuple[tuple[str, Row], tuple[str, Row]]] = []
    for depth in dict.fromkeys(row["depth"] for row in rows):
        own = [[each for each in named if (each[1]["depth"], each[1]["head"]) == (depth, head)] for head in order]
        pairs += [pair for one, other in pairwise(filter(None, own)) for pair in product(one, other)]
    return pairs


def dissection_verdicts(rows: list[Row]) -> list[str]:
    """Fig. 5: the accuracy, and for each neighbouring pair from the smallest K to dense its sparsity and its mean score."""
    order = list(dict.fromkeys(row["head"] for row in rows if row["k"] or row["head"] == "dense"))
    out = accuracy_verdicts(rows)
    for (one, a), (other, b) in _neighbours(rows, order):
        holds = {name: "holds" if a[name] > b[name] else "fails" for name in ("sparse", "score")}
        out.append(f"{one} sparser than {other}: {a['sparse']:.1f} % against {b['sparse']:.1f} %: {holds['sparse']}")
        out.append(f"{one} has higher scores than {other}: {a['score']:.4f} against {b['score']:.4f}: {holds['score']}")
    return out


def cover_verdicts(rows: list[Row]) -> list[str]:
    """Fig. 6: whether at most 5 concepts make up more than 95 % of a Dynamic-K model's classes."""
    return [
        f"{row['model']}: at most {CONCEPTS} concepts make up {row['covered']:.1f} % of the classes (paper, Dynamic-5: "
        f"more than {CLASSES} %): {'holds' if row['covered'] > CLASSES else 'fails'}"
        for row in rows
        if row["k"]
    ]


def sizes(runs: list[Run], seen: str = "") -> str:
    """At which size the runs were made, and on what they were dissected (`seen`), beside the paper's."""
    kinds = {run["recipe"]["data"]["kind"] for run in runs}
    data = sorted({_data(run) for run in runs})
    if len(data) > 1:
        from dynamick.errors import InputError

        raise InputError(f"runs: of different data ({', '.join(data)}); give those of one")
    each = sorted({f"width {run['recipe']['width']}, {run['recipe']['optim']['epochs']} epochs" for run in runs})
    models = ", ".join(sorted({run["model"] for run in runs}))
    paper = f"ResNet-18 and ResNet-50, width 64, {PAPER_DATA[kinds.pop()]}"
    ours, theirs = (f"; {seen}", "; dissected on Broden") if seen else ("", "")
    return f"Ours: {models} ({'; '.join(each)}) on {data[0]}{ours}. Paper: {paper}{theirs}."


def caption(figure: "Figure", size: str) -> None:
    """The sizes above a figure, ours and the paper's, in lines that fit its width."""
    from textwrap import wrap

    width = int(16 * figure.get_figwidth())
    lines = [line for part in size.replace(" Paper:", "\nPaper:").splitlines() for line in wrap(part, width)]
    figure.suptitle("\n".join(lines), fontsize=8)


def as_markdown(figure: str, rows: list[Row], verdicts: list[str], size: str, drawn: str = "") -> str:
    """The page: the rows with the paper's numbers beside them, the verdicts, and the figure, with what it shows (`drawn`)."""
    columns = {"top1": ("top-1, %", 2), "sparse": ("weights below 1e-3, %", 1), "score": ("mean score", 4)}
    columns |= {"detectors": ("detectors", 1), "covered": (f"classes of at most {CONCEPTS} concepts, %", 1)}
    columns = {name: column for name, column in columns.items() if rows and name in rows[0]}
    lines = [f"# {TITLES[figure]}", "", size, "", "Mean and deviation over runs; the last epoch, never the best.", ""]
    lines += [f"| model | runs | paper's top-1, % | {' | '.join(title for title, _ in columns.values())} |"]
    lines += ["|---" * (3 + len(columns)) + "|"]
    for row in rows:
        paper = "" if row["paper"] is None else f"{row['paper']:.2f}"
        cells = [_spread(row, name, digits) for name, (_, digits) in columns.items()]
        lines.append(f"| {row['model']} | {row['runs']} | {paper} | {' | '.join(cells)} |")
    lines += ["", *(f"- {verdict}" for verdict in verdicts), ""]
    lines += [drawn, ""] if drawn else []
    return "\n".join(lines if figure == "table1" else [*lines, f"![{figure}]({figure}.svg)", ""])


def _figures(run: Run) -> dict[str, float]:
    last = run["history"][-1]
    figures = {"top1": last["top1"], "sparse": 100 * last["sparse_share"]}
    if "units" in run:
        from dynamick.explanation import composition, share_covered

        units = run["units"]
        figures |= {"score": float(units.scores.mean()), "detectors": float(units.detectors.sum())}
        figures["covered"] = 100 * share_covered(composition(run["network"], units), CONCEPTS)
    return figures


def _data(run: Run) -> str:
    data = run["recipe"]["data"]
    classes = len(run["network"].classes)
    recipe = DataRecipe(**data)
    return f"{recipe.title} ({classes} classes, {recipe.side} pixels)" if recipe.source.named_by_root else recipe.title


def _spread(row: Row, name: str, digits: int) -> str:
    deviation = row[f"{name}_std"]
    return f"{row[name]:.{digits}f}" + ("" if deviation is None else f" ± {deviation:.{digits}f}")
