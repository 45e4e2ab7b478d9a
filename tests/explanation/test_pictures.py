"""Heatmaps as pictures."""

import io
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import Concept
from dynamick.explanation.pictures import AGAINST, draw, heatmap
from dynamick.explanation.pixels import enlarge, png


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


def test_what_speaks_against_is_blue_where_it_is_asked_for() -> None:
    image, signed = torch.zeros(3, 2, 2), torch.tensor([[-2.0, 0.0], [0.0, 1.0]])
    assert not heatmap(image, signed)[0, 0].any()
    both = heatmap(image, signed, opacity=1.0, against=True)
    assert both[0, 0].tolist() == list(AGAINST)
    assert not both[0, 1].any()
    # Half the size has half the colour.
    assert np.array_equal(both[1, 1], heatmap(image, signed, opacity=1.0, peak=2.0)[1, 1])


def explained(pooled: bool, k: int | None, count: int = 2) -> tuple[list[dk.Explanation], torch.Tensor]:
    torch.manual_seed(0)
    between = [] if pooled else [torch.nn.LayerNorm(6)]
    body = [torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), *between]
    model = torch.nn.Sequential(*body, torch.nn.Linear(6, 3))
    model.classes = ["$a_b$", "<b>", "c"]
    images = torch.rand(count, 3, 8, 8)
    return dk.explain(model if k is None else dk.convert(model, k=k), images, preprocess=None), images


@pytest.mark.parametrize("k", [None, 2])
def test_the_figure_says_what_the_explanation_says(k: int | None) -> None:
    explanations, images = explained(True, k)
    figure = draw(explanations, images, units=4)
    titles = [axes.get_title().replace("\N{MINUS SIGN}", "-") for axes in figure.axes]
    wanted = []
    for each in explanations:
        wanted.append(f"{each.class_name}\nlogit {each.logit:.2f}")
        for place in each.largest(4):
            share = f"({each.shares['share_of_routed'][place]:.0%} of Y - b)"
            wanted.append(f"{each.products[place]:+.2f} {share}\nunit {each.units[place]}")
    assert len(titles) == len(wanted)
    assert all(title.startswith(start) for title, start in zip(titles, wanted, strict=True))
    figure.savefig(io.BytesIO(), format="png")


def test_long_names_end_where_their_picture_does() -> None:
    explanations, images = explained(True, 2, count=1)
    long = replace(
        explanations[0], class_name="natural_history_museum_interior", concepts=[Concept("x" * 40, "part", 0.1, True)] * 2
    )
    titles = [axes.get_title() for axes in draw([long], images).axes]
    assert titles[0].splitlines()[0] == "natural_history_museum_\N{HORIZONTAL ELLIPSIS}"
    assert [len(title.splitlines()[2]) for title in titles[1:]] == [24, 24]


def test_without_a_split_the_figure_has_bars() -> None:
    explanations, images = explained(False, None, count=1)
    bars = draw(explanations, images, units=3).axes[1].patches
    largest = [explanations[0].products[place] for place in explanations[0].largest(3)]
    assert [bar.get_width() for bar in bars] == pytest.approx(largest)


def test_a_figure_needs_its_images() -> None:
    explanations, images = explained(True, 2)
    for given, pictures in (([], images), (explanations, images[:1])):
        with pytest.raises(InputError, match="draw: "):
            draw(given, pictures)


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
