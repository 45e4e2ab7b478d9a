"""What Figs. 4 to 6 draw, of networks whose weights and figures are known."""

from pathlib import Path
from typing import Any

import pytest
import torch

from dynamick import models
from dynamick.cli.fig4_to_fig6 import SCORE, draw_fig4, draw_fig5, draw_fig6, scores_shown
from dynamick.dissection import Dissection
from dynamick.training.recipe import Recipe


def make_run(folder: Path, model: str, top1: float, sparse: float, score: float = 0.05) -> dict[str, Any]:
    """A finished run of 16 units with these last figures; each unit detects a concept of its own."""
    lines = ["unit,category,label,score,object-label,object-truth,object-activation,object-intersect,object-iou"]
    overlap = round(200 * score / (1 + score))
    for unit in range(1, 17):
        lines.append(f"{unit},object,thing{unit},{score},thing{unit},100,100,{overlap},{score}")
    (folder / "tally.csv").write_text("\n".join(lines) + "\n")
    name = models.parse(model)
    torch.manual_seed(0)
    return {
        "folder": folder,
        "model": model,
        "head": name.head,
        "k": name.k if name.head == "dynamic" else None,
        "recipe": Recipe(model=model, width=4).to_dict(),
        "history": [{"epoch": epoch, "top1": top1 - 2 + epoch, "sparse_share": sparse} for epoch in (1.0, 2.0)],
        "network": models.create(model, 3, "cifar", 4, classes=["a", "b", "c"]),
        "units": Dissection.read_tally(folder / "tally.csv"),
    }


def test_panels_say_that_they_show_one_run_and_have_the_tables_unit(tmp_path: Path) -> None:
    made = [("res8", 83.0, 0.01), ("res8", 84.0, 0.03), ("res8-d5a", 83.4, 0.96), ("res8-l1", 82.0, 0.97)]
    runs = [make_run(tmp_path, *each) for each in made]
    curves, heads = draw_fig4(runs).subfigs
    assert curves.axes[0].get_title() == "(a) validation top-1, %; the first run of each"
    assert heads.get_suptitle().startswith("(b) |w| of the first run's head")
    a, b, c, d = draw_fig5(runs).axes
    assert all("the first run of each" in panel.get_title() for panel in (a, b, d))
    assert "each run" in c.get_title()
    assert {round(float(line.get_ydata()[-1]), 1) for line in b.lines} == {96.0, 97.0, 1.0}


def scored(folder: Path, model: str, scores: dict[int, float], top1: float = 30.0) -> dict[str, Any]:
    """A run of four epochs with these mean scores after some; its last network has a mean score of 0.05."""
    run = make_run(folder, model, top1, 0.5)
    history = [{"epoch": float(epoch), "top1": top1, "sparse_share": 0.5} for epoch in range(1, 5)]
    for epoch, score in scores.items():
        history[epoch - 1][SCORE] = score
    return run | {"history": history}


def test_scores_over_training_are_means_over_runs_with_their_deviation(tmp_path: Path) -> None:
    dense = [scored(tmp_path, "res8", {2: first, 4: 0.05}) for first in (0.01, 0.03)]
    runs = [*dense, scored(tmp_path, "res8-d5a", {1: 0.02, 3: 0.04, 4: 0.05})]
    a, _, c, _ = draw_fig5(runs).axes
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
    assert "over training, as in the paper" in scores_shown(runs)


@pytest.mark.parametrize(
    "scores",
    [{}, {2: 0.04}, {3: 0.04, 4: 0.05}, {2: 0.04, 4: 0.06}],
    ids=["none", "none at the end", "other epochs", "another score than its dissection's"],
)
def test_without_all_scores_over_training_those_at_the_end_are_shown(tmp_path: Path, scores: dict[int, float]) -> None:
    runs = [
        scored(tmp_path, "res8", {2: 0.01, 4: 0.05}),
        scored(tmp_path, "res8", scores),
        scored(tmp_path, "res8-d5a", {4: 0.05}),
    ]
    c = draw_fig5(runs).axes[2]
    assert [list(line.get_ydata()) for line in c.lines] == [pytest.approx([0.05]), pytest.approx([0.05, 0.05])]
    assert c.get_title().endswith("at the end, each run")
    assert "at the end of training only" in scores_shown(runs)


def test_figure_6_joins_classes_to_their_heaviest_units_by_lines_as_wide_as_their_weights(tmp_path: Path) -> None:
    run = make_run(tmp_path, "res8-d5a", 30.0, 0.9, 0.03)
    weight = torch.zeros(3, 16)
    weight[0, [2, 9, 4, 7]] = torch.tensor([1.0, 0.5, 0.25, 0.1])
    weight[1, [2, 5]] = torch.tensor([-2.0, 0.5])
    with torch.no_grad():
        run["network"].fc.weight.copy_(weight)
    axes = draw_fig6([run]).axes[0]
    assert [line.get_linewidth() for line in axes.lines] == pytest.approx([8, 4, 2, 4])
    said = {text.get_text(): text.get_color() for text in axes.texts}
    assert [text for text in said if text.startswith("unit")] == [f"unit {m}: thing{m + 1}, IoU 0.03" for m in (2, 9, 4, 5)]
    assert {said[text] for text in said if text.startswith("unit")} == {"#777777"}
