"""`dynamick explain --weights W.safetensors --images DIR --units tally.csv --out report.html`."""

import argparse
import sys
from pathlib import Path

from dynamick.cli import options


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
    twin.add_argument("--twin", type=Path, help="another network on the same images: dense, another K, before an edit")
    twin.add_argument("--twin-units", type=Path, help="the twin's dissection.json or tally.csv")
    twin.add_argument(
        "--ibd-penalty", type=float, metavar="P", help="of IBD's regressions (default: 0.1); the residual depends on it"
    )
    _add_outputs(parser.add_argument_group("what is written (at least one)"))
    options.add_foreign(parser)


def _add_outputs(written: "argparse._ArgumentGroup") -> None:
    written.add_argument("--out", type=Path, metavar="PAGE.html", help="the page, one HTML file that needs no network")
    written.add_argument("--assets", type=Path, metavar="DIR", help="the page's pictures go into this folder, for many images")
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


def run(args: argparse.Namespace) -> None:
    from dynamick.explanation import Outputs, explain_folder

    options.check_foreign(args, [args.weights, *([] if args.twin is None else [args.twin])])
    written = explain_folder(
        options.open_weights(args.weights, args),
        args.images,
        Outputs(args.out, args.json, args.pictures, args.measure, args.study, args.three_way, args.assets),
        units=args.units,
        concepts=args.concepts,
        twin=None if args.twin is None else options.open_weights(args.twin, args),
        twin_units=args.twin_units,
        ibd_penalty=args.ibd_penalty,
        limit=args.limit,
        never_over={"--classes": args.classes},
    )
    for note in written.notes:
        print(note, file=sys.stderr)
    for line in written.lines:
        print(line)
