"""`fig2` and `fig3`: what is counted against arithmetic by hand, and that both write their pages."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick import models
from dynamick.cli import fig2, fig3
from dynamick.cli.main import main
from dynamick.data import ComposedScenes
from dynamick.training.recipe import DataRecipe, Recipe


def test_fig2_a_dynamic_head_keeps_a_classs_own_parts_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fig2, "SCENES", 500)
    page = fig2.fig2(tmp_path, seeds=1)
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


def make_run(model: str, size: int = 32) -> dict[str, Any]:
    recipe = Recipe(model=model, width=4, stem="patch", data=DataRecipe("scenes", size=size, val_images=12)).to_dict()
    torch.manual_seed(1)
    name = models.parse(model)
    network = models.create(model, 10, "patch", 4, classes=ComposedScenes("val", 1).classes).eval()
    k = name.k if name.head == "dynamic" else None
    return {"model": model, "head": f"d{k}" if k else name.head, "k": k, "recipe": recipe, "network": network}


@pytest.mark.parametrize("model", ["res8", "res8-d2a", "res8-d2g"])
def test_fig3_shares_of_units_are_those_of_their_products(model: str) -> None:
    network, images = make_run(model)["network"], ComposedScenes("val", 3, image_size=32).images
    found = fig3.select(network, images)
    with torch.no_grad():
        x = network.features(network.preprocessing(images))
        logits = network.fc(x)
    torch.testing.assert_close(found.logits, logits)
    for b in range(3):
        for c in range(10):
            products = (network.fc.weight[c].detach() * x[b]).tolist()
            ranked = sorted((each for each in products if each > 0), reverse=True)
            summed = [each if model != "res8-d2a" or each in ranked[:2] else 0.0 for each in products]
            want = [abs(each) / max(1e-30, sum(map(abs, summed))) for each in summed]
            assert found.shares[b, c].tolist() == pytest.approx(want, rel=1e-4, abs=1e-6)
            # The maps add up to the logit without its bias.
            assert float(found.maps[b, c].sum()) == pytest.approx(
                float(logits[b, c] - network.fc.bias[c].detach()), rel=1e-3, abs=1e-5
            )


@pytest.mark.parametrize("routing", ["dynamic", "em", "simplified"])
def test_fig3_shares_of_capsules_are_those_of_their_votes(routing: str) -> None:
    network, images = make_run(f"capsnet-{routing}")["network"], ComposedScenes("val", 2, image_size=32).images
    found = fig3.select(network, images)
    with torch.no_grad():
        poses = network.features(network.preprocessing(images)).view(2, -1, 8)
        coupling = network.fc.capsules(poses.flatten(1)).coupling
    weight = network.fc.weight.detach()
    for c in (0, 7):
        size = []
        for i in range(poses.shape[1]):
            vote = weight[8 * c : 8 * c + 8, 8 * i : 8 * i + 8] @ poses[1, i]
            size.append(float(coupling[1, c, i] * vote.norm() * (poses[1, i].norm() if routing == "em" else 1)))
        assert found.shares[1, c].tolist() == pytest.approx([each / sum(size) for each in size], rel=1e-3)
    torch.testing.assert_close(found.maps.sum((2, 3)), torch.ones(2, 10))


def test_fig3_counts_the_fewest_that_make_up_nine_tenths() -> None:
    shares = torch.tensor([[0.1, 0.5, 0.4], [0.3, 0.3, 0.4], [0.0, 1.0, 0.0]])
    assert fig3.selected(shares).tolist() == [2, 3, 1]


def test_fig3_writes_its_page(tmp_path: Path) -> None:
    page = fig3.fig3([make_run(model) for model in ("res8", "res8-d2a", "capsnet-em")], tmp_path)
    assert page == (tmp_path / "fig3.md").read_text()
    rows = json.loads((tmp_path / "fig3.json").read_text())["rows"]
    assert [row["model"] for row in rows] == ["res8", "res8-d2a", "capsnet-em"]
    assert rows[1]["selected"] <= 2
    assert "Medians over 12 validation images" in page
    assert (tmp_path / "fig3.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "wrong"),
    [
        (["res8-d2a"], "one or more others"),
        (["res8", "capsnet-em"], "Dynamic-K head"),
        (["res8", "res8-d2a@64"], "different data"),
    ],
)
def test_fig3_refuses_runs_that_cannot_be_compared(given: list[str], wrong: str, tmp_path: Path) -> None:
    runs = [make_run(name.partition("@")[0], int(name.partition("@")[2] or 32)) for name in given]
    with pytest.raises(dk.InputError, match=rf"^reproduce fig3: [^\n]*{wrong}[^\n]*$"):
        fig3.fig3(runs, tmp_path)
    assert not list(tmp_path.iterdir())


def test_fig3_refuses_runs_of_other_classes(tmp_path: Path) -> None:
    """Two folders of images are both of kind `folder`, and may be of one size."""
    runs = [make_run("res8"), make_run("res8-d2a")]
    runs[1]["network"].classes = [f"class {c}" for c in range(10)]
    with pytest.raises(dk.InputError, match=r"^reproduce fig3: the runs are of different data; [^\n]+$"):
        fig3.fig3(runs, tmp_path)


def test_fig3_averages_only_runs_that_differ_in_their_seeds(tmp_path: Path) -> None:
    runs = [make_run(model) | {"folder": Path(name)} for name, model in (("a", "res8"), ("b", "res8"), ("c", "res8-d2a"))]
    runs[1]["recipe"]["optim"]["epochs"] += 1
    with pytest.raises(dk.InputError, match=r"^b: another res8 than a \(optim.epochs: [^\n]+ are averaged$"):
        fig3.fig3(runs, tmp_path)
    runs[1]["recipe"] = runs[0]["recipe"] | {"seed": 7}
    fig3.fig3(runs, tmp_path)
    assert json.loads((tmp_path / "fig3.json").read_text())["rows"][0]["runs"] == 2


def test_fig2_trains_as_many_seeds_as_it_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fig2, "SCENES", 100)
    monkeypatch.setattr(fig2, "STEPS", 2)
    main(["reproduce", "fig2", "--seeds", "2", "--out", str(tmp_path / "new")])
    assert [row["runs"] for row in json.loads((tmp_path / "new" / "fig2.json").read_text())["rows"]] == [2, 2]
