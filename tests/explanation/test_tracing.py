"""Traces against the numbers that they are made of: convolutions by hand, and what a small change of a channel does."""

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torchvision
from torch import Tensor, nn

import dynamick as dk
from dynamick.explanation import Trace


def image(side: int = 32, seed: int = 0) -> Tensor:
    return torch.rand(3, side, side, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def lively(model: nn.Module) -> Any:
    """Batch normalisations that do something, in float64 and evaluation mode."""
    torch.manual_seed(1)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
    return model.double().eval()


def every(trace: Trace) -> Iterator[Trace]:
    yield trace
    for part in trace.parts:
        yield from every(part)


def check_sums(trace: Trace, error: float = 1e-10) -> None:
    for each in every(trace):
        if each.parts:
            assert sum(part.value for part in each.parts) == pytest.approx(each.value, abs=error)
        if each.heat is not None:
            assert float(each.heat.sum()) == pytest.approx(each.value, abs=error)


def vgg() -> Any:
    """VGG-11 with a small classifier."""
    with torch.device("meta"):
        model = torchvision.models.vgg11_bn()
    model.classifier = nn.Sequential(nn.Linear(512 * 49, 64), nn.ReLU(), nn.Dropout(), nn.Linear(64, 10))
    model.features.to_empty(device="cpu")
    for module in model.features:
        getattr(module, "reset_parameters", lambda: None)()
    return model


NETWORKS: dict[str, Callable[[], Any]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=10),
    "resnet50": lambda: torchvision.models.resnet50(num_classes=10),
    "vgg11_bn": vgg,
    "units": lambda: dk.convert(torchvision.models.resnet18(num_classes=10), k=3, units=16, example=torch.rand(2, 3, 32, 32)),
    "ours": lambda: dk.models.create("res8-d5a", 10, "patch", 8),
    "densenet": lambda: torchvision.models.densenet121(num_classes=10),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=10),
}


@pytest.mark.parametrize("name", list(NETWORKS))
def test_each_level_sums_to_the_one_above(name: str) -> None:
    model = lively(NETWORKS[name]())
    found = dk.trace(model, image(), depth=3, most=3, preprocess=None)
    check_sums(found)
    with torch.no_grad():
        logits = model(image()[None])[0]
    assert found.index == int(logits.argmax())
    assert found.value == pytest.approx(float(logits.max()), abs=1e-12)
    [why] = dk.explain(model, image(), preprocess=None)
    units = [part for part in found.parts if part.kind == "unit"]
    by_size = sorted(zip(why.indices, why.products, strict=True), key=lambda each: -abs(each[1]))[: len(units)]
    assert [part.index for part in units] == [index for index, _ in by_size]
    assert [part.value for part in units] == pytest.approx([product for _, product in by_size])
    assert found.parts[-1].kind == "bias"
    assert found.parts[-1].value == pytest.approx(why.bias, abs=1e-10)


@torch.no_grad()
def test_a_basic_block_by_hand() -> None:
    """docs/definitions.md, "Traces": channel j's part is (g / HW) times the sum of (W_j * A_j)(p) where the unit is open."""
    torch.manual_seed(0)
    block = torchvision.models.resnet.BasicBlock(16, 16)
    parts = nn.Conv2d(3, 16, 3, 2), nn.ReLU(), block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 4)
    model, seen = lively(nn.Sequential(*parts)), dict[str, Tensor]()
    block.conv2.register_forward_pre_hook(lambda _, inputs: seen.update(inner=inputs[0].clone()))
    block.register_forward_hook(lambda _, inputs, output: seen.update(shortcut=inputs[0].clone(), out=output.clone()))
    found = dk.trace(model, image(), depth=2, most=16, preprocess=None)
    unit = next(part for part in found.parts if part.kind == "unit")
    u, norm = unit.index, block.bn2
    weight = model[-1].weight[found.index, u]
    g = norm.weight[u] / (norm.running_var[u] + norm.eps).sqrt()
    c = norm.bias[u] - g * norm.running_mean[u]
    is_open = (seen["out"][0, u] > 0).double()
    share = weight / is_open.numel()
    maps = nn.functional.conv2d(seen["inner"][0][:, None], block.conv2.weight[u, :, None], padding=1, groups=1)
    by_hand = torch.stack([(share * g * maps[j, j] * is_open).sum() for j in range(16)])
    channels = {part.index: part.value for part in unit.parts if part.kind == "channel"}
    assert all(value == pytest.approx(float(by_hand[j]), abs=1e-12) for j, value in channels.items())
    assert sum(channels.values()) == pytest.approx(float(by_hand.sum()), abs=1e-12)
    [shortcut] = [part for part in unit.parts if part.kind == "shortcut"]
    assert shortcut.value == pytest.approx(float((share * seen["shortcut"][0, u] * is_open).sum()), abs=1e-12)
    assert unit.parts[-1].value == pytest.approx(float(share * c * is_open.sum()), abs=1e-12)


@pytest.mark.parametrize(("name", "below"), [("vgg11_bn", "features.28"), ("units", "units.conv")])
def test_a_channel_that_grows_a_little_moves_its_unit_by_its_part(name: str, below: str) -> None:
    model = lively(NETWORKS[name]())
    found = dk.trace(model, image(), depth=2, most=4, preprocess=None)
    unit = next(part for part in found.parts if part.kind == "unit")
    layer, step = model.get_submodule(below), 1e-7

    def product(channel: int, factor: float) -> float:
        def grown(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor]:
            x = inputs[0].clone()
            x[:, channel] *= factor
            return (x,)

        hook = layer.register_forward_pre_hook(grown)
        [why] = dk.explain(model, image(), classes=found.index, preprocess=None, maps=False)
        hook.remove()
        return why.products[why.indices.index(unit.index)]

    for part in unit.parts:
        if part.kind == "channel":
            moved = (product(part.index, 1 + step) - product(part.index, 1 - step)) / (2 * step)
            assert moved == pytest.approx(part.value, rel=1e-4, abs=1e-8)


@pytest.mark.parametrize("routing", ["map", "location"])
def test_a_unit_of_a_routed_convolution_has_the_channels_that_it_routes(routing: str) -> None:
    torch.manual_seed(0)
    routed = dk.DynamicConv2d(12, 8, 3, k=2, routing=routing, padding=1)
    parts = nn.Conv2d(3, 12, 3), nn.ReLU(), routed, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    model = lively(nn.Sequential(*parts))
    found = dk.trace(model, image(), depth=3, most=20, preprocess=None)
    check_sums(found)
    counts = [sum(part.kind == "channel" for part in unit.parts) for unit in found.parts if unit.kind == "unit"]
    assert max(counts) <= 2 if routing == "map" else max(counts) > 2
    assert {part.kind for unit in found.parts for channel in unit.parts for part in channel.parts} == {"image", "constant"}


@pytest.mark.parametrize(
    ("make", "step"),
    [(torchvision.models.mobilenet_v3_small, "Hardswish"), (torchvision.models.convnext_tiny, "NativeLayerNorm")],
)
def test_a_step_that_does_not_split_ends_it_by_name(make: Any, step: str) -> None:
    torch.manual_seed(0)
    found = dk.trace(make(num_classes=5).double(), image(64), depth=3, preprocess=None)
    check_sums(found)
    assert {part.ended for part in found.parts if part.kind == "unit"} == {step}
    assert f"ends here: {step} does not split exactly" in repr(found)


def test_attention_ends_it_too() -> None:
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    parts = (
        nn.Conv2d(3, 8, 8, 8),
        nn.Flatten(2),
        Swapped(),
        layer,
        Swapped(),
        nn.AdaptiveAvgPool1d(1),
        nn.Flatten(),
        nn.Linear(8, 3),
    )
    found = dk.trace(nn.Sequential(*parts).double(), image(), depth=3, preprocess=None)
    check_sums(found)
    assert any(each.ended for each in every(found))


class Swapped(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return x.transpose(1, 2)


def test_the_model_is_left_as_it_was() -> None:
    model = dk.models.create("res8-d5a", 10, "patch", 8).train()
    model.fc.weight.requires_grad_(False)
    before = [(name, each.requires_grad) for name, each in model.named_parameters()]
    dk.trace(model, image().float(), preprocess=None)
    assert before == [(name, each.requires_grad) for name, each in model.named_parameters()]
    assert all(module.training for module in model.modules())
    assert not any(module._forward_hooks for module in model.modules())
    with torch.no_grad():
        assert len(dk.trace(model, image().float(), preprocess=None).parts) > 1


def test_what_it_says() -> None:
    scenes = dk.data.ComposedScenes("val", 1, image_size=32)
    model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    found = dk.trace(model, scenes.images[0], "sailing boat", most=2)
    lines = repr(found).splitlines()
    assert lines[0].endswith("class sailing boat")
    first = found.parts[0]
    assert lines[1] == f"  {first.value:+.3g}  unit {first.index + 1}"
    plain = found.as_dict()
    assert plain["parts"][0]["value"] == first.value
    assert plain["parts"][0]["parts"][-1]["kind"] == "constant"


def test_it_is_drawn_as_a_tree() -> None:
    """The class, its three largest units and their three largest channels have a picture each; what is small has a line."""
    scenes = dk.data.ComposedScenes("val", 1, image_size=32)
    model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    found = dk.trace(model, scenes.images[0])
    [canvas] = found.plot().axes
    assert len(canvas.images) == 1 + 3 + 9
    said = [text.get_text() for text in canvas.texts]
    first = found.parts[0]
    assert said[1] == f"class {found.name}"
    assert f"unit {first.index + 1}" in said
    assert sum("constant" in each for each in said) == 3


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"cls": 10}, "cls: 10 must be an integer in 0..9"),
        ({"cls": "boat"}, "cls: 'boat': no class"),
        ({"depth": 0}, "depth: 0 must be an integer from 1 up"),
        ({"most": 0}, "most: 0 must be"),
        ({"image": torch.rand(2, 3, 32, 32)}, "image: 2 images; a trace is of one"),
    ],
)
def test_bad_input(change: dict[str, Any], said: str) -> None:
    model = dk.models.create("res8-d5a", 10, "patch", 8)
    with pytest.raises(dk.InputError, match=said):
        dk.trace(**{"model": model, "image": image().float(), "preprocess": None, **change})


@pytest.mark.pretrained
def test_units_on_imagenets_weights() -> None:
    network = dk.open_network("efficientnet-lite0", "DEFAULT", size=64)
    dk.convert(network.model, k=3, units=16, example=torch.rand(2, 3, 64, 64))
    found = dk.trace(network, image(64).float(), depth=3)
    check_sums(found, 1e-4)
    [unit, *_] = [part for part in found.parts if part.kind == "unit"]
    assert {part.kind for part in unit.parts} <= {"channel", "rest", "constant"}
