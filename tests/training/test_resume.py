"""What was interrupted goes on: killed, out of disk, damaged, or shared by two processes."""

import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import Popen
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
import yaml
from PIL import Image

from dynamick.training import read_history

pytestmark = pytest.mark.slow
Start = Callable[..., "Popen[str]"]


def finish(process: "Popen[str]") -> tuple[int, str, str]:
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def without_seconds(out: Path) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "seconds"} for row in read_history(out)]


@pytest.fixture
def whole(recipe_file: Path, start: Start, tmp_path: Path) -> Path:
    """A run that nothing interrupted."""
    out = tmp_path / "whole"
    assert finish(start("-m", "dynamick.cli", "train", recipe_file, "--out", out))[0] == 0
    return out


def test_killed_at_random_it_ends_with_the_same_bits(whole: Path, recipe_file: Path, start: Start, tmp_path: Path) -> None:
    out, seed = tmp_path / "killed", time.time_ns()
    rng = random.Random(seed)
    # Twice after an epoch was saved and a random moment later, in which the next one trains or is being written.
    for epochs in (1, 3):
        process = start("-m", "dynamick.cli", "train", recipe_file, "--out", out)
        metrics = out / "metrics.csv"
        while process.poll() is None and (not metrics.exists() or len(metrics.read_text().splitlines()) <= epochs):
            time.sleep(0.002)
        time.sleep(rng.random() * 0.3)
        process.kill()
        process.communicate()
    code, _, err = finish(start("-m", "dynamick.cli", "train", recipe_file, "--out", out))
    assert code == 0, (err, seed)
    assert without_seconds(out) == without_seconds(whole), seed
    for name in ("last", "best", "pruned"):
        want, got = (safetensors.torch.load_file(each / f"{name}.safetensors") for each in (whole, out))
        assert want.keys() == got.keys()
        assert all(torch.equal(want[key], got[key]) for key in want), (name, seed)


def test_a_full_disk_keeps_the_last_good_state(whole: Path, recipe_file: Path, start: Start, tmp_path: Path) -> None:
    out, program = tmp_path / "full", tmp_path / "full.py"
    # From the third epoch's end on, no file may grow beyond 1,000 bytes.
    program.write_text(
        "import resource, sys\n"
        "from dynamick.training import callbacks\n"
        "from dynamick.cli.main import main\n"
        "save = callbacks.Keeper.on_train_epoch_end\n"
        "def full(self, trainer, module):\n"
        "    if trainer.current_epoch == 2:\n"
        "        resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))\n"
        "    save(self, trainer, module)\n"
        "callbacks.Keeper.on_train_epoch_end = full\n"
        f"main(['train', {str(recipe_file)!r}, '--out', {str(out)!r}])\n"
    )
    code, _, err = finish(start(program))
    assert code == 1
    assert len(err.strip().splitlines()) == 1
    assert "File too large" in err
    assert str(out) in err
    assert len(read_history(out)) == 2
    assert torch.load(out / "last.ckpt", weights_only=True)["epoch"] == 1
    assert [path.name for path in out.iterdir() if path.name.startswith(".")] == []
    assert finish(start("-m", "dynamick.cli", "train", recipe_file, "--out", out))[0] == 0
    assert (out / "last.safetensors").read_bytes()[-1000:] == (whole / "last.safetensors").read_bytes()[-1000:]
    assert without_seconds(out) == without_seconds(whole)


def test_a_truncated_state_is_refused_in_one_line(whole: Path, recipe_file: Path, start: Start) -> None:
    (whole / "result.json").unlink()
    state = whole / "last.ckpt"
    state.write_bytes(state.read_bytes()[:5000])
    code, _, err = finish(start("-m", "dynamick.cli", "train", recipe_file, "--out", whole))
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert "last.ckpt: no readable checkpoint" in err
    assert "--restart" in err


def test_two_processes_train_one_model(recipe_file: Path, start: Start, tmp_path: Path) -> None:
    """Each process normalises its own half batch, so results agree within a tolerance, not bit for bit."""
    recipe = yaml.safe_load(recipe_file.read_text())
    recipe["optim"] |= {"epochs": 1, "lr": 0.01}
    recipe_file.write_text(yaml.safe_dump(recipe))
    alone, shared = tmp_path / "alone", tmp_path / "shared"
    assert finish(start("-m", "dynamick.cli", "train", recipe_file, "--out", alone))[0] == 0
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dynamick.cli")
    for restart in ([], ["--restart"]):
        code, _, err = finish(start(*launcher, "train", recipe_file, "--out", shared, *restart))
        assert code == 0, err
    [one], [two] = read_history(alone), read_history(shared)
    assert two["train_loss"] == pytest.approx(one["train_loss"], rel=0.02)
    assert two["val_loss"] == pytest.approx(one["val_loss"], rel=0.05)
    want, got = (safetensors.torch.load_file(each / "last.safetensors") for each in (alone, shared))
    for name in want:
        if name.endswith("weight"):
            drift = (got[name] - want[name]).norm() / want[name].norm()
            assert drift < 0.02, (name, drift)


@pytest.mark.parametrize("kind", ["SIGTERM", "SIGINT"])
def test_an_interrupted_training_says_so_and_does_not_count_as_done(
    kind: str, recipe_file: Path, start: Start, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    process = start("-m", "dynamick.cli", "train", recipe_file, "--out", out, "--optim.epochs", 300)
    while process.poll() is None and not (out / "metrics.csv").exists():
        time.sleep(0.01)
    process.send_signal(signal.Signals[kind])
    code, _, err = finish(process)
    assert (code, err.strip().splitlines()) == (1, ["dynamick: interrupted; the same command goes on"])
    assert not (out / "result.json").exists()


def test_two_processes_share_a_folder_of_images_of_any_number(start: Start, tmp_path: Path) -> None:
    """The last batch of the validation images is of one image, so that the second process has none."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 6), ("val", 5)):
        for label, name in enumerate(("a", "b")):
            (tmp_path / "data" / split / name).mkdir(parents=True)
            for number in range(count - label * (split == "val")):
                pixels = rng.integers(0, 128, (20, 20, 3), dtype=np.uint8) + 100 * label
                Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "data" / split / name / f"{number}.png")
    recipe: dict[str, Any] = {"model": "res8-d3a", "stem": "compact", "width": 8, "precision": "32"}
    recipe["data"] = {"kind": "folder", "root": str(tmp_path / "data"), "size": 16, "in_memory": False}
    recipe["optim"] = {"epochs": 1, "batch_size": 4, "lr": 0.01, "schedule": "cosine"}
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "dynamick.cli")
    code, _, err = finish(start(*launcher, "train", tmp_path / "r.yaml", "--out", tmp_path / "out"))
    assert code == 0, err
    assert len(read_history(tmp_path / "out")) == 1
    code, _, err = finish(start(*launcher, "train", tmp_path / "r.yaml", "--out", tmp_path / "odd", "--optim.batch_size", 5))
    assert code != 0
    assert "optim.batch_size: 5 has no equal parts for 2 processes" in err
