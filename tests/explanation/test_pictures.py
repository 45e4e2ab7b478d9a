"""Heatmaps as pictures."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from dynamick.errors import InputError
from dynamick.explanation.pictures import enlarge, heatmap, png


def test_no_heat_leaves_the_image() -> None:
    image = torch.randint(0, 256, (3, 6, 8), dtype=torch.uint8)
    for cold in (torch.zeros(2, 2), -torch.ones(2, 2)):
        assert np.array_equal(heatmap(image, cold), image.permute(1, 2, 0).numpy())


def test_the_hottest_place_changes_most() -> None:
    image = torch.full((3, 8, 8), 40, dtype=torch.uint8)
    change = np.abs(heatmap(image, torch.tensor([[0.0, 0.0], [0.0, 3.0]])).astype(int) - 40).sum(axis=2)
    assert change[7, 7] == change.max() > 100
    assert change[0, 0] == 0


def test_one_peak_makes_maps_comparable() -> None:
    image = torch.zeros(3, 4, 4)
    weak, strong = torch.full((2, 2), 1.0), torch.full((2, 2), 4.0)
    assert np.array_equal(heatmap(image, weak), heatmap(image, strong))
    assert heatmap(image, weak, peak=4.0).sum() < heatmap(image, strong, peak=4.0).sum()


def test_floats_and_bytes_are_the_same_image() -> None:
    image = torch.randint(0, 256, (3, 5, 5), dtype=torch.uint8)
    heat = torch.rand(3, 3)
    assert np.array_equal(heatmap(image, heat), heatmap(image / 255, heat))


def test_enlarging_keeps_a_constant_and_the_shape() -> None:
    torch.testing.assert_close(enlarge(torch.full((2, 3, 3), 0.5), (7, 9)), torch.full((2, 7, 9), 0.5))
    assert enlarge(torch.rand(3, 3), (7, 9)).shape == (7, 9)


def test_png_gives_the_same_pixels_back() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png(pixels)))), pixels)
    assert png(torch.from_numpy(pixels).permute(2, 0, 1)) == png(pixels)


def test_bad_shapes_are_refused() -> None:
    with pytest.raises(InputError, match=r"image \(1, 4, 4\)"):
        heatmap(torch.zeros(1, 4, 4), torch.zeros(2, 2))
