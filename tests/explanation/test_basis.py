"""Concept vectors that are learnt from a data set, in a network's own maps."""

from pathlib import Path

import torch

import dynamick as dk
from dynamick.data import Broden, ComposedScenes
from dynamick.explanation import Reader, learn_basis
from tests.explanation.conftest import SIDE


def test_concept_vectors_are_learnt_from_pixels_of_parts_alone(place: Path) -> None:
    model, data = dk.load(place / "res8.safetensors"), Broden(place / "concepts")
    basis = learn_basis(model, data, batch_size=7, per_concept=10**6, pool=10**6, minimum=1)
    step = SIDE // Reader(model).read(torch.zeros(1, 3, SIDE, SIDE)).maps.shape[-1]
    scenes = ComposedScenes("val", 90, seed=3, image_size=SIDE)
    centres = scenes.part_maps[:, step // 2 :: step, step // 2 :: step]
    counts = {part: int((centres == 1 + p).sum()) for p, part in enumerate(scenes.parts)}
    assert dict(zip(basis.names, basis.positives, strict=True)) == {part: n for part, n in counts.items() if n}


def test_a_reader_stands_for_its_model(place: Path) -> None:
    model, data = dk.load(place / "res8.safetensors"), Broden(place / "concepts")
    of_model, of_reader = (learn_basis(each, data, minimum=1) for each in (model, Reader(model)))
    assert of_model.names == of_reader.names
    torch.testing.assert_close(of_model.vectors, of_reader.vectors)
