"""Options that several commands share, and what is made of them."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from dynamick.networks import OpenNetwork

MODEL = "res18-d5a or the like, package.module:function that returns a model, a torchvision name, or timm:NAME"
WEIGHTS = "safetensors of dynamick, a run's folder, a state dict (.pt, .pth, .safetensors), or DEFAULT"


class _Side(argparse.Action):
    """A side in pixels; also said twice, as height and width of a square."""

    def __call__(self, parser: argparse.ArgumentParser, namespace: argparse.Namespace, values: Any, *_: Any) -> None:
        if len(set(values)) > 1:
            raise argparse.ArgumentError(self, f"{' '.join(map(str, values))}: images are square here, give one number")
        setattr(namespace, self.dest, values[0])


def add_size(parser: Any) -> None:
    """The side of the images that a network is shown."""
    said = "side of the square images in pixels (default: the model's own, or 224)"
    parser.add_argument("--size", type=int, nargs="+", action=_Side, metavar="PIXELS", help=said)


def add_preprocessing(parser: Any) -> None:
    """How a network's images are prepared, where it does not say, or is to be shown others."""
    add_size(parser)
    add_mean_and_std(parser)


def add_mean_and_std(parser: Any) -> None:
    """The same without the size."""
    parser.add_argument("--mean", type=float, nargs="+", metavar="R", help="subtracted from RGB in 0..1; one number for grey")
    parser.add_argument("--std", type=float, nargs="+", metavar="R", help="what the difference is divided by, as many numbers")


def add_classes(parser: Any) -> None:
    """What a network's outputs are called."""
    said = "the classes' names in the outputs' order: one a line, or JSON (a list, id2label, class_to_idx)"
    parser.add_argument("--classes", type=Path, metavar="FILE", help=said)


def add_features(parser: argparse.ArgumentParser) -> None:
    """The options of commands that cache what enters a network's head."""
    parser.add_argument("--layer", help="the linear layer that puts out the logits (default: the last one)")
    add_preprocessing(parser)
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16"), help="of the cached features")
    parser.add_argument("--device", default="cpu", help="where the network runs; heads are trained on the CPU")


def add_foreign(parser: argparse.ArgumentParser) -> None:
    """The options of commands whose weights may be files that do not say what they are."""
    add_size(parser)
    group = parser.add_argument_group("of weights that dynamick did not write")
    group.add_argument("--model", help="what they are of: package.module:function, a torchvision name, or timm:NAME")
    add_classes(group)
    add_mean_and_std(group)


def check_foreign(args: argparse.Namespace, paths: Sequence[Path]) -> None:
    """Hold the options of `add_foreign` to what they can be, and to weights that need them.

    Raises:
        InputError: the first that is wrong, or that no file needs; or there is no such file.
    """
    from dynamick.errors import InputError
    from dynamick.networks.opening import says_what_it_is

    if args.size is not None and args.size < 1:
        raise InputError(f"--size {args.size}: give a number of pixels from 1 up")
    if all(says_what_it_is(path) for path in paths):
        for name in ("model", "classes", "mean", "std"):
            if getattr(args, name) is not None:
                raise InputError(f"--{name}: {paths[0]} says that itself; the option is for weights of others")


def open_weights(path: Path, args: argparse.Namespace) -> "OpenNetwork":
    """The network in a file or a run's folder; what the file says itself is not asked of `add_foreign`'s options.

    Raises:
        InputError: as `dynamick.open_network`, or nothing says how its images are prepared.
    """
    from dynamick.networks import open_network
    from dynamick.networks.opening import says_what_it_is

    if args.model is None or says_what_it_is(path):
        network = open_network(path, **preprocessing_of(args), classes=args.classes)
    else:
        network = open_network(args.model, path, **preprocessing_of(args), classes=args.classes)
    network.need_preprocessing()
    return network


def preprocessing_of(args: argparse.Namespace) -> dict[str, Any]:
    """What `open_network` takes of `add_preprocessing`'s options."""
    return {"size": args.size, "mean": args.mean, "std": args.std}
