"""`convert` and `revert` on any module tree: the paper's "plugged into any CNN"."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torchvision
from torch import nn
from torch.nn.utils import parametrizations, prune, spectral_norm, weight_norm

import dynamick as dk
from dynamick.nn import find_classifier

CLASSIFIERS = {
    "resnet18": "fc",
    "vgg11": "classifier.6",
    "densenet121": "classifier",
    "mobilenet_v2": "classifier.1",
    "mobilenet_v3_small": "classifier.3",
    "convnext_tiny": "classifier.2",
    "efficientnet_b0": "classifier.1",
    "regnet_y_400mf": "fc",
    "squeezenet1_1": "classifier.1",
    "googlenet": "fc",
    "vit_b_16": "heads.head",
}


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_torchvision_models(name: str) -> None:
    # RegNet computes its widths with tensors, which must hold numbers.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = torchvision.models.get_model(name, num_classes=10)
    assert find_classifier(model) == CLASSIFIERS[name]
    before = {key: id(value) for key, value in model.named_parameters()}
    keys = list(model.state_dict())
    dk.convert(model, k=3)
    layer = model.get_submodule(CLASSIFIERS[name])
    assert isinstance(layer, dk.DynamicLinear | dk.DynamicConv2d)
    assert layer.k == 3
    assert {key: id(value) for key, value in model.named_parameters()} == before
    assert list(model.state_dict()) == keys
    dk.revert(model)
    assert type(model.get_submodule(CLASSIFIERS[name])) in (nn.Linear, nn.Conv2d)
    assert {key: id(value) for key, value in model.named_parameters()} == before


@pytest.mark.parametrize("name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small"])
def test_a_converted_model_computes_and_a_round_trip_gives_the_same_bits(name: str) -> None:
    torch.manual_seed(0)
    model = torchvision.models.get_model(name, num_classes=7).eval()
    x = torch.randn(2, 3, 64, 64)
    dense = model(x)
    everything = dk.convert(copy.deepcopy(model), k=10**6, rule="exactly")
    torch.testing.assert_close(everything(x), dense, rtol=1e-4, atol=1e-4)
    few = dk.convert(model, k=2)(x)
    assert few.shape == dense.shape
    assert not torch.equal(few, dense)
    assert torch.equal(dk.revert(model)(x), dense)


class Tree(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 3, padding=1)))
        self.heads = nn.ModuleDict({"a": nn.Linear(8, 4), "b": nn.Linear(8, 4)})
        self.again = self.heads["a"]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.body(x).mean((2, 3))
        return self.heads["a"](x) + self.again(x) + self.heads["b"](x)


def test_nested_names_and_shared_modules() -> None:
    model = dk.convert(Tree(), k=2, layers=["body.1.1", "again"])
    assert isinstance(model.body[1][1], dk.DynamicConv2d)
    assert model.again is model.heads["a"]
    assert isinstance(model.again, dk.DynamicLinear)
    assert type(model.heads["b"]) is nn.Linear
    model(torch.randn(2, 3, 8, 8)).sum().backward()
    dk.revert(model)
    assert model.again is model.heads["a"]
    assert not any(isinstance(m, dk.DynamicLinear | dk.DynamicConv2d) for m in model.modules())


def test_converting_again_changes_k() -> None:
    model = dk.convert(dk.convert(Tree(), k=2, layers="heads.b"), k=3, layers="heads.b", rule="exactly")
    assert (model.heads["b"].k, model.heads["b"].rule) == (3, "exactly")


def test_a_model_that_is_a_layer_and_training_mode() -> None:
    layer = nn.Linear(3, 2).eval()
    new = dk.convert(layer, k=1)
    assert isinstance(new, dk.DynamicLinear)
    assert new.weight is layer.weight
    assert not new.training
    convolution = nn.Conv2d(3, 4, 3)
    again = dk.convert(dk.convert(convolution, k=2), k=3)
    assert isinstance(again, dk.DynamicConv2d)
    assert again.k == 3
    assert again.weight is convolution.weight


def test_optimiser_keeps_its_parameters() -> None:
    model = Tree()
    optimiser = torch.optim.SGD(model.parameters(), lr=0.1)
    dk.convert(model, k=2)
    assert {id(p) for group in optimiser.param_groups for p in group["params"]} == {id(p) for p in model.parameters()}


def test_a_name_that_is_not_there_is_said_and_nothing_is_changed() -> None:
    model = Tree()
    with pytest.raises(ValueError, match=r"no 'heads\.c'; near it are 'heads\.b'"):
        dk.convert(model, k=2, layers=["again", "heads.c"])
    with pytest.raises(ValueError, match="is a Sequential"):
        dk.convert(model, k=2, layers=["again", "body"])
    for k in (0, -1, 2.5, "five"):
        with pytest.raises(ValueError, match="integer from 1 up"):
            dk.convert(model, k=k)  # type: ignore[arg-type]
    assert type(model.again) is nn.Linear
    with pytest.raises(ValueError, match="no linear layer"):
        dk.convert(nn.Sequential(nn.ReLU()))


def encoder(**options: Any) -> nn.TransformerEncoder:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True, **options)
    return nn.TransformerEncoder(layer, 2, enable_nested_tensor=not options).eval()


@pytest.mark.parametrize("layers", [None, "layers.0.linear1", ["layers.0.linear2", "layers.1.linear1"]])
@pytest.mark.parametrize("padded", [False, True])
def test_a_transformer_computes_the_same_with_and_without_gradients(layers: Any, padded: bool) -> None:
    model, x = encoder(), torch.randn(2, 5, 16)
    hidden = torch.arange(5) >= torch.tensor([[5], [3]]) if padded else None
    seen = ~hidden if padded else slice(None)
    with torch.no_grad():
        dense = model(x, src_key_padding_mask=hidden)
    for _ in range(2):
        dk.convert(model, k=1, layers=layers)
    routed = model(x, src_key_padding_mask=hidden)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for each in (model, twin):
            torch.testing.assert_close(each(x, src_key_padding_mask=hidden)[seen], routed[seen])
            assert not torch.allclose(routed[seen], dense[seen], atol=1e-2)
            dk.revert(each)
            assert torch.equal(each(x, src_key_padding_mask=hidden), dense)


def test_only_the_transformer_layers_converted_leave_the_fast_path_and_only_while_they_are() -> None:
    model = nn.ModuleDict({"a": encoder(), "b": encoder(activation="gelu"), "c": encoder(activation=torch.tanh)})

    def switches() -> dict[str, list[int]]:
        return {
            key: [each.use_nested_tensor, *(layer.activation_relu_or_gelu for layer in each.layers)]
            for key, each in model.items()
        }

    before = switches()
    assert before == {"a": [1, 1, 1], "b": [0, 2, 2], "c": [0, 0, 0]}
    dk.convert(model, k=2, layers=["a.layers.1.linear2", "b.layers.0.linear1", "c.layers.0.linear1"])
    assert switches() == {"a": [0, 1, 0], "b": [0, 0, 2], "c": [0, 0, 0]}
    names = set(vars(encoder()))
    dk.revert(model)
    assert switches() == before
    assert set(vars(model["a"])) == names


def test_an_attentions_projection_is_never_called_and_so_never_converted() -> None:
    model = nn.ModuleDict({"head": nn.Linear(8, 4), "attention": nn.MultiheadAttention(8, 2)})
    assert find_classifier(model) == "head"
    # Some libraries put a plain layer there, and perhaps use it elsewhere too.
    model["attention"].out_proj = model["again"] = nn.Linear(8, 8)
    assert find_classifier(model) == "head"
    for name in ("attention.out_proj", "again"):
        with pytest.raises(ValueError, match=rf"^layers: '{name}' is never called[^\n]+$"):
            dk.convert(model, layers=["head", name])
    assert type(model["head"]) is nn.Linear
    with pytest.raises(ValueError, match="no linear layer"):
        dk.convert(model["attention"])


@pytest.mark.parametrize("version", ["swin_t", "swin_v2_t"])
def test_what_torchvisions_swin_reads_but_never_calls_is_not_converted(version: str) -> None:
    model = torchvision.models.get_model(version)
    assert find_classifier(model) == "head"
    for name in ("features.1.0.attn.qkv", "features.1.0.attn.proj"):
        with pytest.raises(ValueError, match=rf"^layers: '{name}' is never called, ShiftedWindowAttention\w* reads its weight"):
            dk.convert(model, layers=name)
    dk.convert(model, layers=["features.1.0.mlp.0", "head"])
    assert type(model.head) is dk.nn.DynamicLinear


def test_hooks_move_both_ways_and_their_handles_still_remove_them() -> None:
    model = nn.Sequential(nn.Linear(6, 4))
    state = model.state_dict()
    calls: list[str] = []

    def note(name: str) -> Callable[..., None]:
        return lambda *args, **kwargs: calls.append(name)

    layer = model[0]
    handles = [
        layer.register_forward_pre_hook(note("forward-pre"), with_kwargs=True),
        layer.register_forward_hook(note("forward"), with_kwargs=True, always_call=True),
        layer.register_full_backward_pre_hook(note("backward-pre")),
        layer.register_full_backward_hook(note("backward")),
        layer.register_state_dict_pre_hook(note("state-pre")),
        layer.register_state_dict_post_hook(note("state")),
        layer.register_load_state_dict_pre_hook(lambda module, *args: calls.append(type(module).__name__)),
        layer.register_load_state_dict_post_hook(note("load")),
    ]
    del layer

    def called() -> list[str]:
        calls.clear()
        model(torch.randn(3, 6, requires_grad=True)).sum().backward()
        model.state_dict()
        model.load_state_dict(state)
        return list(calls)

    want = called()
    assert len(want) == 8
    dk.convert(model, k=2)
    assert called() == [*want[:6], "DynamicLinear", "load"]
    dk.convert(model, k=3)
    dk.revert(model)
    assert called() == want
    dk.convert(model, k=2)
    for handle in handles:
        handle.remove()
    assert called() == []


COMPUTED: dict[str, Callable[[nn.Module], Any]] = {
    "prune": lambda layer: prune.l1_unstructured(layer, "weight", 0.5),
    "prune the bias": lambda layer: prune.l1_unstructured(layer, "bias", 0.5),
    "weight_norm": weight_norm,
    "spectral_norm": spectral_norm,
    "parametrized": parametrizations.weight_norm,
}


@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated")
@pytest.mark.parametrize("how", COMPUTED)
def test_a_layer_whose_parameters_are_computed_is_refused_and_nothing_is_changed(how: str) -> None:
    x = torch.randn(2, 3, 8, 8)
    for layers in (["heads.a", "heads.b"], ["heads.a", "body.1.1"]):
        model = Tree().eval()
        COMPUTED[how](model.get_submodule(layers[1]))
        before, y = dict(model.named_modules()), model(x)
        with pytest.raises(ValueError, match=rf"^model: the weight or bias of '{layers[1]}' is computed; call [^\n]+ first$"):
            dk.convert(model, k=2, layers=layers)
        assert dict(model.named_modules()) == before
        assert torch.equal(model(x), y)

        model = dk.convert(Tree().eval(), k=2, layers=layers)
        model.heads["a"].set_mask(torch.rand(4, 8) > 0.5)
        COMPUTED[how](model.get_submodule(layers[1]))
        before, weight = dict(model.named_modules()), model.heads["a"].weight.clone()
        with pytest.raises(ValueError, match=rf"^model: the weight or bias of '{layers[1]}' is computed; call [^\n]+ first$"):
            dk.revert(model)
        assert dict(model.named_modules()) == before
        assert torch.equal(model.heads["a"].weight, weight)


def test_pruned_weights_stay_pruned_without_the_mask() -> None:
    model = dk.convert(Tree(), k=10**6, rule="exactly", layers=["heads.b", "body.0"])
    kept = {"heads.b": torch.rand(4, 8) > 0.5, "body.0": torch.rand(8, 3) > 0.5}
    for name, mask in kept.items():
        model.get_submodule(name).set_mask(mask)
    x = torch.randn(2, 3, 8, 8)
    want = model(x)
    parameters = dict(model.named_parameters())
    dk.revert(model)
    torch.testing.assert_close(model(x), want)
    for name, mask in kept.items():
        weight = model.get_submodule(name).weight
        assert weight is parameters[f"{name}.weight"]
        assert not weight[~mask].any()
        assert bool(weight[mask].all())
