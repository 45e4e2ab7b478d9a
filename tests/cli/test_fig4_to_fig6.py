"""What Figs. 4 to 6 draw, of networks whose weights and figures are known."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.offsetbox import AnnotationBbox

from dynamick import models
from dynamick.cli.fig4_to_fig6 import SCORE, add_pictures, draw_fig4, draw_fig5, draw_fig6, scores_shown
from dynamick.comparison.detecting import dissect_features
from dynamick.data.checking import open_concepts
from dynamick.data.scenes import ComposedScenes
from dynamick.dissection import Dissection, dissect
from dynamick.errors import InputError
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
    assert [text for text in said if text.startswith("unit")] == [f"unit {m + 1}: thing{m + 1}, IoU 0.03" for m in (2, 9, 4, 5)]
    assert {said[text] for text in said if text.startswith("unit")} == {"#777777"}


def pictured(folder: Path) -> tuple[dict[str, Any], Path]:
    """A run whose head reads four units, dissected on 20 images, and these."""
    run = make_run(folder, "res8-d5a", 30.0, 0.9)
    with torch.no_grad():
        run["network"].fc.weight.zero_()
        run["network"].fc.weight[0, [2, 9]] = run["network"].fc.weight[1, [4, 9]] = torch.tensor([1.0, 0.5])
    images = folder / "images"
    ComposedScenes("val", 20, seed=3, image_size=32).write_broden(images)
    run["folder"] = folder / "run"
    (folder / "dissections" / "run").mkdir(parents=True)
    network, data = run["network"].eval(), open_concepts(images)
    run["units"] = dissect_features(network, data, folder / "dissections" / "run", network.preprocessing)
    return run, images


def test_figure_6_shows_each_units_most_active_images_with_its_regions(tmp_path: Path) -> None:
    run, images = pictured(tmp_path)
    assert "(a) shows each unit's 3 top images" in add_pictures([run], tmp_path / "dissections", images)
    axes = draw_fig6([run]).axes[0]
    boxes = [each for each in axes.get_children() if isinstance(each, AnnotationBbox)]
    heights = [text.xy[1] for text in axes.texts if text.get_text().startswith("unit")]
    data, maps = open_concepts(images), []
    run["network"].get_submodule(run["units"].layer).register_forward_hook(lambda *given: maps.append(given[2].detach()[0]))
    for index in range(len(data)):
        run["network"](run["network"].preprocessing(data[index].image[None]))
    assert len(heights) == 3
    for unit, height in zip([2, 9, 4], heights, strict=True):
        row = sorted((each for each in boxes if each.xy[1] == height), key=lambda each: each.xybox[0])
        best = sorted(range(len(data)), key=lambda index: -float(maps[index][unit].max()))[:3]
        assert len(row) == 3
        for index, box in zip(best, row, strict=True):
            image = data[index].image
            large = torch.nn.functional.interpolate(maps[index][None, [unit]].double(), image.shape[1:], mode="bilinear")[0]
            expected = torch.where(large > float(run["units"].thresholds[unit]), image, (image * 0.25).to(torch.uint8))
            assert np.array_equal(box.offsetbox.get_data(), expected.permute(1, 2, 0).numpy())


def test_figure_6_says_what_its_pictures_lack(tmp_path: Path) -> None:
    run, images = pictured(tmp_path)
    said = add_pictures([run], tmp_path / "dissections", None)
    assert said.endswith("they need --concepts DIR, the images that were dissected.")
    (tmp_path / "dissections" / "run" / "dissection.json").unlink()
    said = add_pictures([run], tmp_path / "dissections", images)
    assert "they need " + str(tmp_path / "dissections" / "run" / "dissection.json") in said
    assert "--concepts" not in said
    assert not any(isinstance(each, AnnotationBbox) for each in draw_fig6([run]).axes[0].get_children())


@pytest.mark.parametrize("count", [20, 4])
def test_images_that_were_not_dissected_are_refused(tmp_path: Path, count: int) -> None:
    run, _ = pictured(tmp_path)
    ComposedScenes("val", count, seed=4, image_size=32).write_broden(tmp_path / "others")
    with pytest.raises(InputError, match=f"others: other images than {run['folder']} was dissected on"):
        add_pictures([run], tmp_path / "dissections", tmp_path / "others")
    assert "pictures" not in run


def test_a_dissection_of_another_layer_gives_no_pictures(tmp_path: Path) -> None:
    run, images = pictured(tmp_path)
    network, folder = run["network"], tmp_path / "dissections" / "run"
    found = dissect(network, "layer3.0.conv1", open_concepts(images), preprocessing=network.preprocessing)
    found.write_tally(folder / "tally.csv")
    (folder / "dissection.json").write_text(found.to_json())
    with pytest.raises(InputError, match=r"a dissection of 'layer3\.0\.conv1', but the head reads 'layer3'"):
        add_pictures([run], tmp_path / "dissections", images)


def test_without_positive_weights_figure_6_has_no_units_and_no_pictures(tmp_path: Path) -> None:
    run, images = pictured(tmp_path)
    with torch.no_grad():
        run["network"].fc.weight.zero_()
    add_pictures([run], tmp_path / "dissections", images)
    axes = draw_fig6([run]).axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]
