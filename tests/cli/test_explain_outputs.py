"""What else `dynamick explain` writes: units with top images, JSON, measures, a study, and the figure of three ways."""

import base64
import csv
import io
import json
import re
import shutil
import statistics
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data import ComposedScenes
from dynamick.data.broden import Broden
from dynamick.explanation import composition, share_covered, simulability
from dynamick.explanation.dissected import read_units

SIDE = 32


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images, concepts, a dense and a dynamic model with their dissections, and dissections that do not fit."""
    root = tmp_path_factory.mktemp("explain")
    scenes = ComposedScenes("val", 8, image_size=SIDE)
    (root / "images").mkdir()
    for i in range(len(scenes)):
        Image.fromarray(scenes.images[i].permute(1, 2, 0).numpy()).save(root / "images" / f"{i}.png")
    ComposedScenes("val", 90, seed=3, image_size=SIDE).write_broden(root / "concepts")
    ComposedScenes("val", 3, seed=4, image_size=SIDE).write_broden(root / "fewer")
    for name in ("res8", "res8-d3a"):
        torch.manual_seed(1)
        model = dk.models.create(name, 10, stem="compact", width=8, classes=scenes.classes)
        dk.save(model, root / f"{name}.safetensors")
        for layer in ("layer3", "layer3.0.conv1", "layer2"):
            found = dk.dissect(model, layer, Broden(root / "concepts"), progress=False)
            folder = root / f"{name}-{layer}"
            folder.mkdir()
            found.write_tally(folder / "tally.csv")
            (folder / "dissection.json").write_text(found.to_json())
    return root


def explain(place: Path, *args: object, weights: str = "res8-d3a") -> int:
    try:
        main(
            ["explain", "--weights", str(place / f"{weights}.safetensors"), "--images", str(place / "images"), *map(str, args)]
        )
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def images(place: Path) -> torch.Tensor:
    files = [place / "images" / f"{i}.png" for i in range(8)]
    return torch.stack([torch.from_numpy(np.array(Image.open(file))).permute(2, 0, 1) for file in files])


def page_data(path: Path) -> dict:
    return json.loads(path.read_text(encoding="utf-8").split('id="data">')[1].split("</script>")[0])


@pytest.mark.parametrize("file", ["dissection.json", "tally.csv"])
def test_units_have_names_and_with_their_data_top_images(
    file: str, place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    units, out = place / "res8-d3a-layer3" / file, tmp_path / "page.html"
    assert explain(place, "--units", units, "--out", out) == 0
    plain = page_data(out)
    said = [plain["raw"].get(each[0], each[0]) for each in plain["units"]]
    assert all(name in ("", label) for name, label in zip(said, read_units(units).labels, strict=True))
    assert any(said)
    # Without the dissected data, the pictures are among the explained images.
    assert {place for row in plain["tops"] for place, _ in row} <= set(range(8))
    assert explain(place, "--units", units, "--concepts", place / "concepts", "--out", out) == 0
    pictured = page_data(out)
    assert min(place for row in pictured["tops"] for place, _ in row) >= 8
    assert all(source.startswith("data:image/") for source, _, _ in pictured["pictures"])
    alone = tmp_path / "tally.csv"
    alone.write_bytes((place / "res8-d3a-layer3" / "tally.csv").read_bytes())
    capsys.readouterr()
    assert explain(place, "--units", alone, "--concepts", place / "concepts", "--out", out) == 0
    assert "no top images are shown" in capsys.readouterr().err


def test_the_json_adds_up(place: Path, tmp_path: Path) -> None:
    assert explain(place, "--json", tmp_path / "e.json", "--units", place / "res8-d3a-layer3" / "tally.csv") == 0
    read = json.loads((tmp_path / "e.json").read_text())
    model = dk.load(place / "res8-d3a.safetensors")
    with torch.no_grad():
        logits = model(model.preprocessing(images(place)))
    assert [each["file"] for each in read] == [f"{i}.png" for i in range(8)]
    for each, want in zip(read, logits, strict=True):
        assert each["class_index"] == int(want.argmax())
        assert each["bias"] + sum(each["products"]) == pytest.approx(float(want.max()), abs=1e-5)


def test_each_image_has_its_picture(place: Path, tmp_path: Path) -> None:
    assert explain(place, "--pictures", tmp_path / "pictures", "--limit", 3) == 0
    made = sorted((tmp_path / "pictures").iterdir())
    assert [path.name for path in made] == ["0.png", "2.png", "5.png"]
    assert all(Image.open(path).format == "PNG" for path in made)


def test_images_that_differ_by_their_suffix_have_a_picture_each(place: Path, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    for name in ("0.png", "0.bmp"):
        Image.open(place / "images" / "0.png").save(tmp_path / "images" / name)
    out = tmp_path / "pictures"
    assert explain(place, "--images", tmp_path / "images", "--pictures", out) == 0
    assert sorted(path.name for path in out.iterdir()) == ["0.bmp.png", "0.png.png"]


def test_units_of_other_weights_are_noticed(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(2)
    other = dk.models.create("res8-d3a", 10, stem="compact", width=8, classes=ComposedScenes("val", 1).classes)
    dk.save(other, tmp_path / "other.safetensors")
    units = ("--units", place / "res8-d3a-layer3" / "dissection.json", "--concepts", place / "concepts")
    for weights, noticed in ((tmp_path / "other", True), (place / "res8-d3a", False)):
        assert explain(place, *units, "--out", tmp_path / "page.html", weights=str(weights)) == 0
        assert ("a dissection of other weights" in capsys.readouterr().err) is noticed
        assert ("a dissection of other weights" in (tmp_path / "page.html").read_text(encoding="utf-8")) is noticed


def test_measures_are_those_of_the_library(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    units = place / "res8-d3a-layer3" / "dissection.json"
    assert explain(place, "--measure", tmp_path / "m.json", "--units", units) == 0
    said, read = capsys.readouterr().out, json.loads((tmp_path / "m.json").read_text())
    model = dk.load(place / "res8-d3a.safetensors")
    explanations = dk.explain(model, images(place), units=read_units(units))
    reader = simulability(explanations)
    assert read["simulability"]["agreement"] == reader.agreement
    assert f"{reader.agreement:.1%} of 4 answers" in said
    covered = share_covered(composition(model, read_units(units)))
    assert read["covered"] == covered
    assert f"{covered:.1%} are covered by 5 concepts" in said
    assert read["faithfulness"]["median_n98"] == statistics.median(each.n98 for each in explanations)
    orders = [each["order"] for each in read["faithfulness"]["curves"]]
    assert orders == ["contribution", "random", "grad-cam", "integrated gradients"]
    assert read["left_out"] == {}
    monkeypatch.setitem(sys.modules, "captum.attr", None)
    assert explain(place, "--measure", tmp_path / "m.json") == 0
    assert set(json.loads((tmp_path / "m.json").read_text())["left_out"]) == {"grad-cam", "integrated gradients"}
    assert "captum is not installed" in capsys.readouterr().out


def test_the_study_asks_for_the_networks_answers(place: Path, tmp_path: Path) -> None:
    assert explain(place, "--study", tmp_path / "study.html", "--units", place / "res8-d3a-layer3" / "tally.csv") == 0
    model = dk.load(place / "res8-d3a.safetensors")
    with torch.no_grad():
        answers = [model.classes[c] for c in model(model.preprocessing(images(place))).argmax(1)]
    with (tmp_path / "study-answers.csv").open() as file:
        given = [row["class"] for row in csv.DictReader(file)]
    assert sorted(given) == sorted(answers)
    # Not in the files' order, which is by class in folders of classes.
    assert (place_of_images(tmp_path / "study.html", place)) != list(range(8))
    assert [answers[i] for i in place_of_images(tmp_path / "study.html", place)] == given
    with (tmp_path / "study.csv").open() as file:
        assert all(answer in row.values() for row, answer in zip(csv.DictReader(file), given, strict=True))


def place_of_images(page: Path, place: Path) -> list[int]:
    """Which of the images each question shows."""
    shown = [Image.open(io.BytesIO(base64.b64decode(data))) for data in re.findall(r"base64,([^\"]+)", page.read_text())]
    pixels = [torch.from_numpy(np.array(image)).permute(2, 0, 1) for image in shown]
    return [next(i for i, image in enumerate(images(place)) if torch.equal(image, each)) for each in pixels]


def test_three_ways_in_one_command(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = tmp_path / "three.png"
    twin = ("--twin", place / "res8.safetensors", "--concepts", place / "concepts")
    names = ("--units", place / "res8-d3a-layer3" / "tally.csv", "--twin-units", place / "res8-layer3" / "tally.csv")
    assert explain(place, *twin, *names, "--three-way", figure) == 0
    rows = {line[:14].strip(): line[14:].split()[0] for line in capsys.readouterr().out.splitlines() if "%" in line}
    assert Image.open(figure).format == "PNG"
    model = dk.load(place / "res8-d3a.safetensors")
    with torch.no_grad():
        x = model.features(model.preprocessing(images(place))).double()
    products = x * model.fc.weight.detach().double()[model.fc(x.float()).argmax(1)]
    routed = products.sort(1, descending=True).values[:, :3].clamp(min=0).sum(1)
    assert rows["dense units"] == "0.0%"  # 32 units at most, and all are shown
    assert float(rows["dynamic"][:-1]) == pytest.approx(100 * float((1 - routed / products.sum(1)).quantile(0.5)), abs=0.06)


def test_what_does_not_fit_is_refused(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, units = ("--out", tmp_path / "page.html"), place / "res8-d3a-layer3" / "dissection.json"
    three = ("--three-way", tmp_path / "three.png")
    both = ("--twin", place / "res8.safetensors", "--concepts", place / "concepts")
    (tmp_path / "no.json").write_text("{}")
    for args, message in [
        ((), "nothing to write"),
        ((*out, "--units", place / "res8-d3a-layer2" / "tally.csv"), "tally.csv: 16 units dissected, but the head reads 32"),
        ((*out, "--units", place / "res8-d3a-layer3.0.conv1" / "dissection.json"), "of 'layer3.0.conv1', but the head reads"),
        ((*out, "--units", place / "res8-d3a-layer3.0.conv1" / "tally.csv"), "of 'layer3.0.conv1', but the head reads"),
        ((*out, "--units", tmp_path / "no.json"), "no.json: cannot be read"),
        ((*out, "--units", tmp_path / "missing.json"), "missing.json: cannot be read"),
        ((*out, "--units", units, "--concepts", place / "fewer"), "give the data that was dissected"),
        ((*out, "--units", units, "--concepts", place / "images"), "no data set"),
        ((*out, "--twin-units", units), "--twin-units"),
        (
            (*out, "--twin", place / "res8.safetensors", "--twin-units", place / "res8-layer2" / "tally.csv"),
            "16 units dissected",
        ),
        (three, "--twin and --concepts missing"),
        ((*three, *both[:2]), "--concepts missing"),
        (("--three-way", tmp_path / "three.xyz", *both), "three.xyz: a figure's name must end in"),
        ((*three, *both, "--ibd-penalty", 0), "--ibd-penalty: 0.0 must be"),
        (("--pictures", tmp_path / "no.json"), "no.json: is a file"),
        (("--measure", tmp_path / "m.json", "--limit", 1), "--measure: 1 image"),
        (("--json", tmp_path), "is a folder"),
    ]:
        assert explain(place, *args) == 2, message
        err = capsys.readouterr().err
        assert len([line for line in err.splitlines() if line.startswith("dynamick: ")]) == 1
        assert message in err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["no.json"]


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (("--pictures", "images"), "would be written over --images's images"),
        (("--pictures", "images/why"), "lies in --images"),
        (("--three-way", "images/w.png", "--twin", "res8.safetensors", "--concepts", "concepts"), "lies in --images"),
        (("--json", "res8-d3a.safetensors"), "would be written over --weights's res8-d3a.safetensors"),
        (("--out", "res8.safetensors", "--twin", "res8.safetensors"), "would be written over --twin's"),
        (("--study", "units/tally.html", "--units", "units/tally.csv"), "would be written over --units's tally.csv"),
        (("--json", "units/dissection.json", "--units", "units/tally.csv"), "would be written over --units's dissection.json"),
        (("--json", "concepts/index.csv", "--concepts", "concepts"), "lies in --concepts"),
        (("--study", "s.csv"), "its questions go into a CSV of that name"),
        (("--out", "a.html", "--study", "a.html"), "--out writes a.html too"),
        (("--json", "a.json", "--measure", "./a.json"), "--json writes a.json too"),
        (("--json", "s.csv", "--study", "s.html"), "--json writes s.csv too"),
    ],
)
def test_nothing_is_written_over_what_is_read_or_twice(
    place: Path,
    tmp_path: Path,
    more: tuple[str, ...],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("images", "concepts"):
        shutil.copytree(place / name, tmp_path / name)
    for name in ("res8.safetensors", "res8-d3a.safetensors"):
        shutil.copy(place / name, tmp_path / name)
    shutil.copytree(place / "res8-d3a-layer3", tmp_path / "units")
    monkeypatch.chdir(tmp_path)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert explain(tmp_path, "--images", "images", *more) == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.splitlines()) == 1
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_hidden_images_are_not_explained_and_one_cannot_be_measured(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "images"
    (folder / ".ipynb_checkpoints").mkdir(parents=True)
    for name in ("0.png", "._0.png", ".ipynb_checkpoints/0-checkpoint.png"):
        shutil.copy(place / "images" / "0.png", folder / name)
    given = ("--images", folder, "--json", tmp_path / "e.json")
    assert explain(place, *given) == 0
    assert [each["file"] for each in json.loads((tmp_path / "e.json").read_text())] == ["0.png"]
    capsys.readouterr()
    assert explain(place, *given, "--out", tmp_path / "p.html", "--measure", tmp_path / "m.json") == 2
    assert "--measure: 1 image" in capsys.readouterr().err
    assert not (tmp_path / "p.html").exists()
