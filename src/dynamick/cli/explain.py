"""`dynamick explain --weights W.safetensors --images DIR --units tally.csv --out report.html`."""

import argparse
import json
import math
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".ppm"}
OUTPUTS = ("out", "json", "measure", "study", "three_way")


class Subject(NamedTuple):
    """A model, the file that it came from, and the dissection of the layer that enters its head."""

    file: Path
    model: Any
    units: "Dissection | None"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is explained")
    what.add_argument(
        "--weights", type=Path, required=True, help="a trained model's file, or a run's folder (its last weights)"
    )
    what.add_argument("--images", type=Path, required=True, help="a folder of images, or of one folder for each class")
    what.add_argument("--limit", type=int, default=50, help="explain so many images at most, spread evenly (default: 50)")
    names = parser.add_argument_group("what the units are called")
    names.add_argument("--units", type=Path, help="dissection.json or tally.csv of the layer that enters the head")
    names.add_argument("--concepts", type=Path, help="the data that was dissected: the units' top images are shown")
    twin = parser.add_argument_group("what it is compared with")
    twin.add_argument("--twin", type=Path, help="weights of a dense twin")
    twin.add_argument("--twin-units", type=Path, help="the twin's dissection.json or tally.csv")
    twin.add_argument(
        "--ibd-penalty", type=float, metavar="P", help="of IBD's regressions (default: 0.1); the residual depends on it"
    )
    written = parser.add_argument_group("what is written (at least one)")
    written.add_argument("--out", type=Path, metavar="PAGE.html", help="the page, one HTML file that needs no network")
    written.add_argument("--json", type=Path, metavar="FILE.json", help="the explanations as JSON")
    written.add_argument(
        "--measure", type=Path, metavar="FILE.json", help="faithfulness (deletion, insertion) and a proxy reader's answers"
    )
    written.add_argument(
        "--study", type=Path, metavar="PAGE.html", help="a study for human readers: page and CSV; the answers apart"
    )
    written.add_argument(
        "--three-way",
        type=Path,
        metavar="FIGURE.png",
        help="the dense twin's units, the twin by IBD, and these weights side by side; needs --twin and --concepts",
    )


def run(args: argparse.Namespace) -> None:
    import torch

    from dynamick.explanation import explain
    from dynamick.report import save

    _check_outputs(args)
    subject = _subject(args.weights, args.units)
    twin = None if args.twin is None else _subject(args.twin, args.twin_units)
    images, files, skipped = read_images(args.images, args.limit, subject.model.preprocessing.size)
    batch = torch.stack(images)
    check(args.units, subject, batch)
    if twin is not None:
        check(args.twin_units, twin, batch)
    if args.out:
        _write_page(args, subject, twin, batch, files, skipped)
    if args.json or args.measure or args.study:
        explanations = explain(subject.model, batch, units=subject.units, maps=False)
    if args.json:
        names = [str(file.relative_to(args.images)) for file in files]
        save(args.json, json.dumps([{"file": names[each.image], **each.to_dict(maps=False)} for each in explanations]))
        print(f"{len(explanations)} explanations: {args.json}")
    if args.measure:
        from dynamick.cli import measuring

        measured = measuring.measure(subject.model, batch, explanations)
        save(args.measure, json.dumps(measured, indent=1))
        print(f"{measuring.table(measured)}\nwritten to {args.measure}")
    if args.study:
        from dynamick.cli.measuring import ask_people

        print("study:", *ask_people(explanations, batch, subject.model.classes, args.study))
    if args.three_way and twin is not None:
        _three_way(args, subject, twin, batch)


def read_units(path: Path | None) -> "Dissection | None":
    """A dissection's JSON or its tally; of a tally whose JSON lies beside it, the JSON, as that names the layer.

    Raises:
        InputError: it cannot be read, or is neither.
    """
    from dynamick.dissection import Dissection
    from dynamick.errors import InputError

    if path is None:
        return None
    if path.suffix.lower() == ".json":
        try:
            return Dissection.from_json(path.read_text(encoding="utf-8"))
        except (OSError, UnicodeDecodeError, InputError) as error:
            raise InputError(f"{path}: cannot be read ({error}); give the dissection.json of dynamick dissect") from None
    tally = Dissection.read_tally(path)
    try:
        whole = read_units(path.with_name("dissection.json")) if path.name == "tally.csv" else None
    except InputError:
        return tally
    return whole if whole is not None and whole.rows == tally.rows else tally


def check(path: Path | None, subject: Subject, images: Any) -> None:
    """Raise InputError, naming the file, for a dissection of another layer or number of units."""
    from dynamick.errors import InputError
    from dynamick.explanation import Reader
    from dynamick.explanation.instances import check_units

    reader = Reader(subject.model)
    where = reader.maps(images)
    try:
        check_units(subject.units, reader.head, where)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('units: ')}") from None


def _check_outputs(args: argparse.Namespace) -> None:
    from dynamick.errors import InputError

    given = [path for path in (getattr(args, name) for name in OUTPUTS) if path is not None]
    if not given:
        raise InputError("explain: nothing to write; give --out PAGE.html, or see dynamick explain --help")
    for path in given:
        if not path.parent.is_dir():
            raise InputError(f"{path}: its folder does not exist; give a file in a folder that does")
        if path.is_dir():
            raise InputError(f"{path}: is a folder; give a file's name in it")
    if args.twin_units and not args.twin:
        raise InputError(f"--twin-units {args.twin_units}: of which twin? give --twin too")
    if args.three_way:
        from dynamick.cli.three_way import check_figure

        missing = [f"--{name}" for name in ("twin", "concepts") if getattr(args, name) is None]
        if missing:
            raise InputError(f"--three-way: {' and '.join(missing)} missing; give the dense weights and Broden-format data")
        check_figure(args.three_way)
        if args.ibd_penalty is not None and not 0 < args.ibd_penalty < math.inf:
            raise InputError(f"--ibd-penalty: {args.ibd_penalty} must be a number above 0")


def _subject(path: Path, units: Path | None) -> Subject:
    from dynamick import checkpoint

    file = path / "last.safetensors" if path.is_dir() else path
    return Subject(file, checkpoint.load(file), read_units(units))


def _write_page(
    args: argparse.Namespace, subject: Subject, twin: Subject | None, images: Any, files: list[Path], skipped: int
) -> None:
    from dynamick.cli.explaining import explanation_page
    from dynamick.data.checking import open_concepts
    from dynamick.report.explanation import write_page

    model, units = subject.model, subject.units
    notes = [f"{skipped} of the files could not be read as images and were left out."] if skipped else []
    if args.concepts and (units is None or not units.top_images.size):
        print("no top images are shown: only a dissection.json (--units) says which they are", file=sys.stderr)
    page = explanation_page(
        f"What {model.config['model']} sees",
        model,
        images,
        [str(file.relative_to(args.images)) for file in files],
        model.classes,
        [_truth(file, model.classes) for file in files],
        _summary(subject),
        units,
        None if args.concepts is None else open_concepts(args.concepts),
        twin=None if twin is None else _summary(twin),
        notes=notes,
    )
    write_page(page, args.out)
    print(f"{len(files)} images explained: {args.out}")


def _three_way(args: argparse.Namespace, subject: Subject, twin: Subject, images: Any) -> None:
    from dynamick.cli import three_way
    from dynamick.data.checking import open_concepts

    concepts = open_concepts(args.concepts)
    penalty = three_way.PENALTY if args.ibd_penalty is None else args.ibd_penalty
    ways = three_way.write_three_ways(
        twin.model, subject.model, images, concepts, twin.units, subject.units, args.three_way, penalty
    )
    print(f"{three_way.table(ways)}\nthe figure: {args.three_way}")


def _summary(subject: Subject) -> Any:
    from dynamick import checkpoint
    from dynamick.cli.explaining import summarise

    metrics = checkpoint.read_config(subject.file)["extra"].get("metrics", {})
    accuracy = metrics["top1"] / 100 if "top1" in metrics else None
    return summarise(subject.model.config["model"], subject.model, accuracy, subject.units)


def read_images(root: Path, limit: int, size: int | None) -> tuple[list[Any], list[Path], int]:
    """Up to `limit` images, spread evenly over the folder's files; files that are none are named on stderr and counted."""
    import numpy as np
    import torch

    from dynamick.data.images import read_image
    from dynamick.errors import InputError

    if limit < 1:
        raise InputError(f"--limit: {limit} must be an integer from 1 up")
    if not root.is_dir():
        raise InputError(f"{root}: no such folder; give one with images in it")
    files = sorted(path for path in root.rglob("*") if path.suffix.lower() in SUFFIXES)
    chosen = [files[i * len(files) // limit] for i in range(limit)] if len(files) > limit else files
    images, good, skipped = [], [], 0
    for path in chosen:
        try:
            # Without a size of the model's own, the first image's shorter side is everyone's, as all go through together.
            image = read_image(path, size)
            size = size or min(image.size)
            square = image if image.size == (size, size) else read_image(path, size)
            images.append(torch.from_numpy(np.array(square)))
            good.append(path)
        except InputError as error:
            print(f"left out: {error}", file=sys.stderr)
            skipped += 1
    if not good:
        raise InputError(f"{root}: no readable image ({', '.join(sorted(SUFFIXES))}); give a folder with some")
    return [image.permute(2, 0, 1).contiguous() for image in images], good, skipped


def _truth(file: Path, classes: list[str]) -> int | None:
    return classes.index(file.parent.name) if file.parent.name in classes else None
