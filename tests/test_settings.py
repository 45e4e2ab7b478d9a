"""Settings from YAML and from text: types, sections, and what is said of keys that there are not."""

from pathlib import Path
from typing import Any

import pytest

from dynamick.errors import InputError
from dynamick.settings import keys_of, no_key, read_yaml
from dynamick.training import Recipe


@pytest.mark.parametrize(
    ("name", "given", "value"),
    [
        ("optim.lr", "0.2", 0.2),
        ("optim.lr", 1, 1.0),
        ("optim.lr", "1e-3", 1e-3),
        ("optim.s", "null", None),
        ("optim.s", None, None),
        ("static_after", "3", 3),
        ("data.flip", "False", False),
        ("data.flip", True, True),
        ("precision", 32, "32"),
        ("precision", "32", "32"),
        ("seed", "-1", -1),
    ],
)
def test_values_become_the_keys_own_type(name: str, given: Any, value: Any) -> None:
    found: Any = Recipe.read(None, {name: given})
    for part in name.split("."):
        found = getattr(found, part)
    assert (found, type(found)) == (value, type(value))


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("seed", True, "seed: True must be an integer"),
        ("seed", 1.0, "seed: 1.0 must be an integer"),
        ("optim.lr", float("inf"), "optim.lr: inf must be a number"),
        ("optim.lr", 10**400, "optim.lr: 1000"),
        ("optim.lr", [0.1], "optim.lr: [0.1] must be a number"),
        ("model", 8, "model: 8 must be text"),
        ("data.flip", 1, "data.flip: 1 must be true or false"),
        ("seed", "1\n2", "seed: '1\\n2' must be an integer"),
        ("optim.lr\n", 1, "'optim.lr\\n': no key of a recipe"),
        ("9" * 5000, 1, "'999"),
    ],
)
def test_values_of_another_type_are_refused_in_one_line(name: str, given: Any, said: str) -> None:
    with pytest.raises(InputError) as caught:
        Recipe.read(None, {name: given})
    assert str(caught.value).startswith(said)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("optim.ep", "optim.epochs"), ("lr", "optim.lr"), ("precison", "precision"), ("optim.epocs", "optim.epochs")],
)
def test_a_key_that_is_unknown_or_cut_short_is_refused_with_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(InputError, match=f"{name}: no key of a recipe; known there are .*; nearest: {nearest}"):
        Recipe.read(None, {name: 1})
    assert "nearest" not in str(no_key(Recipe, "colour"))


def test_every_key_has_a_sentence_and_its_default_is_of_its_type() -> None:
    for name, key in keys_of(Recipe).items():
        assert key.says, name
        assert key.read(key.field.default) == key.field.default
        assert not key.choices or key.field.default in key.choices


@pytest.mark.parametrize(
    "content",
    [b"seed: " + b"9" * 5000, b"[" * 3000, b"seed: !!int ''", b"seed: !!float 'x'", b"&a [*a]", b"=", b"? [a]\n: 1", b"\x00"],
)
def test_a_file_that_is_no_yaml_is_named(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    with pytest.raises(InputError, match=r"bad.yaml: .*give a recipe$") as caught:
        read_yaml(tmp_path / "bad.yaml", "a recipe")
    assert "\n" not in str(caught.value)


def test_a_recipe_goes_to_plain_values_and_back() -> None:
    recipe = Recipe.read("cifar10-small", {"seed": 3, "optim.lr": 0.3})
    assert Recipe.from_dict(recipe.to_dict()) == recipe
    assert (recipe.seed, recipe.optim.lr, recipe.stem) == (3, 0.3, "compact")
