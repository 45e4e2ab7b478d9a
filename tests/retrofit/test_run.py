"""`dynamick retrofit`: a network gets units and a head of them, and its file does what the command printed."""

import json
import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data.class_folders import image_folder
from dynamick.retrofit import heads, maps, probe, retrofit

FEW = ["--units", "8", "--k", "2"]


@pytest.fixture
def data(two_colours: Path) -> Path:
    return two_colours


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 60)
    monkeypatch.setattr(heads, "ROUTED", (2.0, 8.0))
    monkeypatch.setattr(heads, "DENSE", (1.0,))


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    dk.save(dk.models.create("res8", 2, "patch", 8, classes=["blue", "red"]), tmp_path / "w.safetensors")
    return tmp_path / "w.safetensors"


def opened(weights: Path) -> Any:
    return dk.open_network("res8", weights, size=16)


def test_from_the_command_to_the_page(data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, page = tmp_path / "out", tmp_path / "page.html"
    given = ["retrofit", "--model", "res8", "--weights", str(weights), "--size", "16", "--data", str(data), "--out", str(out)]
    main([*given, *FEW, "--page", str(page)])
    told = capsys.readouterr().out
    model: Any = dk.load(out / "weights.safetensors")
    written = json.loads((out / "retrofit.json").read_text())
    whole = image_folder(data, "val", 16)
    right = model(model.preprocessing(whole.images)).argmax(1) == whole.labels
    assert 100 * right.double().mean().item() == pytest.approx(written["after"]["top1"])
    assert written["after"]["top1"] >= 75
    assert written["changed"] == 0
    names = ["the network's own head", "dense linear probe", "units, dense head", "units, Dynamic-2"]
    assert [row["name"] for row in written["rows"]] == names
    assert all(name in told for name in names)
    assert written["rows"][-1]["units"] <= model.units.conv.out_channels <= 8
    assert (model.fc.weight != 0).any(0).all()
    assert "blue" in page.read_text()
    [found, *_] = dk.explain(model, whole.images[:1])
    assert found.maps is not None
    assert len(found.units) <= 2
    assert "dynamick explain" not in told


def test_the_same_call_goes_on(data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The network runs once for each image, however often the call is stopped."""
    whole = retrofit(opened(weights), data, tmp_path / "whole", 2, 8)
    ran: list[int] = []
    plain = maps.maps_entering

    def counted(*args: Any) -> Any:
        ran.append(len(args[-1]))
        return plain(*args)

    monkeypatch.setattr(maps, "maps_entering", counted)
    monkeypatch.setattr("dynamick.retrofit.run._heads", _stopped)
    with pytest.raises(KeyboardInterrupt):
        retrofit(opened(weights), data, tmp_path / "out", 2, 8)
    assert sum(ran) == 56
    monkeypatch.undo()
    monkeypatch.setattr(probe, "LEAST_STEPS", 60)
    monkeypatch.setattr(heads, "ROUTED", (2.0, 8.0))
    monkeypatch.setattr(heads, "DENSE", (1.0,))
    again = retrofit(opened(weights), data, tmp_path / "out", 2, 8)
    assert again.after == whole.after
    one, other = (dk.load(tmp_path / name / "weights.safetensors").state_dict() for name in ("out", "whole"))
    assert all(torch.equal(one[name], other[name]) for name in other)


def _stopped(*args: Any, **more: Any) -> None:
    raise KeyboardInterrupt


def test_maps_that_are_not_kept_say_the_same(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept = retrofit(opened(weights), data, tmp_path / "kept", 2, 8)
    told: list[str] = []
    monkeypatch.setattr("dynamick.retrofit.run.room_for", lambda *args: (10, 1))
    live = retrofit(opened(weights), data, tmp_path / "live", 2, 8, tell=told.append)
    assert live.after == kept.after
    assert not (tmp_path / "live" / "maps").exists()
    assert "none are kept, the network runs again in every pass" in told[0]


@pytest.mark.parametrize("teacher", ["none", "network"])
def test_teachers(data: Path, weights: Path, tmp_path: Path, teacher: str) -> None:
    made = retrofit(opened(weights), data, tmp_path / "out", 2, 8, teacher=teacher)
    assert made.before is not None
    assert made.report is not None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--units", "0"], "--units 0: give an integer from 1"),
        (["--units", "many"], "--units"),
        (["--units", "8", "--k", "9"], "--k 9: is more than the 8 units"),
        (["--k", "0"], "--k"),
        (["--teacher", "me"], "--teacher me: is unknown; give probe, network, none"),
        (["--page", "nowhere/page.html"], "its folder does not exist"),
    ],
)
def test_bad_options(
    data: Path, weights: Path, tmp_path: Path, change: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    given = ["retrofit", "--model", "res8", "--weights", str(weights), "--data", str(data), "--out", str(tmp_path / "out")]
    with pytest.raises(SystemExit) as stop:
        main([*given, *change])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_images_that_do_not_do(data: Path, weights: Path, tmp_path: Path) -> None:
    for image in sorted((data / "train" / "red").iterdir())[1:]:
        image.unlink()
    with pytest.raises(dk.InputError, match=r"train/red: too few images to learn from"):
        retrofit(opened(weights), data, tmp_path / "out", 2, 8)
    other = dk.open_network(dk.models.create("res8", 3, "patch", 8))
    with pytest.raises(dk.InputError, match="not the classes of these images"):
        retrofit(other, _again(data), tmp_path / "out", 2, 8, teacher="network")


def _again(data: Path) -> Path:
    """The same folder with enough images."""
    red = data / "train" / "red"
    (red / "copy.png").write_bytes(next(red.iterdir()).read_bytes())
    return data


@pytest.mark.parametrize("how", ["units", "none", "live", "from disk"])
def test_images_that_cannot_be_read_are_left_out(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """Named and counted; what is learnt is what is learnt from a folder without them."""
    if how == "live":
        monkeypatch.setattr("dynamick.retrofit.run.room_for", lambda *args: (10, 1))
        # The network runs again in every step.
        monkeypatch.setattr(probe, "LEAST_STEPS", 15)
        monkeypatch.setattr(heads, "ROUTED", (2.0,))
    network = opened(weights)
    if how != "units":
        network = replace(network, data=None)
    bad = [data / "train" / "blue" / "0.png", data / "train" / "red" / "7.png"]
    for file in bad:
        file.write_bytes(b"")
    told: list[str] = []
    units = None if how == "none" else 8
    made = retrofit(network, data, tmp_path / "out", 2, units, tell=told.append)
    [line] = [line for line in told if "cannot be read" in line]
    assert line.startswith("2 images cannot be read, left out: ")
    assert all(f"{file.parent.name}/{file.name}" in line for file in bad)
    assert retrofit(replace(opened(weights), data=network.data), data, tmp_path / "out", 2, units).after == made.after
    for file in bad:
        file.unlink()
    again = retrofit(replace(opened(weights), data=network.data), data, tmp_path / "without", 2, units)
    assert again.after == made.after


def test_a_folder_of_classes_alone(
    data: Path, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is parted, it says how, and the command that it ends with explains what was not learnt from."""
    given = ["--model", "res8", "--weights", str(weights), "--size", "16", "--data", str(data / "train")]
    main(["retrofit", *given, "--out", str(tmp_path / "out"), *FEW])
    told = capsys.readouterr().out
    assert f"{data}/train: no val/: every 5th image of a class is kept for validation" in told
    assert "Learnt from 32 images" in told
    [command] = [line for line in told.splitlines() if "dynamick explain" in line]
    monkeypatch.chdir(tmp_path)
    main([*command.split("dynamick ")[1].split(), "--json", "explained.json"])
    explained = json.loads((tmp_path / "explained.json").read_text())
    assert len(explained) == 8
    main(["evaluate", str(tmp_path / "out"), "--data", "folder", "--root", str(data / "train")])
    assert "every 5th image" in capsys.readouterr().out


def test_a_value_that_is_not_finite_is_named(data: Path, weights: Path, tmp_path: Path) -> None:
    network = opened(weights)
    with torch.no_grad():
        network.model.layer3[0].bn2.weight[3] = float("nan")
    with pytest.raises(dk.InputError, match=r"nan at unit \d+ of blue"):
        retrofit(network, data, tmp_path / "out", 2, 8)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_units_are_learnt_once(data: Path, weights: Path, tmp_path: Path) -> None:
    retrofit(opened(weights), data, tmp_path / "out", 2, 8)
    with pytest.raises(dk.InputError, match="has learnt units already"):
        retrofit(dk.open_network(tmp_path / "out"), data, tmp_path / "more", 2, 8)


@pytest.mark.pretrained
def test_a_network_with_imagenets_weights(data: Path, tmp_path: Path) -> None:
    """EfficientNet-Lite0: colours are told by units of its last maps, and each image's map is split exactly."""
    network = dk.open_network("efficientnet-lite0", "DEFAULT", size=64)
    made = retrofit(network, data, tmp_path / "out", 2, 8)
    assert made.after["top1"] > 90
    model: Any = dk.load(tmp_path / "out" / "weights.safetensors")
    images = image_folder(data, "val", 64).images[:2]
    for found in dk.explain(model, images):
        assert found.logit == pytest.approx(found.bias + sum(found.products), abs=1e-4)
        assert found.maps is not None
        products = torch.tensor(found.products, dtype=torch.float64)
        torch.testing.assert_close(found.maps.sum((1, 2)).double(), products, atol=1e-4, rtol=1e-4)


def test_one_estimate_comes_before_the_first_image_and_every_stage_has_a_bar(
    data: Path, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    told: list[str] = []
    monkeypatch.setattr(maps, "fill_cache", _stopped)
    with pytest.raises(KeyboardInterrupt):
        retrofit(opened(weights), data, tmp_path / "out", 2, 8, tell=told.append)
    assert "in all" in told[-1]
    assert "for the network's pass" in told[-1]
    monkeypatch.undo()
    monkeypatch.setattr(probe, "LEAST_STEPS", 2)
    retrofit(opened(weights), data, tmp_path / "out", 2, 8, tell=told.append)
    err = capsys.readouterr().err
    assert all(f"{stage}:" in err for stage in ("maps/train", "dense linear probe", "units, dense head", "units, Dynamic-2"))


def test_two_processes_share_the_maps_and_learn_together(data: Path, weights: Path, tmp_path: Path) -> None:
    """Each keeps the maps of its half, in a cache of its own; the head is about as good as that of one process.

    One of them is killed when the maps are there: the same command goes on from them.
    """
    program = """
        import os, signal
        from dynamick.cli.main import main
        from dynamick.retrofit import heads, probe, run
        probe.LEAST_STEPS, probe.EPOCHS, heads.DECAYS, run.ROUTED, run.DENSE = 30, 1, (1.0,), (2.0,), (1.0,)
        if os.environ["RANK"] == os.environ.get("KILLED"):
            run._heads = lambda *args: os.kill(os.getpid(), signal.SIGKILL)
        main()
    """
    (tmp_path / "quick.py").write_text(textwrap.dedent(program))
    given = ["--model", "res8", "--weights", str(weights), "--size", "16", "--data", str(data), *FEW]
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", tmp_path / "quick.py"]
    out = tmp_path / "shared"
    command = [*launcher, "retrofit", *given, "--out", str(out)]
    assert subprocess.run(command, env={**os.environ, "KILLED": "1"}, capture_output=True).returncode != 0
    written = {path: path.stat().st_mtime_ns for path in out.rglob("share-*/**/*.safetensors")}
    assert len(written) == 4
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert {path: path.stat().st_mtime_ns for path in written} == written
    assert done.stdout.count("top-1 after") == 1
    names = {path.name for path in (out / "maps" / "train").iterdir()}
    assert {"share-1-of-2", "share-2-of-2"} <= names
    alone = retrofit(opened(weights), data, tmp_path / "alone", 2, 8)
    shared = json.loads((out / "retrofit.json").read_text())
    assert shared["changed"] == 0
    assert alone.report is not None
    assert shared["rows"][1]["top1"] == alone.report.rows[1].top1
    assert abs(shared["after"]["top1"] - alone.after["top1"]) <= 25
    assert dk.load(out / "weights.safetensors")(torch.rand(1, 3, 16, 16)).shape == (1, 2)
