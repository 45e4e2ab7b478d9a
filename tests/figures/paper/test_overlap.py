"""`dynamick reproduce overlap`: its figures against loops over samples, classes and units, and what it refuses."""

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
from dynamick.figures.paper import overlap
from dynamick.figures.runs import Run

K = 3


def test_the_figures_are_those_of_loops(scenes_run: Callable[..., Run]) -> None:
    scenes, run = ComposedScenes("val", 6, image_size=32), scenes_run(f"res8-d{K}a")
    rows = {(row["kind"], row["s"]): row for row in overlap.measure(run, scenes.images, scenes.labels)}
    network = run.network
    weight, bias = network.fc.weight.detach(), network.fc.bias.detach()
    with torch.no_grad():
        x = network.features(network.preprocessing(scenes.images))
    both = either = 0.0
    updates = torch.zeros(3, *weight.shape)
    for b in range(6):
        routed = torch.zeros_like(weight)
        q = torch.zeros_like(weight)
        for c in range(10):
            votes = [float(w * each) for w, each in zip(weight[c], x[b], strict=True)]
            best = [j for j in sorted(range(len(votes)), key=lambda j: (-votes[j], j)) if votes[j] > 0]
            routed[c, best[:K]] = 1
            for j in best:
                q[c, j] = 1 if len(best) < K else min(1.0, (votes[j] / votes[best[K - 1]]) ** 2)
            for j in range(len(votes)):
                both += float(q[c, j] * routed[c, j])
                either += float(q[c, j] + routed[c, j] - q[c, j] * routed[c, j])
        target = torch.eye(10)[scenes.labels[b]]
        dense = ((weight @ x[b] + bias).softmax(0) - target)[:, None] * x[b]
        dynamic = (((weight * routed) @ x[b] + bias).softmax(0) - target)[:, None] * x[b]
        updates += torch.stack([dynamic * routed, dense * q, dynamic * routed * q])
    row = rows["normalised, votes", 0.5]
    assert row["overlap"] == pytest.approx(both / either, rel=1e-4)
    assert row["dense"] == pytest.approx(float((updates[1] - updates[0]).norm() / updates[0].norm()), rel=1e-3)
    assert row["routed"] == pytest.approx(float((updates[2] - updates[0]).norm() / updates[0].norm()), abs=1e-6)
    assert rows["normalised, votes", 1.0]["overlap"] == 1
    assert rows["normalised, Lemma 2", 1.0]["overlap"] < 1
    for name in ("votes", "Lemma 2 local", "Lemma 2 global"):
        assert rows[f"literal, {name}", 1.0]["overlap"] == 0


def test_means_and_deviations_are_over_a_models_runs(scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run("res8"), scenes_run("res8"), scenes_run("res8-d2a")]
    found = [
        [{"kind": "normalised, votes", "s": 1.0, "overlap": value, "dense": 2 * value, "routed": 0.0}]
        for value in (0.2, 0.4, 1.0)
    ]
    dense, dynamic = overlap.summary(runs, found)
    assert (dense["runs"], dense["k"], dynamic["k"]) == (2, 5, 2)
    assert dense["overlap"] == pytest.approx(0.3)
    assert dense["overlap_std"] == pytest.approx(0.02**0.5)
    assert dense["dense"] == pytest.approx(0.6)
    assert dynamic["overlap_std"] is None


def test_it_writes_its_page(tmp_path: Path, scenes_run: Callable[..., Run]) -> None:
    made = find("overlap").page(Material([scenes_run("res8"), scenes_run("res8", seed=2), scenes_run("res8-d2a")]))
    made.write(tmp_path)
    page = made.markdown()
    assert page == (tmp_path / "overlap.md").read_text()
    assert "12 validation images" in page
    assert "res8-d2a: normalised, votes: the overlap at s = 1 is 1.000" in page
    rows = json.loads((tmp_path / "overlap.json").read_text())["rows"]
    assert len(rows) == 2 * len(overlap.FORMS) * len(overlap.LEVELS)
    assert (tmp_path / "overlap.svg").stat().st_size > 1000


@pytest.mark.parametrize(
    ("given", "wrong"), [(["res8", "res8-d2a@64"], "different data"), (["res8", "capsnet-em"], "capsnet-em has no linear head")]
)
def test_it_refuses_what_cannot_be_compared(given: list[str], wrong: str, scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run(name.partition("@")[0], int(name.partition("@")[2] or 32)) for name in given]
    with pytest.raises(dk.InputError, match=rf"^reproduce overlap: [^\n]*{wrong}[^\n]*$"):
        overlap.make(Material(runs))


def test_it_refuses_runs_of_other_classes(scenes_run: Callable[..., Run]) -> None:
    """Two folders of images are both of kind `folder`, and may be of one size."""
    runs = [scenes_run("res8"), scenes_run("res8-d2a")]
    runs[1].network.classes = [f"class {c}" for c in range(10)]
    with pytest.raises(dk.InputError, match=r"^reproduce overlap: the runs are of different data; [^\n]+$"):
        overlap.make(Material(runs))


def test_it_averages_only_runs_that_differ_in_their_seeds(scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run("res8", folder=name) for name in "ab"]
    runs[1] = replace(runs[1], recipe=replace(runs[1].recipe, seed=7, width=8))
    with pytest.raises(dk.InputError, match=r"^b: another res8 than a \(width: [^\n]+ are averaged$"):
        overlap.make(Material(runs))


def test_a_network_without_a_gradient_holds_nothing(tmp_path: Path, scenes_run: Callable[..., Run]) -> None:
    runs = [scenes_run("res8"), scenes_run("res8-d2a")]
    with torch.no_grad():
        runs[1].network.fc.weight.zero_()
    made = find("overlap").page(Material(runs))
    made.write(tmp_path)
    page = made.markdown()
    said = [line for line in page.splitlines() if line.startswith("- res8-d2a: ")]
    assert len(said) == len(overlap.FORMS)
    assert all(line.endswith("nothing to compare with") for line in said)
    assert "nan" not in page
    assert "| none | none |" in page
    assert "NaN" not in (tmp_path / "overlap.json").read_text()
