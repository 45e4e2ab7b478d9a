"""What a dissection reads back is held to its form: damage is told in one line, and never counted with."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamick.dissection import Dissection, dissect, saving
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing

OPTIONS = {"preprocessing": Preprocessing(size=32), "quantile": 0.9, "progress": False}
VALUES: list[Any] = [None, True, -1, 2**70, 1e308, float("nan"), "", "x", "../x", [], {}, [[]], [None], {"a": 1}, "9" * 400]


def small_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Conv2d(3, 6, 3), torch.nn.ReLU())


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where in a JSON there is a value; of long lists the first two."""
    inside = list(value) if isinstance(value, dict) else list(range(len(value)))[:2] if isinstance(value, list) else []
    return [path] * bool(path) + [each for name in inside for each in places(value[name], (*path, name))]


def use(found: Dissection) -> None:
    """What commands do with a dissection."""
    found.to_json(), found.summary(), found.iou, found.labels, found.detectors
    assert found.top_images.min(initial=0) >= 0
    assert all(0 <= score <= 1 for score in found.scores)


def test_any_other_value_in_the_json_is_refused_or_right(squares) -> None:
    text = dissect(small_network(), "1", squares, **OPTIONS).to_json()
    refused = []
    for place in places(json.loads(text)):
        for value in VALUES:
            changed = json.loads(text)
            inside = changed
            for name in place[:-1]:
                inside = inside[name]
            inside[place[-1]] = value
            try:
                use(Dissection.from_json(json.dumps(changed)))
            except InputError as error:
                refused.append(str(error))
    assert len(refused) > 300
    assert all(re.fullmatch(r"JSON of a dissection: .*; give what Dissection\.to_json wrote", each) for each in refused)


@pytest.mark.parametrize("text", ["[" * 100_000, "null", "3", '"x"', "[]", "{}", '{"rows": []}', "\ud800"])
def test_what_is_no_dissection_is_refused(text: str) -> None:
    with pytest.raises(InputError, match=r"give what Dissection\.to_json wrote"):
        Dissection.from_json(text)


HEADER = "unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou\n"


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("1,object,a,nan,a,1,1,1,1", "nan must be a number from 0 up"),
        ("1,object,a,2,a,1,1,1,1", "a score of 2.0 must be in 0..1"),
        ("1,object,a,0.5,a,-1,1,1,1", "-1.0 must be a number from 0 up"),
        ("1,object,a,0.5,a,1,inf,1,1", "inf must be a number from 0 up"),
        ("1.5,object,a,0.5,a,1,1,1,1", "invalid literal for int"),
    ],
)
def test_numbers_of_a_tally_are_numbers_of_pixels(line: str, said: str, tmp_path: Path) -> None:
    (tmp_path / "tally.csv").write_text(HEADER + line + "\n")
    with pytest.raises(InputError, match=rf"tally\.csv: line 2: .*{said}"):
        Dissection.read_tally(tmp_path / "tally.csv")


@pytest.fixture
def state(squares, tmp_path: Path) -> Path:
    dissect(small_network(), "1", squares, state=tmp_path, **OPTIONS)
    return tmp_path / "process-0-of-1" / "state.pt"


def changed(state: Path, *names: str, value: Any) -> None:
    saved = torch.load(state, weights_only=True)
    inside = saved
    for name in names[:-1]:
        inside = inside[name]
    inside[names[-1]] = value
    torch.save(saved, state)


@pytest.mark.parametrize(
    ("names", "value"),
    [
        (("first", "values", "kept"), torch.zeros(6, 1)),
        (("first", "values", "filled"), torch.full((6,), -5)),
        (("first", "top_images"), torch.full((10, 6), 99)),
        (("first", "next"), -1),
        (("first", "next"), "1"),
        (("first",), None),
        (("counts", "sizes"), torch.tensor([1, 2])),
        (("counts", "labelled"), 3),
        (("counted",), 0),
        (("counted",), [1]),
    ],
)
def test_a_state_of_other_values_is_refused(state: Path, squares, names: tuple[str, ...], value: Any) -> None:
    changed(state, *names, value=value)
    with pytest.raises(InputError, match=rf"^{state}: is not the state of a dissection; remove it$"):
        dissect(small_network(), "1", squares, state=state.parents[1], **OPTIONS)
    state.unlink()
    dissect(small_network(), "1", squares, state=state.parents[1], **OPTIONS)


def test_a_state_without_a_checksum_is_gone_on_from(state: Path, squares, monkeypatch: pytest.MonkeyPatch) -> None:
    saved = torch.load(state, weights_only=True)
    del saved["checksum"]
    torch.save(saved, state)
    monkeypatch.setattr("dynamick.dissection.first_pass.FirstPass.observe", None)
    dissect(small_network(), "1", squares, state=state.parents[1], **OPTIONS)


def test_a_damaged_map_is_named_and_made_again(squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    expected = dissect(small_network(), "1", squares, batch_size=4, **OPTIONS)
    with monkeypatch.context() as stopped:
        stopped.setattr("dynamick.dissection.engine._Run.count", lambda *_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            dissect(small_network(), "1", squares, batch_size=4, state=tmp_path, **OPTIONS)
    piece = sorted(tmp_path.rglob("*.npz"))[1]
    content = bytearray(piece.read_bytes())
    content[len(content) // 2] ^= 1
    piece.write_bytes(content)
    with pytest.raises(InputError, match=rf"^{piece}: is damaged \(\w+\); remove it, and the same command goes on$"):
        dissect(small_network(), "1", squares, batch_size=4, state=tmp_path, **OPTIONS)
    piece.unlink()
    monkeypatch.setattr(saving, "SAVE_EVERY", 0)
    again = dissect(small_network(), "1", squares, batch_size=4, state=tmp_path, **OPTIONS)
    assert again.rows == expected.rows
