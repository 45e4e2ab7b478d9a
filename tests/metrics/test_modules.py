"""Torchmetrics of sparsity and routing: as the functions, over batches and processes."""

import doctest

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.metrics import modules, routing_compute, routing_start, routing_update


def test_the_examples_are_true() -> None:
    assert doctest.testmod(modules).failed == 0


@pytest.mark.parametrize("head", [dk.DynamicLinear(7, 3, k=2), nn.Linear(7, 3)])
def test_batches_and_processes_add_up(head: nn.Module) -> None:
    x = torch.randn(20, 7).relu()
    counts = routing_start(head.weight)
    routed, dead = dk.metrics.RoutedUnits(head), [dk.metrics.DeadUnits(head) for _ in range(2)]
    for number, batch in enumerate(x.split(6)):
        counts = routing_update(counts, batch, head)
        routed.update(batch, head)
        dead[number % 2].update(batch, head)
    one, other = routing_compute(counts)
    assert routed.compute().item() == pytest.approx(one)
    dead[0].used += dead[1].used
    assert dead[0].compute().item() == other
    routed.reset()
    assert routed.compute() == 0


def test_a_heads_weights_as_they_are_now() -> None:
    head, metric = nn.Linear(5, 2), dk.metrics.Sparsity()
    nn.init.ones_(head.weight)
    metric.update(head)
    assert metric.compute() == 5
    nn.init.zeros_(head.weight)
    metric.update(head)
    assert metric.compute() == 0
