"""`dynamick retrofit --model resnet50 --weights F --data DIR --k 5 --out DIR`: a Dynamic-K head for a pretrained network."""

import argparse
from functools import partial
from pathlib import Path

from dynamick.cli import options


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help=options.MODEL)
    parser.add_argument("--weights", help=options.WEIGHTS)
    parser.add_argument("--data", type=Path, required=True, help="DIR/train/CLASS/* and DIR/val/CLASS/*")
    parser.add_argument("--k", type=int, default=5, help="inputs that a class routes at most (default %(default)s)")
    parser.add_argument("--rule", default="at_most", choices=("at_most", "exactly"), help="of routing (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; the same one resumes")
    parser.add_argument("--seed", type=int, default=0, help="of the head's training (default %(default)s)")
    options.add_features(parser)


def run(args: argparse.Namespace) -> None:
    from dynamick.comparison import retrofit
    from dynamick.devices import open_device
    from dynamick.networks import open_network

    open_device(args.device)
    network = open_network(args.model, args.weights, layer=args.layer, **options.preprocessing_of(args))
    tell = partial(print, flush=True)
    made = retrofit(
        network, args.data, args.out, args.k, args.rule, seed=args.seed, dtype=args.dtype, device=args.device, tell=tell
    )
    before, after = made.before, made.after
    if before is None:
        print(f"before           {made.outputs} outputs, and {len(made.classes)} classes: it was not trained on these")
    else:
        print(f"top-1 before     {before['top1']:.2f} %")
    print(f"top-1 after      {after['top1']:.2f} %")
    print(
        f"non-zeros/class  {after['nec']:.2f} (at most {after['max_per_class']}), after removing what no training image routes"
    )
    print(f"routed           {after['routed']:.2f} for each input and class (K = {args.k}, {args.rule})")
    print(f"written to       {args.out}/weights.safetensors, retrofit.json")
