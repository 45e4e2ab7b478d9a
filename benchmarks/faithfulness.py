"""How far explanations can be trusted, dense against Dynamic-K:

    python benchmarks/faithfulness.py OUT.json --dense runs/scenes/res8-?/best.safetensors \\
        --dynamic runs/scenes/res8-d5a-?/best.safetensors

Deletion and insertion by contribution, at random, by Grad-CAM and integrated gradients (Captum); units needed for 98 % of the
score; the error of the sum; a proxy reader's answers. On generated scenes also: the learnt compositions against the true parts,
and the heatmaps against the true masks. Means and deviations over the files given; each file says what it was trained on.
OUT.json is written after every file, and the same command goes on from there.
"""

import argparse
import json
import statistics
import tempfile
from itertools import zip_longest
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick import checkpoint
from dynamick.cli.measuring import measure
from dynamick.data import ComposedScenes
from dynamick.data.broden import Broden
from dynamick.data.images import ImageTensors
from dynamick.dissection import Dissection, dissect
from dynamick.errors import InputError
from dynamick.explanation import composition, composition_truth, explain, heatmap_truth, share_covered
from dynamick.training.data import SCENES_SEED, load_images
from dynamick.training.recipe import DataRecipe

KINDS = ("dense", "dynamic")


def measure_file(path: Path, images: int, dissected: int) -> dict[str, Any]:
    """All figures of one trained model, by dotted names."""
    model: Any = checkpoint.load(path)
    trained_on = checkpoint.read_config(path)["extra"].get("recipe", {}).get("data")
    if trained_on is None:
        raise InputError(f"{path}: does not say on which data it was trained; give a file that dynamick train wrote")
    recipe = DataRecipe(**trained_on)
    shown = held_out(recipe, images)
    units, truth = (None, {}) if recipe.kind != "scenes" else against_truth(model, recipe, images, dissected)
    explanations = explain(model, shown, units=units, maps=False)
    found = measure(model, shown, explanations)
    of, reader = found["faithfulness"], found["simulability"]
    figures = {f"{each['order']}: {name}": each[f"{name}_area"] for each in of["curves"] for name in ("deletion", "insertion")}
    figures |= {"n98: median units": of["median_n98"], "n98: mean share of units": of["share_98"]}
    figures |= {"residual, median": of["median_residual"], "error of the sum, largest": of["error"]}
    figures |= {"proxy reader agrees": reader["agreement"], "proxy reader by chance": reader["chance"]}
    return {"images": len(shown), "figures": figures | truth, "left_out": found["left_out"]}


def held_out(recipe: DataRecipe, count: int) -> Tensor:
    """Validation images, uint8, spread evenly over the set."""
    data = load_images(recipe, "val")
    if not isinstance(data, ImageTensors):
        raise InputError(f"{recipe.root}: these images are not held in memory; give a model trained on ones that are")
    images = data.images
    return images[torch.linspace(0, len(images) - 1, min(count, len(images))).long()]


def against_truth(model: Any, recipe: DataRecipe, images: int, dissected: int) -> tuple[Dissection, dict[str, float]]:
    """The dissection on generated scenes, and what is true about the explanations."""
    scenes = ComposedScenes("val", max(images, dissected), SCENES_SEED, recipe.size)
    with tempfile.TemporaryDirectory() as folder:
        ComposedScenes("val", dissected, SCENES_SEED, recipe.size).write_broden(folder)
        units = dissect(model, "layer3", Broden(folder), progress=False)
    made_of, heat = composition_truth(model, units, scenes.table, scenes.parts), heatmap_truth(model, scenes, images)
    figures = {f"composition: {name}": value for name, value in made_of.to_dict().items()}
    figures["composition: classes covered by 5"] = share_covered(composition(model, units))
    return units, figures | {f"heatmap: {name}": value for name, value in heat.to_dict().items() if name != "images"}


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
    parser.add_argument("--images", type=int, default=500)
    parser.add_argument("--dissected", type=int, default=1000)
    args = parser.parse_args()
    settings = {"torch": torch.__version__, "images": args.images, "dissected": args.dissected}
    before = json.loads(args.out.read_text()) if args.out.exists() else {}
    done = before.get("runs", {}) if {name: before.get(name) for name in settings} == settings else {}
    wanted = [str(path) for pair in zip_longest(args.dense, args.dynamic) for path in pair if path is not None]
    for file in wanted:
        if file not in done:
            print(file, flush=True)
            done[file] = measure_file(Path(file), args.images, args.dissected)
            args.out.write_text(json.dumps({**settings, "runs": done}, indent=1))
    figures = {kind: summarise([done[str(path)] for path in getattr(args, kind)]) for kind in KINDS}
    args.out.write_text(json.dumps({**settings, "runs": done, "mean and deviation": figures}, indent=1))
    print(f"{'':36} {'dense':>18} {'dynamic':>18}")
    for name in figures["dense"] | figures["dynamic"]:
        cells = [_cell(figures[kind].get(name)) for kind in KINDS]
        print(f"{name:36} {cells[0]:>18} {cells[1]:>18}")


def _cell(figure: tuple[float, float] | None) -> str:
    return "-" if figure is None else "{:.3g} ± {:.2g}".format(*figure)


if __name__ == "__main__":
    main()
