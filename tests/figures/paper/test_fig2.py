"""Fig. 2: what is counted against arithmetic by hand, and that it writes its page."""

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from dynamick.cli.main import main
from dynamick.data import ComposedScenes
from dynamick.figures import find
from dynamick.figures.figure import Material
from dynamick.figures.paper import fig2


def test_fig2_a_dynamic_head_keeps_a_classs_own_parts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fig2, "SCENES", 500)
    made = find("fig2").page(Material(seeds=1))
    made.write(tmp_path)
    page = made.markdown()
    assert page == (tmp_path / "fig2.md").read_text()
    assert "| Dynamic-5 | 1 |" in page
    assert (tmp_path / "fig2.svg").stat().st_size > 1000
    dense, dynamic = json.loads((tmp_path / "fig2.json").read_text())["rows"]
    assert dense["head"] == "dense"
    assert dense["negative"] > dynamic["negative"] == 0
    assert dynamic["right"] == 100
    assert min(dense["top1"], dynamic["top1"]) > 99


def test_fig2_sees_the_parts_that_a_scene_shows() -> None:
    scenes = ComposedScenes("train", 20, image_size=32)
    seen = fig2.parts_seen(scenes)
    for i in range(20):
        assert seen[i].bool().tolist() == [bool(mask.any()) for mask in scenes.masks(i)]
        assert seen[i][torch.from_numpy(scenes.table[scenes.labels[i]])].all()


def test_fig2_counts_by_hand() -> None:
    head = nn.Linear(3, 2)
    head.weight.data = torch.tensor([[2.0, 1.0, -1.0], [0.5, 1.0, 3.0]])
    head.bias.data.zero_()
    table = torch.tensor([[True, True, False], [False, True, True]]).numpy()
    row = fig2.summary("dense", [head], torch.eye(3), torch.tensor([0, 0, 0]), table, [0, 1], 1)
    assert row["own"] == pytest.approx((2 + 1 + 1 + 3) / 4)
    assert row["other"] == pytest.approx((-1 + 0.5) / 2)
    assert row["negative"] == pytest.approx(100 / 6)
    assert (row["right"], row["shared"]) == (100, 1)
    # Input 2 alone says class 1; input 1 leaves both alike, and the first one is taken.
    assert row["top1"] == pytest.approx(200 / 3)
    assert row["own_std"] is None


def test_fig2_trains_as_many_seeds_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fig2, "SCENES", 100)
    monkeypatch.setattr(fig2, "STEPS", 2)
    main(["reproduce", "fig2", "--seeds", "2", "--out", str(tmp_path / "new")])
    assert [row["runs"] for row in json.loads((tmp_path / "new" / "fig2.json").read_text())["rows"]] == [2, 2]
