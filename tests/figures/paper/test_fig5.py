"""Fig. 5: its verdicts, what it draws, and the scores over training."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynamick.cli.main import main
from dynamick.dissection import Dissection
from dynamick.figures.dissections import SCORE
from dynamick.figures.paper import fig4, fig5
from dynamick.figures.runs import Run
from dynamick.training import read_history


@pytest.mark.parametrize("figure", ["fig5", "fig6"])
def test_figures_of_dissected_runs(
    tmp_path: Path, figure: str, make_run: Callable[..., Path], tally: Callable[[Path, float], None]
) -> None:
    runs = []
    for name, model, score in (("a", "res8", 0.05), ("b", "res8-d5a", 0.08)):
        runs.append(str(make_run(tmp_path / name, model, 30.0, 0.9 if name == "b" else 0.0, "folder")))
        tally(tmp_path / "dissected" / name / "tally.csv", score)
    main(["reproduce", figure, *runs, "--dissections", str(tmp_path / "dissected"), "--out", str(tmp_path / "out")])
    found = json.loads((tmp_path / "out" / f"{figure}.json").read_text())
    row = found["rows"][0]
    # Two of three classes are one concept each; the third is eight.
    assert (row["model"], row["covered"], row["paper"]) == ("res8-d5a", pytest.approx(200 / 3), 53.60)
    ends = [each.rsplit(" ", 1)[1] for each in found["verdicts"]]
    assert ends == (["holds"] * 3 if figure == "fig5" else ["fails"])
    assert "3 classes" in (tmp_path / "out" / f"{figure}.svg").read_text()


def test_verdicts_tell_kinds_of_one_head_apart_and_keep_to_a_depth() -> None:
    kinds = [
        ("res8-d5", "d5", 8),
        ("res8-d5a", "d5", 8),
        ("res18-d25a", "d25", 18),
        ("res8", "dense", 8),
        ("res18", "dense", 18),
    ]
    rows: list[dict[str, Any]] = [
        {"model": model, "head": head, "depth": depth, "k": None if head == "dense" else int(head[1:])}
        | {"top1": 50.0, "paper": None, "sparse": 90.0 - place, "score": 0.05}
        for place, (model, head, depth) in enumerate(kinds)
    ]
    found = [each.partition(":")[0] for each in fig5.verdicts(rows) if "sparser" in each]
    assert found == ["res8-d5 sparser than res8", "res8-d5a sparser than res8", "d25 sparser than res18"]
    found = [each.partition(":")[0] for each in fig4.verdicts(rows)]
    assert found == ["res8-d5 sparser than res8", "res8-d5a sparser than res8"]


def test_panels_say_that_they_show_one_run_and_have_the_tables_unit(known_run: Callable[..., Run]) -> None:
    made = [("res8", 83.0, 0.01), ("res8", 84.0, 0.03), ("res8-d5a", 83.4, 0.96), ("res8-l1", 82.0, 0.97)]
    runs = [known_run(*each) for each in made]
    a, b, c, d = fig5.draw(runs).axes
    assert all("the first run of each" in panel.get_title() for panel in (a, b, d))
    assert "each run" in c.get_title()
    assert {round(float(line.get_ydata()[-1]), 1) for line in b.lines} == {96.0, 97.0, 1.0}


@pytest.fixture
def scored(known_run: Callable[..., Run]) -> Callable[..., Run]:
    def scored(model: str, scores: dict[int, float], top1: float = 30.0) -> Run:
        """A run of four epochs with these mean scores after some; its last network has a mean score of 0.05."""
        history = [{"epoch": float(epoch), "top1": top1, "sparse_share": 0.5} for epoch in range(1, 5)]
        for epoch, score in scores.items():
            history[epoch - 1][SCORE] = score
        return replace(known_run(model, top1, 0.5), history=history)

    return scored


def test_scores_over_training_are_means_over_runs_with_their_deviation(scored: Callable[..., Run]) -> None:
    dense = [scored("res8", {2: first, 4: 0.05}) for first in (0.01, 0.03)]
    runs = [*dense, scored("res8-d5a", {1: 0.02, 3: 0.04, 4: 0.05})]
    a, _, c, _ = fig5.draw(runs).axes
    dynamic_line, dense_line = c.lines
    assert [list(dynamic_line.get_xdata()), list(dense_line.get_xdata())] == [[1, 3, 4], [2, 4]]
    assert list(dynamic_line.get_ydata()) == pytest.approx([0.02, 0.04, 0.05])
    assert list(dense_line.get_ydata()) == pytest.approx([0.02, 0.05])
    assert [line.get_color() for line in c.lines] == [line.get_color() for line in a.lines]
    (band,) = c.collections  # one run has no deviation
    heights = band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((0.02 - 0.0002**0.5, 0.05))
    assert c.get_xlim() == a.get_xlim()
    assert "over runs" in c.get_title()
    assert "over training, as in the paper" in fig5.scores_shown(runs)


@pytest.mark.parametrize(
    "scores",
    [{}, {2: 0.04}, {3: 0.04, 4: 0.05}, {2: 0.04, 4: 0.06}],
    ids=["none", "none at the end", "other epochs", "another score than its dissection's"],
)
def test_without_all_scores_over_training_those_at_the_end_are_shown(
    scored: Callable[..., Run], scores: dict[int, float]
) -> None:
    runs = [
        scored("res8", {2: 0.01, 4: 0.05}),
        scored("res8", scores),
        scored("res8-d5a", {4: 0.05}),
    ]
    c = fig5.draw(runs).axes[2]
    assert [list(line.get_ydata()) for line in c.lines] == [pytest.approx([0.05]), pytest.approx([0.05, 0.05])]
    assert c.get_title().endswith("at the end, each run")
    assert "at the end of training only" in fig5.scores_shown(runs)


def test_figure_5s_own_trainings_measure_scores_that_end_as_dissected(
    own: Path, reproduce: Callable[..., dict[str, Any]], epochs: Callable[..., None], scenes: Path
) -> None:
    epochs(3)
    found = reproduce("fig5")
    rows = read_history(own / "out" / "runs" / "tiny" / "res8-d2a-0")
    assert all(row["dissection/mean_score"] >= 0 for row in rows)
    assert len(rows) == 3
    units = Dissection.read_tally(own / "out" / "dissections" / "res8-d2a-0" / "tally.csv")
    assert rows[-1]["dissection/mean_score"] == pytest.approx(units.scores.mean(), rel=1e-4)
    assert "(c) shows the mean scores over training" in (own / "out" / "fig5.md").read_text()
    assert not any("(c)" in verdict for verdict in found["verdicts"])


def test_trainings_without_scores_still_make_figure_5(
    own: Path, reproduce: Callable[..., dict[str, Any]], scenes: Path
) -> None:
    reproduce("fig6")
    assert "dissection/mean_score" not in read_history(own / "out" / "runs" / "tiny" / "res8-0")[-1]
    found = reproduce("fig5")
    assert "(c) shows the mean scores at the end of training only" in (own / "out" / "fig5.md").read_text()
    assert [row["runs"] for row in found["rows"]] == [2, 2]
