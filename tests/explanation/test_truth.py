"""What ComposedScenes knows: compositions and heatmaps held against truths made by hand."""

from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation import composition_truth, heatmap_truth

PARTS = ["wheel", "wing", "sail"]
TABLE = torch.tensor([[True, True, False], [False, True, True]])


def dissection(labels: list[str]) -> SimpleNamespace:
    count = len(labels)
    return SimpleNamespace(labels=labels, categories=["part"] * count, scores=[0.5] * count, detectors=[True] * count)


def head(weights: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(weights[0]), len(weights))
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weights))
    return model


def test_a_perfect_composition() -> None:
    got = composition_truth(head([[1.0, 2.0, 0.0], [-1.0, 1.0, 1.0]]), dissection(PARTS), TABLE, PARTS)
    assert (got.precision, got.recall, got.weight_precision, got.concepts) == (1, 1, 1, 2)


def test_wrong_and_missing_parts_are_counted() -> None:
    # Class 0 learns wheel twice (weights 4 and 2) and the class's scene (2); class 1 has no positive weight at all.
    labels = ["wheel", "wheel", "car"]
    got = composition_truth(head([[4.0, 2.0, 2.0], [-1.0, -1.0, 0.0]]), dissection(labels), TABLE.numpy(), PARTS)
    assert got.precision == pytest.approx((1 / 2 + 0) / 2)
    assert got.recall == pytest.approx((1 / 2 + 0) / 2)
    assert got.weight_precision == pytest.approx((6 / 8 + 0) / 2)
    assert got.concepts == pytest.approx((2 + 0) / 2)


def test_another_number_of_classes_is_refused() -> None:
    with pytest.raises(InputError, match="parts of 2 classes, but the model has 1"):
        composition_truth(head([[1.0, 1.0, 1.0]]), dissection(PARTS), TABLE, PARTS)


class Scenes:
    """Two images of 8 x 8: colour channel p shows part p, in boxes drawn here."""

    classes = ("car", "boat")
    table = TABLE.numpy()

    def __init__(self) -> None:
        self.labels = torch.tensor([0, 1])
        self._masks = torch.zeros(2, 3, 8, 8, dtype=torch.bool)
        self._masks[0, 0, 0:4, 0:4] = True  # a wheel
        self._masks[0, 1, 4:8, 4:8] = True  # a wing
        self._masks[0, 2, 0:4, 4:8] = True  # a stray sail: not of this class
        self._masks[1, 1, 0:4, 0:4] = True
        self.images = self._masks.float()

    def __len__(self) -> int:
        return 2

    def masks(self, index: int) -> Tensor:
        return self._masks[index]


def network(weights: list[list[float]]) -> nn.Sequential:
    """Sees each part's channel as it is."""
    seen = nn.Identity()
    return nn.Sequential(seen, nn.AdaptiveAvgPool2d(1), nn.Flatten(), head(weights))


def test_heat_on_the_right_parts_is_perfect() -> None:
    got = heatmap_truth(network([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), Scenes(), preprocess=None)
    assert (got.precision, got.recall, got.energy, got.parts_found, got.images) == (1, 1, 1, 1, 2)
    assert got.chance == pytest.approx((32 / 64 + 16 / 64) / 2)


def test_heat_on_a_stray_part_is_wrong() -> None:
    # Image 0: wheel at full heat, sail at full heat, wing at a quarter. Image 1: nothing but the wing, against the class.
    got = heatmap_truth(network([[1.0, 0.25, 1.0], [0.0, -1.0, 1.0]]), Scenes(), preprocess=None)
    assert got.precision == pytest.approx((16 / 32 + 0) / 2)
    assert got.recall == pytest.approx((16 / 32 + 0) / 2)
    assert got.energy == pytest.approx((16 * 1.25 / (16 * 2.25) + 0) / 2)
    assert got.parts_found == pytest.approx((1 / 2 + 0) / 2)


def test_a_limit_and_small_batches() -> None:
    model = network([[1.0, 1.0, 0.0], [0.0, -1.0, 1.0]])
    assert heatmap_truth(model, Scenes(), limit=1, preprocess=None).images == 1
    assert heatmap_truth(model, Scenes(), batch_size=1, preprocess=None) == heatmap_truth(model, Scenes(), preprocess=None)


def test_scenes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(InputError, match="2 classes, but the model has 1"):
        heatmap_truth(network([[1.0, 1.0, 1.0]]), Scenes(), preprocess=None)
    with pytest.raises(InputError, match="none to measure on"):
        heatmap_truth(network([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]]), Scenes(), limit=0, preprocess=None)
    between = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.LayerNorm(3), head([[1.0] * 3] * 2))
    with pytest.raises(InputError, match="layers between"):
        heatmap_truth(between, Scenes(), preprocess=None)
