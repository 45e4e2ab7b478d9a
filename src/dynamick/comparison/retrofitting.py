"""A Dynamic-K head for a trained network, learnt on a folder of images; the network's other weights stay."""

import copy
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from dynamick.comparison import cells
from dynamick.comparison.cache import Features, cache_features
from dynamick.comparison.entering import weights_digest
from dynamick.comparison.heads.dynamic import train
from dynamick.comparison.heads.dynamic_static import usage
from dynamick.comparison.measuring import measure
from dynamick.data.images import check_same_classes
from dynamick.data.labelled import LabelledImages
from dynamick.data.recipe import DataRecipe, folder_recipe, open_images
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.files import alone, read_text, write_json
from dynamick.functional import check_k
from dynamick.networks import OpenNetwork, save
from dynamick.nn import DynamicLinear

WEIGHTS, FIGURES = "weights.safetensors", "retrofit.json"


@dataclass(frozen=True)
class Retrofitted:
    """What came of it.

    Attributes:
        before: the old head's figures (`measure`); None if the network was not trained on these classes.
        after: the new head's.
        outputs: how many outputs the old head has.
        classes: the folder's classes.
    """

    before: dict[str, Any] | None
    after: dict[str, Any]
    outputs: int
    classes: list[str]


def retrofit(
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
        data: a folder with train/CLASS/* and val/CLASS/*.
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
    try:
        check_k(k)
    except ValueError as error:
        raise InputError(f"--{error}") from None
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
        return cache_features(model, images, place, prepare, dtype, device=device, progress=True, layer=layer)

    with alone(out):
        learn, held = (cached(split, images) for split, images in open_splits(shown).items())
        model.cpu()
        before = measure(copy.deepcopy(old).float(), held) if knows_classes(network, held.classes, len(old.weight)) else None
        job = cells.Job(out / "features", out, f"dynamic-{rule.replace('_', '-')}", (k,), seed)
        tell(f"training the head, {in_words(cells.estimate([job]))}")
        head = train(learn.x, learn.labels, len(learn.classes), k, seed, rule, bias=old.bias is not None)
        # Rounded as the network's own weights are, before it is measured.
        head.to(old.weight.dtype).float()
        prune_unrouted(head, learn.x)
        after = measure(head, held)
        model.preprocessing, model.classes = replace(prepare, size=shown.side), list(learn.classes)
        write(network, head.to(old.weight.dtype), shown, out / WEIGHTS)
        write_json(out / FIGURES, {"before": before, "after": after, **made})
    return Retrofitted(before, after, len(old.weight), list(held.classes))


def knows_classes(network: OpenNetwork, classes: list[str], outputs: int) -> bool:
    """Whether a network's outputs are these classes; where nothing says their names, or their weights' publisher, by number."""
    said = getattr(network.model, "classes", None) if network.source != "DEFAULT" else None
    return outputs == len(classes) and (said is None or network.classes == classes)


def open_splits(recipe: DataRecipe) -> dict[str, LabelledImages]:
    """The user's images by split, `train` first.

    Raises:
        InputError: they are missing or damaged, or the splits hold different classes.
    """
    images = {split: open_images(recipe, split) for split in ("train", "val")}
    check_same_classes(recipe.root, images["train"].classes, images["val"].classes)
    return images


def check_same(file: Path, wanted: dict[str, Any]) -> None:
    """A folder holds one head: what its retrofit.json says must be what is wanted; a file that is not there says nothing.

    Raises:
        InputError: it names the first setting that differs, or the file is damaged.
    """
    if not file.exists():
        return
    try:
        made = dict(json.loads(read_text(file)))
    except (OSError, ValueError, TypeError) as error:
        raise InputError(f"{file}: damaged ({error}); take it away, or give another --out") from None
    for name, value in wanted.items():
        if made.get(name) != value:
            told = "other weights" if name == "weights" else f"--{name} {made.get(name, 'unknown')}, not {value}"
            raise InputError(f"{file}: its head was made with {told}; give another --out, or take this one away")


def prune_unrouted(head: DynamicLinear, x: Tensor) -> None:
    """Remove the weights that no training image (features N, M) routes, in place; their logits lose no product."""
    kept = usage(head, x) > 0
    head.weight.masked_fill_(~kept, 0)
    head.set_mask(kept)


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
    save(model, path, {"retrofit": about, "recipe": {"data": asdict(shown)}})
