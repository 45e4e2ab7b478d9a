"""`dynamick dissect --model M --weights W --layer L --data DIR --out DIR`, and `dynamick dissect check DIR`."""

import argparse
from pathlib import Path

from dynamick.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    parser.add_argument("check", nargs="*", metavar="check DIR", help="only look for what is wrong in a data directory")
    parser.add_argument("--model", help=options.MODEL)
    parser.add_argument("--weights", help=options.WEIGHTS)
    parser.add_argument("--layer", help="dotted name, such as layer4")
    parser.add_argument("--data", type=Path, help="a directory in Broden's format, or with images/ beside masks/CONCEPT/")
    parser.add_argument("--out", type=Path, help="folder for tally.csv, dissection.json and units.png; the same one resumes")
    parser.add_argument("--rule", default="netdissect", choices=("netdissect", "lite"), help="when an image's mask counts")
    options.add_preprocessing(parser)
    parser.add_argument("--quantile", type=float, default=0.995, help="of the threshold (default %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="images a forward pass (default %(default)s)")
    parser.add_argument("--workers", type=int, default=0, help="processes that decode images (default: in this one)")
    parser.add_argument("--device", help="cpu, cuda, ...; by default an accelerator where there is one")
    parser.add_argument("--allow-nan", action="store_true", help="rank NaN activations lowest instead of refusing them")
    parser.add_argument("--restart", action="store_true", help="begin again whatever is in --out")
    parser.epilog = "Several processes: torchrun --nproc-per-node N -m dynamick.cli dissect ..."


def run(args: argparse.Namespace) -> None:
    """Check a directory, or dissect a network and write what was found."""
    from dynamick.errors import InputError

    if args.check:
        if len(args.check) != 2 or args.check[0] != "check":
            raise InputError(f"dissect {' '.join(args.check)}: give `dynamick dissect check DIR`, or options only")
        _check(args.check[1])
        return
    missing = [name for name in ("model", "layer", "data", "out") if getattr(args, name) is None]
    if missing:
        raise InputError(f"dissect: --{missing[0]} is missing; see dynamick dissect --help")
    if args.workers < 0:
        raise InputError(f"--workers {args.workers}: give a number of processes from 0 up")
    _dissect(args)


def _check(directory: str) -> None:
    from dynamick.data.checking import check
    from dynamick.errors import InputError

    problems = check(directory)
    for problem in problems:
        print(problem)
    if problems:
        raise InputError(f"{directory}: {len(problems)} problem{'s' if len(problems) > 1 else ''} found; they are listed above")
    print(f"{directory}: nothing is wrong")


def _dissect(args: argparse.Namespace) -> None:
    from dynamick.devices import open_device
    from dynamick.dissection import dissect_into
    from dynamick.networks import open_network

    device = open_device(args.device)
    network = open_network(args.model, args.weights, **options.preprocessing_of(args))
    result = dissect_into(
        args.out,
        network.model,
        args.layer,
        args.data,
        args.rule,
        preprocessing=network.preprocessing,
        batch_size=args.batch_size,
        quantile=args.quantile,
        restart=args.restart,
        device=device,
        workers=args.workers,
        allow_nan=args.allow_nan,
    )
    if result is None:
        return
    found = result.summary()
    print(f"units            {found.units}")
    print(f"mean score       {found.mean_score:.4f}")
    print(f"detectors        {found.detectors} (score of 0.04 or more)")
    print(f"distinct labels  {found.distinct_labels}")
    print(f"written to       {args.out}/tally.csv, dissection.json, units.png")


def load_model(name: str, weights: str | None):  # type: ignore[no-untyped-def]
    """The network of a name, in evaluation mode: `dynamick.open_network(name, weights).model`, which scripts should call."""
    from dynamick.networks import open_network

    return open_network(name, weights).model
