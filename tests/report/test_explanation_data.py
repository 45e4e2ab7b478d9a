"""The explanation page holds what its arithmetic needs, and is small enough; no browser is needed to see that."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamick.errors import InputError
from dynamick.report.explanation import (
    MAX_BYTES,
    TopImage,
    Unit,
    render,
    write_page,
)
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


@pytest.mark.parametrize(("M", "shown"), [(600, 600), (1600, 500)])
def test_top_images_are_thinned_before_the_page_grows_too_large(M: int, shown: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 72, 72, 3), dtype=np.uint8)
    sample = Sample("at_most", M=M)
    units = [Unit(i, top_images=[TopImage(noise[(i + n) % 256]) for n in range(2)]) for i in range(M)]
    html = render(replace(sample.page(units=False), units=units))
    assert len(html) <= MAX_BYTES
    given = [bool(strip) for strip in data_of(html)["strips"]]
    assert shown <= sum(given) <= M
    if shown < M:
        # The units of the largest weights are those that keep an image.
        weight = sample.weight.abs().sum(0)
        assert weight[torch.tensor(given)].min() >= weight[~torch.tensor(given)].max()


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
