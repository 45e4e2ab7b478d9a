"""tally.csv to the letter, JSON, the ranking of concepts, the gallery and the plots."""

import csv
import os
from pathlib import Path

import numpy as np
import pytest
import torch

from dynamick.data.concepts import Label
from dynamick.dissection import Dissection, dissect, gallery, plots, read_tally
from dynamick.dissection.result import rank
from dynamick.errors import InputError

SUMMARY = ("units", "mean_score", "detectors", "distinct_labels")


@pytest.fixture
def papers():
    """The paper's tally: beside the checkout, or beside the unpacked data."""
    places = [Path(__file__).parents[3] / "shared" / "data", Path(os.environ.get("DYNAMICK_DATA", ".")).resolve().parent]
    places += [place.parent / "shared" / "data" for place in places]
    found = [place / "netdissect" / "paper_d5_tally.csv" for place in places]
    for path in found:
        if path.exists():
            return path
    pytest.skip("no netdissect/paper_d5_tally.csv in ../shared/data or beside DYNAMICK_DATA")


def test_the_papers_tally_is_read_and_rewritten_to_the_letter(papers, tmp_path):
    tally = read_tally(papers)
    found = tally.summary()
    assert (found.units, round(found.mean_score, 4), found.detectors, found.distinct_labels) == (512, 0.1028, 441, 230)
    assert tally.columns == ["color", "object", "part", "scene", "texture"]
    assert tally.labels[166] == "cockpit-s"
    assert tally.categories[166] == "scene"
    tally.write_tally(tmp_path / "tally.csv")
    assert (tmp_path / "tally.csv").read_bytes() == papers.read_bytes()
    tally.rows.reverse()
    again = Dissection.from_json(tally.to_json())
    assert again.rows == tally.rows
    assert again.summary() == tally.summary()


@pytest.fixture
def made(small):
    maps, dataset = small.case(20, images=60, units=6)
    model = small.Table(maps)
    return model, dataset, dissect(model, "layer", dataset, quantile=0.95, progress=False)


def test_a_tally_that_was_written_reads_back(made, tmp_path):
    _, _, result = made
    result.write_tally(tmp_path / "tally.csv")
    again = read_tally(tmp_path / "tally.csv")
    assert again.rows == result.rows
    assert again.columns == result.columns
    with (tmp_path / "tally.csv").open(newline="") as file:
        scores = [float(row["score"]) for row in csv.DictReader(file)]
    assert scores == sorted(scores, reverse=True)


def test_each_category_shows_its_best_concept_with_its_counts(made):
    _, _, result = made
    for u, row in enumerate(result.rows):
        for c, (category, match) in enumerate(zip(result.columns, row.matches, strict=True)):
            own = [l for l, label in enumerate(result.concepts) if label.category == category]
            best = max(own, key=lambda l: (result.iou[u, l], -l))
            assert match.label == result.concepts[best].name
            assert match.truth == result.sizes[best]
            assert match.activation == result.areas[u, c]
            assert match.intersect == result.intersections[u, best]
            assert match.iou == match.intersect / (match.activation + match.truth - match.intersect)
        assert row.score == max(match.iou for match in row.matches)


def test_json_holds_everything(made):
    _, _, result = made
    result.nan_counts[2] = 3
    result.top_values[0, 0] = np.inf
    again = Dissection.from_json(result.to_json())
    for name, value in vars(result).items():
        if isinstance(value, np.ndarray):
            np.testing.assert_array_equal(getattr(again, name), value)
            assert getattr(again, name).dtype == value.dtype
        else:
            assert getattr(again, name) == value


def test_detectors_start_at_004():
    concepts = [Label(1, "a", "object"), Label(2, "b", "object")]
    intersections = np.array([[4, 0], [3, 0], [0, 0], [0, 4]])
    rows = rank(concepts, ["object", "scene"], intersections, np.full((4, 2), 4), np.array([100, 100]))
    result = Dissection(rows, ["object", "scene"])
    assert result.detectors.tolist() == [True, False, False, True]
    assert result.labels == ["a", "a", "a", "b"]
    assert result.scores[0] == 4 / 100
    assert tuple(result.summary()) == (4, pytest.approx((0.04 + 3 / 101 + 0.04) / 4), 2, 2)
    assert rows[0].matches[1] == ("", 0.0, 0.0, 0.0, 0.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "first line is no tally's"),
        ("unit,category,label\n", "first line is no tally's"),
        ("unit,category,label,score,a-label,a-truth,a-activation,a-intersect,a-iou\n", "no units"),
        ("unit,category,label,score,a-label,a-truth,a-activation,a-intersect,a-iou\n1,a,b,0.1\n", "line 2: 4 cells"),
        ("unit,category,label,score,a-label,a-truth,a-activation,a-intersect,a-iou\n1,a,b,x,b,1,1,1,1\n", "line 2: could not"),
        ("unit,category,label,score,a-label,a-truth,a-activation,a-intersect,a-iou\n2,a,b,1,b,1,1,1,1\n", "units must be"),
    ],
)
def test_a_bad_tally_is_named(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises(InputError, match=rf"t\.csv: .*{message}"):
        read_tally(tmp_path / "t.csv")


def test_a_tally_saved_by_a_spreadsheet_is_read(papers, tmp_path):
    expected = read_tally(papers)
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + papers.read_bytes())
    assert read_tally(tmp_path / "t.csv").rows == expected.rows


def test_bad_files_are_named(tmp_path):
    with pytest.raises(InputError, match=r"none\.csv: cannot be read"):
        read_tally(tmp_path / "none.csv")
    for text in ("{", "{}", "[]", '{"rows": 3}'):
        with pytest.raises(InputError, match=r"Dissection\.to_json"):
            Dissection.from_json(text)


def test_the_gallery_shows_where_a_unit_is_active(made, small):
    model, dataset, result = made
    shown = gallery.examples(model, dataset, result, [4, 1], count=3)
    assert [example.index for example in shown] == [4, 1]
    for example in shown:
        places = result.top_images[example.index, :3]
        for place, image, mask in zip(places, example.images, example.masks, strict=True):
            assert torch.equal(image, dataset[place].image)
            plane = model.maps[place, example.index]
            large = torch.nn.functional.interpolate(plane[None, None].double(), (2, 2), mode="bilinear")[0, 0]
            assert torch.equal(mask, large > float(result.thresholds[example.index]))
    beside, below = gallery.sheet(shown, side=60), gallery.sheet(shown, side=60, across=1)
    width, height, margin = below.width - gallery.MARGIN, beside.height - gallery.MARGIN, gallery.MARGIN
    assert (beside.width, below.height) == (2 * width + margin, 2 * height + margin)
    for number, box in enumerate([(width, 0, 2 * width, height), (0, height, width, 2 * height)]):
        # The second unit looks the same beside the first and below it.
        assert [beside, below][number].crop(box) == gallery.sheet(shown[1:], side=60).crop((0, 0, width, height))
    image, mask = torch.full((3, 2, 2), 200, dtype=torch.uint8), torch.tensor([[True, False], [False, False]])
    assert gallery.overlay(image, mask)[0].tolist() == [[200, 50], [50, 50]]


def test_the_gallery_names_bad_input(made):
    model, dataset, result = made
    with pytest.raises(InputError, match="no unit of index 6; give 0 to 5"):
        gallery.examples(model, dataset, result, [0, 6])
    with pytest.raises(InputError, match="notes no top images"):
        gallery.examples(model, dataset, Dissection(result.rows, result.columns), [0])


def test_plots_show_the_figures():
    concepts = [Label(1, "a", "object"), Label(2, "b", "scene")]
    intersections = np.array([[4, 0], [0, 0], [0, 9], [5, 0], [8, 3]])
    result = Dissection(
        rank(concepts, ["object", "scene"], intersections, np.full((5, 2), 9), np.array([50, 60])), ["object", "scene"]
    )
    bars = plots.detectors_by_category({"a": result, "b": result}).axes[0]
    assert [bar.get_height() for bar in bars.containers[0]] == [3, 1]
    assert len(bars.containers) == 2
    lines = plots.best_scores({"a": result}, count=4).axes[0].lines
    assert list(lines[0].get_ydata()) == sorted(result.scores, reverse=True)[:4]
    history = plots.score_over_training({"a": [(1, 0.1), (5, 0.3)], "none": []}).axes[0].lines
    assert list(history[0].get_xdata()) == [1, 5]
    assert list(history[0].get_ydata()) == [0.1, 0.3]
