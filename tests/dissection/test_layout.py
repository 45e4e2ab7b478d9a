"""Units are a layer's features, whichever axis they are on."""

import numpy as np
import pytest
import torch
import torchvision
from torch import nn

from dynamick.dissection import capture, dissect
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing


class Turned(nn.Module):
    """A convolution, then features last, as in the inner layers of ConvNeXt, then features second again."""

    def __init__(self, features: int = 6) -> None:
        super().__init__()
        self.body = nn.Conv2d(3, features, 4, stride=4)
        self.last = nn.LayerNorm(features)
        self.act = nn.GELU()
        self.back = nn.Identity()
        self.fc = nn.Linear(features, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.act(self.last(self.body(x).permute(0, 2, 3, 1)))
        return self.fc(self.back(x.permute(0, 3, 1, 2)).mean((2, 3)))


def maps_of(model: nn.Module, layer: str, images: torch.Tensor) -> torch.Tensor:
    with torch.no_grad(), capture(model, layer) as taken:
        model(images)
        return taken.take()


@pytest.mark.parametrize("size", [(32, 32), (32, 16), (64, 24), (4, 4)])
def test_features_that_are_last_are_the_units(size: tuple[int, int]) -> None:
    model, images = Turned(), torch.rand(2, 3, *size)
    second = maps_of(model, "back", images)
    assert second.shape == (2, 6, size[0] // 4, size[1] // 4)
    # What lies before the axes are turned back holds the same numbers.
    torch.testing.assert_close(maps_of(model, "act", images), second)
    assert maps_of(model, "body", images).shape == second.shape


@pytest.mark.parametrize("layer", ["body", "act", "back"])
def test_a_layer_keeps_its_axes_in_every_pass(layer: str) -> None:
    model = Turned()
    with torch.no_grad(), capture(model, layer) as taken:
        for count in (5, 1):
            model(torch.rand(count, 3, 32, 32))
            assert taken.take().shape == (count, 6, 8, 8)


@pytest.mark.parametrize("layer", ["features.0", "features.1", "features.3", "features.3.1.attn", "norm", "permute"])
def test_a_swin_transformers_layers_have_as_many_units_as_channels(layer: str, small) -> None:
    swin = torchvision.models.swin_transformer.SwinTransformer([4, 4], 12, [1, 2], [2, 2], [4, 4], num_classes=5)
    _, dataset = small.case(0, images=6)
    found = dissect(swin, layer, dataset, preprocessing=Preprocessing(size=32), quantile=0.9, progress=False)
    assert len(found.rows) == (12 if layer in ("features.0", "features.1") else 24)


def test_a_convnexts_blocks_put_their_channels_second() -> None:
    block = torchvision.models.convnext.CNBlock(8, 1e-6, 0.0)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), block)
    assert maps_of(model, "1", torch.rand(1, 3, 32, 48)).shape == (1, 8, 8, 12)
    inner = maps_of(model, "1.block.4", torch.rand(1, 3, 32, 48))
    assert inner.shape == (1, 32, 8, 12)


@pytest.mark.parametrize("kernel", [(1, 32), (32, 1), (32, 32)])
def test_a_map_of_one_row_or_column_is_no_unit(kernel: tuple[int, int]) -> None:
    model = nn.Sequential(nn.Conv2d(3, 32 - kernel[0] + 1, kernel), nn.ReLU())
    assert maps_of(model, "1", torch.rand(1, 3, 32, 32)).shape[1] == 32 - kernel[0] + 1


class Heads(nn.Module):
    """Puts out the values of several heads: (B, heads, tokens, values)."""

    def __init__(self) -> None:
        super().__init__()
        self.project = nn.Linear(12, 36)
        self.values = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = x.flatten(2).transpose(1, 2).reshape(len(x), -1, 12)
        return self.values(self.project(tokens).unflatten(2, (3, 12)).transpose(1, 2))


class Tokens(nn.Module):
    """Pieces of 4 by 4 pixels as tokens; `first` puts one more before them."""

    def __init__(self, first: bool = False) -> None:
        super().__init__()
        self.body, self.norm, self.first = nn.Conv2d(3, 6, 4, stride=4), nn.LayerNorm(6), first

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        tokens = self.body(x).flatten(2).transpose(1, 2)
        return self.norm(torch.cat([tokens[:, :1], tokens], 1) if self.first else tokens)


def test_a_square_of_tokens_is_a_map() -> None:
    model, images = Tokens(), torch.rand(2, 3, 32, 32)
    tokens = maps_of(model, "norm", images)
    assert tokens.shape == (2, 6, 8, 8)
    with torch.no_grad():
        torch.testing.assert_close(tokens.flatten(2).transpose(1, 2), model(images))


@pytest.mark.parametrize(("model", "size"), [(Tokens(True), (32, 32)), (Tokens(), (32, 16)), (Tokens(), (64, 16))])
def test_other_tokens_are_refused(model: nn.Module, size: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=r"^layer: 'norm' puts out a tensor of shape \(1, \d+, 6\); choose one that puts out"):
        maps_of(model, "norm", torch.rand(1, 3, *size))


def test_what_is_no_map_is_refused() -> None:
    with pytest.raises(InputError, match=r"'values' puts out a tensor of shape \(1, 3, 256, 12\), and it cannot be told"):
        maps_of(Heads(), "values", torch.rand(1, 3, 32, 32))
    assert maps_of(Heads(), "project", torch.rand(1, 3, 32, 32)).shape == (1, 36, 16, 16)


def test_features_last_give_the_same_dissection_as_features_second(squares) -> None:
    torch.manual_seed(0)
    model = Turned()

    def found(layer: str) -> list[np.ndarray]:
        each = dissect(model, layer, squares, preprocessing=Preprocessing(size=32), quantile=0.9, progress=False)
        return [each.thresholds, each.iou]

    for one, other in zip(found("act"), found("back"), strict=True):
        np.testing.assert_array_equal(one, other)
