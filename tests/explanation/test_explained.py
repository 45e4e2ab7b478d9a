"""What a user holds: images in any form go in, and explanations say, draw and list themselves."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import Explanations, composition
from tests.explanation.networks import Small, dissection, images, small

SIDE = 16


def prepared(**attributes: object) -> Small:
    model = small(3, seed=3)
    model.preprocessing = dk.Preprocessing(size=SIDE)
    model.classes = ["car", "swimming_pool-outdoor-s", "<b>bird</b>", "cat"]
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def same(one: Explanations, other: Explanations) -> bool:
    return [(each.indices, each.logit) for each in one] == [(each.indices, each.logit) for each in other]


def test_images_of_any_form_are_explained_alike(tmp_path: Path) -> None:
    model, batch = prepared(), (255 * images(3, SIDE)).byte()
    wanted = dk.explain(model, batch)
    pictures = [Image.fromarray(each.permute(1, 2, 0).numpy()) for each in batch]
    paths = [tmp_path / f"{place}.png" for place in range(3)]
    for path, picture in zip(paths, pictures, strict=True):
        picture.save(path)
    for given in (pictures, paths, list(map(str, paths)), [pictures[0], *paths[1:]], tmp_path, list(batch), tuple(batch)):
        assert same(dk.explain(model, given), wanted)
    for given in (batch[0], pictures[0], paths[0], str(paths[0])):
        assert same(dk.explain(model, given), wanted[:1])
    assert same(dk.explain(dk.open_network(model), paths), wanted)
    assert dk.explain(model, []) == []


def test_large_files_are_cropped_as_the_command_does_it(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 70, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "large.png")
    read = dk.data.read_pictures(tmp_path, 1, SIDE, center_crop=True).images
    assert same(dk.explain(prepared(), tmp_path / "large.png"), dk.explain(prepared(), read))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"images": [3]}, "images: int; give a tensor"),
        ({"images": [torch.rand(3, 9, 9), torch.rand(3, 8, 9)]}, "tensors of shapes"),
        ({"images": "none.png"}, "none.png: no such file"),
        ({"classes": "dog"}, "classes: 'dog': no class; nearest: car"),
        ({"truth": [0]}, "truth: 1 classes for 2 images"),
        ({"truth": [0, 4]}, "truth: 4 must be an integer in 0..3"),
    ],
)
def test_bad_input_is_told(given: dict[str, object], message: str) -> None:
    with pytest.raises(InputError, match=message):
        dk.explain(prepared(), **{"images": images(2, SIDE), **given})


def test_classes_go_by_name() -> None:
    for name in ("swimming_pool-outdoor-s", "swimming pool, outdoor", ["car", 1]):
        assert dk.explain(prepared(), images(1, SIDE), name)[-1].class_index == 1
    with pytest.raises(InputError, match="several classes"):
        dk.explain(prepared(classes=["car", "cat", "cat", "dog"]), images(1, SIDE), "cat")


def test_a_wrong_answer_is_held_against_the_true_class() -> None:
    model, batch = prepared(), images(6, SIDE)
    logits = model.eval()(model.preprocessing(batch)).detach()
    truth = logits.argsort(dim=1)[:, 0].tolist()
    for each, true in zip(dk.explain(model, batch, truth=[model.classes[c] for c in truth]), truth, strict=True):
        assert each.wrong
        assert each.runner_up.class_index == true
        apart = logits[each.image, each.class_index] - logits[each.image, true]
        assert sum(each.runner_up.differences) + each.bias - each.runner_up.bias == pytest.approx(float(apart), abs=1e-4)
        assert f"(wrong: it is {dk.explanation.spoken(model.classes[true])})" in repr(each)
    unknown = dk.explain(model, batch, truth=[None] * 6)
    assert repr(unknown) == repr(dk.explain(model, batch))
    right = dk.explain(model, batch, truth=logits.argmax(dim=1))
    assert repr(right) == repr(unknown)
    assert not any(each.wrong for each in right)


def test_a_notebook_shows_what_the_sentence_says() -> None:
    found = dk.explain(prepared(), images(12, SIDE), classes="<b>bird</b>", units=dissection(6))
    drawn = found._repr_html_()
    assert "<b>" not in drawn
    assert "&lt;b&gt;bird" in drawn
    assert not re.search(r'(src|href)="(?!data:)|https?:', drawn)
    assert drawn.count('class="decision"') == 10
    assert "and 2 more" in drawn
    one = found[0]._repr_html_()
    for unit, product in zip(found[0].units, found[0].products, strict=True):
        assert f"<td>{unit}</td>" in one
        assert f"{product:+.2f}" in one


@pytest.mark.parametrize("maps", [True, False])
def test_the_plot_has_a_picture_for_each_name_of_the_sentence(maps: bool) -> None:
    found = dk.explain(prepared(), images(3, SIDE), units=dissection(6), maps=maps)
    figure = found.plot()
    assert isinstance(figure, Figure)
    figure.canvas.draw()
    first = figure.subfigs[0]
    assert " ".join(first.get_suptitle().split()) == found[0].sentence
    assert len(first.axes) == (1 + len(set(found[0].names)) if maps else 2)
    assert len(found.plot(most=2).subfigs) == 2
    assert isinstance(found[0].plot(), Figure)
    with pytest.raises(InputError, match="no explanations"):
        Explanations().plot()


def test_prepared_images_are_shown_without_a_picture() -> None:
    each = dk.explain(small(3), images() - 3, preprocess=None)[0]
    assert each.picture is None
    each.plot().canvas.draw()
    assert "The image" not in each._repr_html_()


def test_tables_hold_the_same_numbers() -> None:
    model = prepared()
    found = dk.explain(model, images(4, SIDE), units=dissection(6), truth=[0, 1, 2, None])
    decisions = found.to_pandas()
    assert decisions["sentence"].tolist() == [repr(each) for each in found]
    assert decisions["right"].tolist() == [*(each.predicted == c for each, c in zip(found, range(3), strict=False)), None]
    units = found.to_pandas(units=True)
    assert units["unit"].tolist() == [unit for each in found for unit in each.units]
    sums = units.groupby("image")["product"].sum()
    for place, each in enumerate(found):
        assert sums.get(each.image, 0.0) + each.bias == pytest.approx(decisions["logit"][place], abs=1e-5)
    assert found[0].to_pandas()["product"].tolist() == found[0].products
    assert list(Explanations().to_pandas().columns) == list(decisions.columns)


def test_compositions_are_a_table_by_unit_number() -> None:
    model = prepared()
    made = composition(model, dissection(6))
    table = made.to_pandas()
    for row in table.itertuples():
        c = model.classes.index(row[1])
        assert row.weight == pytest.approx(model.head.weight[c, row.unit - 1].item())
        assert row.concept == f"thing {row.unit - 1}"
    assert repr(made[1]).startswith("swimming pool, outdoor: thing ")


def test_without_pandas_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pandas", None)
    with pytest.raises(InputError, match=r"pip install 'dynamick\[pandas\]'"):
        Explanations().to_pandas()
