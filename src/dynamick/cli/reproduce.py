"""`dynamick reproduce FIGURE [RUN ...] --out DIR`: a figure of the paper, from given trainings or its own."""

import argparse
import sys
from pathlib import Path


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from dynamick.figures import names

    parser.add_argument("figure", nargs="?", help=f"one of {', '.join(names())}")
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
    from dynamick.figures import names, reproduce

    if args.figure is None:
        raise InputError(f"reproduce: no figure is named; give {', '.join(names())}, such as `dynamick reproduce table1`")
    page = reproduce(
        args.figure,
        args.runs,
        args.out,
        seeds=args.seeds,
        data=args.data,
        trainings=args.trainings,
        dissections=args.dissections,
        concepts=args.concepts,
    )
    print(page.markdown())
    if page.failed:
        sys.exit(1)
