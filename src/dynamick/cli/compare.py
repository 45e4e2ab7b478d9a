"""`dynamick compare --weights W.safetensors [...] --out DIR`: every sparse head on the same features, two tables, two plots."""

import argparse
import sys
from functools import partial
from pathlib import Path

from dynamick.cli import options
from dynamick.data import sources


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--weights", type=Path, nargs="+", required=True, help="files of trainings, one for each seed")
    parser.add_argument("--model", help="what the files hold, if not dynamick's own: package.module:function or torchvision's")
    parser.add_argument("--data", choices=sources.names(), help="other data than they were trained on")
    parser.add_argument("--root", help="the data's folder")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; the same one resumes")
    parser.add_argument("--heads", nargs="+", help="names of heads (default: all)")
    parser.add_argument("--budgets", type=int, nargs="+", help="non-zeros a class, and K (default: 1 5 10 ... 30)")
    parser.add_argument("--seeds", type=int, default=3, help="seeds of the heads on each of the weights (default %(default)s)")
    parser.add_argument(
        "--ood",
        nargs="*",
        default=[],
        metavar="KIND:ROOT",
        help="foreign data: cifar10:DIR folder:DIR (DIR/val/CLASS/*) scenes:",
    )
    parser.add_argument("--concepts", type=Path, help="images with label maps, in Broden's form: counts detectors")
    parser.add_argument("--jobs", type=int, default=1, help="processes at once (default %(default)s)")
    options.add_features(parser)


def run(args: argparse.Namespace) -> None:
    from dynamick.comparison import comparing, table
    from dynamick.errors import InputError
    from dynamick.networks import open_network

    if args.model and (args.data != "folder" or args.root is None):
        raise InputError("--model: dynamick cannot know a foreign network's data; give --data folder --root DIR")
    if args.size is not None and args.size < 1:
        raise InputError(f"--size {args.size}: give an integer from 1 up")
    budgets = args.budgets or comparing.BUDGETS
    comparing.check(args.heads or [], budgets, args.seeds, args.jobs, args.device)
    opened = partial(open_network, layer=args.layer, **options.preprocessing_of(args))
    names = comparing.names_of(args.weights)
    networks = {
        name: opened(args.model, path) if args.model else opened(path) for name, path in zip(names, args.weights, strict=True)
    }
    found = comparing.compare(
        networks,
        args.out,
        args.heads,
        budgets,
        args.seeds,
        kind=args.data,
        root=args.root,
        size=args.size,
        ood=args.ood,
        concepts=args.concepts,
        jobs=args.jobs,
        dtype=args.dtype,
        device=args.device,
        tell=partial(print, flush=True),
    )
    for line in table.verdict_lines(found.rows)[3:]:
        print(line)
    print(f"written to {args.out}: table.md, table.csv, table.json, static.svg, routed.svg; {found.failed} cells failed")
    if found.failed:
        sys.exit(1)
