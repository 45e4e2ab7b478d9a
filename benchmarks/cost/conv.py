"""A Dynamic-K convolution beside nn.Conv2d at the shapes of a ResNet, forward and backward pass, on a CPU.

Inputs are rectified normal numbers. `random` weights are PyTorch's initial ones; of `decayed` ones an output keeps K filters,
and the others are 1e15 times smaller. `naive` is what one would write: all products of a batch, topk, autograd. Its
convolutions are one batched matrix product, the fastest form that was found. The notes say which part of nn.Conv2d's
multiplications a step needs at the least: with the routed filters alone, and if every product of the forward pass is formed;
and the bytes of its tensors.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.cost.suite import Suite
from dynamick.functional import dynamic_conv2d


@dataclass(frozen=True)
class Case:
    """Channels in and out, the side of the square inputs, and how it is routed."""

    C: int
    O: int
    side: int
    kernel: int
    routing: str = "location"
    last: bool = False
    K: int = 5
    stride: int = 1
    batch: int = 4
    weights: str = "random"

    def __str__(self) -> str:
        layout = "channels-last" if self.last else "contiguous"
        what = f"{self.kernel}x{self.kernel}, {self.C} to {self.O}, side {self.side}, by {self.routing}"
        return f"{what}, batch {self.batch}, {self.weights}, {layout}"


SHAPES = ((64, 56), (128, 28), (256, 14), (512, 7))


CASES = [
    Case(256, 64, 56, 1),
    Case(256, 64, 56, 1, last=True),
    Case(512, 2048, 7, 1, last=True),
    *[Case(C, C, side, 3, weights=weights) for C, side in SHAPES for weights in ("random", "decayed")],
    *[
        Case(C, C, side, 3, "map", batch=batch, weights=weights)
        for C, side in SHAPES
        for batch in (4, 32)
        for weights in ("random", "decayed")
    ],
    Case(64, 64, 56, 3, "map", last=True),
    Case(512, 512, 7, 3, "map", last=True),
]


def tensors(case: Case) -> tuple[Tensor, Tensor, Tensor]:
    """Inputs, weight, and the gradient of the outputs."""
    torch.manual_seed(0)
    x = torch.randn(case.batch, case.C, case.side, case.side).relu()
    weight = torch.nn.Conv2d(case.C, case.O, case.kernel).weight.detach()
    if case.weights == "decayed":
        kept = torch.rand(case.O, case.C).argsort(1) < case.K
        weight = torch.where(kept[..., None, None], weight, 1e-15 * weight)
    side = -(-case.side // case.stride)
    gy = torch.randn(case.batch, case.O, side, side) / case.batch
    layout = torch.channels_last if case.last else torch.contiguous_format
    return x.contiguous(memory_format=layout), weight.contiguous(memory_format=layout), gy.contiguous(memory_format=layout)


def function(case: Case, way: str) -> Callable[[Tensor, Tensor], Tensor]:
    """What is timed under this name."""
    stride, padding = case.stride, case.kernel // 2
    if way == "nn.Conv2d":
        return lambda x, w: F.conv2d(x, w, None, stride, padding)
    if way == "ours":
        return lambda x, w: dynamic_conv2d(x, w, None, stride, padding, k=case.K, routing=case.routing)
    return lambda x, w: naive(x, w, case)


def naive(x: Tensor, weight: Tensor, case: Case) -> Tensor:
    """All products at once, then the K largest positive ones of each location, or of each map."""
    patches = F.unfold(x, case.kernel, padding=case.kernel // 2, stride=case.stride)
    patches = patches.unflatten(1, (case.C, -1))
    p_BOCL = torch.einsum("oct,bctl->bocl", weight.flatten(2), patches)
    if case.routing == "location":
        y = p_BOCL.topk(min(case.K, case.C), dim=2).values.relu().sum(2)
    else:
        votes = p_BOCL.detach().relu().sum(-1).topk(min(case.K, case.C), dim=2)
        chosen = votes.indices[..., None].expand(*votes.indices.shape, p_BOCL.shape[-1])
        y = p_BOCL.gather(2, chosen).mul(votes.values[..., None] > 0).sum(2)
    return y.unflatten(-1, (-(-case.side // case.stride), -1))


def limits(case: Case, way: str) -> str:
    """Parts of nn.Conv2d's multiplications, and the bytes of inputs, outputs, weights and their gradients."""
    if way != "ours":
        return ""
    routed = case.K / case.C
    side = -(-case.side // case.stride)
    numbers = case.batch * (case.C * case.side**2 + case.O * side**2) + case.C * case.O * case.kernel**2
    return f"multiplications {routed:.2f}, or {(1 + 2 * routed) / 3:.2f} with every product; {8 * numbers / 1e6:.1f} MB"


def make(case: Case, way: str) -> Callable[[], None]:
    """A forward and a backward pass, with gradients for inputs and weight."""
    x, weight, gy = tensors(case)
    forward, leaves = function(case, way), (x.requires_grad_(), weight.requires_grad_())

    def run() -> None:
        torch.autograd.grad(forward(*leaves), leaves, gy)

    return run


def check(case: Case) -> None:
    """Outputs and gradients are the naive form's."""
    case = replace(case, batch=min(case.batch, 2))
    x, weight, gy = tensors(case)
    results = []
    for way in ("ours", "naive"):
        leaves = (x.clone().requires_grad_(), weight.clone().requires_grad_())
        y = function(case, way)(*leaves)
        results.append((y, *torch.autograd.grad(y, leaves, gy)))
    for ours, theirs in zip(*results, strict=True):
        # Where two products differ by their rounding only, one or the other may be routed (docs/definitions.md, "Dynamic-K").
        wrong = ~torch.isclose(ours, theirs, rtol=1e-3, atol=1e-4 * float(theirs.detach().abs().max()))
        assert float(wrong.float().mean()) < 1e-3


SUITE = Suite(
    about="the convolution beside nn.Conv2d, on a CPU",
    cases=CASES,
    ways=lambda case: ("nn.Conv2d", "ours", "naive") if case.batch == 4 and case.weights == "random" else ("nn.Conv2d", "ours"),
    make=make,
    notes=lambda case, way, seconds, result: limits(case, way),
    check=check,
    once=frozenset({"naive"}),
    memory_steps=2,
    small=lambda case: replace(case, C=8, O=8, side=6, batch=1),
    pairs=12,
    warm=1,
)
