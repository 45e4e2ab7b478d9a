"""What serves a call: by priority, by name, with routes or without, and what doctor says of it."""

import pytest
import torch
from torch import Tensor

from dynamick import functional
from dynamick.ops import findings, registry


@pytest.fixture
def toy(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """An implementation of sums alone that is preferred to all others; what it was asked for."""
    asked: list[str] = []

    def sum_toy(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> Tensor:
        asked.append(rule)
        return x.new_full((x.shape[0], weight.shape[0]), 7.0, dtype=torch.float32)

    monkeypatch.setattr(registry, "_implementations", dict(registry._implementations))
    monkeypatch.setattr(registry, "_preferred", list(registry._preferred))
    notes = ["toy: a note of its own"]
    label, on_cpu = (lambda: "level 7"), (lambda x, weight: x.device.type == "cpu")
    registry.add(registry.Implementation("toy", on_cpu, priority=99, sum=sum_toy, label=label, notes=lambda: notes))
    return asked


X, W = torch.randn(2, 5), torch.randn(3, 5)


def test_one_that_has_no_routes_serves_sums_alone(toy: list[str]) -> None:
    assert registry.implementations()[0] == "toy"
    for name in (None, "toy"):
        assert functional.dynamic_linear(X, W, None, 2, implementation=name).eq(7).all()
        route = functional.dynamic_route(X, W, 2, implementation=name)
        want = functional.dynamic_route(X, W, 2, implementation="reference")
        assert torch.equal(route.indices, want.indices)
        y = functional.dynamic_linear(X.double(), W.double(), None, 2, implementation=name)
        torch.testing.assert_close(y, functional.dynamic_linear(X.double(), W.double(), None, 2, implementation="reference"))
    assert toy == ["at_most", "at_most"]
    assert registry.select_for_routes("toy", X, W).name == registry.select_for_routes(None, X, W).name == "chunked"


def test_doctor_finds_it(toy: list[str]) -> None:
    said = findings.findings()
    assert "dynamic_linear on the CPU in bfloat16: toy, level 7" in said
    assert "dynamic_linear on the CPU in float64: chunked" in said
    assert "dynamic_linear on the CPU where routes are asked for: chunked" in said
    assert said[-1] == "toy: a note of its own"
    [by_name] = [line for line in said if line.startswith("dynamic_linear on the CPU by name (implementation=): ")]
    assert {"chunked", "reference"} <= set(by_name.partition("=): ")[2].split(", "))


def test_all_that_run_here_form_routes_or_sums() -> None:
    for each in registry.all_present():
        assert each.route is not None or each.sum is not None, each.name
        x = torch.zeros(1, 1)
        if each.supports(x, x):
            assert registry.select_for_routes(each.name, x, x).route is not None
