"""`dynamick retrofit --model resnet50 --weights F --data DIR --k 5 --out DIR`: a Dynamic-K head for a pretrained network."""

import argparse
import copy
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dynamick.cli.backbones import add_network_arguments

if TYPE_CHECKING:
    from torch import Tensor, nn

    from dynamick.comparison.cache import Features
    from dynamick.data.labelled import LabelledImages
    from dynamick.data.recipe import DataRecipe
    from dynamick.nn import DynamicLinear
    from dynamick.preprocessing import Preprocessing


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="res18 or the like, package.module:function, or a torchvision name")
    parser.add_argument("--weights", help="safetensors of dynamick, a state dict (.pt, .pth, .safetensors), or DEFAULT")
    parser.add_argument("--data", type=Path, required=True, help="DIR/train/CLASS/* and DIR/val/CLASS/*")
    parser.add_argument("--k", type=int, default=5, help="inputs that a class routes at most (default %(default)s)")
    parser.add_argument("--rule", default="at_most", choices=("at_most", "exactly"), help="of routing (default %(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="folder for what is made; the same one resumes")
    parser.add_argument("--seed", type=int, default=0, help="of the head's training (default %(default)s)")
    add_network_arguments(parser)


def run(args: argparse.Namespace) -> None:
    from dataclasses import replace

    from dynamick.cli.backbones import classifier_of, load_network, preprocessing_of, trained_on
    from dynamick.cli.dissect import open_device
    from dynamick.comparison import cells
    from dynamick.comparison.entering import weights_digest
    from dynamick.comparison.heads.dynamic import train
    from dynamick.comparison.measuring import measure
    from dynamick.data.recipe import folder_recipe
    from dynamick.durations import in_words
    from dynamick.errors import InputError
    from dynamick.files import write_json
    from dynamick.functional import check_k

    open_device(args.device)
    try:
        check_k(args.k)
    except ValueError as error:
        raise InputError(f"--{error}") from None
    model: Any = load_network(args.model, args.weights)
    prepare, layer = preprocessing_of(model, args), classifier_of(model, args.model, args.layer)
    old: Any = model.get_submodule(layer)
    if not old.weight.isfinite().all():
        raise InputError(f"--weights {args.weights}: {layer}.weight holds NaN or infinity; mend the weights")
    made = {"k": args.k, "rule": args.rule, "seed": args.seed, "weights": weights_digest(model)}
    check_same(args.out / "retrofit.json", made)
    # Who opens the file later must show the network images as its head saw them.
    shown = folder_recipe(args.data, prepare.size, trained_on(args.weights))
    images = open_splits(shown)
    learn, held = (cached(args, model, layer, prepare, split, data) for split, data in images.items())
    model.cpu()
    known = getattr(model, "classes", held.classes)
    same = old.weight.shape[0] == len(held.classes) and known == held.classes
    before = measure(copy.deepcopy(old).float(), held) if same else None
    job = cells.Job(args.out / "features", args.out, f"dynamic-{args.rule.replace('_', '-')}", (args.k,), args.seed)
    print(f"training the head, {in_words(cells.estimate([job]))}", flush=True)
    head = train(learn.x, learn.labels, len(learn.classes), args.k, args.seed, args.rule, bias=old.bias is not None)
    # Rounded as the network's own weights are, before it is measured.
    head.to(old.weight.dtype).float()
    prune_unrouted(head, learn.x)
    after = measure(head, held)
    model.preprocessing, model.classes = replace(prepare, size=shown.side), list(learn.classes)
    save(model, layer, head.to(old.weight.dtype), shown, args)
    write_json(args.out / "retrofit.json", {"before": before, "after": after, **made})
    if before is None:
        print(f"before           {old.weight.shape[0]} outputs, and {len(held.classes)} classes: it was not trained on these")
    else:
        print(f"top-1 before     {before['top1']:.2f} %")
    print(f"top-1 after      {after['top1']:.2f} %")
    print(
        f"non-zeros/class  {after['nec']:.2f} (at most {after['max_per_class']}), after removing what no training image routes"
    )
    print(f"routed           {after['routed']:.2f} for each input and class (K = {args.k}, {args.rule})")
    print(f"written to       {args.out}/weights.safetensors, retrofit.json")


def open_splits(recipe: "DataRecipe") -> "dict[str, LabelledImages]":
    """The user's images by split, `train` first.

    Raises:
        InputError: they are missing or damaged, or the splits hold different classes.
    """
    from dynamick.data.images import check_same_classes
    from dynamick.data.recipe import open_images

    images = {split: open_images(recipe, split) for split in ("train", "val")}
    check_same_classes(recipe.root, images["train"].classes, images["val"].classes)
    return images


def cached(
    args: argparse.Namespace, model: "nn.Module", layer: str, prepare: "Preprocessing", split: str, data: Any
) -> "Features":
    """What enters the classifier for the images of a split, kept in OUT/features."""
    from dynamick.comparison.cache import cache_features

    place = args.out / "features" / split
    return cache_features(model, data, place, prepare, args.dtype, device=args.device, progress=True, layer=layer)


def check_same(file: Path, wanted: dict[str, Any]) -> None:
    """A folder holds one head: what its retrofit.json says must be what is wanted; a file that is not there says nothing.

    Raises:
        InputError: it names the first setting that differs, or the file is damaged.
    """
    from dynamick.errors import InputError

    if not file.exists():
        return
    try:
        made = dict(json.loads(file.read_text()))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error}); take it away, or give another --out") from None
    for name, value in wanted.items():
        if made.get(name) != value:
            told = "other weights" if name == "weights" else f"--{name} {made.get(name, 'unknown')}, not {value}"
            raise InputError(f"{file}: its head was made with {told}; give another --out, or take this one away")


def prune_unrouted(head: "DynamicLinear", x: "Tensor") -> None:
    """Remove the weights that no training image (features N, M) routes, in place; their logits lose no product."""
    from dynamick.comparison.heads.dynamic_static import usage

    kept = usage(head, x) > 0
    head.weight.masked_fill_(~kept, 0)
    head.set_mask(kept)


def save(model: Any, layer: str, head: "DynamicLinear", shown: "DataRecipe", args: argparse.Namespace) -> None:
    """Write weights.safetensors: for `dynamick.load` where the model is dynamick's own, else as a state dict.

    Args:
        model: the network, with its `preprocessing` and `classes`.
        layer: the classifier's dotted name, whose place the head takes.
        head: the new classifier.
        shown: the images that it learnt on, and how they are shown.
        args: the command's `model`, `data`, `k`, `rule` and `out`.
    """
    import safetensors.torch

    from dynamick import checkpoint, models
    from dynamick.files import write_atomically

    path = args.out / "weights.safetensors"
    model.set_submodule(layer, head)
    if isinstance(model, models.ResNet):
        about = {"model": args.model, "data": args.data.name, "k": args.k}
        checkpoint.save(model, path, {"retrofit": about, "recipe": {"data": asdict(shown)}})
        return
    tensors = {key: tensor.detach().cpu().contiguous().clone() for key, tensor in model.state_dict().items()}
    said = {"model": args.model, "classifier": layer, "k": str(args.k), "rule": args.rule, "classes": "\n".join(model.classes)}
    said["preprocessing"] = json.dumps(model.preprocessing.to_dict())
    # Torchvision's googlenet and inception_v3 shift their images only with the published weights.
    said |= {"transform_input": "yes"} if getattr(model, "transform_input", False) else {}
    write_atomically(path, safetensors.torch.save(tensors, said))
