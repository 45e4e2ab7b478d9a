"""A small network, its batches, and a few steps of an optimiser, for the tests of Interpretable SGD."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.optim import InterpretableSGD

B, M, H, O = 12, 6, 7, 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(M, H), nn.ReLU(), nn.Linear(H, O))


def batch(seed: int = 1, size: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, M, generator=generator), torch.randint(0, O, (size,), generator=generator)


def loss_of(model: Callable[..., Tensor], seed: int = 1, size: int = B) -> Tensor:
    x, labels = batch(seed, size)
    return nn.functional.cross_entropy(model(x).float(), labels)


def optimizer_of(model: nn.Module, params: Any = None, lr: float = 0.5, s: float = 0.5, **options: Any) -> InterpretableSGD:
    options = {"block_size": 2, "generator": torch.Generator().manual_seed(7)} | options
    return InterpretableSGD(model.parameters() if params is None else params, lr, s, model=model, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(4), call: Any = None) -> nn.Module:
    for step in steps:
        optimizer.zero_grad()
        loss_of(call or model, step).backward()
        optimizer.step()
    return model


def same(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(p, q, rtol=tolerance, atol=tolerance) for p, q in pairs)
