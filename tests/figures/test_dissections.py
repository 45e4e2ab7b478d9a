"""The dissections that figures need: read, made, and measured while networks train."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamick.cli.main import main
from dynamick.data.checking import open_concepts
from dynamick.data.scenes import ComposedScenes
from dynamick.dissection.counting import Counts
from dynamick.dissection.first_pass import FirstPass
from dynamick.figures.dissections import scoring, scoring_estimates
from dynamick.figures.trainings import Training, train_all


@pytest.fixture
def dissected(tmp_path: Path, make_run: Callable[..., Path], tally: Callable[[Path, float], None]) -> Callable[..., list[str]]:
    def dissected(seen: dict[str, tuple[int, int] | None]) -> list[str]:
        """Runs with dissections that saw so many images and concepts; None leaves no `state/`."""
        for name, counts in seen.items():
            make_run(tmp_path / name, "res8-d5a" if name == "b" else "res8", 30.0, 0.5, "folder")
            tally(tmp_path / "dissected" / name / "tally.csv", 0.05)
            if counts:
                state = tmp_path / "dissected" / name / "state" / "process-0-of-1" / "state.pt"
                state.parent.mkdir(parents=True)
                torch.save({"config": {"images": counts[0]}, "counts": {"sizes": torch.zeros(counts[1])}}, state)
        options = ["--dissections", str(tmp_path / "dissected"), "--out", str(tmp_path / "out")]
        return [*(str(tmp_path / name) for name in seen), *options]

    return dissected


@pytest.mark.parametrize(
    ("counts", "concepts", "said"),
    [
        ((6068, 286), False, "dissected on 6,068 images, 286 concepts."),
        ((6068, 286), True, "dissected on 6,068 images, 286 concepts."),
        (None, False, "dissected on concepts of which no state/ tells."),
        (None, True, "dissected on mini (3 images, {} concepts)."),
    ],
)
def test_a_page_says_what_was_dissected(
    tmp_path: Path, counts: tuple[int, int] | None, concepts: bool, said: str, dissected: Callable[..., list[str]]
) -> None:
    given = dissected({"a": counts, "b": counts})
    ComposedScenes("val", 3, image_size=32).write_broden(tmp_path / "mini")
    labels = len(open_concepts(tmp_path / "mini").labels)
    main(["reproduce", "fig5", *given, *(["--concepts", str(tmp_path / "mini")] if concepts else [])])
    page = (tmp_path / "out" / "fig5.md").read_text()
    assert said.format(labels) in page
    assert "70 epochs; dissected on Broden." in page
    drawn = (tmp_path / "out" / "fig5.svg").read_text()
    assert f"dissected on {said.format(labels).split()[2]}" in drawn


def test_runs_dissected_on_different_data_are_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], dissected: Callable[..., list[str]]
) -> None:
    given = dissected({"a": (6068, 286), "b": (606, 286)})
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", "fig6", *given])
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert (
        "were dissected on different data (6,068 images, 286 concepts and 606 images, 286 concepts); give those of one" in err
    )
    assert not (tmp_path / "out").exists()
    (tmp_path / "dissected" / "b" / "state" / "process-0-of-1" / "state.pt").write_text("garbled")
    with pytest.raises(SystemExit):
        main(["reproduce", "fig6", *given])
    assert "b/state/process-0-of-1/state.pt: is not the state of a dissection; remove it" in capsys.readouterr().err


def test_another_networks_dissection_is_not_taken(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    reproduce: Callable[..., dict[str, Any]],
    refused: Callable[..., str],
    scenes: Path,
) -> None:
    reproduce("fig6")
    runs = own / "out" / "runs" / "tiny"
    shutil.copy(runs / "res8-1" / "last.safetensors", runs / "res8-0" / "last.safetensors")
    said = refused("fig6")
    assert f"{own / 'out' / 'dissections' / 'res8-0' / 'state'}: holds another configuration's dissection" in said
    assert "give another folder, or remove this one" in said
    assert "--restart" not in said


def test_without_runs_it_dissects_too(
    own: Path, monkeypatch: pytest.MonkeyPatch, reproduce: Callable[..., dict[str, Any]], scenes: Path
) -> None:
    found = reproduce("fig6")
    assert "; dissected on minibroden (20 images, " in found["sizes"]
    assert all(0 <= row["covered"] <= 100 for row in found["rows"])
    tallies = [
        own / "out" / "dissections" / f"{model}-{seed}" / "tally.csv" for model in ("res8", "res8-d2a") for seed in (0, 1)
    ]
    written = [path.read_bytes() for path in tallies]
    monkeypatch.setattr(FirstPass, "observe", None)
    monkeypatch.setattr(Counts, "update", None)
    reproduce("fig6")
    assert [path.read_bytes() for path in tallies] == written


@pytest.mark.parametrize(
    ("count", "measured"), [(1, [1]), (8, [*range(1, 9)]), (25, [*range(2, 25, 2), 25]), (70, [*range(7, 71, 7)])]
)
def test_scores_are_measured_about_ten_times_and_at_the_end(
    own: Path, count: int, measured: list[int], epochs: Callable[..., None], needed: Callable[..., list[Training]], scenes: Path
) -> None:
    epochs(count)
    first = needed()[0]
    callback = scoring(first.recipe, open_concepts(scenes))
    assert callback.layer == "layer3"
    assert [epoch for epoch in range(1, count + 1) if callback.due(epoch, count)] == measured


def test_the_time_told_has_the_dissections_to_come(
    own: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    epochs: Callable[..., None],
    needed: Callable[..., list[Training]],
    scenes: Path,
) -> None:
    concepts = open_concepts(scenes)
    assert all(0 < seconds < 60 for seconds in scoring_estimates(needed(), concepts))
    epochs(25)
    monkeypatch.setattr("dynamick.figures.trainings.step_seconds", lambda recipe, classes: 0.0)
    monkeypatch.setattr("dynamick.figures.dissections.dissection_seconds", lambda recipe, callback: 3600.0)
    trainings = needed()
    trainings[0].folder.mkdir(parents=True)
    (trainings[0].folder / "metrics.csv").write_text("epoch,top1\n" + "".join(f"{epoch},1\n" for epoch in range(1, 24)))
    assert scoring_estimates(trainings, concepts) == [2 * 3600.0, 13 * 3600.0]
    monkeypatch.setattr("dynamick.figures.trainings.train", lambda *_, **__: None)
    train_all(trainings, more_seconds=lambda left: sum(scoring_estimates(left, concepts)))
    assert "2 of 2 trainings to do, about 15 hours" in capsys.readouterr().out


@pytest.mark.parametrize("figure", ["fig5", "fig6"])
def test_a_dissection_of_other_units_is_named(
    figure: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], dissected: Callable[..., list[str]]
) -> None:
    given = dissected({"a": None, "b": None})
    tally = tmp_path / "dissected" / "b" / "tally.csv"
    tally.write_text("\n".join(tally.read_text().splitlines()[:-1]) + "\n")
    with pytest.raises(SystemExit) as stop:
        main(["reproduce", figure, *given])
    assert stop.value.code == 2
    assert f"{tally}: 15 units dissected, but the head reads 16" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
