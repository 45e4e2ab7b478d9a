"""A Dynamic-K head on a trained network's own features, without units: what `units=None` gives."""

from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dynamick.comparison.cache import Features, cache_features, check_classes
from dynamick.comparison.cells import Job, estimate
from dynamick.comparison.entering import weights_digest
from dynamick.comparison.heads.dynamic import train
from dynamick.comparison.measuring import measure
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import DataRecipe, folder_recipe
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.files import write_json
from dynamick.networks import OpenNetwork, save
from dynamick.nn import DynamicLinear
from dynamick.retrofit.checks import FIGURES, WEIGHTS, check_same, open_splits, tell_left_out
from dynamick.retrofit.own_head import order_looks_wrong, own_head
from dynamick.retrofit.report import Retrofitted
from dynamick.training.pruning import prune_head


def retrofit_head(
    network: OpenNetwork,
    data: str | Path,
    out: str | Path,
    k: int = 5,
    rule: str = "at_most",
    *,
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    tell: Callable[[str], None] = print,
) -> Retrofitted:
    """Train a Dynamic-K head on what enters a network's head, and write the network with it; the same call resumes.

    Writes weights.safetensors, which `dynamick.load` opens, and retrofit.json into the folder, and keeps the features there.

    Args:
        network: as `dynamick.open_network` opens it; its head is replaced.
        data: a folder with train/CLASS/* and val/CLASS/*, or CLASS/*.
        out: the folder for what is made; it holds one head.
        k, rule: how many inputs a class routes, and whether `at_most` or `exactly` so many.
        seed: of the head's training.
        dtype: of the cached features, `float32` or `bfloat16`.
        device: where the network runs; the head is trained on the CPU.
        tell: is called with a line on what comes next.

    Raises:
        InputError: K is none; the network has no head or does not say how its images are prepared; its head holds NaN; the
            images are missing or damaged; the folder holds another head, or another process is at
            work in it.
    """
    model: Any = network.model
    out, layer, prepare = Path(out), network.need_head(), network.need_preprocessing()
    old: Any = model.get_submodule(layer)
    if not old.weight.isfinite().all():
        raise InputError(f"{network.source or network.name}: {layer}.weight holds NaN or infinity; mend the weights")
    made = {"k": k, "rule": rule, "seed": seed, "weights": weights_digest(model)}
    check_same(out / FIGURES, made)
    # Who opens the file later must show the network images as its head saw them.
    shown = folder_recipe(data, prepare.size, network.data)

    def cached(split: str, images: LabelledImages) -> Features:
        place = out / "features" / split
        found = cache_features(model, images, place, prepare, dtype, device=device, progress=True, layer=layer, skip=True)
        tell_left_out(sorted({*images.names} - {*found.names}), tell)
        return found

    learn, held = (cached(split, images) for split, images in open_splits(shown, tell).items())
    check_classes(learn.labels, learn.classes)
    model.cpu()
    order = network.order_of(held.classes)
    own = None if order is None else own_head(network, order)
    before = None if own is None else measure(own, held)
    if own is not None and (hint := order_looks_wrong(own(held.x), held.labels)) is not None:
        tell(hint)
    job = Job(out / "features", out, f"dynamic-{rule.replace('_', '-')}", (k,), seed)
    tell(f"training the head, {in_words(estimate([job]))}")
    head = train(learn.x, learn.labels, len(learn.classes), k, seed, rule, bias=old.bias is not None)
    # Rounded as the network's own weights are, before it is measured.
    head.to(old.weight.dtype).float()
    prune_unrouted(head, learn.x)
    after = measure(head, held)
    model.preprocessing, model.classes = replace(prepare, size=shown.side), list(learn.classes)
    write(network, head.to(old.weight.dtype), shown, out / WEIGHTS)
    write_json(out / FIGURES, {"before": before, "after": after, **made})
    return Retrofitted(before, after, len(old.weight), list(held.classes))


def prune_unrouted(head: DynamicLinear, x: Tensor) -> None:
    """Remove the weights that no training image (features N, M) routes, in place; their logits lose no product."""
    prune_head(head, list(x.split(4096)))


def write(network: OpenNetwork, head: DynamicLinear, shown: DataRecipe, path: Path) -> None:
    """Put a head in the place of a network's own, and write the network.

    Args:
        network: its model has the `preprocessing` and the `classes` that go with the new head.
        head: the new one.
        shown: the images that it learnt on, and how they are shown.
        path: the file.
    """
    model: Any = network.model
    model.set_submodule(network.need_head(), head)
    about = {"model": network.name, "data": Path(shown.root).name, "k": head.k}
    save(model, path, {"retrofit": about, "recipe": {"data": asdict(shown)}}, vouch=True)
