"""`dynamick compare`: one command from a training's file to the table and the two plots; a second run computes nothing."""

import csv
import importlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.comparison.cache import ASKED
from dynamick.comparison.comparing import names_of
from dynamick.comparison.heads import HEADS, l1_proximal, stepped, tuning, ucbm
from dynamick.data.class_folders import FolderImages
from dynamick.errors import InputError

RECIPE = {"data": {"kind": "scenes", "size": 32, "train_images": 120, "val_images": 60}}


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 20)
    monkeypatch.setattr(stepped, "DECAYS", (1.0,))
    monkeypatch.setattr(l1_proximal, "BISECTIONS", 1)
    monkeypatch.setattr(tuning, "L2S", (1e-1, 1e-2))
    monkeypatch.setattr(ucbm, "STRENGTHS", (1e-1, 1e-2))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    from dynamick.data.scenes import ComposedScenes

    classes = ComposedScenes("val", 60, 0, 32).classes
    torch.manual_seed(0)
    path = tmp_path / "backbone.safetensors"
    dk.save(models.create("res8", len(classes), "patch", 2, classes=classes), path, {"recipe": RECIPE})
    return path


def compare(weights: Path, *more: str) -> Path:
    out = weights.parent / "out"
    main(["compare", "--weights", str(weights), "--out", str(out), "--budgets", "1", "5", "--seeds", "2", *more])
    return out


def test_table_plots_and_a_second_run(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = ("--budgets", "5")
    out = compare(weights, "--ood", "scenes:", *one)
    told = capsys.readouterr().out
    assert "cells to compute, " in told
    assert "0 cells failed" in told
    with (out / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert {row["head"] for row in rows} == set(HEADS)
    assert all(row["cells"] == ("2" if HEADS[row["head"]].seeded else "1") for row in rows)
    whole = json.loads((out / "table.json").read_text())
    assert len(whole["rows"]) == len(rows) == len(HEADS)
    # Scenes of the same kind are no foreigners.
    assert len(whole["out_of_distribution"]) == 6
    assert all(35 < row["auroc"] < 65 and row["distance"] == "near" for row in whole["out_of_distribution"])
    text = (out / "table.md").read_text()
    static, routed = text.index("### Static non-zeros"), text.index("### Products routed")
    assert "Dynamic-K, at_most" not in text[static:routed]
    for name in ("static.svg", "routed.svg"):
        assert (out / name).read_text().count("<svg") == 1
    times = {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")}
    seen: list[int] = []
    real = models.ResNet.forward
    monkeypatch.setattr(models.ResNet, "forward", lambda self, x: (seen.append(len(x)), real(self, x))[1])
    compare(weights, *one)
    # A few images tell whether it is still the same network.
    assert seen == [ASKED, ASKED]
    assert "cells to compute" not in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in (out / "cells").rglob("*.json")} == times


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--heads", "nonsense"], "heads: 'nonsense' is unknown"),
        (["--jobs", "0"], "--jobs 0"),
        (["--budgets", "0"], "--budgets 0"),
        (["--ood", "photos"], "--ood photos: give cifar10:DIR"),
        (["--ood", "folder:"], "--ood folder:: give cifar10:DIR"),
        (["--ood", "folder:a/x", "folder:b/x"], "two sets are called x"),
        (["--model", "resnet18"], "give --data folder --root DIR"),
        (["--weights", "nowhere.safetensors"], "nowhere.safetensors: no such file"),
        (["--data", "cifar10", "--root", "nowhere"], "missing or damaged"),
        (["--size", "0"], "--size 0: give an integer from 1 up"),
        (["--size", "-3"], "--size -3: give an integer from 1 up"),
        (["--device", "foo"], "--device foo: not a device of this machine"),
        (["--concepts", "nowhere"], "nowhere"),
        (["--ood", "folder:nowhere"], "nowhere/val: no such folder"),
    ],
)
def test_bad_input_is_one_line_before_anything_is_computed(
    weights: Path, change: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        compare(weights, *change)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1
    assert not (weights.parent / "out" / "features").exists()


def test_detectors_are_counted_among_the_units_that_a_head_uses(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from dynamick.data.scenes import ComposedScenes
    from dynamick.dissection import Dissection

    ComposedScenes("val", 40, seed=3, image_size=32).write_broden(weights.parent / "concepts")
    heads = ("--heads", "magnitude", "dense")
    compare(weights, *heads)
    assert "mean IoU" not in (weights.parent / "out" / "table.md").read_text()
    monkeypatch.setattr("dynamick.comparison.cells.run_job", None)
    out = compare(weights, *heads, "--concepts", str(weights.parent / "concepts"))
    units = Dissection.read_tally(out / "dissections" / "backbone" / "tally.csv")
    rows = {(row["head"], row["budget"]): row for row in json.loads((out / "table.json").read_text())["rows"]}
    assert rows["dense", 0]["detectors"] == sum(units.scores >= 0.04)
    assert rows["dense", 0]["iou"] == pytest.approx(units.scores.mean(), abs=1e-6)
    weight = safetensors.torch.load_file(out / "cells" / "backbone" / "magnitude-1-0.safetensors")["weight"]
    kept = [unit for unit in range(weight.shape[1]) if any(weight[:, unit] != 0)]
    assert 0 < len(kept) < weight.shape[1]
    assert rows["magnitude", 1]["detectors"] == sum(units.scores[unit] >= 0.04 for unit in kept)
    assert rows["magnitude", 1]["iou"] == pytest.approx(sum(units.scores[unit] for unit in kept) / len(kept), abs=1e-6)
    assert "mean IoU" in (out / "table.md").read_text()


def test_backbones_of_other_data_are_not_averaged(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = dk.load(weights)
    other = {"data": {**RECIPE["data"], "val_images": 50}}
    dk.save(model, weights.with_name("other.safetensors"), {"recipe": other})
    with pytest.raises(SystemExit) as stop:
        compare(weights, "--weights", str(weights), str(weights.with_name("other.safetensors")), "--heads", "dense")
    assert stop.value.code == 2
    assert "was trained on other images" in capsys.readouterr().err


def test_a_failed_cell_is_told_and_the_rest_is_there(
    weights: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no luck")

    monkeypatch.setitem(HEADS, "dice", replace(HEADS["dice"], fit=fails))
    with pytest.raises(SystemExit) as stop:
        compare(weights, "--heads", "dice", "dense")
    assert stop.value.code == 1
    assert "2 cells failed" in capsys.readouterr().out
    text = (weights.parent / "out" / "table.md").read_text()
    assert "| DICE | 5 | failed |" in text
    assert "DICE, 5: failed: backbone, seed 0: RuntimeError: no luck" in text
    assert "| dense |" in text


THEIRS = """
from torch import nn
def make():
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 2))
"""


def draw_images(root: Path, brighter: int = 0) -> None:
    for split, count in (("train", 8), ("val", 4)):
        for value, name in ((50, "dark"), (200, "light")):
            (root / split / name).mkdir(parents=True)
            for number in range(count):
                grey = (value + number + brighter,) * 3
                Image.new("RGB", (16, 16), grey).save(root / split / name / f"{number}.png")


def test_a_foreign_network_on_its_owners_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A module of the user's own and a folder of images: nothing of dynamick's in either."""
    (tmp_path / "theirs.py").write_text(THEIRS)
    draw_images(tmp_path / "images")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    torch.manual_seed(0)
    torch.save(importlib.import_module("theirs").make().state_dict(), "w.pt")
    given = ["--model", "theirs:make", "--data", "folder", "--root", "images", "--size", "16", "--heads", "dense", "top-k"]
    compare(tmp_path / "w.pt", *given, "--mean", "0", "0", "0", "--std", "1", "1", "1", "--jobs", "2")
    rows = json.loads((tmp_path / "out" / "table.json").read_text())["rows"]
    assert [(row["backbone"], row["head"]) for row in rows] == [("theirs:make", "dense")] + [("theirs:make", "top-k")] * 2
    assert rows[0]["top1"] >= 50


def test_other_weights_in_the_same_folder_are_refused(weights: Path, capsys: pytest.CaptureFixture[str]) -> None:
    compare(weights, "--heads", "dense")
    model = dk.load(weights)
    with torch.no_grad():
        model.conv1.weight += 1
    dk.save(model, weights, {"recipe": RECIPE})
    with pytest.raises(SystemExit):
        compare(weights, "--heads", "dense")
    assert "made with another weights" in capsys.readouterr().err


def test_backbones_are_named_by_their_run(tmp_path: Path) -> None:
    paths = [tmp_path / "res8-0" / "best.safetensors", tmp_path / "mine.safetensors"]
    assert names_of(paths) == ["res8-0", "mine"]
    with pytest.raises(InputError, match="two files are called res8-0"):
        names_of([*paths, tmp_path / "res8-0" / "last.safetensors"])


@pytest.mark.parametrize("name", ["", "..", "../x", "a/b"])
def test_a_name_that_would_lead_out_of_the_folder_is_refused(weights: Path, name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is no name for a folder"):
        dk.comparison.compare({name: dk.open_network(weights)}, tmp_path / "out")
    with pytest.raises(InputError, match="there is none"):
        dk.comparison.compare({}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_whose_heads_were_trained_otherwise_are_not_averaged(weights: Path) -> None:
    model = dk.load(weights)
    other = weights.with_name("other.safetensors")
    dk.save(model, other, {"recipe": {**RECIPE, "rule": "exactly", "static_after": 6}})
    compare(weights, "--weights", str(weights), str(other), "--heads", "dense")
    rows = json.loads((weights.parent / "out" / "table.json").read_text())["rows"]
    assert [(row["backbone"], row["cells"]) for row in rows] == [("res8", 1), ("res8, exactly, static after 6 epochs", 1)]


@pytest.fixture
def unsaid(tmp_path: Path) -> Path:
    """A network for images of a folder whose file does not say on what it was trained, as `dynamick retrofit` writes them."""
    torch.manual_seed(0)
    path = tmp_path / "unsaid.safetensors"
    dk.save(models.create("res8", 2, "patch", 2, classes=["dark", "light"]), path)
    return path


def test_cells_of_other_images_are_never_shown_as_those_of_these(unsaid: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Only features are taken away, as their refusal says; the cells are then of other images or another size."""
    first, second = unsaid.parent / "first", unsaid.parent / "second"
    draw_images(first)
    draw_images(second, brighter=20)
    of_first = ("--data", "folder", "--size", "16", "--heads", "dense", "--root", str(first))
    out = compare(unsaid, *of_first)
    table = (out / "table.md").read_bytes()
    for change in (["--root", str(second)], ["--size", "12"], ["--root", str(second), "--heads", "magnitude"]):
        shutil.rmtree(out / "features" / "unsaid")
        with pytest.raises(SystemExit) as stop:
            compare(unsaid, *of_first, *change)
        assert stop.value.code == 2
        assert "dense-0-0.json: made of other features" in capsys.readouterr().err
        assert (out / "table.md").read_bytes() == table
    shutil.rmtree(out / "features" / "unsaid")
    compare(unsaid, *of_first)


@pytest.mark.parametrize(("own", "size", "seen"), [(None, [], 224), (24, [], 24), (24, ["--size", "16"], 16)])
@pytest.mark.parametrize("foreign", [False, True])
def test_a_folders_images_have_the_networks_own_size(
    tmp_path: Path, foreign: bool, own: int | None, size: list[str], seen: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are decoded at it, not decoded at another and then resized."""
    draw_images(tmp_path / "images")
    prepare = dk.Preprocessing(own)
    path, opened = tmp_path / "net.safetensors", []
    given = ["--data", "folder", "--root", str(tmp_path / "images"), "--heads", "dense", *size]
    if foreign:
        lines = f"import dynamick as dk\n{THEIRS}    net.preprocessing = dk.{prepare}\n    return net\n"
        (tmp_path / f"theirs_{own}.py").write_text(lines.replace("return nn", "net = nn"))
        monkeypatch.chdir(tmp_path)
        monkeypatch.syspath_prepend(str(tmp_path))
        given += ["--model", f"theirs_{own}:make"]
        safetensors.torch.save_file(importlib.import_module(f"theirs_{own}").make().state_dict(), path)
    else:
        dk.save(models.create("res8", 2, "patch", 2, prepare, classes=["dark", "light"]), path)
    real = FolderImages.__getitem__

    def watched(self: FolderImages, index: int) -> tuple[torch.Tensor, int]:
        image, label = real(self, index)
        opened.append(tuple(image.shape))
        return image, label

    monkeypatch.setattr(FolderImages, "__getitem__", watched)
    compare(path, *given)
    assert set(opened) == {(3, seen, seen)}


def test_a_recipe_says_the_size(weights: Path) -> None:
    """Of 32 pixels, and not that of the preprocessing, at which the network sees them."""
    assert dk.open_network(weights).images().size == 32
    assert dk.open_network(weights, size=48).images(size=48).size == 48


@pytest.mark.parametrize("shape", [(40, 40), (50, 36)])
def test_foreign_images_are_not_told_by_how_they_are_cut(
    shape: tuple[int, int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the network's own images: no score may tell them apart."""
    generator = torch.Generator().manual_seed(0)
    for split, count in (("train", 12), ("val", 9)):
        for name in ("dark", "light"):
            place = tmp_path / "own" / split / name
            place.mkdir(parents=True)
            for number in range(count):
                pixels = torch.randint(0, 200, (*shape, 3), generator=generator, dtype=torch.uint8) + 50 * (name == "light")
                # Bright edges, of which a crop sees less.
                pixels[:3], pixels[:, :3] = 255, 255
                Image.fromarray(pixels.numpy()).save(place / f"{number}.png")
    shutil.copytree(tmp_path / "own", tmp_path / "copy")
    torch.manual_seed(0)
    weights = tmp_path / "w.safetensors"
    dk.save(models.create("res8", 2, "patch", 2, dk.Preprocessing(size=32), classes=["dark", "light"]), weights)
    given = ["--heads", "dense", "dense", "dynamic-at-most", "--data", "folder", "--root", str(tmp_path / "own")]
    out = compare(weights, *given, "--ood", f"folder:{tmp_path / 'copy'}")
    found = json.loads((out / "table.json").read_text())["out_of_distribution"]
    assert len(found) == 6
    assert all(row["auroc"] == pytest.approx(50, abs=1e-3) for row in found)
