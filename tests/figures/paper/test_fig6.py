"""Fig. 6: what it draws, of networks whose weights are known."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from matplotlib.offsetbox import AnnotationBbox

from dynamick.cli.main import main
from dynamick.comparison.detecting import dissect_features
from dynamick.data.checking import open_concepts
from dynamick.data.scenes import ComposedScenes
from dynamick.dissection import dissect
from dynamick.errors import InputError
from dynamick.figures.dissections import read_dissection
from dynamick.figures.paper import fig6
from dynamick.figures.runs import Run


@pytest.fixture
def pictured(tmp_path: Path, known_run: Callable[..., Run]) -> tuple[Run, Path]:
    """A run whose head reads four units, dissected on 20 images, and these."""
    run = replace(known_run("res8-d5a", 30.0, 0.9), folder=tmp_path / "run")
    with torch.no_grad():
        run.network.fc.weight.zero_()
        run.network.fc.weight[0, [2, 9]] = run.network.fc.weight[1, [4, 9]] = torch.tensor([1.0, 0.5])
    images = tmp_path / "images"
    ComposedScenes("val", 20, seed=3, image_size=32).write_broden(images)
    (tmp_path / "dissections" / "run").mkdir(parents=True)
    network, data = run.network.eval(), open_concepts(images)
    units = dissect_features(network, data, tmp_path / "dissections" / "run", network.preprocessing)
    return replace(run, units=units), images


def test_figure_6_joins_classes_to_their_heaviest_units_by_lines_as_wide_as_their_weights(
    known_run: Callable[..., Run],
) -> None:
    run = known_run("res8-d5a", 30.0, 0.9, 0.03)
    weight = torch.zeros(3, 16)
    weight[0, [2, 9, 4, 7]] = torch.tensor([1.0, 0.5, 0.25, 0.1])
    weight[1, [2, 5]] = torch.tensor([-2.0, 0.5])
    with torch.no_grad():
        run.network.fc.weight.copy_(weight)
    axes = fig6.draw([run]).axes[0]
    assert [line.get_linewidth() for line in axes.lines] == pytest.approx([8, 4, 2, 4])
    said = {text.get_text(): text.get_color() for text in axes.texts}
    assert [text for text in said if text.startswith("unit")] == [f"unit {m + 1}: thing{m + 1}, IoU 0.03" for m in (2, 9, 4, 5)]
    assert {said[text] for text in said if text.startswith("unit")} == {"#777777"}


def test_figure_6_shows_each_units_most_active_images_with_its_regions(tmp_path: Path, pictured: tuple[Run, Path]) -> None:
    run, images = pictured
    pictures, note = fig6.top_images(run, tmp_path / "dissections", images)
    assert "(a) shows each unit's 3 top images" in note
    axes = fig6.draw([run], pictures).axes[0]
    boxes = [each for each in axes.get_children() if isinstance(each, AnnotationBbox)]
    heights = [text.xy[1] for text in axes.texts if text.get_text().startswith("unit")]
    data, maps = open_concepts(images), []
    run.network.get_submodule(run.units.layer).register_forward_hook(lambda *given: maps.append(given[2].detach()[0]))
    for index in range(len(data)):
        run.network(run.network.preprocessing(data[index].image[None]))
    assert len(heights) == 3
    for unit, height in zip([2, 9, 4], heights, strict=True):
        row = sorted((each for each in boxes if each.xy[1] == height), key=lambda each: each.xybox[0])
        best = sorted(range(len(data)), key=lambda index: -float(maps[index][unit].max()))[:3]
        assert len(row) == 3
        for index, box in zip(best, row, strict=True):
            image = data[index].image
            large = torch.nn.functional.interpolate(maps[index][None, [unit]].double(), image.shape[1:], mode="bilinear")[0]
            expected = torch.where(large > float(run.units.thresholds[unit]), image, (image * 0.25).to(torch.uint8))
            assert np.array_equal(box.offsetbox.get_data(), expected.permute(1, 2, 0).numpy())


def test_figure_6_says_what_its_pictures_lack(tmp_path: Path, pictured: tuple[Run, Path]) -> None:
    run, images = pictured
    pictures, said = fig6.top_images(run, tmp_path / "dissections", None)
    assert pictures is None
    assert said.endswith("they need --concepts DIR, the images that were dissected.")
    (tmp_path / "dissections" / "run" / "dissection.json").unlink()
    run = replace(run, units=read_dissection(tmp_path / "dissections", run))
    pictures, said = fig6.top_images(run, tmp_path / "dissections", images)
    assert "they need " + str(tmp_path / "dissections" / "run" / "dissection.json") in said
    assert "--concepts" not in said
    assert not any(isinstance(each, AnnotationBbox) for each in fig6.draw([run], pictures).axes[0].get_children())


@pytest.mark.parametrize("count", [20, 4])
def test_images_that_were_not_dissected_are_refused(tmp_path: Path, pictured: tuple[Run, Path], count: int) -> None:
    run, _ = pictured
    ComposedScenes("val", count, seed=4, image_size=32).write_broden(tmp_path / "others")
    with pytest.raises(InputError, match=f"others: other images than {run.folder} was dissected on"):
        fig6.top_images(run, tmp_path / "dissections", tmp_path / "others")


def test_a_dissection_of_another_layer_gives_no_pictures(tmp_path: Path, pictured: tuple[Run, Path]) -> None:
    run, images = pictured
    network, folder = run.network, tmp_path / "dissections" / "run"
    found = dissect(network, "layer3.0.conv1", open_concepts(images), preprocessing=network.preprocessing)
    found.write_tally(folder / "tally.csv")
    (folder / "dissection.json").write_text(found.to_json())
    with pytest.raises(InputError, match=r"a dissection of 'layer3\.0\.conv1', but the head reads 'layer3'"):
        read_dissection(folder.parent, run)


def test_without_positive_weights_figure_6_has_no_units_and_no_pictures(tmp_path: Path, pictured: tuple[Run, Path]) -> None:
    run, images = pictured
    with torch.no_grad():
        run.network.fc.weight.zero_()
    pictures, _ = fig6.top_images(run, tmp_path / "dissections", images)
    axes = fig6.draw([run], pictures).axes[0]
    assert [text.get_text() for text in axes.texts] == ["a", "b", "c"]


def test_figure_6_has_pictures_of_its_own_trainings_and_of_given_runs_with_their_images(
    own: Path, capsys: pytest.CaptureFixture[str], reproduce: Callable[..., dict[str, Any]], scenes: Path
) -> None:
    def drawn() -> tuple[bool, bool]:
        page, figure = (own / "out" / "fig6.md").read_text(), (own / "out" / "fig6.svg").read_text()
        return "(a) shows each unit's 3 top images" in page, "<image" in figure

    reproduce("fig6")
    assert drawn() == (True, True)
    # A folder of dissections without what the pictures need is brought up to date from its state.
    folder = own / "out" / "dissections" / "res8-d2a-0"
    (folder / "dissection.json").unlink()
    reproduce("fig6")
    assert drawn() == (True, True)
    run = own / "out" / "runs" / "tiny" / "res8-d2a-0"
    given = ["reproduce", "fig6", str(run), "--dissections", str(folder.parent), "--out", str(own / "out")]
    main(given)
    assert drawn() == (False, False)
    assert "they need --concepts DIR" in (own / "out" / "fig6.md").read_text()
    main([*given, "--concepts", str(own / "data" / "minibroden")])
    assert drawn() == (True, True)
    ComposedScenes("val", 20, seed=4, image_size=32).write_broden(own / "others")
    capsys.readouterr()
    with pytest.raises(SystemExit) as stop:
        main([*given, "--concepts", str(own / "others")])
    err = capsys.readouterr().err
    assert (stop.value.code, len(err.splitlines())) == (2, 1)
    assert f"others: other images than {run} was dissected on" in err
