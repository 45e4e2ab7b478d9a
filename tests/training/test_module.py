"""Schedules, groups of parameters, and what each epoch measures."""

import copy

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.data.images import Batches, ImageTensors
from dynamick.metrics import routing_compute, routing_start, routing_update, sparsity
from dynamick.training.module import Classifier
from dynamick.training.optimising import parameter_groups, schedule
from dynamick.training.recipe import OptimRecipe
from dynamick.training.static import L


def test_the_head_alone_has_its_own_decay() -> None:
    model = dk.models.create("res8-d2a", width=4)
    body, head = parameter_groups(model, OptimRecipe(weight_decay=1e-4, head_weight_decay=0.3))
    assert [id(p) for p in head["params"]] == [id(model.fc.weight)]
    assert (body["weight_decay"], head["weight_decay"]) == (1e-4, 0.3)
    assert len(body["params"]) + 1 == len(list(model.parameters()))


def test_the_papers_schedule_divides_by_ten_every_70_epochs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    rates, steps = schedule(optimizer, OptimRecipe(), steps=200 * 2), []
    for _ in range(400):
        steps.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    want = [0.1] * 140 + [0.01] * 140 + [0.001] * 120
    assert steps == pytest.approx(want)


@pytest.mark.parametrize("name", ["step", "onecycle", "cosine"])
def test_a_schedule_of_any_length_ends(name: str) -> None:
    for steps in range(1, 12):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        rates = schedule(optimizer, OptimRecipe(schedule=name), steps)
        for _ in range(steps - 1):
            optimizer.step()
            rates.step()
            assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1 + 1e-12


def test_one_cycle_swings_about_the_recipes_momentum() -> None:
    def momenta(momentum: float) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum)
        rates = schedule(optimizer, OptimRecipe(momentum=momentum, schedule="onecycle"), 20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            rates.step()
        return found

    for momentum in (0.5, 0.9):
        assert min(momenta(momentum)) == pytest.approx(momentum - 0.05)
        assert max(momenta(momentum)) == pytest.approx(momentum + 0.05)
    assert set(momenta(0.0)) == {0.0}


def test_the_steps_are_of_epochs_however_long_the_trainer_goes() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    rates = schedule(optimizer, OptimRecipe(epochs=200, step_epochs=70), 100, epochs=10)
    for _ in range(99):
        optimizer.step()
        rates.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("s", [None, 0.9])
def test_the_trainers_clipping_is_heeded(s: float | None) -> None:
    data = ImageTensors(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 4, list("abcd"))
    torch.manual_seed(0)
    model = dk.models.create("res8", 4, "patch", 8)
    before = copy.deepcopy(model.state_dict())
    trainer = L.Trainer(
        max_epochs=1,
        gradient_clip_val=1e-6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(Classifier(model, OptimRecipe(lr=0.1, weight_decay=0.0, s=s)), Batches(data, 8))
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).abs().max() < 1e-5, name


@pytest.mark.parametrize(("width", "expected"), [(4, torch.contiguous_format), (16, torch.channels_last)])
def test_networks_with_thin_cells_are_not_trained_channels_last(width: int, expected: torch.memory_format) -> None:
    """There PyTorch's backward pass corrupts memory on CPUs with AVX2 alone."""
    model = dk.models.create("res8", num_classes=4, width=width)
    assert Classifier(model, OptimRecipe()).memory_format == expected


def test_figures_of_sparsity_and_routing() -> None:
    weight = torch.tensor([[0.0, 1e-3, -0.5, 9e-4], [2.0, 0.0, 0.0, -1e-4]])
    assert sparsity(weight) == (5 / 8, 1.5, 2)
    head = dk.DynamicLinear(3, 2, k=2, bias=False)
    head.weight.data = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 0.0, 0.0]])
    x = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    counts = routing_update(routing_start(head.weight), x[:1], head)
    counts = routing_update(counts, x[1:], head)
    # Class 0 routes units 0 and 1, then unit 1; class 1 routes nothing: 3 of 4 rows' units, and unit 2 is dead.
    assert routing_compute(counts) == (3 / 4, 1)
    assert counts.used.tolist() == [[1, 2, 0], [0, 0, 0]]
    dense = nn.Linear(3, 2, bias=False)
    dense.weight = head.weight
    assert routing_update(routing_start(head.weight), x, dense).used.tolist() == [[1, 2, 0], [1, 0, 0]]
