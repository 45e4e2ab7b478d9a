"""Theorem 1 as an experiment: how fast min ||grad f||^2 falls, SGD beside Interpretable SGD, and where it stops.

python -m benchmarks.results.theorem1 [--out FILE.json] [--figure FILE.png] [--table]

It takes a few minutes of one core. A second call with the same FILE.json goes on where the first ended.

Four problems in float64, ten seeds each (data, first weights, draws): multinomial logistic regression on rectified normal
features; the same on features of one size each, so that what is drawn does not depend on the sample; the same with fewer
samples than features, so that all can be fitted; and a tanh network of two layers. docs/theory.md says what to expect of each.
"""

import argparse
import itertools
import json
import math
import statistics
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

import dynamick as dk
from benchmarks.cost.measuring import machine
from dynamick.optim import global_lipschitz, probabilities

SEEDS, STEPS, SHARE = 10, 3000, 0.1
"""Runs, steps of each, and the expected share of the samples in a Poisson-sampled minibatch."""
FROM, TINY = 50, 1e-20
"""Slopes are fitted from this step on, as long as the squared gradient is above what rounding leaves of it."""
STUDENT = 2.262
"""The 97.5 % quantile of Student's t with nine degrees of freedom."""
PROBLEMS = ("logistic", "logistic, even features", "logistic, separable", "tanh network")
METHODS: dict[str, dict[str, Any]] = {
    "SGD": {},
    **{f"s = {s:g}, K = {K}": {"s": s, "K": K} for s in (0.5, 0.9, 1.0) for K in (2, 5)},
    "one coin, s = 0.5, K = 2": {"s": 0.5, "K": 2, "common": True},
}
"""The last one tosses one coin a coordinate for all samples, with the mean probability: case (a) of docs/theory.md."""
BATCHES, RATES = ("all", "poisson"), ("constant", "decaying")


class Data(NamedTuple):
    """All seeds' samples side by side: x (S, n, M), y (S, n), each seed's step size (S, 1, 1), and first weights."""

    x: Tensor
    y: Tensor
    rate: Tensor
    weights: list[Tensor]


def main() -> None:
    """Measure what is missing, then draw and print what was asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("theorem1.json"))
    parser.add_argument("--figure", type=Path)
    parser.add_argument("--table", action="store_true", help="print the table of docs/results/theory.md")
    args = parser.parse_args()
    torch.set_num_threads(1)
    check()
    settings = {"seeds": SEEDS, "steps": STEPS, "share": SHARE, "from": FROM}
    result: dict[str, Any] = json.loads(args.out.read_text()) if args.out.exists() else {}
    if result.get("settings") != settings:
        result = {"settings": settings, "machine": machine(), "cpu_seconds": 0.0, "rows": {}}
    for problem in PROBLEMS:
        for method in METHODS:
            for batch in BATCHES:
                for rate in RATES:
                    name = " | ".join((problem, method, batch, rate))
                    if name not in result["rows"]:
                        began = time.process_time()
                        result["rows"][name] = measure(problem, method, batch, rate)
                        result["cpu_seconds"] += time.process_time() - began
                        args.out.write_text(json.dumps(result) + "\n")
    if args.figure:
        draw(result["rows"]).savefig(args.figure, dpi=110)
    if args.table:
        print(table(result["rows"]))


def make(problem: str, seeds: int = SEEDS) -> Data:
    """A problem's data and first weights."""
    each = [_make(problem, seed) for seed in range(seeds)]
    weights = [torch.stack(layer) for layer in zip(*(one.weights for one in each), strict=True)]
    x, y, rate = (torch.stack(part) for part in zip(*(one[:3] for one in each), strict=True))
    return Data(x, y, rate, weights)


def _make(problem: str, seed: int) -> Data:
    g = torch.Generator().manual_seed(seed)
    n, M, O = (20, 40, 3) if problem.endswith("separable") else (60, 10, 3)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=g, dtype=torch.float64)

    x = normal(n, M).relu()
    if problem.endswith("even features"):
        # +a_j or -a_j: x_j^2 is the same for every sample, and with it L_ij / L_i(K).
        x = normal(n, M).sign() * torch.linspace(0.8, 1.2, M, dtype=torch.float64)
    y = torch.multinomial((x @ normal(M, O) / 2).softmax(1), 1, generator=g)[:, 0]
    if problem == "tanh network":
        H = 3
        return Data(x, y, torch.full((1, 1), 0.5).double(), [normal(H, M) / M**0.5, normal(O, H) / H**0.5])
    # The Hessian is at most (I - 1/O) / 2 times the features' second moments; the largest eigenvalue is L.
    largest = torch.linalg.eigvalsh(x.T @ x / n)[-1] / 2
    return Data(x, y, (1 / largest).view(1, 1), [torch.zeros(O, M).double()])


def backpropagate(weights: list[Tensor], x: Tensor, y: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Of each layer, the last one first: each sample's gradient at its outputs (S, n, O), and its inputs (S, n, M)."""
    inputs = [x]
    for W in weights[:-1]:
        inputs.append((inputs[-1] @ W.mT).tanh())
    gy = (inputs[-1] @ weights[-1].mT).softmax(-1) - nn.functional.one_hot(y, weights[-1].shape[1])
    out = []
    for W, h in zip(reversed(weights), reversed(inputs), strict=True):
        out.append((gy, h))
        gy = (gy @ W) * (1 - h**2)
    return out


def chances(method: dict[str, Any], x_SnM: Tensor, outputs: int) -> Tensor | None:
    """pi_ij, shape (S, O, n, M); the local and the global estimate are one in the normalised form. None: all are 1."""
    if not method:
        return None
    L = global_lipschitz(x_SnM.flatten(0, 1), outputs)
    pi = probabilities(L, method["s"], method["K"]).unflatten(0, x_SnM.shape[:2]).transpose(1, 2)
    return pi.mean(2, keepdim=True) if method.get("common") else pi.contiguous()


def all_chances(method: dict[str, Any], layers: list[tuple[Tensor, Tensor]], first: Tensor | None) -> list[Tensor | None]:
    """`chances` of each layer, last layer first; the first layer's inputs are the data, and its chances always the same."""
    return [*(chances(method, x, gy.shape[-1]) for gy, x in layers[:-1]), first]


def total(gy: Tensor, x: Tensor, q: Tensor | None) -> Tensor:
    """sum_i q_ij g_ij, shape (S, O, M)."""
    return gy.mT @ x if q is None else (gy.mT[:, :, None] @ (q * x[:, None]))[:, :, 0]


def toss(pi: Tensor | None, g: torch.Generator) -> Tensor | None:
    """q_ij, as `InterpretableSGD` draws them: sample after sample."""
    if pi is None or bool(((pi == 0) | (pi == 1)).all()):
        return pi
    S, O, n, M = pi.shape
    return (torch.rand(S, n, O, M, generator=g, dtype=pi.dtype).transpose(1, 2) < pi).to(pi.dtype)


def measure(problem: str, method_name: str, batch: str, rate: str) -> dict[str, Any]:
    """One method on one problem: the curve, its slope, and the squared gradient that is left."""
    data, method = make(problem), METHODS[method_name]
    weights, n = [W.clone() for W in data.weights], data.x.shape[1]
    first = chances(method, data.x, weights[0].shape[1])
    B = n if batch == "all" else SHARE * n
    g = torch.Generator().manual_seed(1)
    times = sorted({round(10 ** (k / 20)) for k in range(20 * round(math.log10(STEPS)) + 20)} & set(range(1, STEPS + 1)))
    smallest, curve, tail = torch.full((SEEDS,), torch.inf).double(), [], []
    for t in range(1, STEPS + 1):
        layers = backpropagate(weights, data.x, data.y)
        square = squared(layers)
        smallest = torch.minimum(smallest, square)
        if t in times:
            curve.append(smallest)
        if t > 0.9 * STEPS:
            tail.append(square)
        eta = data.rate / (B * (t**0.5 if rate == "decaying" else 1))
        p_Sn1 = (torch.rand(SEEDS, n, 1, generator=g, dtype=torch.float64) < B / n).double() if batch == "poisson" else 1
        for W, (gy, x), pi in zip(reversed(weights), layers, all_chances(method, layers, first), strict=True):
            W -= eta * total(p_Sn1 * gy, x, toss(pi, g))
    curves = torch.stack(curve, 1)
    slopes = [slope(times, each) for each in curves.tolist()]
    row = {
        "slope": statistics.fmean(slopes),
        "slope_ci": STUDENT * statistics.stdev(slopes) / SEEDS**0.5,
        "first": _geometric(curves[:, 0]),
        "min": _geometric(smallest),
        "tail": _geometric(torch.stack(tail).mean(0)),
        "times": times,
        "curve": [_geometric(each) for each in curves.T],
        "low": curves.amin(0).tolist(),
        "high": curves.amax(0).tolist(),
    }
    # Where it comes to rest does not depend on how the samples are drawn.
    return row | (at_rest(weights, data, method) if (batch, rate) == ("all", "constant") else {})


def squared(layers: list[tuple[Tensor, Tensor]]) -> Tensor:
    """||grad f||^2 of every seed."""
    return sum(((gy.mT @ x / gy.shape[1]) ** 2).sum((1, 2)) for gy, x in layers)  # type: ignore[return-value]


def at_rest(weights: list[Tensor], data: Data, method: dict[str, Any]) -> dict[str, float]:
    """Where the expected step h comes to, repeated from the run's last weights on: ||grad f||^2 there (`floor`).

    `moving` is sum_j h_j^2 / rho_j^2, which is 0 at rest, and ||grad f||^2 where nothing but the rate is in the way of rest.
    """
    weights, n = [W.clone() for W in weights], data.x.shape[1]
    first = chances(method, data.x, weights[0].shape[1])
    for _ in range(2 * STEPS):
        layers = backpropagate(weights, data.x, data.y)
        pis = all_chances(method, layers, first)
        h = [total(gy, x, pi) / n for (gy, x), pi in zip(layers, pis, strict=True)]
        for W, each in zip(reversed(weights), h, strict=True):
            W -= data.rate * each
    left = squared(backpropagate(weights, data.x, data.y))
    rho = [torch.ones(()) if pi is None else pi.mean(2) for pi in pis]
    # What is never drawn never moves: 0 / 0.
    moving = sum(((each / mean).nan_to_num(0) ** 2).sum((1, 2)) for each, mean in zip(h, rho, strict=True))
    return {"moving": _geometric(moving), "floor": _geometric(left)}  # type: ignore[arg-type]


def slope(times: list[int], values: list[float]) -> float:
    """Of log value against log step, by least squares."""
    points = [(math.log(t), math.log(v)) for t, v in zip(times, values, strict=True) if t >= FROM and v > TINY]
    return statistics.linear_regression(*zip(*points, strict=True)).slope if len(points) > 2 else -math.inf


def _geometric(values: Tensor) -> float:
    return float(values.clamp(min=1e-40).log().mean().exp())


def table(rows: dict[str, Any]) -> str:
    """The Markdown table of docs/results/theory.md, from the measured rows."""
    heads = [f"{'all samples' if batch == 'all' else 'minibatches'}, {rate}" for batch in BATCHES for rate in RATES]
    lines = []
    for problem in PROBLEMS:
        lines += [f"**{problem}**", "", f"| | {' | '.join(heads)} | at E[q g] = 0 |", "|---" * 6 + "|"]
        for method in METHODS:
            found = [rows[" | ".join((problem, method, batch, rate))] for batch in BATCHES for rate in RATES]
            cells = [f"{_slope(row)} ({row['tail']:.0e})" for row in found]
            left = found[0]
            rest = f"{left['floor']:.0e}" if left["moving"] < 0.01 * left["floor"] else "still falling"
            lines.append(f"| {method} | {' | '.join(cells)} | {'0' if left['floor'] < 1e-20 else rest} |")
        lines.append("")
    return "\n".join(lines)


def _slope(row: dict[str, Any]) -> str:
    return f"{row['slope']:.2f} ± {row['slope_ci']:.2f}".replace("-", "−")


def draw(rows: dict[str, Any]) -> Any:
    """min ||grad f||^2 against the step: two problems, three ways to sample and to choose steps."""
    from matplotlib.figure import Figure

    from dynamick.dissection.plots import COLOURS

    shown = ["SGD", "s = 0.5, K = 2", "s = 0.9, K = 2", "s = 1, K = 2", "one coin, s = 0.5, K = 2"]
    strokes = ["-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1))]
    kinds = {("all", "constant"): "all samples, constant steps"}
    kinds |= {("poisson", rate): f"minibatches, {rate} steps" for rate in RATES}
    figure = Figure(figsize=(11, 6.4), layout="constrained")
    grid = figure.subplots(2, 3, sharex=True, sharey="row")
    for across, problem, least in zip(grid, ("logistic", "tanh network"), (1e-7, 1e-5), strict=True):
        for axes, ((batch, rate), title) in zip(across, kinds.items(), strict=True):
            for place, method in enumerate(shown):
                row = rows[" | ".join((problem, method, batch, rate))]
                axes.plot(row["times"], row["curve"], color=COLOURS[place], ls=strokes[place], lw=1.8, label=method)
            start = 1.6 * rows[f"{problem} | SGD | all | constant"]["curve"][0]
            for power, name in ((-0.5, "$t^{-1/2}$"), (-1.0, "$1/t$")):
                ends = [1, STEPS]
                axes.plot(ends, [start * t**power for t in ends], color="0.75", lw=0.8, zorder=0)
                axes.text(1.2 * STEPS, start * STEPS**power, name, color="0.45", fontsize=8, va="center")
            axes.set(xscale="log", yscale="log", title=f"{problem}: {title}", xlim=(0.8, 4 * STEPS), ylim=(least, 1))
            axes.title.set_fontsize(9)
    for axes in grid[1]:
        axes.set_xlabel("step t")
    for axes in grid[:, 0]:
        axes.set_ylabel(r"smallest $\Vert\nabla f\Vert^2$ so far")
    figure.legend(*grid[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=5, frameon=False, fontsize=9)
    return figure


def check() -> None:
    """Refuse to measure what is wrong: a step here is `InterpretableSGD`'s, given the same random numbers."""
    for problem in ("logistic", "tanh network"):
        for s, drawn in ((0.5, None), (1.0, torch.arange(0, 60, 7))):
            data, method = make(problem, 1), {"s": s, "K": 2}
            x, y = data.x[0], data.y[0]
            sizes = [x.shape[1], *(W.shape[1] for W in data.weights)]
            layers = [nn.Linear(a, b, bias=False).double() for a, b in itertools.pairwise(sizes)]
            model = nn.Sequential(*(each for layer in layers for each in (layer, nn.Tanh())))[:-1]
            for layer, W in zip(layers, data.weights, strict=True):
                layer.weight.data = W[0].clone()
            ours, theirs = (torch.Generator().manual_seed(3) for _ in range(2))
            B, some = (60, torch.arange(60)) if drawn is None else (8, drawn)
            p = torch.zeros(1, 60, 1).double().index_fill(1, some, 1)
            options: dict[str, Any] = {"model": model, "generator": theirs, "batch_size": B}
            with dk.optim.InterpretableSGD(model.parameters(), 0.5, s, 2, **options) as optimizer:
                for _ in range(5):
                    nn.functional.cross_entropy(model(x[some]), y[some]).backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
                    optimizer.zero_grad()
                    found = backpropagate(data.weights, data.x, data.y)
                    pis = all_chances(method, found, chances(method, data.x, sizes[1]))
                    for W, (gy, h), pi in zip(reversed(data.weights), found, pis, strict=True):
                        W -= 0.5 / B * total(p * gy, h, toss(pi, ours))
            for layer, W in zip(layers, data.weights, strict=True):
                torch.testing.assert_close(layer.weight.detach(), W[0], rtol=1e-9, atol=1e-12)


if __name__ == "__main__":
    main()
