"""Every public name has an example in its docstring, and the examples are true."""

import doctest
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest
import torch

import dynamick as dk
from dynamick.ops import registry
from dynamick.retrofit import heads, probe

FUNCTIONS = {"functional": ["Route", "dynamic_conv2d", "dynamic_linear", "dynamic_route"]}
"""A room without `__all__`: its other functions check arguments."""


def public() -> Iterator[tuple[str, Any]]:
    """What `import dynamick` gives, and what its rooms give: functions and classes, each once."""
    rooms = {name: room for name in dk.__all__ if isinstance(room := getattr(dk, name), ModuleType)}
    names = {name: getattr(dk, name) for name in dk.__all__ if name not in rooms}
    for room, module in rooms.items():
        names |= {f"{room}.{name}": getattr(module, name) for name in FUNCTIONS.get(room, getattr(module, "__all__", ()))}
    seen = set[int]()
    for name, value in names.items():
        if (inspect.isclass(value) or inspect.isfunction(value)) and id(value) not in seen:
            seen.add(id(value))
            yield name, value


PUBLIC = dict(public())


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """A retrofit of seconds; and an implementation that an example adds is gone after it."""
    monkeypatch.setattr(probe, "LEAST_STEPS", 60)
    monkeypatch.setattr(heads, "ROUTED", (2.0,))
    monkeypatch.setattr(heads, "DENSE", (1.0,))
    monkeypatch.setattr(registry, "_implementations", dict(registry._implementations))
    monkeypatch.setattr(registry, "_preferred", list(registry._preferred))


def test_there_are_many() -> None:
    assert len(PUBLIC) > 140
    assert {"convert", "explanation.page", "optim.InterpretableSGD", "training.train", "functional.dynamic_linear"} <= {*PUBLIC}


@pytest.mark.parametrize("name", PUBLIC)
def test_its_example_is_true(name: str, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shown = PUBLIC[name]
    known = {**vars(inspect.getmodule(shown) or dk), "dk": dk, "torch": torch}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(shown) or "", known, name, None, None)
    assert example.examples, f"{name}: its docstring has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example).failed == 0
