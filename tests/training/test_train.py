"""What a training writes, and that nothing is lost where it cannot begin or fails."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import dynamick as dk
from dynamick.data.images import ImageTensors
from dynamick.errors import InputError
from dynamick.metrics import sparsity
from dynamick.training import Recipe, load_images, read_history, train
from dynamick.training.static import L

Command = Callable[..., tuple[int, str]]


def test_a_run_keeps_all_that_is_promised(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    out = tmp_path / "run"
    assert run("train", recipe_file, "--out", out, "--optim.epochs", 2) == (0, "")
    rows = read_history(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"top1", "top5", "train_loss", "val_loss", "sparse_share", "weights_per_class", "routed_units", "dead_units"} <= set(
        rows[0]
    )
    assert yaml.safe_load((out / "config.yaml").read_text())["optim"]["epochs"] == 2
    assert list((out / "tensorboard").glob("events.*"))
    best, last = dk.load(out / "best.safetensors"), dk.load(out / "last.safetensors")
    assert dk.networks.read_config(out / "best.safetensors")["extra"]["metrics"]["top1"] == max(row["top1"] for row in rows)
    assert last.fc.k == 3
    assert best.classes == load_images(Recipe().data.__class__(kind="scenes", train_images=1), "train").classes

    # evaluate needs the weights alone, and finds what the last epoch measured.
    figures = tmp_path / "figures.json"
    assert run("evaluate", out / "last.safetensors", "--out", figures)[0] == 0
    measured = json.loads(figures.read_text())
    for name in ("top1", "val_loss", "weights_per_class", "routed_units", "dead_units"):
        assert measured[name] == pytest.approx(rows[-1][name], rel=1e-4), name

    # The pruned head gives the same logits on the training images, with fewer weights.
    pruned = dk.load(out / "pruned.safetensors")
    images = load_images(Recipe.read(out / "config.yaml").data, "train").images
    with torch.no_grad():
        want, got = (model(model.preprocessing(images)) for model in (last, pruned))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (pruned.fc.weight != 0).sum() < (last.fc.weight != 0).sum()
    assert json.loads((out / "result.json").read_text())["pruned"]["changed"] == 0

    # Finished: the same command does nothing, another recipe is refused, --restart begins again.
    before = (out / "last.safetensors").stat().st_mtime_ns
    assert run("train", recipe_file, "--out", out, "--optim.epochs", 2)[0] == 0
    assert (out / "last.safetensors").stat().st_mtime_ns == before
    code, err = run("train", recipe_file, "--out", out, "--optim.epochs", 1)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "optim.epochs: 2 there, 1 here" in err
    assert run("train", recipe_file, "--out", out, "--optim.epochs", 1, "--restart")[0] == 0
    assert len(read_history(out)) == 1


def test_l1_makes_exact_zeros(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    settings = ("--model", "res8-l1", "--optim.l1", 0.5, "--optim.epochs", 1)
    assert run("train", recipe_file, "--out", tmp_path / "l1", *settings)[0] == 0
    weight = safetensors.torch.load_file(tmp_path / "l1" / "last.safetensors")["fc.weight"]
    assert (weight == 0).any()
    assert not (tmp_path / "l1" / "pruned.safetensors").exists()


def test_a_command_that_cannot_begin_costs_nothing(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    """Neither what a finished run left, nor the next try in a folder where the first one failed."""
    bad = ("--data.kind", "folder", "--data.root", tmp_path / "nowhere")
    out = tmp_path / "run"
    assert run("train", recipe_file, "--out", out, *bad)[0] == 2
    assert run("train", recipe_file, "--out", out, "--optim.epochs", 1)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for wrong in (bad, ("--optim.batch_size", 1000), ("--optim.momentum", -1)):
        assert run("train", recipe_file, "--out", out, "--restart", *wrong)[0] == 2
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    # A recipe that is gone from a folder is written again.
    (out / "config.yaml").unlink(), (out / "result.json").unlink()
    assert run("train", recipe_file, "--out", out, "--optim.epochs", 1)[0] == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["optim"]["epochs"] == 1
    # Of one that was broken off before anything was measured, only the recipe is there.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("seed: 7\n")
    assert run("train", recipe_file, "--out", tmp_path / "begun", "--optim.epochs", 1)[0] == 0
    assert yaml.safe_load((tmp_path / "begun" / "config.yaml").read_text())["seed"] == 0


def test_figures_that_are_damaged_are_written_again_or_named(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    out = tmp_path / "run"
    command = ("train", recipe_file, "--out", out, "--optim.epochs", 1)
    assert run(*command)[0] == 0
    whole = (out / "metrics.csv").read_bytes()
    (out / "result.json").unlink()
    for damaged in (None, b"", whole[:30]):
        (out / "metrics.csv").write_bytes(damaged) if damaged is not None else (out / "metrics.csv").unlink()
        (out / "result.json").unlink(missing_ok=True)
        assert run(*command)[0] == 0
        assert (out / "metrics.csv").read_bytes() == whole
        (out / "metrics.csv").write_bytes(damaged) if damaged is not None else (out / "metrics.csv").unlink()
        code, err = run(*command)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "metrics.csv: no figures of a training" in err


def test_a_training_that_diverges_says_so(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    code, err = run("train", recipe_file, "--out", tmp_path / "run", "--optim.lr", 1e30)
    assert (code, len(err.strip().splitlines())) == (1, 1), err
    assert "it diverged; give a lower optim.lr" in err
    assert not (tmp_path / "run" / "result.json").exists()
    nan = torch.full((2, 4), torch.nan)
    assert sparsity(nan).sparse_share == 0


def test_what_is_measured_later_has_a_column(recipe_file: Path, tmp_path: Path) -> None:
    class Every2(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch % 2:
                trainer.callback_metrics["later"] = torch.tensor(1.0 + trainer.current_epoch)

    recipe = Recipe.read(recipe_file, {"optim.epochs": 4})
    rows = train(recipe, tmp_path / "run", callbacks=[Every2()])
    assert [row.get("later") for row in read_history(tmp_path / "run")] == [row.get("later") for row in rows]
    assert any("later" in row for row in rows)
    assert "later" not in rows[0]


def test_an_unwritable_folder(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        code, err = run("train", recipe_file, "--out", out)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "cannot be written" in err


def test_other_classes_in_train_and_val(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamick.training import data

    sets = {"train": ["a", "b"], "val": ["a", "c"]}
    blank = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(data, "open_images", lambda recipe, split: ImageTensors(blank, torch.arange(2), sets[split]))
    with pytest.raises(InputError, match=r"different classes \(b, c\)"):
        data.Images(Recipe())
