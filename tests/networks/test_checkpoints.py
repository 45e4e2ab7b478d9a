"""Checkpoints as trainings leave them: what stands before the names, where the weights lie, what lies beside them."""

import collections
import contextlib
import operator
import os
import re
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import dynamick as dk
from dynamick.networks.fitting import chosen, put_weights

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def wanted() -> State:
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18(num_classes=3).state_dict())


def before(prefix: str, tensors: State) -> State:
    return {prefix + name: tensor for name, tensor in tensors.items()}


def other(tensors: State) -> State:
    return {name: torch.zeros_like(tensor) for name, tensor in tensors.items()}


PREFIXES = ("_orig_mod.", "module.", "module._orig_mod.", "module.module.", "model.", "net.encoder.", "_fsdp_wrapped_module.")
FORMS: dict[str, Callable[[State], Any]] = {
    **{prefix: lambda tensors, prefix=prefix: before(prefix, tensors) for prefix in PREFIXES},
    **{
        key: lambda tensors, key=key: {key: tensors, "epoch": 1}
        for key in ("state_dict", "model_state_dict", "net", "state_dict_ema", "ema", "anything", "params")
    },
    "compiled inside": lambda tensors: {name.replace("layer1.", "layer1._orig_mod."): each for name, each in tensors.items()},
    "a training's module": lambda tensors: {"state_dict": before("model.", tensors) | {"loss.weight": torch.ones(3)}},
    "two levels": lambda tensors: {"checkpoint": {"model": before("module.", tensors)}},
    "averaged too": lambda tensors: {"model_ema": other(tensors), "model": tensors},
    "a state of a generator": lambda tensors: {"rng_state": torch.zeros(8, dtype=torch.uint8), "model": tensors},
    "an optimiser's": lambda tensors: {"optimizer": {"state": {0: {"exp_avg": torch.ones(3)}}}, "model": tensors},
    "without counts": lambda tensors: {name: each for name, each in tensors.items() if "num_batches" not in name},
    "another head beside": lambda tensors: {"teacher": {"fc.weight": torch.ones(3)}, "student": tensors},
}


@pytest.mark.parametrize("form", FORMS)
def test_a_checkpoint_of_any_form_opens(form: str, wanted: State, tmp_path: Path) -> None:
    torch.save(FORMS[form](wanted), tmp_path / "w.pt")
    found = dk.open_network("resnet18", tmp_path / "w.pt").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items() if "num_batches" not in name)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (
            lambda tensors: before("encoder_q.", tensors) | before("encoder_k.", tensors),
            "fit twice, under 'encoder_q.'",
        ),
        (lambda tensors: {"student": tensors, "teacher": other(tensors)}, "it holds several, under 'student' and 'teacher'"),
        (
            lambda tensors: {f"stem.{place}.weight": each for place, each in enumerate(tensors.values())},
            "they lack conv1.weight and 121 more; stem.0.weight, stem.1.weight, stem.2.weight there, conv1.weight, bn1.weight",
        ),
        (lambda tensors: before("model.", tensors) | {"model.bn9.bias": torch.ones(1)}, "the model has no bn9.bias"),
    ],
)
def test_what_cannot_be_told_is_refused_with_the_files_own_names(
    content: Callable[[State], Any], said: str, wanted: State, tmp_path: Path
) -> None:
    torch.save(content(wanted), tmp_path / "w.pt")
    with pytest.raises(dk.InputError) as refused:
        dk.open_network("resnet18", tmp_path / "w.pt")
    assert said in str(refused.value)
    assert "\n" not in str(refused.value)


class Wrapped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = torchvision.models.resnet18(num_classes=3)


def test_a_wrapper_takes_the_weights_of_what_it_wraps(wanted: State) -> None:
    model = Wrapped()
    tensors, why = chosen(model, {"": before("module.", wanted)})
    assert why is None
    assert put_weights(model, tensors) is None
    assert all(torch.equal(each, wanted[name]) for name, each in model.net.state_dict().items())


def test_old_names_are_taken(tmp_path: Path) -> None:
    new = torchvision.models.densenet121(num_classes=3).state_dict()
    old = {re.sub(r"(denselayer\d+\.(?:norm|conv))([12])", r"\1.\2", name): tensor for name, tensor in new.items()}
    assert old.keys() != new.keys()
    torch.save(old, tmp_path / "w.pth")
    found = dk.open_network("densenet121", tmp_path / "w.pth").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in new.items())


@pytest.mark.parametrize("name", ["googlenet", "inception_v3"])
@pytest.mark.parametrize("saved", [False, True])
def test_a_file_without_auxiliary_heads_is_taken(name: str, saved: bool, tmp_path: Path) -> None:
    model = torchvision.models.get_model(name, num_classes=3, init_weights=False).eval()
    tensors = {key: each for key, each in model.state_dict().items() if not key.lower().startswith("aux")}
    torch.save(tensors, tmp_path / "w.pth")
    network: Any = dk.open_network(name, tmp_path / "w.pth").model
    if saved:
        dk.save(network, tmp_path / "w.safetensors")
        network = dk.load(tmp_path / "w.safetensors")
    x = torch.rand(1, 3, 96, 96)
    with torch.no_grad():
        assert torch.equal(network(x), model(x))


def test_what_others_keep_beside_their_weights_is_not_imported(wanted: State, tmp_path: Path) -> None:
    module = types.ModuleType("elsewhere")

    class Options(collections.OrderedDict):  # type: ignore[type-arg]
        __module__ = "elsewhere"
        __qualname__ = "Options"

    module.Options = Options  # type: ignore[attr-defined]
    sys.modules["elsewhere"] = module
    content = {"state_dict": before("model.", wanted), "hyper_parameters": Options(lr=0.1)}
    torch.save(content, tmp_path / "w.ckpt")
    torch.save({"model": nn.Linear(2, 2)}, tmp_path / "whole.pt")
    del sys.modules["elsewhere"]
    found = dk.open_network("resnet18", tmp_path / "w.ckpt").model.state_dict()
    assert torch.equal(found["fc.weight"], wanted["fc.weight"])
    assert "elsewhere" not in sys.modules
    with pytest.raises(dk.InputError, match="a whole model, or no weights at all"):
        dk.open_network("resnet18", tmp_path / "whole.pt")


class Hostile:
    def __init__(self, function: Any, *arguments: Any) -> None:
        self.call = (function, arguments)

    def __reduce__(self) -> Any:
        return self.call


def test_a_hostile_pickle_runs_nothing(wanted: State, tmp_path: Path) -> None:
    mark = tmp_path / "RAN"
    calls = (os.mkdir, str(mark)), (exec, f"open({str(mark)!r}, 'w')"), (open, str(mark), "w"), (operator.add, 1, 2)
    for place, call in enumerate(calls):
        contents = {
            "beside": {"state_dict": wanted, "x": Hostile(*call)},
            "inside": {"state_dict": {**wanted, "x": Hostile(*call)}},
        }
        for name, content in contents.items():
            path = tmp_path / f"{name}{place}.pt"
            torch.save(content, path)
            with contextlib.suppress(dk.InputError):
                dk.open_network("resnet18", path)
            assert not mark.exists()


def test_programs_are_no_weights(tmp_path: Path) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2)).eval()
    torch.jit.save(torch.jit.script(model), tmp_path / "script.pt")
    torch.export.save(torch.export.export(model, (torch.zeros(1, 4),)), tmp_path / "exported.pt2")
    for name, kind in (("script.pt", "TorchScript"), ("exported.pt2", "an exported program")):
        with pytest.raises(dk.InputError, match=rf"{name}: {kind}[^\n]*state_dict"):
            dk.open_network("resnet18", tmp_path / name)


def test_networks_that_others_wrap_are_opened_and_scripted_ones_are_told() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    assert dk.open_network(torch.compile(model)).model is model  # type: ignore[arg-type]
    assert dk.open_network(nn.DataParallel(model)).model is model
    with pytest.raises(dk.InputError, match="TorchScript"):
        dk.open_network(torch.jit.script(model))
