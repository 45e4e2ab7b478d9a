"""The generated scenes: their truth is what their docstrings promise, and pixels alone do not give the class away."""

import numpy as np
import pytest
import torch
from torch.nn.functional import max_pool2d, one_hot

from dynamick.data.broden import Broden
from dynamick.data.checking import check
from dynamick.data.scenes import NOISE, PART_RADIUS, VISIBLE, ComposedScenes
from dynamick.errors import InputError

N = 400


@pytest.fixture(scope="module")
def scenes():
    return ComposedScenes(size=N, seed=3)


@pytest.fixture(scope="module")
def many():
    return ComposedScenes(size=1500)


def seen_parts(scenes):
    """Which parts are seen in which scene: bool, shape (N, parts)."""
    return torch.stack([scenes.masks(i).flatten(1).any(1) for i in range(len(scenes))])


def test_shapes(scenes):
    assert len(scenes) == N
    assert scenes.images.shape == (N, 3, 64, 64)
    assert scenes.images.dtype == torch.uint8
    assert scenes.labels.dtype == torch.int64
    assert scenes.masks(0).shape == (len(scenes.parts), 64, 64)
    assert scenes.masks(0).dtype == torch.bool
    image, label = scenes[5]
    assert torch.equal(image, scenes.images[5])
    assert label == scenes.labels[5].item()


@pytest.mark.parametrize("side", [32, 47, 96])
def test_image_size(side):
    scenes = ComposedScenes(size=2, image_size=side)
    assert scenes.images.shape == (2, 3, side, side)
    assert scenes.part_maps.shape == (2, side, side)


def test_scene_depends_on_seed_split_and_index_alone(scenes):
    """Not on how many are drawn, nor on which are drawn beside it."""
    for size in (1, 63, 130):
        again = ComposedScenes(size=size, seed=3)
        for name in ("images", "part_maps", "labels"):
            assert torch.equal(getattr(again, name), getattr(scenes, name)[:size])


@pytest.mark.parametrize("other", [{"seed": 4}, {"split": "val"}])
def test_other_seed_or_split_has_other_scenes(scenes, other):
    others = ComposedScenes(**{"size": 100, "seed": 3, **other})
    here = {image.numpy().tobytes() for image in scenes.images}
    assert not here & {image.numpy().tobytes() for image in others.images}
    assert not torch.equal(others.labels, scenes.labels[:100])


def test_all_scenes_differ_and_all_classes_occur(scenes):
    assert len({image.numpy().tobytes() for image in scenes.images}) == N
    counts = torch.bincount(scenes.labels, minlength=len(scenes.classes))
    # Binomial with n = 400 and p = 0.1: mean 40, deviation 6.
    assert counts.min() > 16
    assert counts.max() < 64


def test_table(scenes):
    assert scenes.table.shape == (10, len(scenes.parts))
    made_of = {
        name: {scenes.parts[p] for p in np.flatnonzero(row)} for name, row in zip(scenes.classes, scenes.table, strict=True)
    }
    assert made_of["laptop"] == {"keyboard", "screen"}
    assert made_of["television"] == {"remote control", "screen"}
    assert made_of["aeroplane"] == {"wing", "propeller", "window", "wheel"}
    assert all(len(parts) >= 2 for parts in made_of.values())


def test_parts_are_shared_and_no_class_lies_in_another(scenes):
    table = scenes.table.astype(int)
    assert (table.sum(0) >= 2).all(), "every part belongs to two classes or more"
    shared = table @ table.T
    assert (shared < table.sum(1)[:, None]).sum() == 10 * 9, "no class's parts are all among another's"


def test_masks_are_disjoint_and_cover_the_part_maps(scenes):
    for i in range(50):
        masks = scenes.masks(i)
        assert torch.equal(masks.sum(0), (scenes.part_maps[i] > 0).long())
        for p in range(len(scenes.parts)):
            assert torch.equal(masks[p], scenes.part_maps[i] == p + 1)


def test_parts_of_the_class_are_seen_and_of_no_other_class_all(scenes):
    """So the class is known from the parts that are seen, and from them alone."""
    table = torch.from_numpy(scenes.table)
    complete = (seen_parts(scenes)[:, None] | ~table).all(2)
    assert torch.equal(complete, one_hot(scenes.labels, len(table)).bool())


def test_parts_of_the_class_show_half_of_themselves(many):
    """Half of the smallest allowed part, against the usual one of its kind; three of these scenes would hide more."""
    pixels = torch.stack([many.masks(i).flatten(1).sum(1) for i in range(len(many))]).double()
    own = torch.from_numpy(many.table)[many.labels]
    smallest, largest = PART_RADIUS
    least = VISIBLE * (smallest / ((smallest + largest) / 2)) ** 2
    for part in range(len(many.parts)):
        seen = pixels[own[:, part], part]
        assert seen.min() > 0.98 * least * seen.median(), many.parts[part]


def test_there_are_strays_and_some_scenes_without(scenes):
    strays = (seen_parts(scenes) & ~torch.from_numpy(scenes.table)[scenes.labels]).sum(1)
    assert set(strays.tolist()) == {0, 1, 2}


def spread_around_a_line(image, mask):
    """How far the colours of some pixels lie from the straight line that fits them best (root mean square a channel)."""
    colours = image[:, mask].double()
    values = torch.linalg.svdvals(colours - colours.mean(1, keepdim=True))
    return (values[1:].square().sum() / (2 * colours.shape[1])).sqrt().item()


def test_masks_lie_where_parts_are_drawn(scenes):
    """A part has two colours and mixtures of them: its pixels lie on a line in colour space, but for the noise.

    Elsewhere they do not: the same mask moved aside takes in what lies around the part.
    """
    noise = 2 * NOISE / np.sqrt(12)
    there, aside = [], []
    for i in range(100):
        inside = -max_pool2d(-scenes.masks(i).double(), 3, 1, 1)
        for mask in inside.bool():
            if mask.sum() >= 30:
                there.append(spread_around_a_line(scenes.images[i] / 255, mask))
                aside.append(spread_around_a_line(scenes.images[i] / 255, mask.roll((10, 10), (0, 1))))
    assert len(there) > 150
    assert np.mean(np.array(there) < 1.3 * noise) > 0.95
    assert np.mean(np.array(aside) < 1.3 * noise) < 0.5


def test_colours_and_places_do_not_give_the_class_away(many):
    """A linear model on the pixels, fitted by ridge regression, stays far from what the parts tell."""
    train, val = many, ComposedScenes("val", 700)
    x, x_val = (s.images.flatten(1).float() / 255 - 0.5 for s in (train, val))
    targets = one_hot(train.labels, 10).float() - 0.1
    alpha = torch.linalg.solve(x @ x.T + 1000 * torch.eye(len(x)), targets)
    train_accuracy, accuracy = (
        ((each @ x.T @ alpha).argmax(1) == s.labels).float().mean() for each, s in ((x, train), (x_val, val))
    )
    assert train_accuracy > 0.6, "the model is not underfitted"
    assert accuracy < 0.35


def test_written_set_is_read_again(tmp_path):
    scenes = ComposedScenes("val", 7, seed=5, image_size=48)
    scenes.write_broden(tmp_path)
    assert check(tmp_path) == []
    data = Broden(tmp_path, "val")
    names = {label.number: label.name for label in data.labels}
    assert set(names.values()) == {*scenes.parts, *scenes.classes}
    assert {label.category for label in data.labels if label.name in scenes.classes} == {"scene"}
    assert (len(data), data.map_size, data.categories) == (7, (48, 48), ["part", "scene"])
    for i in range(7):
        sample = data[i]
        assert torch.equal(sample.image, scenes.images[i])
        assert names[int(sample.maps["scene"])] == scenes.classes[scenes.labels[i]]
        (parts,) = sample.maps["part"]
        for part, mask in zip(scenes.parts, scenes.masks(i), strict=True):
            number = next(number for number, name in names.items() if name == part)
            assert torch.equal(parts == number, mask)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"split": "test"}, "split: 'test' is unknown; give train or val"),
        ({"size": 0}, "size: 0 must be an integer from 1 up"),
        ({"size": 2.5}, r"size: 2\.5 must be"),
        ({"size": True}, "size: True must be"),
        ({"seed": -1}, "seed: -1 must be an integer from 0 up"),
        ({"image_size": 31}, "image_size: 31 must be an integer from 32 up"),
    ],
)
def test_bad_input(wrong, message):
    with pytest.raises(InputError, match=message):
        ComposedScenes(**{"size": 1, **wrong})
