"""`dynamick retrofit --model resnet50 --weights F --data DIR --out DIR`: learnt units and a Dynamic-K head for any network."""

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from dynamick.cli import options

if TYPE_CHECKING:
    from dynamick.retrofit.report import Retrofitted


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=options.MODEL)
    parser.add_argument("--weights", help=options.WEIGHTS)
    parser.add_argument("--data", type=Path, required=True, help="DIR/train/CLASS/* and DIR/val/CLASS/*, or DIR/CLASS/*")
    parser.add_argument(
        "--units", type=_number_or_none, default=256, metavar="N", help="how many are learnt, or none (default 256)"
    )
    parser.add_argument("--k", type=int, default=5, help="units that a class routes at most (default %(default)s)")
    parser.add_argument("--rule", default="at_most", choices=("at_most", "exactly"), help="of routing (default %(default)s)")
    parser.add_argument(
        "--teacher", default="probe", help="what units also learn from: probe (a dense head, the default), network, or none"
    )
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; the same one resumes")
    parser.add_argument("--page", type=Path, metavar="PAGE.html", help="explain some validation images on a page at once")
    parser.add_argument("--seed", type=int, default=0, help="of weights and order (default %(default)s)")
    options.add_classes(parser)
    options.add_features(parser)


def _number_or_none(text: str) -> int | None:
    return None if text == "none" else int(text)


def run(args: argparse.Namespace) -> None:
    from dynamick.devices import open_device
    from dynamick.networks import open_network
    from dynamick.processes import first
    from dynamick.retrofit import retrofit

    open_device(args.device)
    network = open_network(args.model, args.weights, layer=args.layer, classes=args.classes, **options.preprocessing_of(args))
    made = retrofit(
        network,
        args.data,
        args.out,
        args.k,
        args.units,
        args.rule,
        teacher=args.teacher,
        seed=args.seed,
        dtype=args.dtype,
        device=args.device,
        page=args.page,
        tell=partial(print, flush=True),
    )
    if first():
        print("\n".join(_lines(made, args)))


def _lines(made: "Retrofitted", args: argparse.Namespace) -> list[str]:
    before, after = made.before, made.after
    lines = [] if made.report is None else [made.report.table(), ""]
    if before is None:
        lines.append(f"before           {made.outputs} outputs, and {len(made.classes)} classes: it was not trained on these")
    else:
        lines.append(f"top-1 before     {before['top1']:.2f} %")
    lines += [
        f"top-1 after      {after['top1']:.2f} %",
        f"non-zeros/class  {after['nec']:.2f} (at most {after['max_per_class']}), after removing what no training image routes",
        f"routed           {after['routed']:.2f} for each input and class (K = {args.k}, {args.rule})",
        f"written to       {args.out}/weights.safetensors, retrofit.json",
    ]
    if args.page is not None:
        return [*lines, f"explained on     {args.page}"]
    return [*lines, f"to read it       dynamick explain --weights {args.out} --images {args.data}/val --out page.html"]
