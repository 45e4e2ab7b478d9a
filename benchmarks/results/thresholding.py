"""Thresholding gradients (res8-d5g) beside thresholding activations (res8-d5a) and dense: accuracy, sparsity, interpretability.

python -m benchmarks.results.thresholding runs/scenes/res8-{0,1,2} runs/scenes/res8-d5{a,g}-{0,1,2} --out DIR

Each run is a folder of `dynamick train scenes-small`, finished; runs with other settings of Interpretable SGD are told apart.
Prints Markdown tables, means and deviations over a model's runs; writes DIR/thresholding.json, DIR/RUN/tally.csv, and the
scenes that are dissected to DIR/scenes.
"""

import argparse
import copy
import json
import statistics
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import dynamick as dk
from benchmarks.results.tables import spread, table
from dynamick.data import ComposedScenes
from dynamick.data.sources.scenes import SEED as SCENES_SEED
from dynamick.demo.scenes import EXPLAINED, LAYER, SCENES
from dynamick.dissection import dissect
from dynamick.explanation import composition_truth, heatmap_truth
from dynamick.figures import Run, read_run
from dynamick.metrics import sparsity

K = 5
"""Heads are also measured as if they were Dynamic-K ones of this K."""
FIRST = 3
"""A column says how accurate a network is after so many epochs."""
TABLES = {
    "accuracy": {
        "top1": ("top-1, %", 2),
        "val_loss": ("loss", 3),
        "early": (f"top-1 after {FIRST} epochs, %", 1),
        "as_routed": (f"top-1 when {K} units are summed, %", 2),
    },
    "sparsity": {
        "weights": ("weights/class", 2),
        "max_per_class": ("most in a class", 1),
        "live": ("units in use", 1),
        "n98": ("units for 98 % of the logit, median", 1),
        "residual": (f"logit missed by {K} units, median, %", 1),
    },
    "interpretability": {
        "score": ("mean score", 4),
        "live_score": ("of units in use", 4),
        "detectors": ("detectors", 1),
        "parts": ("parts found of 12", 1),
        "precision": ("parts: precision", 3),
        "recall": ("parts: recall", 3),
        "heat": ("heat on parts", 3),
    },
}


def main() -> None:
    """Measure the runs, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, nargs="+")
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    scenes = ComposedScenes("val", SCENES, SCENES_SEED)
    if not (args.out / "scenes" / "index.csv").exists():
        scenes.write_broden(args.out / "scenes")
    concepts = dk.data.Broden(args.out / "scenes")
    models: dict[str, list[dict[str, float]]] = {}
    for folder in args.runs:
        run = read_run(folder)
        units = dissect(run.network, LAYER, concepts, progress=False)
        (args.out / folder.name).mkdir(exist_ok=True)
        units.write_tally(args.out / folder.name / "tally.csv")
        models.setdefault(run.model, []).append(figures(run, scenes, units))
    (args.out / "thresholding.json").write_text(json.dumps(models, indent=1) + "\n")
    for name, columns in TABLES.items():
        lines = [
            [model, len(rows), *(spread([row[key] for row in rows], places) for key, (_, places) in columns.items())]
            for model, rows in models.items()
        ]
        print("\n" + table([name, "seeds", *(column for column, _ in columns.values())], lines))


@torch.no_grad()
def figures(run: Run, scenes: ComposedScenes, units: Any) -> dict[str, float]:
    """All figures of one run, by the names in TABLES."""
    network, last = run.network, run.history[-1]
    sparse, summary = sparsity(network.fc.weight), units.summary()
    live = (network.fc.weight.abs() >= 1e-3).any(0).numpy()
    found = {name for name, is_one in zip(units.labels, units.detectors, strict=True) if is_one} & set(scenes.parts)
    truth = composition_truth(network, units, scenes.table, scenes.parts)
    explained = dk.explain(network, scenes.images[:EXPLAINED])
    residuals = [each.residual_after(K) for each in explained]
    return {
        "top1": last["top1"],
        "val_loss": last["val_loss"],
        "early": run.history[FIRST - 1]["top1"],
        "as_routed": as_routed(network, scenes.images, scenes.labels),
        "weights": sparse.weights_per_class,
        "max_per_class": float(sparse.max_per_class),
        "live": float(live.sum()),
        "n98": float(statistics.median(each.n98 for each in explained if each.n98)),
        "residual": 100 * statistics.median(abs(each) for each in residuals if each is not None),
        "score": summary.mean_score,
        "live_score": float(units.scores[live].mean()),
        "detectors": float(summary.detectors),
        "parts": float(len(found)),
        "precision": truth.precision,
        "recall": truth.recall,
        "heat": heatmap_truth(network, scenes, EXPLAINED).energy,
    }


def as_routed(network: Any, images: Tensor, labels: Tensor) -> float:
    """Top-1 in % of the network with its head replaced by a Dynamic-K one of the same weights."""
    routed = dk.convert(dk.nn.revert(copy.deepcopy(network)), k=K)
    right = [routed(routed.preprocessing(batch)).argmax(1) for batch in images.split(200)]
    return 100 * float((torch.cat(right) == labels).double().mean())


if __name__ == "__main__":
    main()
