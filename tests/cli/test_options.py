"""Options that commands share: a side said twice, class names in a file of any form."""

import argparse
import json
from pathlib import Path
from typing import Any

import pytest

from dynamick.cli import options
from dynamick.cli.main import main
from dynamick.errors import InputError
from dynamick.networks.classes import classes_of, names_of


@pytest.mark.parametrize(("given", "side"), [(["--size", "224"], 224), (["--size", "224", "224"], 224), ([], None)])
def test_a_square_may_be_said_twice(given: list[str], side: int | None) -> None:
    parser = argparse.ArgumentParser()
    options.add_preprocessing(parser)
    assert options.preprocessing_of(parser.parse_args(given))["size"] == side


def test_an_oblong_is_refused_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["retrofit", "--model", "resnet18", "--data", ".", "--out", "x", "--size", "224", "320"])
    assert stop.value.code == 2
    said = capsys.readouterr().err
    assert "--size: 224 320: images are square here, give one number" in said
    assert len(said.splitlines()) == 1


FORMS: dict[str, Any] = {
    "list": ["cat", "dog"],
    "id2label": {"0": "cat", "1": "dog"},
    "class_to_idx": {"dog": 1, "cat": 0},
    "numbers": {1: "dog", 0: "cat"},
}


@pytest.mark.parametrize("form", FORMS)
def test_names_in_every_form(form: str, tmp_path: Path) -> None:
    assert names_of(FORMS[form]) == ["cat", "dog"]
    (tmp_path / "names.json").write_text(json.dumps(FORMS[form]))
    assert classes_of(None, 2, tmp_path / "names.json") == ["cat", "dog"]


@pytest.mark.parametrize("value", [2, "cat", {"cat": "dog"}, {0: "cat", 2: "dog"}, None])
def test_what_holds_no_names_is_passed_over(value: Any) -> None:
    assert names_of(value) is None
    assert classes_of(value, 2) == ["0", "1"]


def test_a_file_without_names_is_refused(tmp_path: Path) -> None:
    for content in ('{"a": "b"}', "7", "[", '"text"'):
        (tmp_path / "names.json").write_text(content)
        with pytest.raises(InputError, match=r"^--classes [^\n]+names\.json: [^\n]+$"):
            classes_of(None, 2, tmp_path / "names.json")
