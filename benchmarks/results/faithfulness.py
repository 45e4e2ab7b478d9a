"""How far explanations can be trusted, dense against Dynamic-K:

    python -m benchmarks.results.faithfulness OUT.json --dense runs/scenes/res8-?/last.safetensors \\
        --dynamic runs/scenes/res8-d5a-?/last.safetensors
    python -m benchmarks.results.faithfulness OUT.json --concepts data/minibroden \\
        --dense runs/miniplaces/res8-?/last.safetensors --dynamic runs/miniplaces/res8-d5a-?/last.safetensors

Deletion and insertion by contribution, at random, by Grad-CAM and integrated gradients (Captum); units needed for 98 % of the
score; the error of the sum; what IBD leaves of a dense network's score; classes covered by at most 5 concepts; a proxy
reader's answers. On generated scenes also: the learnt compositions against the true parts, and the heatmaps against the true
masks. Means and deviations over the files given; each file says what it was trained on. OUT.json is written after every file,
and the same command goes on from there.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import replace
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick import networks
from dynamick.data import ComposedScenes
from dynamick.data.checking import open_concepts
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.data.sources.scenes import SEED as SCENES_SEED
from dynamick.dissection import Dissection, dissect
from dynamick.errors import InputError
from dynamick.explanation import Explanation, Reader, composition_truth, explain, heatmap_truth
from dynamick.explanation.instances import explanations_of
from dynamick.explanation.trust import measure
from dynamick.figures.paper.fig7 import FEW, residual_of_ibd

KINDS = ("dense", "dynamic")
LAYER = "layer3"
POINTS = (1, 2, 3, 4, 5, 10, 20, 32)
"""So many units removed or added are written out; the areas are over 0 to 32."""


def measure_file(path: Path, images: int, read: int, dissected: int, concepts: Path | None) -> dict[str, Any]:
    """All figures of one trained model, by dotted names."""
    model: Any = networks.load(path)
    said = networks.read_config(path)["extra"]
    trained_on, epochs = said.get("recipe", {}).get("data"), said.get("recipe", {}).get("optim", {}).get("epochs")
    if trained_on is None:
        raise InputError(f"{path}: does not say on which data it was trained; give a file that dynamick train wrote")
    if said.get("metrics", {}).get("epoch", epochs) != epochs:
        raise InputError(f"{path}: its training goes on, or was not finished; give a file of a finished one")
    recipe = DataRecipe(**trained_on)
    # Concepts, too, are seen at the size of the images that it learnt from.
    model.preprocessing = replace(model.preprocessing, size=recipe.side)
    to_read = held_out(recipe, read)
    shown = to_read[:: max(1, len(to_read) // images)][:images]
    truth: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory() as folder:
        if recipe.kind == "scenes":
            concepts = Path(folder)
            ComposedScenes("val", dissected, SCENES_SEED, recipe.size).write_broden(concepts)
        units = None if concepts is None else dissect(model, LAYER, open_concepts(concepts), progress=False)
        if concepts is not None and getattr(model.fc, "k", None) is None:
            seen = Reader(model).see(shown, maps=False)
            truth["left by IBD, median"] = residual_of_ibd(seen, explanations_of(seen, maps=False), concepts)
    if recipe.kind == "scenes" and units is not None:
        truth |= against_truth(model, units, recipe, images)
    explanations = explain(model, to_read, units=units, maps=False)
    found = measure(model, shown, explanations, units)
    of, reader = found["faithfulness"], found["simulability"]
    figures: dict[str, float | None] = {}
    for each in of["curves"]:
        for side in ("deletion", "insertion"):
            figures[f"{side}, {each['order']}: area"] = each[f"{side}_area"]
            curve = dict(zip(each["counts"], each[side], strict=True))
            figures |= {f"{side}, {each['order']}: {n} units": curve[n] for n in POINTS if n in curve}
    figures |= {"error of the sum, largest": of["error"], "proxy reader agrees": reader["agreement"]}
    figures |= {"proxy reader by chance": reader["chance"], "classes covered by 5 concepts": found["covered"]}
    return {"images": len(shown), "read": len(to_read), "figures": figures | needed(explanations) | truth}


def needed(explanations: list[Explanation]) -> dict[str, float | None]:
    """Units for 98 % of the score, and what is left of the sum over all units."""
    n98 = [each.n98 for each in explanations if each.n98 is not None]
    few = [abs(left) for each in explanations if (left := each.residual_after(FEW)) is not None]
    all_shown = [abs(each.residual) for each in explanations if each.residual is not None]
    return {
        "n98, median": statistics.median(n98),
        f"images with n98 of {FEW} and fewer": statistics.fmean(n <= FEW for n in n98),
        f"left by the {FEW} largest, median": statistics.median(few),
        "left by all that are routed, median": statistics.median(all_shown),
    }


def held_out(recipe: DataRecipe, count: int) -> Tensor:
    """Validation images, uint8, spread evenly over the set."""
    data = open_images(recipe, "val")
    return data.take(torch.linspace(0, len(data) - 1, min(count, len(data))).long().tolist())[0]


def against_truth(model: Any, units: Dissection, recipe: DataRecipe, images: int) -> dict[str, float | None]:
    """What is true about the explanations of generated scenes."""
    scenes = ComposedScenes("val", images, SCENES_SEED, recipe.size)
    made_of, heat = composition_truth(model, units, scenes.table, scenes.parts), heatmap_truth(model, scenes)
    figures: dict[str, float | None] = {f"composition: {name}": value for name, value in made_of.to_dict().items()}
    return figures | {f"heatmap: {name}": value for name, value in heat.to_dict().items() if name != "images"}


def summarise(runs: list[dict[str, Any]]) -> dict[str, tuple[float, float]]:
    """Each figure's mean and standard deviation (0 for one file) over the runs that have it."""
    result = {}
    for name in dict.fromkeys(name for run in runs for name in run["figures"]):
        values = [run["figures"][name] for run in runs if run["figures"].get(name) is not None]
        if values:
            result[name] = (statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0)
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for kind in KINDS:
        parser.add_argument(f"--{kind}", type=Path, nargs="+", required=True)
    parser.add_argument("--images", type=int, default=500, help="whose units are removed, and whose heatmaps are measured")
    parser.add_argument("--read", type=int, default=2000, help="explained; the proxy reader learns from half of them")
    parser.add_argument("--dissected", type=int, default=1000, help="generated scenes")
    parser.add_argument("--concepts", type=Path, help="a data set of concepts, for networks of real images")
    args = parser.parse_args()
    settings = {"torch": torch.__version__, "images": args.images, "read": args.read, "dissected": args.dissected}
    settings["concepts"] = None if args.concepts is None else args.concepts.name
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    done = before.get("runs", {}) if {name: before.get(name) for name in settings} == settings else {}
    wanted = [str(path) for pair in zip_longest(args.dense, args.dynamic) for path in pair if path is not None]
    for file in wanted:
        if file not in done:
            print(file, flush=True)
            done[file] = measure_file(Path(file), args.images, args.read, args.dissected, args.concepts)
            args.out.write_text(json.dumps({**settings, "runs": done}, indent=1))
    figures = {kind: summarise([done[str(path)] for path in getattr(args, kind)]) for kind in KINDS}
    args.out.write_text(json.dumps({**settings, "runs": done, "mean and deviation": figures}, indent=1))
    print(f"{'':44} {'dense':>18} {'dynamic':>18}")
    for name in figures["dense"] | figures["dynamic"]:
        cells = [_cell(figures[kind].get(name)) for kind in KINDS]
        print(f"{name:44} {cells[0]:>18} {cells[1]:>18}")


def _cell(figure: tuple[float, float] | None) -> str:
    return "-" if figure is None else "{:.3g} ± {:.2g}".format(*figure)


if __name__ == "__main__":
    main()
