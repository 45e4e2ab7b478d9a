"""A head's decay, and a K that falls, in a loop of one's own."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import dynamick as dk


def net() -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    )


@pytest.mark.parametrize("layers", [None, ["0", "5"], []])
def test_routed_weights_have_a_decay_of_their_own(layers: list[str] | None) -> None:
    model = net() if layers == [] else dk.convert(net(), layers=layers)
    body, head = dk.parameter_groups(model, weight_decay=1e-4, head_weight_decay=0.5)
    routed = [model[5].weight] if not layers else [model[0].weight, model[5].weight]
    assert [id(each) for each in head["params"]] == [id(each) for each in routed]
    assert {id(each) for each in body["params"]} | {id(each) for each in routed} == {id(each) for each in model.parameters()}
    assert len(body["params"]) + len(routed) == len(list(model.parameters()))
    assert (body["weight_decay"], head["weight_decay"]) == (1e-4, 0.5)


def test_enough_decay_makes_the_head_sparse_and_none_leaves_it_dense() -> None:
    left = {}
    for decay in (0.0, 1e-2):
        torch.manual_seed(0)
        model = dk.convert(net(), k=1)
        optimizer = torch.optim.SGD(dk.parameter_groups(model, head_weight_decay=decay), lr=0.1, momentum=0.9)
        images, labels = torch.rand(32, 3, 8, 8), torch.arange(32) % 4
        for _ in range(400):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(images), labels).backward()
            optimizer.step()
        left[decay] = dk.metrics.sparsity(model[5].weight).weights_per_class
    assert left[0.0] > 7
    assert left[1e-2] < left[0.0] - 1


def test_bad_groups() -> None:
    with pytest.raises(dk.InputError, match="head_weight_decay: -1 must be a number from 0 up"):
        dk.parameter_groups(net(), head_weight_decay=-1)
    with pytest.raises(dk.InputError, match="no linear layer"):
        dk.parameter_groups(nn.ReLU())


@given(st.integers(1, 50), st.integers(0, 50), st.integers(1, 200))
def test_k_falls_to_its_last_value_by_the_half(k: int, more: int, steps: int) -> None:
    model = dk.convert(net(), k=1)
    schedule = dk.KSchedule(model, k + more, k, steps)
    course = [schedule.k]
    for _ in range(steps):
        schedule.step()
        course.append(schedule.k)
        assert model[5].k == schedule.k
    assert course[0] == k + more
    assert course == sorted(course, reverse=True)
    assert set(course[-(-steps // 2) :]) == {k}
    again = dk.KSchedule(model, k + more, k, steps)
    again.load_state_dict(schedule.state_dict())
    assert again.k == k


def test_a_k_that_changes_is_safe_under_compile() -> None:
    layer = dk.DynamicLinear(9, 3, k=4)
    compiled, x = torch.compile(layer, backend="eager"), torch.randn(5, 9)
    for k in (4, 2, 1, 9):
        layer.k = k
        torch.testing.assert_close(compiled(x), dk.functional.dynamic_linear(x, layer.weight, layer.bias, k))


@pytest.mark.parametrize(
    ("k_start", "k", "steps", "said"), [(1, 2, 9, "from 1 to 2"), (2, 0, 9, "from 2 to 0"), (2, 1, 0, "0 steps")]
)
def test_bad_schedules(k_start: int, k: int, steps: int, said: str) -> None:
    with pytest.raises(dk.InputError, match=said):
        dk.KSchedule(dk.convert(net()), k_start, k, steps)
    with pytest.raises(dk.InputError, match="no Dynamic-K layer"):
        dk.KSchedule(net(), 2, 1, 3)
