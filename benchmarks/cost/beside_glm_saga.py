"""The elastic-net path by two solvers, paired, at equal accuracy: ours and glm_saga (Wong, Santurkar and Madry 2021).

pip install --target PEER --no-deps glm_saga
python -m benchmarks.cost.beside_glm_saga runs/compare/cifar10-all/features/res8-0/train \\
    --peer PEER [--images N] [--pairs N] [--out FILE]

Both follow the same strengths from the one that leaves no weight down, each point begun from the one before. Accuracy is the
objective in float64 above the least that is known of it, the largest along the path; ours gets the loosest tolerance at which
it is at least as accurate as glm_saga is. Run it where nothing else runs.
"""

import argparse
import contextlib
import io
import json
import os
import statistics
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cost.measuring import machine
from dynamick.comparison.cache import open_features
from dynamick.comparison.heads.elastic_net import ALPHA, first, follow
from dynamick.comparison.logistic import Problem, solve_along, standardise

TOLERANCES = (1e-2, 3e-3, 1e-3, 3e-4, 1e-4, 3e-5)
EXACT = 1e-5
# The peer's rate and batch are those of its own example; of its two stopping rules this is the one that it calls more accurate.
RATE, BATCH, EPOCHS, LOOKBEHIND = 0.1, 512, 2000, 3

Points = list[tuple[Tensor, Tensor]]


@dataclass
class Batches:
    """Shuffled batches (x, y, rows) as slices: PyTorch's loader would cost glm_saga more than its arithmetic."""

    x: Tensor
    y: Tensor

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        for rows in torch.randperm(len(self.y)).split(BATCH):
            yield self.x[rows], self.y[rows], rows


def main() -> None:
    """Time both, and print what each reached."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("features", type=Path, help="a cache that `dynamick compare` wrote")
    parser.add_argument("--peer", type=Path, required=True, help="where glm_saga is installed")
    parser.add_argument("--images", type=int, help="only so many, evenly spaced")
    parser.add_argument("--points", type=int, default=20, help="strengths (default %(default)s)")
    parser.add_argument("--least", type=float, default=0.01, help="the last strength, as a share of the first")
    parser.add_argument("--tol", type=float, default=1e-4, help="glm_saga's (default %(default)s, its own)")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    sys.path.insert(0, str(args.peer))
    cache = open_features(args.features)
    step = max(1, len(cache) // (args.images or len(cache)))
    problem = Problem(standardise(cache.x[::step])[0].contiguous(), cache.labels[::step].contiguous(), len(cache.classes))
    strengths = torch.logspace(0, torch.tensor(args.least).log10().item(), args.points) * first(problem, ALPHA).strength
    result = compare(problem, strengths.tolist(), args.least, args.tol, args.pairs)
    result["size"] = {"images": len(problem.y), "units": problem.x.shape[1], "classes": problem.classes, "points": args.points}
    result["machine"] = machine() | {"load_at_start": os.getloadavg()[0]}
    print(json.dumps(result, indent=1))
    if args.out:
        args.out.write_text(json.dumps(result, indent=1) + "\n")


def compare(problem: Problem, strengths: list[float], least: float, tol: float, pairs: int) -> dict[str, Any]:
    """Seconds of each, the median of the pairs' ratios, and how far each path lies above the least objectives known."""
    theirs, _ = timed(lambda: glm_saga(problem, len(strengths), least, tol))
    exact = ours(problem, strengths, EXACT)
    lowest = [min(pair) for pair in zip(*(objectives(problem, strengths, each) for each in (theirs, exact)), strict=True)]

    def excess(path: Points) -> float:
        return max(now - least_known for now, least_known in zip(objectives(problem, strengths, path), lowest, strict=True))

    wanted = excess(theirs)
    tolerance = next((each for each in TOLERANCES if excess(ours(problem, strengths, each)) <= wanted), EXACT)
    runs: dict[str, Callable[[], Points]] = {
        "dynamick": lambda: ours(problem, strengths, tolerance),
        "dynamick as shipped": lambda: shipped(problem, strengths),
        "glm_saga": lambda: glm_saga(problem, len(strengths), least, tol),
    }
    seconds: dict[str, list[float]] = {name: [] for name in runs}
    accuracy: dict[str, list[float]] = {name: [] for name in runs}
    for pair in range(pairs):
        # Who goes first alternates.
        for name in sorted(runs, reverse=bool(pair % 2)):
            path, took = timed(runs[name])
            seconds[name].append(took)
            accuracy[name].append(excess(path))
    ratios = {
        name: [a / b for a, b in zip(seconds[name], seconds["glm_saga"], strict=True)] for name in runs if name != "glm_saga"
    }
    return {
        "seconds": {name: statistics.median(each) for name, each in seconds.items()},
        "ratio_to_glm_saga": {name: statistics.median(each) for name, each in ratios.items()},
        "ratios": ratios,
        "largest_excess_of_the_objective": {name: max(each) for name, each in accuracy.items()},
        "non_zeros_per_class_at_the_end": {
            name: (path[-1][0].abs() > 1e-5).sum().item() / problem.classes
            for name, path in (("dynamick", exact), ("glm_saga", theirs))
        },
        "tolerance": tolerance,
    }


def ours(problem: Problem, strengths: list[float], tolerance: float) -> Points:
    """W (C, M) and b (C,) at each strength."""
    before, path = first(problem, ALPHA), []
    solution, strength = before.solution, before.strength
    for each in strengths:
        solution = solve_along(problem, ALPHA * each, (1 - ALPHA) * each, solution, ALPHA * strength, tolerance)
        strength = each
        path.append((solution.weight, solution.bias))
    return path


def shipped(problem: Problem, strengths: list[float]) -> Points:
    """As `ours`, at the tolerances that the heads are made with."""
    point, path = first(problem, ALPHA), []
    for each in strengths:
        point = follow(problem, point, each, ALPHA)
        path.append((point.solution.weight, point.solution.bias))
    return path


def glm_saga(problem: Problem, points: int, least: float, tol: float) -> Points:
    """The same by the peer, in the words of its own interface."""
    from glm_saga.elasticnet import glm_saga as peer

    torch.manual_seed(0)
    linear = torch.nn.Linear(problem.x.shape[1], problem.classes)
    for parameter in linear.parameters():
        parameter.data.zero_()
    size = {"n_ex": len(problem.y), "n_classes": problem.classes}
    stop = {"tol": tol, "lookbehind": LOOKBEHIND}
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        found = peer(
            linear, Batches(problem.x, problem.y), RATE, EPOCHS, ALPHA, **size, **stop, epsilon=least, k=points, do_zero=False
        )
    return [(each["weight"], each["bias"]) for each in found["path"]]


def objectives(problem: Problem, strengths: list[float], path: Points) -> list[float]:
    """Mean cross entropy and the penalties, in float64, at each strength."""
    out = []
    for strength, (weight, bias) in zip(strengths, path, strict=True):
        w, x = weight.double(), problem.x.double()
        loss = F.cross_entropy(torch.addmm(bias.double(), x, w.T), problem.y)
        penalty = ALPHA * w.abs().sum() + (1 - ALPHA) / 2 * w.square().sum()
        out.append((loss + strength * penalty).item())
    return out


def timed(work: Callable[[], Points]) -> tuple[Points, float]:
    """What it returns, and its seconds of CPU time."""
    began = time.process_time()
    return work(), time.process_time() - began


if __name__ == "__main__":
    main()
