"""What enters a network's classifier, kept on disk: one pass over the images, then heads train in seconds.

A cache is a folder: `cache.json` says what it is of, and each file `chunk-*.safetensors` holds the features and labels of some
images in a row. A chunk is written whole or not at all, so the files that are there are what is done.
"""

import errno
import hashlib
import itertools
import json
import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dynamick.comparison.entering import entering, network_key
from dynamick.data.images import evenly_spaced
from dynamick.data.labelled import LabelledImages
from dynamick.data.loading import taken_ahead
from dynamick.errors import InputError
from dynamick.files import FULL, alone, read_json, why_no_folder, write_atomically, write_json
from dynamick.networks.running import check_hooks
from dynamick.nn import find_classifier
from dynamick.preprocessing import Preprocessing
from dynamick.progress import bar

STATE = "cache.json"
OLD = "features.npy"
"""A file of the old form of a cache, without chunks. Such a cache is computed again."""
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
CHUNK = 1024
"""How many images are computed and written at a time. An interruption loses at most these."""
ASKED = 4
"""The features of this many images are computed again before a cache is used: only the network's code may differ."""
ON_CPU, ELSEWHERE = 16, 256
"""Images of 128 pixels that pass a network at once on a CPU, and images of any size on other devices. More at once take up to
twice as long on a CPU: large blocks of memory go back to the system and come again, page by page."""
NEAR = 0.02
"""They may differ by this part of their largest value: bfloat16, or another machine, rounds differently."""


Enter = Callable[[Tensor, Sequence[str]], Tensor]
"""From images, uint8 (B, 3, H, W), and their names to what is kept of them, images first."""


@dataclass(frozen=True)
class Features:
    """Features of labelled images.

    Attributes:
        x: float32, shape (N, M).
        labels: int64, shape (N,).
        classes: their names.
        names: a name for each image.

    >>> dk.comparison.Features(torch.rand(2, 8), torch.tensor([0, 1]), ["cat", "dog"], ["1.jpg", "2.jpg"]).x.shape
    torch.Size([2, 8])
    """

    x: Tensor
    labels: Tensor
    classes: list[str]
    names: list[str]

    def __len__(self) -> int:
        return len(self.labels)


def cache_features(
    model: nn.Module,
    data: LabelledImages,
    folder: str | Path,
    preprocessing: Preprocessing | None = None,
    dtype: str = "float32",
    batch_size: int | None = None,
    device: torch.device | str = "cpu",
    progress: bool = False,
    layer: str | None = None,
    skip: bool = False,
) -> Features:
    """The features that enter a model's classifier, computed once and kept in a folder.

    An interrupted run goes on where it stopped. A cache belongs to one model, its weights (but for the classifier's, which do
    not change what enters it), its preprocessing and its images; all of them are checked, and its own checksums. The
    features of a few images are also checked: only they show a change of the model's code.

    Args:
        model: any whose classifier is a linear layer that sees one vector an image; run in evaluation mode.
        data: images in memory, or in folders and decoded as needed.
        folder: for the cache; one process fills it at a time.
        preprocessing: None takes the model's own.
        dtype: `float32`, or `bfloat16` at half the size and 8 bits of precision.
        batch_size: images a forward pass; None takes what the device does fast.
        device: where the model runs.
        progress: show images a second and the time left on stderr.
        layer: the classifier's dotted name; None takes the last linear layer (`dynamick.nn.find_classifier`).
        skip: leave out images that cannot be read; else the first one is an error.

    Raises:
        InputError: the folder holds features of another model, preprocessing or data, or is damaged; a class has no image, or a
            label no class; a feature is NaN or infinite (the message names image and unit); the classifier does not see one
            vector an image, or its output is not the model's; another process
            fills the folder; it cannot be written, or the disk is full.

    >>> data = dk.data.open_images(dk.data.DataRecipe("scenes", size=32, val_images=50), "val")
    >>> dk.comparison.cache_features(dk.models.create("res8", 10, "patch", 8), data, "features").x.shape
    torch.Size([50, 32])
    """
    if dtype not in DTYPES:
        raise InputError(f"dtype: {dtype!r} is unknown; give {' or '.join(DTYPES)}")
    prepare = preprocessing or getattr(model, "preprocessing", None)
    if prepare is None:
        raise InputError("features: the model does not say how its images are prepared; give a Preprocessing")
    check_classes(data.labels, data.classes)
    check_hooks(model)
    layer, folder = _classifier(model) if layer is None else layer, Path(folder)
    key = {**network_key(model, layer, prepare), "data": data.fingerprint(), "dtype": dtype}
    batch_size = batch_size or usual_batch(device, data.side)
    fill_cache(folder, key, data, partial(entering, model.to(device).eval(), layer, prepare), batch_size, progress, skip)
    return open_features(folder)


def usual_batch(device: torch.device | str, side: int) -> int:
    """How many images of a side in pixels pass a network at once: on a CPU few, so that what it computes is at hand again."""
    return min(ELSEWHERE, max(2, ON_CPU * 128**2 // side**2)) if torch.device(device).type == "cpu" else ELSEWHERE


def _classifier(model: nn.Module) -> str:
    try:
        return find_classifier(model)
    except ValueError as error:
        raise InputError(str(error)) from None


def fill_cache(
    folder: Path,
    key: dict[str, str],
    data: LabelledImages,
    enter: Enter,
    batch_size: int,
    progress: bool,
    skip: bool = False,
) -> None:
    """Compute and write what a folder's cache lacks, one process at a time.

    Args:
        folder: made where it is missing.
        key: what the cache is of: `weights`, `data`, `dtype`, and what else tells one from another.
        data: the images.
        enter: from images and their names to what is kept of them. Threads decode the next ones meanwhile.
        batch_size: images a call of `enter`.
        progress: show images a second and the time left on stderr.
        skip: give an image that cannot be read the label -1; else it is an error.

    Raises:
        InputError: the folder holds something else or is damaged, another process fills it, it cannot be written, or the disk
            is full.
    """
    if _check_same(folder, key, data, enter) < len(data):
        if (why := why_no_folder(folder)) is not None:
            raise InputError(f"{folder}: cannot be written ({why}); give another")
        with alone(folder):
            # Another process may have filled it in between.
            _fill(folder, key, data, enter, _check_same(folder, key, data, enter), batch_size, progress, skip)


def open_features(folder: str | Path) -> Features:
    """A finished cache, checked against its checksums, without the images that could not be read.

    Raises:
        InputError: it is missing, unfinished, truncated or damaged.

    >>> dk.comparison.open_features("nowhere")
    Traceback (most recent call last):
    dynamick.errors.InputError: ...
    """
    state, parts = open_chunks(Path(folder))
    x, labels = (torch.cat(each) for each in zip(*parts, strict=True))
    read = labels >= 0
    names = [name for name, kept in zip(state["names"], read.tolist(), strict=True) if kept]
    return Features(x[read].float(), labels[read], state["classes"], names)


def open_chunks(folder: Path) -> tuple[dict[str, Any], list[tuple[Tensor, Tensor]]]:
    """A finished cache's state, and the values and labels of each chunk, memory-mapped and checked against their checksums.

    Of an image that could not be read the label is -1.

    Raises:
        InputError: it is missing, unfinished, truncated or damaged.
    """
    state = read_state(folder)
    rows = len(state["names"])
    done = _chunks_done(folder) * state["chunk"]
    if done < rows:
        raise InputError(f"{folder}: {done} of {rows} images are done; run the same command to go on")
    return state, [_read_chunk(folder, state, number) for number in range(-(-rows // state["chunk"]))]


def images_done(folder: Path) -> int:
    """How many images a folder's cache holds; it may be of anything, and damaged."""
    try:
        return _rows_done(folder, read_state(folder))
    except InputError:
        return 0


def read_state(folder: Path) -> dict[str, Any]:
    """A cache's `cache.json`: its key, the size of its chunks, its classes and names.

    Raises:
        InputError: it is missing or damaged.
    """
    try:
        state: dict[str, Any] = read_json(folder / STATE)
    except FileNotFoundError:
        raise InputError(f"{folder}: no feature cache; give a folder that cache_features wrote") from None
    except OSError as error:
        raise InputError(f"{folder}/{STATE}: cannot be read ({error.strerror}); give a folder of your own") from None
    except ValueError as error:
        raise InputError(f"{folder}/{STATE}: damaged ({error}); take the folder away and run again") from None
    if not _is_state(state):
        raise InputError(f"{folder}/{STATE}: no feature cache's state; take the folder away and run again")
    return state


def probe(folder: Path) -> list[float]:
    """What tells the features of a finished cache from those of another network: the means of a few images' features.

    Raises:
        InputError: it is missing or damaged.
    """
    state = read_state(folder)
    rows = [_row(folder, state, place)[0] for place in evenly_spaced(len(state["names"]), ASKED)]
    return [float(value) for value in torch.stack(rows).double().mean(1)]


def check_classes(labels: Tensor, classes: list[str]) -> None:
    """Every class has an image, and every label, shape (N,), a class.

    Raises:
        InputError: it names the first label out of range, or the classes that have no image.
    """
    odd = ((labels < 0) | (labels >= len(classes))).nonzero()
    if len(odd):
        row = int(odd[0])
        raise InputError(f"labels: {labels[row].item()} of image {row} is no class; give 0 to {len(classes) - 1}")
    counts = torch.bincount(labels, minlength=len(classes))
    empty = [name for name, count in zip(classes, counts.tolist(), strict=True) if not count]
    if empty:
        raise InputError(f"classes: no image of {', '.join(empty[:5])}; give each class one or more, or take it away")


def _check_same(folder: Path, key: dict[str, str], data: LabelledImages, enter: Enter) -> int:
    """How many images are done of the cache that this folder holds; none of one of the form before this one.

    Raises:
        InputError: it is of something else.
    """
    if not (folder / STATE).exists() or (folder / OLD).exists():
        return 0
    state = read_state(folder)
    done = _rows_done(folder, state)
    odd = [name for name, value in key.items() if state["key"].get(name) != value]
    if done and not odd:
        rows = [(place, *_row(folder, state, place)) for place in evenly_spaced(done, ASKED)]
        # Not those that could not be read.
        kept = {place: x for place, x, label in rows if label >= 0}
        if kept:
            now = enter(data.take(list(kept))[0], [state["names"][place] for place in kept])
            odd = [] if _are_near(torch.stack([*kept.values()]), now) else ["forward pass"]
    if odd:
        raise InputError(f"{folder}: made with another {odd[0]} than is given now; give another folder or take this one away")
    return done


def _row(folder: Path, state: dict[str, Any], place: int) -> tuple[Tensor, Tensor]:
    x, labels = _read_chunk(folder, state, place // state["chunk"])
    return x[place % state["chunk"]], labels[place % state["chunk"]]


def _are_near(kept: Tensor, now: Tensor) -> bool:
    if kept.shape != now.shape:
        return False
    one, other = kept.float().flatten(1), now.float().flatten(1)
    return bool(((one - other).abs().amax(1) <= NEAR * one.abs().amax(1)).all())


def _fill(
    folder: Path,
    key: dict[str, str],
    data: LabelledImages,
    enter: Enter,
    done: int,
    batch_size: int,
    progress: bool,
    skip: bool,
) -> None:
    """Compute and write the chunks that are not there."""
    (folder / OLD).unlink(missing_ok=True)
    size = read_state(folder)["chunk"] if done else CHUNK
    chunks = [range(first, min(first + size, len(data))) for first in range(done, len(data), size)]
    batches = [[rows[start : start + batch_size] for start in range(0, len(rows), batch_size)] for rows in chunks]
    with (
        bar("/".join(folder.absolute().parts[-2:]), len(data), done, progress) as shown,
        closing(taken_ahead(data, itertools.chain(*batches), [] if skip else None)) as taken,
    ):
        for rows, parts in zip(chunks, batches, strict=True):
            first = rows[0]
            found: list[Tensor] = []
            labels: list[Tensor] = []
            for part in parts:
                if found:
                    # The last ones count when they are written.
                    shown.update(len(found[-1]))
                images, its_labels = next(taken)
                found.append(enter(images, [data.names[row] for row in part]))
                labels.append(its_labels.cpu())
            x = torch.cat(found)
            tensors = {"x": x.to(DTYPES[key["dtype"]]), "labels": torch.cat(labels)}
            row = tensors["x"][0].nbytes
            try:
                if shutil.disk_usage(folder).free < row * (len(data) - first):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
                if first == 0:
                    about = {"chunk": size, "classes": list(data.classes), "names": list(data.names)}
                    write_json(folder / STATE, {"key": key, **about})
                sealed = safetensors.torch.save(tensors, {"sha256": _checksum(key, **tensors)})
                write_atomically(_chunk(folder, first // size), sealed)
            except OSError as error:
                if first == 0:
                    # It says nothing yet.
                    (folder / STATE).unlink(missing_ok=True)
                raise _cannot_write(folder, error, row * len(data)) from error
            shown.update(len(parts[-1]))


def _cannot_write(folder: Path, error: OSError, needed: int) -> InputError:
    if error.errno not in FULL or not folder.exists():
        return InputError(f"{folder}: cannot be written ({error.strerror}); run the same command again, or give another folder")
    free = shutil.disk_usage(folder).free
    return InputError(
        f"{folder}: cannot be written ({error.strerror}); its features need {needed / 1e6:.1f} MB in all, and "
        f"{free / 1e6:.1f} MB are free; make room and run the same command again, or give another folder"
    )


def _is_state(state: Any) -> bool:
    if not isinstance(state, dict) or type(state.get("chunk")) is not int or state["chunk"] < 1:
        return False
    key, classes, names = (state.get(name) for name in ("key", "classes", "names"))
    if not isinstance(key, dict) or not {"weights", "data", "dtype"} <= set(key):
        return False
    if not isinstance(classes, list) or not isinstance(names, list) or not names:
        return False
    return all(isinstance(text, str) for text in (*classes, *names, *key.values()))


def _chunk(folder: Path, number: int) -> Path:
    return folder / f"chunk-{number:05}.safetensors"


def _rows_done(folder: Path, state: dict[str, Any]) -> int:
    return min(_chunks_done(folder) * state["chunk"], len(state["names"]))


def _chunks_done(folder: Path) -> int:
    return next(number for number in itertools.count() if not _chunk(folder, number).exists())


def _read_chunk(folder: Path, state: dict[str, Any], number: int) -> tuple[Tensor, Tensor]:
    """Values and labels of one chunk, checked against its checksum."""
    path = _chunk(folder, number)
    try:
        with safetensors.safe_open(path, "pt") as file:
            said, x, labels = file.metadata() or {}, file.get_tensor("x"), file.get_tensor("labels")
    except (safetensors.SafetensorError, OSError) as error:
        why = " ".join(str(error).split())
        raise InputError(f"{path}: truncated or damaged ({why}); take the folder away and run again") from None
    rows = (min(state["chunk"], len(state["names"]) - number * state["chunk"]),)
    if x.shape[:1] != rows or labels.shape != rows or said.get("sha256") != _checksum(state["key"], x, labels):
        raise InputError(f"{path}: does not match its checksum; take the folder away and run again")
    return x, labels


def _checksum(key: dict[str, str], x: Tensor, labels: Tensor) -> str:
    """Of a chunk, and of what its cache is of: a chunk of another cache does not match."""
    sha = hashlib.sha256(json.dumps(key, sort_keys=True).encode())
    for values in (x, labels):
        sha.update(values.contiguous().flatten().view(torch.uint8).numpy().data)
    return sha.hexdigest()
