"""The trainings that figures need: made once, and told when they fail."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dynamick.data.checking import open_concepts
from dynamick.figures import find, names
from dynamick.figures.dissections import scoring
from dynamick.figures.trainings import Training, estimates, train_all, trainings
from dynamick.files import alone
from dynamick.training import train
from dynamick.training.recipe import Recipe


def test_without_runs_it_trains_what_it_needs_once(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reproduce: Callable[..., dict[str, Any]],
    needed: Callable[..., list[Training]],
) -> None:
    found = reproduce("table1")
    assert "4 of 4 trainings to do, " in capsys.readouterr().out
    assert [(row["model"], row["runs"]) for row in found["rows"]] == [("res8-d2a", 2), ("res8", 2)]
    (own / "out" / "runs" / "tiny" / "res8-1" / "result.json").unlink()
    # Its only epoch is done: there is next to nothing left.
    monkeypatch.setattr("dynamick.figures.trainings.step_seconds", lambda recipe, classes: 3600.0)
    again = needed(2)
    assert [bool(each) for each in estimates(again)] == [False] * 4
    (own / "out" / "runs" / "tiny" / "res8-1" / "metrics.csv").write_text("")
    assert sum(bool(each) for each in estimates(again)) == 1
    reproduce("table1")
    assert "1 of 4 trainings to do, " in capsys.readouterr().out
    monkeypatch.setattr("dynamick.figures.trainings.train", None)
    reproduce("table1")
    assert "to do" not in capsys.readouterr().out


def test_trainings_of_another_recipe_are_not_taken(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reproduce: Callable[..., dict[str, Any]],
    refused: Callable[..., str],
) -> None:
    reproduce("table1")
    monkeypatch.chdir(own)
    monkeypatch.setattr("dynamick.figures.trainings.train", None)
    # The same data, written in another way.
    reproduce("table1", "--data", "data")
    recipe = own / "tiny.yaml"
    recipe.write_text(recipe.read_text().replace("epochs: 1", "epochs: 2"))
    page = (own / "out" / "table1.md").read_text()
    said = refused("table1", "--seeds", "3")
    assert "runs/tiny/res8-0: holds another recipe's training (optim.epochs: 1 there, 2 here)" in said
    assert page == (own / "out" / "table1.md").read_text()


def test_a_training_that_diverges_is_told_as_such_and_not_by_its_maps(
    own: Path, epochs: Callable[..., None], needed: Callable[..., list[Training]], scenes: Path
) -> None:
    epochs(2, lr=1e30)
    said = train_all(needed(), lambda recipe: [scoring(recipe, open_concepts(scenes))])
    assert len(said) == 2
    assert all("FloatingPointError" in each and "it diverged" in each for each in said)


@pytest.fixture
def unlucky(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Folders' names whose trainings fail."""
    names: set[str] = set()

    def attempt(recipe: Recipe, folder: Path, **settings: Any) -> None:
        if folder.name in names:
            raise RuntimeError("no luck")
        train(recipe, folder, **settings)

    monkeypatch.setattr("dynamick.figures.trainings.train", attempt)
    return names


@pytest.mark.parametrize("figure", ["table1", "fig3", "fig7", "overlap"])
def test_a_training_that_fails_is_told_and_takes_no_other_along(
    own: Path,
    unlucky: set[str],
    monkeypatch: pytest.MonkeyPatch,
    figure: str,
    reproduce: Callable[..., dict[str, Any]],
    scenes: Path,
) -> None:
    # Maps of images this small have too few pixels for a basis.
    monkeypatch.setattr("dynamick.figures.paper.fig7.residual_of_ibd", lambda *_: 0.5)
    unlucky.add("res8-d2a-0")
    with pytest.raises(SystemExit) as stop:
        reproduce(figure)
    assert stop.value.code == 1
    said = "res8-d2a-0: failed: RuntimeError: no luck"
    assert said in (own / "out" / f"{figure}.md").read_text()
    found = json.loads((own / "out" / f"{figure}.json").read_text())
    assert found["verdicts"][-1] == said
    assert {(row["model"], row["runs"]) for row in found["rows"]} == {("res8-d2a", 1), ("res8", 2)}


def test_what_a_figure_lacks_is_told_with_its_reason(
    own: Path, unlucky: set[str], capsys: pytest.CaptureFixture[str], refused: Callable[..., str]
) -> None:
    unlucky |= {"res8-d2a-0", "res8-d2a-1"}
    said = refused("fig3")
    assert "give a run with a Dynamic-K head" in said
    assert "res8-d2a-0: failed: RuntimeError: no luck" in said


def test_every_need_is_a_recipe_that_may_be_trained(tmp_path: Path) -> None:
    for figure in map(find, names()):
        for each in trainings(figure.needs, tmp_path, 1, tmp_path / "mine"):
            each.recipe.check()
            assert each.recipe.data.kind == "scenes" or each.recipe.data.root.startswith(str(tmp_path / "mine"))


def test_the_same_figure_twice_at_once_is_refused(own: Path, scenes: Path, refused: Callable[..., str]) -> None:
    folder = own / "out" / "runs" / "tiny" / "res8-0"
    with alone(folder):
        assert f"{folder}: another process is " in refused("table1")


def test_a_dissection_that_another_process_makes_is_refused(
    own: Path, scenes: Path, reproduce: Callable[..., dict[str, Any]], refused: Callable[..., str]
) -> None:
    reproduce("table1")
    folder = own / "out" / "dissections" / "res8-0" / "state" / "process-0-of-1"
    with alone(folder):
        assert f"{folder}: another process is filling this" in refused("fig6")
    assert not (own / "out" / "fig6.md").exists()
