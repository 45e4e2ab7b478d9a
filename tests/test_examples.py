"""Every public name has an example in its docstring, and the examples are true."""

import doctest
import inspect
from pathlib import Path
from types import ModuleType

import pytest
import torch

import dynamick as dk

NAMES = {
    "dynamick": [name for name in dk.__all__ if name != "__version__" and not isinstance(getattr(dk, name), ModuleType)],
    "functional": ["Route", "dynamic_conv2d", "dynamic_linear", "dynamic_route"],
    "data": ["ComposedScenes", "read_image", "read_pictures"],
    "explanation": ["Composition", "Explanations", "composition", "faithfulness", "heatmap", "spoken"],
    "metrics": ["DeadUnits", "RoutedUnits", "Sparsity", "sparsity"],
    "models": ["create"],
}
"""What `import dynamick` gives, and what the documents use of its parts."""
FOUND = [(room, name) for room, names in NAMES.items() for name in names]


@pytest.mark.parametrize(("room", "name"), FOUND, ids=[".".join(each) for each in FOUND])
def test_its_example_is_true(room: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    shown = getattr(dk if room == "dynamick" else getattr(dk, room), name)
    known = {**vars(inspect.getmodule(shown) or dk), "dk": dk, "torch": torch}
    example = doctest.DocTestParser().get_doctest(inspect.getdoc(shown) or "", known, name, None, None)
    assert example.examples, f"{name}: its docstring has no example"
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS)
    assert runner.run(example).failed == 0
