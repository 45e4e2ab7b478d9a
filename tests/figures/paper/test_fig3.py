"""Fig. 3: what is counted against arithmetic by hand, and that it writes its page."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import dynamick as dk
from dynamick.data import ComposedScenes
from dynamick.figures import find
from dynamick.figures.figure import Material
from dynamick.figures.paper import fig3
from dynamick.figures.runs import Run


@pytest.mark.parametrize("model", ["res8", "res8-d2a", "res8-d2g"])
def test_fig3_shares_of_units_are_those_of_their_products(model: str, scenes_run: Callable[..., Run]) -> None:
    network, images = scenes_run(model).network, ComposedScenes("val", 3, image_size=32).images
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
def test_fig3_shares_of_capsules_are_those_of_their_votes(routing: str, scenes_run: Callable[..., Run]) -> None:
    network, images = scenes_run(f"capsnet-{routing}").network, ComposedScenes("val", 2, image_size=32).images
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


def test_fig3_writes_its_page(tmp_path: Path, scenes_run: Callable[..., Run]) -> None:
    made = find("fig3").page(Material([scenes_run(model) for model in ("res8", "res8-d2a", "capsnet-em")]))
    made.write(tmp_path)
    page = made.markdown()
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
def test_fig3_refuses_runs_that_cannot_be_compared(given: list[str], wrong: str, scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run(name.partition("@")[0], int(name.partition("@")[2] or 32)) for name in given]
    with pytest.raises(dk.InputError, match=rf"^reproduce fig3: [^\n]*{wrong}[^\n]*$"):
        fig3.make(Material(runs))


def test_fig3_refuses_runs_of_other_classes(scenes_run: Callable[..., Run]) -> None:
    """Two folders of images are both of kind `folder`, and may be of one size."""
    runs = [scenes_run("res8"), scenes_run("res8-d2a")]
    runs[1].network.classes = [f"class {c}" for c in range(10)]
    with pytest.raises(dk.InputError, match=r"^reproduce fig3: the runs are of different data; [^\n]+$"):
        fig3.make(Material(runs))


def test_fig3_averages_only_runs_that_differ_in_their_seeds(scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run(model, folder=name) for name, model in (("a", "res8"), ("b", "res8"), ("c", "res8-d2a"))]
    runs[1].recipe.optim.epochs += 1
    with pytest.raises(dk.InputError, match=r"^b: another res8 than a \(optim.epochs: [^\n]+ are averaged$"):
        fig3.make(Material(runs))
    runs[1] = replace(runs[1], recipe=replace(runs[0].recipe, seed=7))
    assert fig3.make(Material(runs)).rows[0]["runs"] == 2
