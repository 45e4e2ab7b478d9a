"""Networks as people have them: beside a training, compiled, in other types; and images that tell nothing."""

import warnings
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import nn

from dynamick import models
from dynamick.comparison.detecting import features_layer
from dynamick.dissection import dissect
from dynamick.dissection.gallery import examples
from dynamick.errors import InputError, Note
from dynamick.preprocessing import Preprocessing

OPTIONS = {"preprocessing": Preprocessing(size=32), "quantile": 0.9, "progress": False}


class Cached(nn.Module):
    """Keeps a grid of coordinates from the first maps that it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.scale, self.fc = nn.Conv2d(3, 8, 3), nn.Parameter(torch.ones(1)), nn.Linear(8, 4)
        self.grid: torch.Tensor | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = self.body(x)
        if self.grid is None:
            self.grid = torch.linspace(0, 1, maps.shape[-1])
        return self.fc((maps + self.scale * self.grid).mean((2, 3)))


LAZY = nn.Sequential(nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LazyLinear(4))


@pytest.mark.parametrize(("model", "layer"), [(Cached(), "body"), (LAZY, "1")], ids=["kept tensors", "lazy layers"])
def test_a_network_can_be_trained_after_it_was_dissected(squares, model: nn.Module, layer: str) -> None:
    found = dissect(model, layer, squares, **OPTIONS)
    examples(model, squares, found, [0], preprocessing=OPTIONS["preprocessing"])
    model.train()
    model(torch.rand(4, 3, 32, 32)).sum().backward()
    assert all(each.grad is not None and each.requires_grad for each in model.parameters())
    torch.optim.SGD(model.parameters(), 0.1).step()


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 3))


@pytest.mark.parametrize("wrap", [nn.DataParallel, torch.compile], ids=["DataParallel", "compile"])
def test_what_wraps_a_network_changes_nothing(squares, wrap) -> None:
    model = small_network()
    plain = dissect(model, "1", squares, **OPTIONS)
    wrapped = wrap(model)
    prefix = "module" if wrap is nn.DataParallel else "_orig_mod"
    for layer in ("1", f"{prefix}.1"):
        np.testing.assert_array_equal(dissect(wrapped, layer, squares, **OPTIONS).iou, plain.iou)


def test_torchscript_is_refused(squares) -> None:
    scripted = torch.jit.trace(small_network(), torch.rand(1, 3, 32, 32))
    with pytest.raises(InputError, match=r"^model: TorchScript, which hides what its layers put out"):
        dissect(scripted, "1", squares, **OPTIONS)


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_weights_of_any_type(squares, dtype: torch.dtype) -> None:
    found = dissect(small_network().to(dtype), "1", squares, **OPTIONS)
    assert found.thresholds.dtype == np.float32
    assert found.scores.max() > 0


@pytest.fixture
def doubles() -> Iterator[None]:
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("doubles")
def test_the_default_type_does_not_matter(squares) -> None:
    found = dissect(small_network(), "1", squares, **OPTIONS)
    assert found.thresholds.dtype == found.top_values.dtype == np.float32
    examples(small_network(), squares, found, [0], preprocessing=OPTIONS["preprocessing"])


def test_a_network_of_other_images_says_so_in_one_line(squares) -> None:
    grey = nn.Sequential(nn.Conv2d(1, 6, 3), nn.ReLU())
    with pytest.raises(InputError, match=r"^model: takes images of 1 channel, and is given 3; [^\n]+$"):
        dissect(grey, "1", squares, **OPTIONS)


def blank(squares):
    """The same images, of which the first one is black."""
    squares.images[0] = 0
    return squares


def unbiased(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.bias = None
    return model


def test_a_blank_first_image_hides_no_layer(squares) -> None:
    model = models.create("res8", 3, "patch", 4).eval()
    plain = Preprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1))
    assert features_layer(model, squares, plain) == features_layer(model, blank(squares), plain) == "layer3"


def test_a_blank_first_image_does_not_hide_another_network(squares, tmp_path) -> None:
    """The same weights, put together in another way, put out the same maps of a black image: zeros."""
    options = {**OPTIONS, "preprocessing": Preprocessing(size=32, mean=(0, 0, 0), std=(1, 1, 1)), "state": tmp_path}
    one = unbiased(nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU()))
    other = nn.Sequential(one[0], nn.Tanh())
    dissect(one, "1", blank(squares), **options)
    with pytest.raises(InputError, match=r"holds another configuration's dissection"):
        dissect(other, "1", squares, **options)


def test_too_few_activations_are_told(squares) -> None:
    options = OPTIONS | {"quantile": 0.95}
    with pytest.warns(Note, match=r"^layer: '2' gives a unit 12 activations, too few for the 0.95 quantile: .* 20 or more"):
        found = dissect(small_network(), "2", squares, **options)
    assert not found.scores.any()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dissect(small_network(), "1", squares, **options)
        dissect(small_network(), "2", squares.more(20), **options)
