"""Units learnt on the frozen maps of EfficientNet-Lite0 (ImageNet weights), under several heads (docs/results/pretrained.md).

python -m benchmarks.results.pretrained learn miniplaces|cifar10 --data data --out runs/pretrained [--seeds 0 1 2] [--only NAME]
python -m benchmarks.results.pretrained dissect miniplaces --data data --out runs/pretrained
python -m benchmarks.results.pretrained table miniplaces --out runs/pretrained
python -m benchmarks.results.pretrained ship miniplaces --data data --out runs/pretrained

`data` holds miniplaces64, minibroden and cifar-10-batches-py. What is done already is not done again. Decays are chosen once,
with seed 0, on a fifth of the training images that is held out; the validation images are looked at once, for the figures.
"""

import argparse
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from benchmarks.prepare.without_overlap import place_and_number, shown_in
from benchmarks.results.pretrained_tables import part_of, print_table, seen_by, slug, slug_of
from dynamick import dissect, open_network, save
from dynamick.comparison.heads import elastic_net, ucbm
from dynamick.comparison.heads.gradual_pruning import GradualPruning
from dynamick.comparison.heads.l1_proximal import Proximal
from dynamick.comparison.heads.static_top_k import StaticTopK
from dynamick.comparison.measuring import measure
from dynamick.data import open_concepts
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.files import read_json, write_atomically, write_json
from dynamick.metrics.sparsity import THRESHOLD
from dynamick.networks.published import SHIPPED
from dynamick.nn import DynamicLinear, UnitLayer, add_units, find_place
from dynamick.retrofit.heads import DENSE, ROUTED, Images, Work, prune_units, row_of, tuned_probe, tuned_units, units_within
from dynamick.retrofit.learning import Settings, UnitHead, learn, pooled
from dynamick.retrofit.maps import StoredMaps, open_maps
from dynamick.retrofit.probe import fit_probe
from dynamick.retrofit.report import Row
from dynamick.retrofit.run import features
from dynamick.retrofit.tuning import accuracy

SETS = {"miniplaces": DataRecipe("folder", "miniplaces64", 128), "cifar10": DataRecipe("cifar10", ".", 96)}
DECAYS = (1.0, 2.0, 4.0)
"""Of routed and of static sparse heads."""
NETWORK = ("efficientnet-lite0", "DEFAULT")


@dataclass(frozen=True)
class Way:
    """Units and a head, learnt together.

    Attributes:
        settings: all but decay and seed.
        decays: to choose from; none where the budget of 5 weights a class decides the strength.
        taught: whether the tuned dense probe is the teacher.
        unseen: leave out the training images that minibroden shows too.
    """

    settings: Settings
    decays: tuple[float, ...]
    taught: bool = True
    unseen: bool = False


def routed(k: int) -> Way:
    """A Dynamic-K head."""
    return Way(Settings(k=k), DECAYS)


WAYS = {
    "units, dense": Way(Settings(k=None), DENSE, taught=False),
    "units, dense, taught": Way(Settings(k=None), DENSE),
    **{f"units, Dynamic-{k}": routed(k) for k in (1, 3, 5, 10)},
    "units, Dynamic-5, decay 4": Way(Settings(k=5), (4.0,)),
    "units, static 5": Way(Settings(head=StaticTopK(5)), DECAYS),
    "units, pruned to 5": Way(Settings(head=GradualPruning(5)), (0.05, 0.5, 1.5, 3.0, 6.0)),
    "units, L1": Way(Settings(), ()),
    "units, Dynamic-5, unseen": replace(routed(5), decays=ROUTED, unseen=True),
}

FITTED = {
    "features, elastic-net path to 5": ("features", elastic_net.fit),
    "dense units, elastic-net path to 5": ("units, dense", elastic_net.fit),
    "features, UCBM's way, k = 5": ("features", ucbm.fit),
}
"""Heads that are fitted on what does not change: on the network's features, or on the units of a way."""


def learn_all(name: str, data: Path, out: Path, seeds: list[int], only: list[str]) -> None:
    """Train whatever is missing; one JSON and one file of weights for each way and seed."""
    work, names = opened(name, data, out)
    for seed in seeds:
        now = replace(work, seed=seed)
        probe = done(out / f"probe-{seed}", lambda now=now, seed=seed: learn_probe(now, out, seed))
        lessons = safetensors.torch.load_file(out / f"probe-{seed}.safetensors")
        print(f"probe, seed {seed}: {probe['row']['top1']:.2f} %", flush=True)
        for title in only or [*WAYS, *FITTED]:
            if title in FITTED:
                done(out / f"{slug(title)}-{seed}", lambda now=now, title=title, seed=seed: fit_one(now, out, title, seed))
                continue
            way = WAYS[title]
            if way.unseen and name != "miniplaces":
                continue
            rows = not_shown(names, data / "minibroden") if way.unseen else None
            file = out / f"{slug(title)}-{seed}"
            found = done(
                file, lambda now=now, file=file, way=way, rows=rows, lessons=lessons: learn_one(now, file, way, lessons, rows)
            )
            row = found["row"]
            print(f"{title}, seed {seed}: {row['top1']:.2f} %, {row['weights']:.2f} weights a class", flush=True)


def opened(name: str, data: Path, out: Path) -> tuple[Work, Sequence[str]]:
    """The maps of a set's images, and the training images' names."""
    recipe, found = SETS[name], {}
    network = open_network(*NETWORK, size=recipe.size)
    prepare, head = network.need_preprocessing(), network.need_head()
    recipe = replace(recipe, root=str(data / recipe.root), in_memory=True)
    images = {part: open_images(recipe, part, recipe.size) for part in ("train", "val")}
    place = find_place(network.model, head, prepare(images["train"].take([0, 1])[0]))
    for part, each in images.items():
        maps, labels, _ = open_maps(network.model, head, place, each, prepare, out / "maps" / part)
        found[part] = Images.of(maps, labels)
    return Work(found["train"], found["val"], len(images["train"].classes)), images["train"].names


def done(file: Path, make: Any) -> dict[str, Any]:
    """The figures in FILE.json, made where they are missing."""
    path = file.with_name(f"{file.name}.json")
    if not path.exists():
        began = time.monotonic()
        write_json(path, make() | {"seconds": time.monotonic() - began})
    found: dict[str, Any] = read_json(path)
    return found


def learn_probe(work: Work, out: Path, seed: int) -> dict[str, Any]:
    """The dense linear probe. Seed 0 chooses the decay."""
    if seed == 0:
        tuned = tuned_probe(work)
        write_tensors(out / f"probe-{seed}", {"logits": tuned.logits, "unseen": tuned.unseen})
        return {"row": asdict(tuned.row), "tried": tuned.choice.tried}
    decay = read_json(out / "probe-0.json")["row"]["decay"]
    probe = fit_probe(work.train.means, work.train.labels, work.classes, decay, seed)
    write_tensors(out / f"probe-{seed}", {"logits": probe.logits(work.train.means)})
    return {"row": asdict(row_of("probe", probe.head, work.val.means, work.val.labels, decay))}


def learn_one(work: Work, file: Path, way: Way, lessons: dict[str, Tensor], rows: Tensor | None) -> dict[str, Any]:
    """One way, one seed. Seed 0 chooses the decay."""
    if rows is not None:
        train, maps = work.train, work.train.maps
        assert isinstance(maps, StoredMaps)
        some = StoredMaps(maps.chunks, maps.kept[rows])
        work = replace(work, train=Images(some, train.means[rows], train.labels[rows]))
        lessons = {name: logits[rows] for name, logits in lessons.items()}
    settings = replace(way.settings, seed=work.seed)
    whole, part = (lessons["logits"], lessons.get("unseen")) if way.taught else (None, None)
    first, began = file.with_name(f"{slug_of(file)}-0.json"), time.monotonic()
    tried: dict[float, float] = {}
    if work.seed:
        decay = read_json(first)["row"]["decay"]
        settings = replace(settings, decay=decay) if way.decays else replace(settings, head=Proximal(decay), decay=0.0)
        net = learn(work.train.maps, work.train.labels, work.classes, settings, whole)
        seconds = time.monotonic() - began
    elif way.decays:
        net, choice, seconds = tuned_units(work, settings, way.decays, whole, part)
        decay, tried = choice.value, choice.tried
    else:
        net, decay, seconds = units_within(work, settings, 5, whole)
    changed = prune_units(net, work.train.maps) if isinstance(net.head, DynamicLinear) else 0
    x, weight = pooled(net, work.val.maps), net.head.get_parameter("weight")
    kept = weight.abs() >= THRESHOLD
    write_tensors(file, {**net.units.state_dict(), "head.weight": weight, "head.bias": net.head.get_parameter("bias")})
    return {
        "row": asdict(row_of(file.name, net.head, x, work.val.labels, decay, seconds)),
        "tried": {f"{each:g}": top1 for each, top1 in tried.items()},
        "changed": changed,
        "negative": float(((weight < 0) & kept).sum() / kept.sum()),
        "measured": measure(net.head, features(x, work.val.labels, [str(c) for c in range(work.classes)])),
    }


def fit_one(work: Work, out: Path, title: str, seed: int) -> dict[str, Any]:
    """A head of five weights a class, or of five concepts a picture."""
    on, fit = FITTED[title]
    x, seen = work.train.means, work.val.means
    if on != "features":
        net = learnt_units(out / f"{slug(on)}-{seed}.safetensors", x.shape[1])
        x, seen = pooled(net, work.train.maps), pooled(net, work.val.maps)
    found = next(iter(fit(x, work.train.labels, work.classes, [5], seed)))
    with torch.no_grad():
        top5 = accuracy(found.head(seen), work.val.labels, 5)
    figures: dict[str, Any] = measure(found.head, features(seen, work.val.labels, [str(c) for c in range(work.classes)]))
    head: Any = found.head[1] if isinstance(found.head, nn.Sequential) else found.head
    weight: Tensor = head.weight
    row = Row(
        title, figures["top1"], top5, figures["nec"], int(figures["max_per_class"]), int(figures["units"]), None, found.seconds
    )
    print(f"{title}, seed {seed}: {row.top1:.2f} %, {row.weights:.2f} weights a class", flush=True)
    return {
        "row": asdict(row),
        "negative": float((weight < 0).sum() / (weight != 0).sum()),
        "measured": figures,
        "about": found.about,
    }


def learnt_units(file: Path, channels: int) -> UnitHead:
    """The units and the head of a way, from its file."""
    tensors = safetensors.torch.load_file(file)
    head = nn.Linear(tensors["head.weight"].shape[1], len(tensors["head.weight"]))
    net = UnitHead(channels, head.in_features, head)
    net.load_state_dict({name if name.startswith("head.") else f"units.{name}": each for name, each in tensors.items()})
    return net.eval().requires_grad_(False)


def not_shown(names: Sequence[str], broden: Path) -> Tensor:
    """The places of the training images that are not in minibroden."""
    shown = shown_in(broden)
    return torch.tensor([place_and_number(Path(name)) not in shown for name in names]).nonzero().flatten()


def write_tensors(file: Path, tensors: dict[str, Tensor]) -> None:
    """Into FILE.safetensors."""
    data = safetensors.torch.save({name: each.detach().contiguous() for name, each in tensors.items()})
    write_atomically(file.with_name(f"{file.name}.safetensors"), data)


def dissect_all(side: int, data: Path, out: Path) -> None:
    """Dissect the units of all ways and seeds at once, as one wide layer; a unit's figures do not depend on the others."""
    network = open_network(*NETWORK, size=side)
    prepare, head = network.need_preprocessing(), network.need_head()
    files = sorted(out.glob("units-*.safetensors"))
    tensors = [safetensors.torch.load_file(file) for file in files]
    example = prepare(torch.zeros(2, 3, side, side, dtype=torch.uint8))
    place = find_place(network.model, head, example)
    wide = UnitLayer(place.channels, sum(len(each["head.weight"][0]) for each in tensors))
    wide.load_state_dict(
        {key: torch.cat([each[key] for each in tensors]) if value.ndim else value for key, value in wide.state_dict().items()}
    )
    add_units(network.model, head, place, wide, nn.Linear(wide.conv.out_channels, 2))
    concepts = open_concepts(data / "minibroden")
    found = dissect(network.model, "units", concepts, preprocessing=prepare, state=out / "dissection")
    first = 0
    for file, each in zip(files, tensors, strict=True):
        count = len(each["head.weight"][0])
        units = part_of(found, first, first + count)
        write_json(file.with_suffix(".units.json"), seen_by(each["head.weight"], units))
        first += count


def ship(name: str, data: Path, out: Path, way: str = "units, Dynamic-5") -> None:
    """The units and the head of seed 0 as a file that comes with the package, without the published weights."""
    recipe = replace(SETS[name], root=str(data / SETS[name].root), in_memory=True)
    assert recipe.size is not None
    network = open_network(*NETWORK, size=recipe.size)
    prepare, head = network.need_preprocessing(), network.need_head()
    tensors = safetensors.torch.load_file(out / f"{slug(way)}-0.safetensors")
    weight, bias = tensors.pop("head.weight"), tensors.pop("head.bias")
    place = find_place(network.model, head, prepare(torch.zeros(2, 3, recipe.size, recipe.size, dtype=torch.uint8)))
    layer, routing = UnitLayer(place.channels, weight.shape[1]), DynamicLinear(weight.shape[1], len(weight), 5)
    layer.load_state_dict(tensors)
    routing.load_state_dict({"weight": weight, "bias": bias})
    add_units(network.model, head, place, layer, routing)
    model: Any = network.model.eval()
    model.preprocessing, model.classes = prepare, sorted(each.name for each in (Path(recipe.root) / "val").iterdir())
    row = read_json(out / f"{slug(way)}-0.json")["row"]
    about = {
        "recipe": {"data": asdict(replace(recipe, root=SETS[name].root))},
        "metrics": {"top1": row["top1"], "top5": row["top5"]},
    }
    file = SHIPPED / f"lite0-{name}.safetensors"
    file.parent.mkdir(exist_ok=True)
    save(model, file, about, published=False)
    print(f"{file}: {file.stat().st_size / 1e6:.1f} MB")


def main() -> None:
    """Learn, dissect, or print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("step", choices=("learn", "dissect", "table", "ship"))
    parser.add_argument("set", choices=SETS)
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--out", type=Path, default=Path("runs/pretrained"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--only", nargs="+", default=[], choices=[*WAYS, *FITTED])
    args = parser.parse_args()
    out = args.out / args.set
    out.mkdir(parents=True, exist_ok=True)
    side = SETS[args.set].size
    assert side is not None
    if args.step == "learn":
        learn_all(args.set, args.data, out, args.seeds, args.only)
    elif args.step == "dissect":
        dissect_all(side, args.data, out)
    elif args.step == "ship":
        ship(args.set, args.data, out)
    else:
        print_table(out, [*WAYS, *FITTED])


if __name__ == "__main__":
    main()
