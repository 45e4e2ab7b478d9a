"""Network Dissection of a layer: streamed, exact, resumable, sharded (docs/definitions.md, "Network Dissection")."""

import hashlib
import math
import shutil
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dynamick import processes
from dynamick.data.concepts import ConceptDataset, Label, image_of, maps_of, name_of
from dynamick.data.images import evenly_spaced
from dynamick.dissection import shards
from dynamick.dissection.activations import Capture, capture
from dynamick.dissection.counting import Counts
from dynamick.dissection.first_pass import FirstPass, rank_nan_lowest
from dynamick.dissection.loading import Part, load
from dynamick.dissection.result import Dissection, rank
from dynamick.dissection.saving import Saved, own_folder
from dynamick.dissection.survivors import Survivors, restore
from dynamick.dissection.thresholds import TopValues, values_to_keep
from dynamick.errors import InputError, Note
from dynamick.files import alone
from dynamick.networks.running import right_channels, whole
from dynamick.preprocessing import Preprocessing
from dynamick.progress import bar

TELLING = 16
"""Of so many images, evenly spaced, one should excite some unit."""
NAMED = 8
"""A message names this many units and counts the others."""


def dissect(
    model: nn.Module,
    layer: str,
    dataset: ConceptDataset,
    rule: str = "netdissect",
    *,
    preprocessing: Preprocessing | None = None,
    batch_size: int = 64,
    quantile: float = 0.995,
    state: str | Path | None = None,
    restart: bool = False,
    device: torch.device | str | None = None,
    progress: bool = True,
    workers: int = 0,
    memory: int = 1 << 30,
    passes: int | None = None,
    top: int = 10,
    allow_nan: bool = False,
) -> Dissection:
    """Find the concept that each unit of a layer sees, by NetDissect's protocol (docs/definitions.md, "Network Dissection").

    The images pass the model once. There is a lower bound on each unit's threshold, which rises. A map whose maximum is not
    above the bound can never count and is dropped. Of the others, the locations near a value above the bound are kept. With
    n = images * h * w and K = floor(0.005 n) + 1, this takes at most 1.5 * U * K * (40 + h * w / 8) bytes. The K largest
    values of each unit take 5 * U * K bytes. If the maps take more than `memory`, they go to disk. If the disk has no room,
    the images pass the model twice. The result is the same, bit for bit.

    Within `torch.distributed` every process takes every world_size-th batch, and all return the same result as one process.

    Args:
        model: any module; it is moved to `device`, and is in evaluation mode during the call.
        layer: dotted name of a module whose output is a map (B, U, h, w) or a vector (B, U), of one size for all images.
        dataset: images and their label maps. If it has `image(index)` and `maps(index)`, nothing is decoded twice.
        rule: `netdissect` or `lite`, see `Counts`.
        preprocessing: by default `model.preprocessing`.
        batch_size: images a forward pass; part of what makes two results equal bit for bit.
        quantile: the threshold's, of all activations of a unit.
        state: a folder. The work is saved there, and goes on from there when the process was killed.
        restart: begin again whatever is in `state`.
        device: by default the model's.
        progress: show images a second and the time left on stderr.
        workers: processes that decode images; 0 decodes in this one.
        memory: bytes of surviving maps that may stay in memory.
        passes: 1 or 2 forces so many forward passes.
        top: how many images of highest activation are noted for a unit.
        allow_nan: rank NaN activations lowest instead of refusing them.

    Raises:
        InputError: the layer does not exist, is never used, or puts out something else; images whose maps differ in size;
            no labels, no images or unknown ones; NaN activations (units and counts are given); a `state` of another
            configuration, or one that another process is filling; or an argument that is not one of those allowed.

    Warns:
        Note: there are too few activations for the quantile, so that nothing can be above a threshold.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> found = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> found.summary().units
    32
    """
    preprocessing = _preprocessing(model, preprocessing)
    for name, value in (("batch_size", batch_size), ("top", top)):
        if value < 1:
            raise InputError(f"{name}: {value} must be an integer from 1 up")
    if passes not in (None, 1, 2):
        raise InputError(f"passes: {passes} must be 1, 2 or None")
    if not len(dataset):
        raise InputError("data: the data set has no images; give one with some")
    device = torch.device(device) if device is not None else next((p.device for p in model.parameters()), torch.device("cpu"))
    model.to(device)
    concepts = sorted(dataset.labels)
    with ExitStack() as stack:
        # Not inference mode: what a network builds or keeps meanwhile could not be trained with.
        stack.enter_context(torch.no_grad())
        taken = stack.enter_context(capture(model, layer))
        run = _Run(model, taken, dataset, preprocessing, device, batch_size, workers, progress)
        shape = run.probe()
        keep = values_to_keep(len(dataset) * shape[1] * shape[2], quantile)
        counts = Counts(concepts, dataset.categories, shape[0], rule, device)
        settings = {"layer": layer, "rule": rule, "quantile": quantile, "batch size": batch_size, "top": top}
        if state:
            stack.enter_context(alone(own_folder(state)))
        saved = Saved(state, settings | run.identity(concepts) if state else settings, restart)
        if keep == 1 and processes.first():
            warnings.warn(Note(_too_few(layer, len(dataset), shape, quantile)), stacklevel=2)
        survivors = _survivors(saved, shape, keep, memory, passes, stack)
        first = FirstPass(TopValues(shape[0], keep, device), survivors, min(top, len(dataset)), len(dataset))
        saved.resume(first, counts)
        run.first_pass(first, counts, saved)
        whole = shards.merge_first(first)
        _refuse_nan(whole.nan_counts, layer, allow_nan)
        thresholds = whole.values.compute()
        run.count(first, thresholds, counts, saved)
        counts = shards.merge_counts(counts)
        saved.drop_maps()
    if not counts.labelled:
        raise InputError("data: none of the images has a label; give a data set with labelled images")
    inter, areas, sizes = (each.cpu().numpy() for each in (counts.intersections, counts.areas, counts.sizes))
    categories = list(dataset.categories)
    return Dissection(
        rank(concepts, categories, inter, areas, sizes),
        categories,
        layer=layer,
        rule=rule,
        quantile=quantile,
        concepts=concepts,
        thresholds=thresholds.cpu().numpy(),
        intersections=inter,
        areas=areas,
        sizes=sizes,
        top_images=whole.top_images.T.cpu().numpy(),
        top_values=whole.top_values.T.cpu().numpy(),
        nan_counts=whole.nan_counts.cpu().numpy(),
        measured=run.measured(first),
    )


class _Run:
    """A model, a data set, and how the model is shown the images: this process's batches."""

    def __init__(
        self,
        model: nn.Module,
        taken: Capture,
        dataset: ConceptDataset,
        preprocessing: Preprocessing,
        device: torch.device,
        batch_size: int,
        workers: int,
        progress: bool,
    ) -> None:
        self.model, self.taken, self.dataset, self.preprocessing = model, taken, dataset, preprocessing
        self.device, self.batch_size, self.workers = device, batch_size, workers
        self.dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
        self.show = progress and processes.first()
        self.batches = range(processes.rank(), -(-len(dataset) // batch_size), processes.world())
        self.seconds: defaultdict[str, float] = defaultdict(float)

    def probe(self) -> tuple[int, int, int]:
        """Units, height and width of the layer's maps, from the first image."""
        maps_1Uhw = self._forward([image_of(self.dataset, 0)])
        units, height, width = maps_1Uhw.shape[1:]
        self.shape = (units, height, width)
        self.mean = _size(maps_1Uhw)
        # A blank image tells no network from another.
        others = iter(evenly_spaced(len(self.dataset), TELLING))
        while self.mean == 0 and (place := next(others, None)) is not None:
            self.mean = _size(self._forward([image_of(self.dataset, place)]))
        return self.shape

    def identity(self, concepts: list[Label]) -> dict[str, Any]:
        """What a saved state depends on, beside the arguments of `dissect`."""
        model = hashlib.sha256()
        for value in self.model.state_dict().values():
            if isinstance(value, Tensor):  # a module may add a state of any other kind
                # Of a sharded network all shards count.
                model.update(whole(value).cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
        labels = hashlib.sha256(repr(concepts).encode())
        names = [name_of(self.dataset, index) for index in range(len(self.dataset))]
        images = hashlib.sha256(repr(names).encode())
        images.update(image_of(self.dataset, 0)[1].cpu().contiguous().numpy().tobytes())
        # A data set in files can tell whether a file has changed.
        files = getattr(self.dataset, "fingerprint", None)
        images.update(files().encode() if callable(files) else b"")
        sizes = {"images": len(self.dataset), "maps": list(self.shape), "label maps": list(self.dataset.map_size)}
        hashes = {"labels": labels, "model": model, "images and label maps": images}
        digests: dict[str, Any] = {name: each.hexdigest()[:12] for name, each in hashes.items()}
        # In another network the same weights give other maps.
        digests["first image's maps"] = self.mean
        return {**sizes, "preprocessing": self.preprocessing.to_dict(), **digests}

    def first_pass(self, first: FirstPass, counts: Counts, saved: Saved) -> None:
        """Show the model the images that it has not seen."""
        batches = self.batches[first.next :]
        if first.survivors and not first.survivors.holds(self.batches[saved.counted : first.next]):
            first.survivors = None
        with self._bar("activations", batches) as shown:
            for batch, images in zip(batches, self._load(image_of, batches), strict=True):
                maps_BUhw = self._forward(images)
                with self._timed("observe"):
                    first.observe(batch, batch * self.batch_size, maps_BUhw)
                saved.save(first, counts)
                shown.update(len(images))
        saved.save(first, counts, now=True)

    def count(self, first: FirstPass, thresholds_U: Tensor, counts: Counts, saved: Saved) -> None:
        """Count the images that have not been counted, from the surviving maps or, without them, by a second pass."""
        batches = self.batches[saved.counted :]
        again = self._load(image_of, batches) if first.survivors is None else None
        with self._bar("counts", batches) as shown:
            for batch, labels in zip(batches, self._load(maps_of, batches), strict=True):
                images, units, maps_Shw = self._survivors(first, batch, thresholds_U, again)
                with self._timed("count"):
                    self._count_batch(images, units, maps_Shw, thresholds_U, labels, counts)
                saved.counted += 1
                saved.save(first, counts)
                shown.update(len(labels))
        saved.save(first, counts, now=True)

    def _survivors(
        self, first: FirstPass, batch: int, thresholds_U: Tensor, again: Iterator[list[tuple[str, Tensor]]] | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Images, units and maps of a batch that are above the threshold somewhere."""
        if first.survivors is not None:
            with self._timed("restore"):
                return restore(first.survivors.get(batch), self.shape[1:])
        assert again is not None
        maps_BUhw, highest_BU, _ = rank_nan_lowest(self._forward(next(again)))
        images, units = (highest_BU > thresholds_U).nonzero(as_tuple=True)
        return images, units, maps_BUhw[images, units]

    def _count_batch(
        self,
        images_S: Tensor,
        units_S: Tensor,
        maps_Shw: Tensor,
        thresholds_U: Tensor,
        labels: list[tuple[str, dict[str, Tensor]]],
        counts: Counts,
    ) -> None:
        units_S = units_S.to(self.device)
        excess_Shw = maps_Shw.to(self.device) - thresholds_U[units_S][:, None, None]
        height, width = self.dataset.map_size
        counts.update(images_S.to(self.device), units_S, excess_Shw, labels, (height, width))

    def _forward(self, images: list[tuple[str, Tensor]]) -> Tensor:
        """The layer's maps for images (name, uint8 (3, H, W)), which may differ in size before preprocessing."""
        with self._timed("preprocess"):
            pixels = [image.to(self.device) for _, image in images]
            if len({image.shape for image in pixels}) == 1:
                prepared = self.preprocessing(torch.stack(pixels))
            else:
                each = [self.preprocessing(image[None]) for image in pixels]
                for (name, _), image in zip(images, each, strict=True):
                    if image.shape != each[0].shape:
                        raise InputError(f"{name}: its size differs from the others'; give one size for all images (--size)")
                prepared = torch.cat(each)
        with self._timed("forward"):
            self._show(prepared.to(self.dtype))
            maps_BUhw = self.taken.take()
        if len(maps_BUhw) != len(images):
            found = f"{len(maps_BUhw)} maps of each unit for {len(images)} images"
            raise InputError(f"layer: {self.taken.layer!r} puts out {found}; choose one that puts out one for each image")
        if hasattr(self, "shape") and maps_BUhw.shape[1:] != self.shape:
            found = "x".join(map(str, maps_BUhw.shape[1:]))
            raise InputError(f"{images[0][0]}: its maps are {found}, the first image's are not; give one size for all (--size)")
        return maps_BUhw

    def _show(self, prepared: Tensor) -> None:
        try:
            with right_channels(self.model, prepared.shape[1]):
                self.model(prepared)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise InputError(f"images: the model does not take shape {tuple(prepared.shape)} ({why})") from error

    def _load(self, part: Part, batches: range) -> Iterator[list[tuple[str, Any]]]:
        loaded = load(self.dataset, part, [*batches], self.batch_size, self.workers)
        for _ in batches:
            with self._timed(part.__name__):
                samples = next(loaded)
            yield samples

    def _bar(self, phase: str, batches: range) -> "tqdm[Any]":
        def images(some: range) -> int:
            return sum(min(self.batch_size, len(self.dataset) - batch * self.batch_size) for batch in some)

        return bar(phase, images(self.batches), images(self.batches) - images(batches), self.show)

    @contextmanager
    def _timed(self, what: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.seconds[what] += time.perf_counter() - start

    def measured(self, first: FirstPass) -> dict[str, Any]:
        """What the run cost: seconds by kind of work, and the peak of surviving maps beside all maps, in bytes."""
        U, h, w = self.shape
        every = len(self.dataset) * U * h * w * 4
        peak = first.survivors.peak if first.survivors else 0
        share = first.kept_maps / max(first.maps, 1)
        seconds = {f"{what}_seconds": spent for what, spent in self.seconds.items()}
        return {
            **seconds,
            "passes": 1 if first.survivors else 2,
            "maps_kept_share": share,
            "peak_bytes": peak,
            "all_bytes": every,
        }


def _preprocessing(model: nn.Module, given: Preprocessing | None) -> Preprocessing:
    chosen = given if given is not None else getattr(model, "preprocessing", None)
    if not isinstance(chosen, Preprocessing):
        raise InputError("preprocessing: the model does not name its own; give size, mean and std (--size, --mean, --std)")
    return chosen


def _survivors(
    saved: Saved, shape: tuple[int, int, int], keep: int, memory: int, passes: int | None, stack: ExitStack
) -> Survivors | None:
    """Keeps surviving maps; None for two passes: if asked for, or if neither memory nor disk has room."""
    U, h, w = shape
    most = int(Survivors.SLACK * U * keep * (40 + h * w / 8))
    folder = saved.maps_folder
    if passes == 2:
        return None
    if folder is None and most > memory:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="dissection-")))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        if passes is None and shutil.disk_usage(folder).free < most:
            return None
    return Survivors((h, w), folder)


def _too_few(layer: str, images: int, shape: tuple[int, int, int], quantile: float) -> str:
    values, needed = images * shape[1] * shape[2], math.ceil(1 / (1 - Fraction(str(quantile))))
    return (
        f"layer: {layer!r} gives a unit {values} activations, too few for the {quantile} quantile: nothing is above it, and "
        f"every score is 0; give images for {needed} or more, or a lower quantile"
    )


def _size(maps: Tensor) -> float:
    """The mean size of some activations."""
    return float(maps.double().nan_to_num().abs().mean())


def _refuse_nan(nan_counts_U: Tensor, layer: str, allow: bool) -> None:
    units = nan_counts_U.nonzero()[:, 0].tolist()
    if units and not allow:
        named = ", ".join(f"{unit + 1} ({int(nan_counts_U[unit])} values)" for unit in units[:NAMED])
        more = f" and {len(units) - NAMED} more" if len(units) > NAMED else ""
        raise InputError(
            f"layer: {layer!r} puts out NaN in {len(units)} of {len(nan_counts_U)} units: {named}{more}; "
            "mend the model, or allow NaN to rank it lowest (--allow-nan)"
        )
