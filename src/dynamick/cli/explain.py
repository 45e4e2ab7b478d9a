"""`dynamick explain --weights W.safetensors --images DIR --units tally.csv --out report.html`."""

import argparse
import json
import math
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Any

from dynamick.cli import options

if TYPE_CHECKING:
    from dynamick.data.pictures import Pictures
    from dynamick.dissection import Dissection
    from dynamick.explanation import Explanation
    from dynamick.networks import OpenNetwork

LEAST = 2
"""Images that --measure divides."""
INPUTS = ("weights", "images", "units", "twin", "twin_units", "concepts", "classes")
OUTPUTS = ("out", "json", "pictures", "measure", "study", "three_way")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is explained")
    what.add_argument(
        "--weights", type=Path, required=True, help="a trained model's file, or the folder of a run, finished or going on"
    )
    what.add_argument(
        "--images", type=Path, required=True, help="a folder of images, or of one folder for each class; or one image"
    )
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
    written.add_argument("--pictures", type=Path, metavar="DIR", help="a picture of each explanation: its units on the image")
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
    options.add_foreign(parser)


def run(args: argparse.Namespace) -> None:

    from dynamick.data.pictures import read_pictures
    from dynamick.errors import InputError
    from dynamick.explanation import Reader, explain
    from dynamick.explanation.dissected import check_fits, read_units
    from dynamick.report import save

    _check_outputs(args)
    options.check_foreign(args, [args.weights, *([] if args.twin is None else [args.twin])])
    units, twin_units = read_units(args.units), read_units(args.twin_units)
    network = options.open_weights(args.weights, args)
    twin = None if args.twin is None else options.open_weights(args.twin, args)
    model: Any = network.model
    read = read_pictures(args.images, args.limit, network.size, network.center_crop)
    for line in read.refused:
        print(f"left out: {line}", file=sys.stderr)
    batch, names = read.images, read.names
    if args.measure and len(batch) < LEAST:
        raise InputError(f"--measure: {len(batch)} image; a reader learns from some and answers others, give {LEAST} or more")
    check_fits(args.units, units, Reader(model), batch)
    if twin is not None:
        check_fits(args.twin_units, twin_units, Reader(twin.model), batch)
    if network.state:
        print(network.state, file=sys.stderr)
    if args.out:
        _write_page(args, network, units, twin, twin_units, read)
    if args.json or args.measure or args.study or args.pictures:
        explanations = explain(model, batch, units=units, maps=args.pictures is not None)
    if args.json:
        save(args.json, json.dumps([{"file": names[each.image], **each.to_dict(maps=False)} for each in explanations]))
        print(f"explanations: {args.json}")
    if args.pictures:
        _write_pictures(explanations, batch, names, args.pictures)
        print(f"pictures: {args.pictures}")
    if args.measure:
        from dynamick.explanation import trust
        from dynamick.explanation.instances import plain

        measured = trust.measure(model, batch, explanations, units)
        save(args.measure, json.dumps(plain(measured), indent=1, allow_nan=False))
        print(f"{trust.table(measured)}\nwritten to {args.measure}")
    if args.study:
        from dynamick.explanation.trust import ask_people

        print("study:", *ask_people(explanations, batch, network.classes, args.study))
    if args.three_way and twin is not None:
        _three_way(args, network, units, twin, twin_units, batch)


def _check_outputs(args: argparse.Namespace) -> None:
    from dynamick.errors import InputError

    given = [path for path in (getattr(args, name) for name in OUTPUTS) if path is not None]
    if not given:
        raise InputError("explain: nothing to write; give --out PAGE.html, or see dynamick explain --help")
    for path in given:
        if not path.parent.is_dir():
            raise InputError(f"{path}: its folder does not exist; give a file in a folder that does")
        if path.is_dir() and path != args.pictures:
            raise InputError(f"{path}: is a folder; give a file's name in it")
        if path == args.pictures and path.exists() and not path.is_dir():
            raise InputError(f"--pictures {path}: is a file; give a folder")
    _check_apart(args)
    if args.twin_units and not args.twin:
        raise InputError(f"--twin-units {args.twin_units}: of which twin? give --twin too")
    if args.three_way:
        from dynamick.explanation.basis import check_figure

        missing = [f"--{name}" for name in ("twin", "concepts") if getattr(args, name) is None]
        if missing:
            raise InputError(f"--three-way: {' and '.join(missing)} missing; give the dense weights and Broden-format data")
        check_figure(args.three_way)
        if args.ibd_penalty is not None and not 0 < args.ibd_penalty < math.inf:
            raise InputError(f"--ibd-penalty: {args.ibd_penalty} must be a number above 0")


def _check_apart(args: argparse.Namespace) -> None:
    """Raise InputError where a file would be written over another one, or over what is read."""
    from dynamick.data.finding import is_image
    from dynamick.errors import InputError
    from dynamick.report.study import files_of

    flags = {name: f"--{name.replace('_', '-')}" for name in (*INPUTS, *OUTPUTS)}
    read: dict[Path, str] = {}
    for name in INPUTS:
        path = getattr(args, name)
        if path is not None:
            # A tally's dissection is read with it, and of a run's folder the weights.
            beside = [path.with_name("dissection.json")] if path.name == "tally.csv" else path.glob("*.safetensors")
            read |= {file.resolve(): flags[name] for file in (path, *beside)}
    images, written = args.images.resolve(), dict[Path, str]()
    for name in OUTPUTS:
        path, flag = getattr(args, name), flags[name]
        if path is None:
            continue
        if name == "study" and path.suffix.lower() == ".csv":
            raise InputError(f"--study {path}: its questions go into a CSV of that name; give a page's, such as study.html")
        for file in map(Path.resolve, files_of(path) if name == "study" else [path]):
            if file in read:
                raise InputError(f"{flag} {path}: would be written over {read[file]}'s {file.name}; give another name")
            if file in written:
                raise InputError(f"{flag} {path}: {written[file]} writes {file.name} too; give each its own")
            if images in (file, *file.parents) and (name == "pictures" or is_image(file)):
                raise InputError(f"{flag} {path}: lies in --images, and would be explained next time; give a place outside")
            if args.concepts and args.concepts.resolve() in file.parents:
                raise InputError(f"{flag} {path}: lies in --concepts; give a place outside")
            written[file] = flag


def _write_page(
    args: argparse.Namespace,
    network: "OpenNetwork",
    units: "Dissection | None",
    twin: "OpenNetwork | None",
    twin_units: "Dissection | None",
    read: "Pictures",
) -> None:
    from dynamick.data.checking import open_concepts
    from dynamick.data.pictures import class_of
    from dynamick.explanation import page, summarise
    from dynamick.explanation.dissected import OTHER_WEIGHTS

    notes = [network.state] if network.state else []
    if read.refused:
        notes.append(f"{len(read.refused)} of the files could not be read as images and were left out.")
    if args.concepts and (units is None or not units.top_images.size):
        print("no top images are shown: only a dissection.json (--units) says which they are", file=sys.stderr)
    summaries = [
        None if each is None else summarise(each.name, each.model, each.accuracy, seen)
        for each, seen in ((network, units), (twin, twin_units))
    ]
    made = page(
        network.model,
        read.images,
        args.out,
        units,
        concepts=None if args.concepts is None else open_concepts(args.concepts),
        truth=[class_of(file, args.images, network.classes) for file in read.files],
        twin=summaries[1],
        summary=summaries[0],
        names=read.names,
        notes=notes,
    )
    if OTHER_WEIGHTS in made.notes:
        print(OTHER_WEIGHTS, file=sys.stderr)
    print(f"{len(read.files)} image{'s' if len(read.files) > 1 else ''} explained: {args.out}")


def _write_pictures(explanations: "list[Explanation]", images: Any, names: list[str], folder: Path) -> None:
    """One picture an image, in FOLDER, under its folders and name; where two names differ by their suffix, all keep theirs."""
    import io

    from dynamick.explanation import draw
    from dynamick.files import write_atomically

    stems = [str(PurePath(name).with_suffix("")) for name in names]
    named = stems if len(set(stems)) == len(names) else names
    for each in explanations:
        buffer = io.BytesIO()
        draw([each], images).savefig(buffer, format="png", dpi=120)
        path = folder / f"{named[each.image]}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(path, buffer.getvalue())


def _three_way(
    args: argparse.Namespace,
    network: "OpenNetwork",
    units: "Dissection | None",
    twin: "OpenNetwork",
    twin_units: "Dissection | None",
    images: Any,
) -> None:
    from dynamick.data.checking import open_concepts
    from dynamick.explanation import basis, learn_basis, three_ways

    concepts = open_concepts(args.concepts)
    penalty = basis.PENALTY if args.ibd_penalty is None else args.ibd_penalty
    ways = three_ways(twin.model, network.model, images, learn_basis(twin.model, concepts, penalty=penalty), twin_units, units)
    basis.draw_some(ways, images, args.three_way)
    print(f"{basis.table(ways)}\nthe figure: {args.three_way}")
