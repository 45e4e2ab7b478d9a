"""The explanation page holds what its arithmetic needs, and is small enough; no browser is needed to see that."""

from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image, ImageDraw

from dynamick.errors import InputError
from dynamick.report.explanation import (
    MAX_BYTES,
    TopImage,
    Unit,
    render,
    write_page,
)
from dynamick.report.outlines import outline
from tests.report.page_samples import Sample, data_of


def test_a_page_of_50_images_is_small_enough(tmp_path: Path) -> None:
    page = Sample("dense", O=100, M=512, B=50, image=224).page()
    path = write_page(page, tmp_path / "report.html")
    assert path.stat().st_size <= MAX_BYTES


def test_a_head_too_large_keeps_the_classes_that_come_closest() -> None:
    sample = Sample("dense", O=1000, M=768, B=3)
    html = render(sample.page(units=False))
    kept = {int(name.removeprefix("class ")) for name in data_of(html)["classes"]}
    assert 100 < len(kept) < 1000
    assert set(sample.logits(set()).topk(100).indices.flatten().tolist()) <= kept
    assert f"The head has 1000 classes. This page computes with the {len(kept)}" in html


@pytest.mark.parametrize(("M", "fits"), [(64, True), (1600, False)])
def test_top_images_are_thinned_before_the_page_grows_too_large(M: int, fits: bool) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (1600, 128, 128, 3), dtype=np.uint8)
    sample = Sample("at_most", M=M)
    units = [Unit(i, top_images=[TopImage(noise[(i + n) % len(noise)]) for n in range(2)]) for i in range(M)]
    html = render(replace(sample.page(units=False), units=units))
    assert len(html) <= MAX_BYTES
    data = data_of(html)
    given = [bool(row) for row in data["tops"]]
    assert all(given) is fits
    assert sum(given) >= 64
    assert all(min(width, height) >= 120 for _, width, height in data["pictures"][len(sample.x) :])
    if not fits:
        # The units of the largest weights are those that keep an image.
        weight = sample.weight.abs().sum(0)
        assert weight[torch.tensor(given)].min() >= weight[~torch.tensor(given)].max()


def test_a_picture_of_several_units_is_held_once() -> None:
    sample = Sample("at_most")
    seen, other = TopImage(sample.images[2], instance=2), TopImage(sample.images[3])
    units = [Unit(i, top_images=[seen, other]) for i in range(14)]
    data = data_of(render(replace(sample.page(units=False), units=units)))
    assert len(data["pictures"]) == 5 + 1
    assert data["tops"] == [[[2, ""], [5, ""]]] * 14


def test_pictures_of_many_images_lie_beside_the_page(tmp_path: Path) -> None:
    page = Sample("dense", B=120, image=64).page()
    write_page(page, tmp_path / "page.html", tmp_path / "some pictures")
    html = (tmp_path / "page.html").read_text(encoding="utf-8")
    data = data_of(html)
    assert "data:image" not in html
    files = [unquote(source) for source, _, _ in data["pictures"]]
    assert files[:2] == ["some pictures/image-0001.jpg", "some pictures/image-0002.jpg"]
    assert {path.name for path in (tmp_path / "some pictures").iterdir()} == {Path(file).name for file in files}
    assert Image.open(tmp_path / files[0]).size == (64, 64)
    assert len(html) < 1_000_000


@given(arrays(bool, st.tuples(st.integers(2, 12), st.integers(2, 12))))
def test_an_outline_is_around_its_region(region: np.ndarray) -> None:
    paths = [[tuple(map(int, point.split())) for point in part[:-1].split("L")] for part in outline(region).split("M")[1:]]
    assert bool(paths) == bool(region.any())
    inside = np.zeros((100, 100), bool)
    for path in paths:
        mask = Image.new("1", (100, 100))
        ImageDraw.Draw(mask).polygon(path, fill=1)
        inside ^= np.asarray(mask)
    h, w = region.shape
    for (v, u), there in np.ndenumerate(region):
        middle = inside[int((v + 0.5) * 100 / h), int((u + 0.5) * 100 / w)]
        assert middle or not there


def test_what_does_not_fit_is_refused() -> None:
    page = Sample("at_most").page()
    wrong = replace(page.instances[0], x=page.instances[0].x[:-1])
    for broken, message in [
        (replace(page, instances=[]), "instances: 0"),
        (replace(page, instances=[wrong]), r"x of 0\.png: shape \(13,\); give \(14,\)"),
        (replace(page, units=page.units[1:]), "units: 13 given; give all 14"),
        (replace(page, compositions=page.compositions[1:]), "compositions: 5 given"),
        (replace(page, head=replace(page.head, k=None)), "head: rule 'at_most' with k=None"),
    ]:
        with pytest.raises(InputError, match=message):
            render(broken)
