"""The rivals that are trained step by step, and UCBM's way: each against its own formula, written out."""

import itertools
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from dynamick.comparison.cache import Features
from dynamick.comparison.heads import HEADS, stepped, ucbm
from dynamick.comparison.heads.elastic_net import ALPHA
from dynamick.comparison.heads.factorising import factorise
from dynamick.comparison.heads.gradual_pruning import GradualPruning, weights_left
from dynamick.comparison.heads.l1_proximal import FLOOR, Proximal, mean_weights, soft_threshold_, weakest_within
from dynamick.comparison.heads.static_top_k import StaticTopK
from dynamick.comparison.heads.stepped import Stepped, descend, rates, trained_weight
from dynamick.comparison.logistic import standardise, violation
from dynamick.comparison.measuring import measure

ODD = st.one_of(st.sampled_from([0.0, -0.0, 1.0, -1.0, 1e-30, 1e30]), st.floats(-3, 3, width=32))


def rows_of(values: list[float], classes: int) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).view(classes, -1)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 3), st.integers(1, 5), st.integers(1, 7), st.data())
def test_straight_through(classes: int, inputs: int, k: int, data: st.DataObject) -> None:
    """The output is that of each class's k largest weights; the gradient is that of a dense layer with these weights."""
    weight = rows_of(data.draw(st.lists(ODD, min_size=classes * inputs, max_size=classes * inputs)), classes)
    x = torch.randn(4, inputs, generator=torch.Generator().manual_seed(0))
    kept = torch.zeros_like(weight)
    for c, row in enumerate(weight.tolist()):
        for i in sorted(range(inputs), key=lambda i: (-row[i], i))[:k]:
            kept[c, i] = row[i]
    layer: Any = nn.Linear(inputs, classes)
    with torch.no_grad():
        layer.weight.copy_(weight)
    bias = layer.bias.detach().clone()
    StaticTopK(k).begin(layer)
    torch.testing.assert_close(layer(x), x @ kept.T + bias)
    slope = torch.randn(4, classes, generator=torch.Generator().manual_seed(1))
    (layer(x) * slope).sum().backward()
    torch.testing.assert_close(trained_weight(layer).grad, slope.T @ x)
    StaticTopK(k).end(layer)
    assert type(layer) is nn.Linear
    assert torch.equal(layer.weight, kept)


@given(st.integers(1, 300), st.integers(1, 300), st.floats(0, 1))
def test_the_pruning_schedule_is_zhu_and_guptas(inputs: int, k: int, progress: float) -> None:
    """Equation 1: from a sparsity of 0 at a tenth of the steps to the last one at six tenths."""
    last = 1 - min(k, inputs) / inputs
    t = min(max(progress, 0.1), 0.6)
    sparsity = last + (0 - last) * (1 - (t - 0.1) / 0.5) ** 3
    assert abs(weights_left(inputs, k, progress) - inputs * (1 - sparsity)) <= 0.5 + 1e-6 * inputs
    assert weights_left(inputs, k, 0.0) == inputs
    assert weights_left(inputs, k, 1.0) == min(k, inputs)


def test_the_smallest_weights_go_and_stay_away(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step by step: what is pruned has the least |w| of what was left, and never comes back."""
    seen: list[tuple[Tensor, Tensor]] = []

    class Watched(GradualPruning):
        def after_step(self, layer: Any, progress: float, optimizer: torch.optim.Optimizer) -> None:
            before = layer.parametrizations.weight[0].kept
            super().after_step(layer, progress, optimizer)
            after = layer.parametrizations.weight[0].kept
            size = trained_weight(layer).detach().abs()
            assert (after <= before).all()
            for c in range(3):
                gone = size[c][before[c] & ~after[c]]
                assert not len(gone) or gone.max() <= size[c][after[c]].min()
            seen.append((after, layer.weight.detach() != 0))

    layer = nn.Linear(12, 3)
    descend(Watched(2), layer, features.x, features.labels, 0.1, 0)
    assert len(seen) == stepped.STEPS
    counts = [int(after.sum()) for after, _ in seen]
    assert counts == sorted(counts, reverse=True)
    assert all(torch.equal(after, nonzero) for after, nonzero in seen)
    assert (layer.weight != 0).sum(1).tolist() == [2, 2, 2]


@pytest.mark.parametrize("name", ["static-top-k", "gradual-pruning"])
@pytest.mark.parametrize("budget", [1, 4, 12, 30])
def test_every_class_keeps_exactly_so_many(features: Features, name: str, budget: int) -> None:
    [found] = HEADS[name].fit(features.x[:120], features.labels[:120], 3, [budget])
    assert (found.head.get_parameter("weight") != 0).sum(1).tolist() == [min(budget, 12)] * 3
    assert found.about["decay"] in stepped.DECAYS


@pytest.mark.parametrize("name", ["static-top-k", "gradual-pruning"])
def test_two_units_a_class_are_found(features: Features, name: str) -> None:
    [found] = HEADS[name].fit(features.x, features.labels, 3, [2])
    assert (found.head(features.x).argmax(1) == features.labels).double().mean() > 0.75


def test_a_decay_is_chosen_by_images_that_the_head_has_not_seen(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every tenth image is held out: their wrong labels must decide for the strongest decay, and for the weakest if right."""
    monkeypatch.setattr(stepped, "DECAYS", (0.001, 30.0))
    noise = torch.randint(0, 3, (600,), generator=torch.Generator().manual_seed(0))
    wrong = torch.where(torch.arange(600) % 10 == 0, noise, features.labels)
    for labels, decay in ((features.labels, 0.001), (wrong, 30.0)):
        [found] = HEADS["static-top-k"].fit(features.x, labels, 3, [2])
        assert found.about["decay"] == decay


@given(st.lists(st.tuples(ODD, st.floats(0, 2)), min_size=1, max_size=8))
def test_soft_thresholding(given: list[tuple[float, float]]) -> None:
    weight, amounts = (torch.tensor(each) for each in zip(*given, strict=True))
    new = weight.clone()
    soft_threshold_(new, amounts)
    for w, amount, found in zip(weight.tolist(), amounts.tolist(), new.tolist(), strict=True):
        # It minimises (found - w)^2 / 2 + amount |found|.
        assert found == pytest.approx(max(abs(w) - amount, 0.0) * (1 if w > 0 else -1), rel=1e-5, abs=1e-6)


def test_a_weight_moves_by_its_own_rate() -> None:
    """AdamW's formula, written out over three steps."""
    weight = nn.Parameter(torch.tensor([1.0, -2.0, 3.0]))
    optimizer = torch.optim.AdamW([{"params": [weight], "weight_decay": 0.0}], lr=0.1)
    v = torch.zeros(3)
    for step in range(1, 4):
        weight.grad = torch.tensor([0.1, -5.0, 0.0]) * step
        v = 0.999 * v + 0.001 * weight.grad**2
        optimizer.step()
        torch.testing.assert_close(rates(optimizer, weight), 0.1 / ((v / (1 - 0.999**step)).sqrt() + 1e-8))


def test_proximal_steps_reach_the_penaltys_minimum(features: Features, monkeypatch: pytest.MonkeyPatch) -> None:
    """The conditions of Karush, Kuhn and Tucker. Every step sees all images, so it is no matter of chance."""
    monkeypatch.setattr(stepped, "STEPS", 600)
    monkeypatch.setattr(stepped, "RATE", 0.1)
    monkeypatch.setattr(stepped, "BATCH", 600)
    x, y = standardise(features.x)[0], features.labels
    layer: Any = nn.Linear(12, 3)
    descend(Proximal(0.02), layer, x, y, 0.0, 0)
    layer.zero_grad()
    F.cross_entropy(layer(x), y).backward()
    assert 0 < mean_weights(layer) < 12
    assert violation(layer.weight, layer.weight.grad, layer.bias.grad, 0.02, 0.0) < 1e-6


@given(st.floats(1e-6, 1e3), st.integers(0, 12))
def test_the_weakest_penalty_within_a_budget(scale: float, budget: int) -> None:
    """Of a made-up training whose weights fall with the strength: by brute force at a strength a little weaker."""

    def weights(strength: float) -> int:
        return int(12 / (1 + strength / scale))

    strength, found = weakest_within(weights, float, budget)
    assert weights(strength) == found <= budget
    assert strength <= 4 * FLOOR or weights(strength / 1.06) > budget


def test_on_real_numbers_of_weights_the_budget_is_met(features: Features) -> None:
    few, more = HEADS["l1-proximal"].fit(features.x, features.labels, 3, [4, 2])
    assert (few.budget, more.budget) == (2, 4)
    assert 0 < mean_weights(few.head) <= 2 < mean_weights(more.head) <= 4
    assert few.about["strength"] > more.about["strength"]
    [alone] = HEADS["l1-proximal"].fit(features.x, features.labels, 3, [4])
    assert torch.equal(alone.head.get_parameter("weight"), more.head.get_parameter("weight"))


def test_a_head_without_anything_beside_the_steps_is_dense(features: Features) -> None:
    layer = nn.Linear(12, 3)
    descend(Stepped(), layer, features.x, features.labels, 0.0, 0)
    assert (layer.weight != 0).all()


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 7), st.integers(0, 99), st.booleans())
def test_factorising_never_makes_the_error_larger(images: int, inputs: int, count: int, seed: int, sparse: bool) -> None:
    x = torch.rand(images, inputs, generator=torch.Generator().manual_seed(seed))
    x = x * (x > 0.5) if sparse else x
    errors = []
    for steps in range(12):
        amounts, directions = factorise(x, count, seed, steps)
        assert (amounts >= 0).all()
        assert (directions >= 0).all()
        errors.append((x - amounts @ directions).square().sum().item())
    assert all(after <= before * (1 + 1e-4) + 1e-6 for before, after in itertools.pairwise(errors))


def test_factorising_finds_the_parts_of_a_sum_of_parts() -> None:
    """Three directions that share no input, and pictures of each alone: the factors are unique but for order and length."""
    parts = torch.block_diag(*(torch.tensor([[1.0, 2.0, 3.0]]),) * 3)
    amounts = torch.cat([torch.eye(3), torch.rand(60, 3, generator=torch.Generator().manual_seed(0))])
    found = factorise(amounts @ parts, 3, 0, 1000)
    torch.testing.assert_close(found[0] @ found[1], amounts @ parts, atol=0.06, rtol=0)
    close = F.normalize(found[1], dim=1) @ F.normalize(parts, dim=1).T
    torch.testing.assert_close(close.amax(1), torch.ones(3), atol=1e-2, rtol=0)
    assert sorted(close.argmax(1).tolist()) == [0, 1, 2]


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(1, 8), st.integers(0, 99))
def test_a_picture_keeps_its_largest_concepts(images: int, inputs: int, count: int, k: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, directions = torch.rand(images, inputs, generator=generator), torch.rand(count, inputs, generator=generator)
    x[0] = 0
    train = torch.rand(9, inputs, generator=generator)
    found = ucbm.Concepts.of(directions, train, k)(x)
    of_train = torch.stack([F.cosine_similarity(directions, row[None]) for row in train])
    mean, std = of_train.mean(0), of_train.std(0, unbiased=False)
    std[std <= 1e-6 * mean.abs().clamp(min=1e-6)] = 1
    for row, concepts in zip(x, found, strict=True):
        score = (F.cosine_similarity(directions, row[None]) - mean) / std
        expected = torch.zeros(count)
        for i in sorted(range(count), key=lambda i: -score[i].item())[:k]:
            expected[i] = max(score[i].item(), 0.0)
        torch.testing.assert_close(concepts, expected, atol=2e-3, rtol=2e-3)


def test_ucbms_head_is_the_elastic_nets_minimum_and_is_measured_on_its_concepts(features: Features) -> None:
    [found] = HEADS["ucbm"].fit(features.x, features.labels, 3, [4])
    concepts, head = found.head
    gated = concepts(features.x)
    weight, bias = (each.detach().clone().requires_grad_() for each in (head.weight, head.bias))
    F.cross_entropy(gated @ weight.T + bias, features.labels).backward()
    assert weight.grad is not None
    assert bias.grad is not None
    strength = found.about["strength"]
    assert strength in ucbm.STRENGTHS
    assert violation(weight, weight.grad, bias.grad, ALPHA * strength, (1 - ALPHA) * strength) < 2e-4
    figures = measure(found.head, features)
    right = (found.head(features.x).argmax(1) == features.labels).double().mean().item()
    assert figures["top1"] == pytest.approx(100 * right)
    assert right > 0.6
    assert figures["routed"] is not None
    assert 0 < figures["routed"] <= 4
