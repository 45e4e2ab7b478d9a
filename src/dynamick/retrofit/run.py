"""Units learnt on a trained network's frozen maps, with a head of a few of them a class; the network itself stays as it is."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick.comparison.cache import Features, images_done, usual_batch
from dynamick.comparison.entering import weights_digest
from dynamick.comparison.measuring import measure
from dynamick.data.labelled import LabelledImages
from dynamick.data.loading import first_readable
from dynamick.data.recipe import folder_recipe
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.explanation.folder import explain_folder
from dynamick.explanation.outputs import Outputs
from dynamick.files import alone, why_no_folder, write_json
from dynamick.networks import OpenNetwork, open_network, save
from dynamick.networks.running import like_input, right_channels
from dynamick.nn import Place, UnitLayer, add_units, find_place, unit_layer
from dynamick.processes import first, joined, wait, world
from dynamick.progress import bar
from dynamick.retrofit.checks import FIGURES, WEIGHTS, check_images, check_options, check_same, open_splits, tell_left_out
from dynamick.retrofit.estimate import BlankMaps, seconds_of_heads, seconds_of_pass, trainings
from dynamick.retrofit.head_alone import retrofit_head
from dynamick.retrofit.heads import DENSE, ROUTED, Images, Work, prune_units, row_of, tuned_probe, tuned_units
from dynamick.retrofit.learning import MOST_STEPS, Settings, UnitHead, pooled
from dynamick.retrofit.maps import SPARE, Maps, maps_entering, open_maps, room_for
from dynamick.retrofit.own_head import order_looks_wrong, own_head
from dynamick.retrofit.probe import BATCH, DECAYS, EPOCHS, passes
from dynamick.retrofit.report import Report, Retrofitted, Row
from dynamick.retrofit.shares import only_first, own_device
from dynamick.retrofit.tuning import split

TEACHERS = ("probe", "network", "none")
DECAYS_OF = (len(DECAYS), len(DENSE), len(ROUTED))
"""How many decays there are to choose from: of the probe, and of units under a dense and a routed head."""
PROBE, OWN = "dense linear probe", "the network's own head"


def retrofit(
    network: OpenNetwork,
    data: str | Path,
    out: str | Path,
    k: int = 5,
    units: int | None = 256,
    rule: str = "at_most",
    *,
    teacher: str = "probe",
    seed: int = 0,
    dtype: str = "float32",
    device: str = "cpu",
    page: str | Path | None = None,
    tell: Callable[[str], None] = print,
) -> Retrofitted:
    """Learn units and a Dynamic-K head of them on a network's last maps, and write the network with both.

    Every decay, the dense heads' too, is chosen on a fifth of the training images; then it learns from all.
    Writes weights.safetensors, which `dynamick.load` opens, and retrofit.json into the folder, and keeps the maps there: the
    same call goes on after an interruption. Under torchrun each process keeps the maps of its share, and all train together.

    Args:
        network: as `dynamick.open_network` opens it; its model is changed.
        data: a folder with train/CLASS/* and val/CLASS/*, or CLASS/*.
        out: the folder for what is made; it holds one head.
        k, rule: how many units a class routes, and whether `at_most` or `exactly` so many.
        units: how many are learnt; those that no class keeps are taken out. None learns no units: the head then reads the
            network's own features (`dynamick.retrofit.head_alone`), which costs accuracy where the network was not made for it.
        teacher: what the units also learn from: `probe`, a dense linear head on the same maps; `network`, the network's own
            logits, where its classes are the data's; or `none`.
        seed: of weights and of the order of images.
        dtype: without units, of the cached features: `float32` or `bfloat16`. Maps are always kept in bfloat16.
        device: where the network runs; units and heads are trained on the CPU.
        page: a file for a page that explains some validation images; None writes none.
        tell: is called with a line on what comes next.

    Returns:
        The figures of the new head, beside those of dense heads.

    Raises:
        InputError: an option is wrong; the network has no head, or does not say how its images are prepared; the images are
            missing, damaged or too few; a value of a map is not finite; the folder holds another head, or another
            process is at work in it.

    >>> import os
    >>> from PIL import Image
    >>> for number in range(24):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.new("RGB", (16, 16), ("red", "blue")[number % 2]).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> network = dk.open_network(dk.models.create("res8", 2, stem="patch", width=8, classes=["a", "b"]))
    >>> made = dk.retrofit.retrofit(network, "photos", "readable", k=2, units=8, tell=lambda line: None)
    >>> dk.open_network("readable").classes
    ['a', 'b']
    """
    check_options(k, units, rule, teacher, TEACHERS)
    pages = None if page is None else Outputs(out=Path(page))
    if pages is not None:
        pages.check({"--out": Path(out)})
    if (reason := why_no_folder(Path(out))) is not None:
        raise InputError(f"{out}: cannot be written ({reason}); give another --out")
    tell = only_first(tell)
    with joined(), alone(Path(out)) if first() else nullcontext():
        # No other process looks into the folder before.
        wait()
        device = own_device(device)
        if units is None and world() > 1:
            raise InputError("--units none: is for one process; give a number of units, or leave torchrun out")
        if units is None:
            made = retrofit_head(network, data, out, k, rule, seed=seed, dtype=dtype, device=device, tell=tell)
        else:
            settings = Settings(units=units, k=k, rule=rule, seed=seed)
            made = _retrofit_units(network, data, Path(out), settings, teacher, device, tell)
    if pages is not None and first():
        opened = replace(open_network(network.model), name=network.name, metrics={"top1": made.after["top1"]})
        explain_folder(opened, Path(data) / "val", pages)
    return made


def _retrofit_units(
    network: OpenNetwork,
    data: str | Path,
    out: Path,
    settings: Settings,
    teacher: str,
    device: str,
    tell: Callable[[str], None],
) -> Retrofitted:
    prepare, head = network.need_preprocessing(), network.need_head()
    made = {name: getattr(settings, name) for name in ("k", "rule", "units", "seed")}
    made |= {"teacher": teacher, "weights": weights_digest(network.model)}
    check_same(out / FIGURES, made)
    if unit_layer(network.model) is not None:
        raise InputError(f"{network.source or network.name}: has learnt units already; give the network that it was made of")
    shown = folder_recipe(data, prepare.size, network.data)
    images = open_splits(shown, tell)
    check_images(images["train"].labels, images["train"].classes)
    order = network.order_of(images["val"].classes)
    if teacher == "network" and order is None:
        raise InputError("--teacher network: its outputs are not the classes of these images; give probe, or none")
    model: Any = network.model.to(device).eval()
    two = prepare(first_readable(images["train"], 2))
    with right_channels(model, two.shape[1]):
        place = find_place(model, head, two.to(device, like_input(model, head).dtype))
    stored = {name: _is_stored(place, each, out / "maps" / name, tell) for name, each in images.items()}
    _tell_estimate(network, place, images, out / "maps", settings, all(stored.values()), tell)
    maps = {name: _maps(network, place, each, out / "maps" / name, stored[name], tell) for name, each in images.items()}
    check_images(maps["train"][1], images["train"].classes)
    model.cpu()
    began = time.monotonic()
    learnt, seen = (Images.of(*maps[name]) for name in ("train", "val"))
    work = Work(learnt, seen, len(images["val"].classes), settings.seed, next(model.parameters()).dtype)
    own = None if order is None else own_head(network, order)
    if own is not None and (hint := order_looks_wrong(own(work.val.means), work.val.labels)) is not None:
        tell(hint)
    outputs = len(model.get_submodule(head).weight)
    net, rows, tried, changed = _heads(work, settings, own, teacher, tell)
    model.preprocessing, model.classes = replace(prepare, size=shown.side), list(images["train"].classes)
    report = Report(
        rows,
        len(split(work.train.labels)[1]),
        tried,
        len(work.train.labels),
        len(work.val.labels),
        changed,
        time.monotonic() - began,
        place.why,
    )
    before = None if own is None else measure(own, features(work.val.means, work.val.labels, model.classes))
    after = measure(net.head, features(pooled(net, work.val.maps), work.val.labels, model.classes))
    # Last of all, for maps may be asked of the network as it was.
    _install(network, head, place, net)
    about = {"model": network.name, "data": Path(shown.root).name, "k": settings.k, "rows": [asdict(row) for row in rows]}
    metrics = {"top1": rows[-1].top1, "top5": rows[-1].top5}
    if first():
        save(model, out / WEIGHTS, {"retrofit": about, "recipe": {"data": asdict(shown)}, "metrics": metrics}, vouch=True)
        write_json(out / FIGURES, {"before": before, "after": after, **report.to_dict(), **made})
    # No process ends before: the folder is whole then.
    wait()
    return Retrofitted(before, after, outputs, model.classes, report)


def features(x: Tensor, labels: Tensor, classes: list[str]) -> Features:
    """What a head reads, as `measure` takes it."""
    return Features(x, labels, classes, [str(row) for row in range(len(labels))])


def _is_stored(place: Place, images: LabelledImages, folder: Path, tell: Callable[[str], None]) -> bool:
    """Whether the disk holds the maps of a split; says how large they are."""
    needed, free = room_for(len(images), place, folder)
    if SPARE * needed < free or folder.exists():
        tell(f"maps of {len(images):,} images: {needed / 1e9:.2f} GB in {folder}")
        return True
    tell(
        f"maps of {len(images):,} images: {needed / 1e9:.2f} GB, and {free / 1e9:.2f} GB are free in {folder.parent}; "
        "none are kept, the network runs again in every pass, which takes much longer"
    )
    return False


def _tell_estimate(
    network: OpenNetwork,
    place: Place,
    images: dict[str, LabelledImages],
    folder: Path,
    settings: Settings,
    stored: bool,
    tell: Callable[[str], None],
) -> None:
    """Say how long all of it takes, before the first image is kept."""
    count = len(images["train"])
    left = sum(len(each) - images_done(folder / name) for name, each in images.items()) if stored else len(images["val"])
    # Several processes share the pass.
    left = left // world()
    blank = BlankMaps((count, max(1, place.cells), place.channels))
    heads = seconds_of_heads(blank, len(images["train"].classes), [replace(settings, k=None), settings], DECAYS_OF)
    # Without kept maps each epoch is another pass.
    left += 0 if stored else round(count * settings.epochs * sum(map(trainings, DECAYS_OF[1:])))
    enter = partial(maps_entering, network.model, network.need_head(), place, network.need_preprocessing())
    batch = usual_batch(next(network.model.parameters()).device, images["train"].side)
    shown = seconds_of_pass(enter, images["train"], batch, left) if left else 0.0
    parts = f"{in_words(shown)} for the network's pass, {in_words(heads.seconds)} to learn"
    tell(f"{in_words(shown + heads.seconds)} in all: {parts}")


def _maps(
    network: OpenNetwork, place: Place, images: LabelledImages, folder: Path, stored: bool, tell: Callable[[str], None]
) -> tuple[Maps, Tensor]:
    """The maps and labels of a split's images that can be read."""
    prepare, head = network.need_preprocessing(), network.need_head()
    maps, labels, refused = open_maps(network.model, head, place, images, prepare, folder, stored)
    tell_left_out(refused, tell)
    return maps, labels


def _heads(
    work: Work, settings: Settings, own: Any, teacher: str, tell: Callable[[str], None]
) -> tuple[UnitHead, list[Row], dict[str, dict[float, float]], int]:
    """Train all heads; the routed one comes last, pruned."""
    x, y = work.train.means, work.train.labels
    rows = [] if own is None else [row_of(OWN, own, work.val.means, work.val.labels)]
    kinds = {"units, dense head": (None, DENSE), f"units, Dynamic-{settings.k}": (settings.k, ROUTED)}
    # Now with the maps as they are.
    each = [replace(settings, k=k) for k, _ in kinds.values()]
    tell(f"learning: {in_words(seconds_of_heads(work.train.maps, work.classes, each, DECAYS_OF).seconds)}")
    with _progress(PROBE, trainings(len(DECAYS)), passes(EPOCHS, len(y), min(BATCH, len(y))), len(y)) as shown:
        probe = tuned_probe(replace(work, tell=shown.update))
    rows.append(probe.row)
    lessons: dict[str, tuple[Tensor | None, Tensor | None]] = {
        "probe": (probe.logits, probe.unseen),
        "none": (None, None),
    }
    if own is not None:
        logits = torch.cat([own(part) for part in x.split(4096)])
        lessons["network"] = (logits, logits)
    tried, changed = {PROBE: probe.choice.tried}, 0
    epochs = passes(settings.epochs, len(y), min(settings.batch, len(y)), MOST_STEPS)
    for name, (k, decays) in kinds.items():
        whole, part = (None, None) if k is None else lessons[teacher]
        with _progress(name, trainings(len(decays)), epochs, len(y)) as shown:
            net, choice, seconds = tuned_units(replace(work, tell=shown.update), replace(settings, k=k), decays, whole, part)
        # Rounded as the network's own weights are, before it is measured.
        net.to(work.dtype).float()
        changed = 0 if k is None else prune_units(net, work.train.maps)
        rows.append(row_of(name, net.head, pooled(net, work.val.maps), work.val.labels, choice.value, seconds))
        tried[name] = choice.tried
    return net, rows, tried, changed


@contextmanager
def _progress(name: str, count: float, epochs: int, images: int) -> Iterator[Any]:
    """A bar of about so many trainings; how many there are is known at their end."""
    with bar(name, round(count * epochs * images), show=first()) as shown:
        yield shown
        shown.total = shown.n


def _install(network: OpenNetwork, head: str, place: Place, net: UnitHead) -> None:
    """Put learnt units and their head into the network."""
    like = next(network.model.parameters())
    layer = UnitLayer(place.channels, net.units.conv.out_channels)
    layer.load_state_dict(net.units.state_dict())
    add_units(network.model, head, place, layer.to(like.dtype), net.head.to(like.dtype))
