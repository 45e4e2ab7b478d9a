"""What a Dynamic-5 head costs a training: steps of the small CIFAR-10 recipe in alternating pairs, and the import's time.

python benchmarks/training.py [--out FILE.json]; prints ratios and the machine. Random images: the cost does not depend on them.
With --places a ResNet18 on 8 images of 224 x 224 and 365 classes takes the steps instead.
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from pairs import in_turn, interval, machine, ratios

import dynamick as dk
from dynamick.training.module import make_optimizer
from dynamick.training.recipe import OptimRecipe
from dynamick.training.run import autocast

BATCH, WIDTH, STEM = 128, 32, "compact"


def main() -> None:
    """Run both benchmarks."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=60)
    parser.add_argument("--places", action="store_true")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    check_heads_agree()
    if args.places:
        result = {"step": step_ratio(args.pairs, ("res18", "res18-d5a"), places), "machine": machine()}
    else:
        result = {
            "step": step_ratio(args.pairs, ("res8", "res8-d5a"), stepper),
            "import": import_seconds(),
            "machine": machine(),
        }
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def check_heads_agree() -> None:
    """Refuse to time what is wrong: the head's output is the sum of its five largest positive products."""
    x, w = torch.randn(32, 128).relu(), torch.randn(10, 128)
    want = (x[:, None] * w).relu().topk(5).values.sum(2)
    torch.testing.assert_close(dk.functional.dynamic_linear(x, w, k=5), want)


def step_ratio(pairs: int, names: tuple[str, str], make: Callable[[str], Callable[[], None]]) -> dict[str, Any]:
    """Seconds of a training step with each head, and the median of the pairs' ratios with its 95 % interval."""
    seconds = in_turn({name: make(name) for name in names}, pairs)
    against = ratios(seconds, names[1])
    quartiles = statistics.quantiles(against, n=4)
    return {
        "dense_ms": round(1000 * statistics.median(seconds[names[0]]), 2),
        "dynamic_5_ms": round(1000 * statistics.median(seconds[names[1]]), 2),
        "ratio": round(quartiles[1], 4),
        "ratio_interval": [round(each, 4) for each in interval(against)],
        "ratio_quartiles": [round(quartiles[0], 4), round(quartiles[2], 4)],
        "pairs": pairs,
    }


def places(name: str) -> Callable[[], None]:
    """A step of a ResNet18 on 8 images of 224 x 224, 365 classes: the head of a network for Places."""
    model = dk.models.create(name, num_classes=365, stem="imagenet")
    images = torch.randn(8, 3, 224, 224).contiguous(memory_format=torch.channels_last)
    return step_of(model, lambda: images, torch.randint(0, 365, (8,)))


def stepper(name: str, **options: Any) -> Callable[[], None]:
    """A function that takes one training step as the recipe does; options are of its `optim`."""
    model = dk.models.create(name, stem=STEM, width=WIDTH)
    images = torch.randint(0, 256, (BATCH, 3, 32, 32), dtype=torch.uint8)

    def prepared() -> torch.Tensor:
        return model.preprocessing(images).contiguous(memory_format=torch.channels_last)

    return step_of(model, prepared, torch.randint(0, 10, (BATCH,)), **options)


def step_of(model: Any, prepared: Callable[[], torch.Tensor], labels: torch.Tensor, **options: Any) -> Callable[[], None]:
    """A training step of a model on images, channels last; options are of the recipe's `optim`."""
    model = model.to(memory_format=torch.channels_last).train()
    optimizer = make_optimizer(model, OptimRecipe(lr=0.01, nesterov=True, head_weight_decay=1e-2, **options))

    def step() -> None:
        with autocast("auto", torch.device("cpu")):
            logits = model(prepared())
        loss = F.cross_entropy(logits.float(), labels)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def import_seconds(rounds: int = 7) -> dict[str, float]:
    """CPU seconds to import PyTorch, and this package with its layers, in fresh processes, in pairs."""
    programs = {"torch": "import torch", "dynamick": "import dynamick; dynamick.DynamicLinear"}
    seconds: dict[str, list[float]] = {name: [] for name in programs}
    for _ in range(rounds):
        for name, program in programs.items():
            began = resource.getrusage(resource.RUSAGE_CHILDREN)
            subprocess.run([sys.executable, "-c", program], check=True)
            ended = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds[name].append(ended.ru_utime + ended.ru_stime - began.ru_utime - began.ru_stime)
    medians = {name: round(statistics.median(each), 3) for name, each in seconds.items()}
    return {**medians, "difference": round(medians["dynamick"] - medians["torch"], 3)}


if __name__ == "__main__":
    main()
