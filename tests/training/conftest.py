"""A training of seconds, in this process or in one of its own."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from dynamick.cli.main import main
from dynamick.training.module import Classifier

TINY: dict[str, Any] = {
    "model": "res8-d3a",
    "stem": "compact",
    "width": 8,
    "precision": "32",
    "data": {"kind": "scenes", "size": 32, "train_images": 192, "val_images": 100, "pad": 2},
    "optim": {"epochs": 4, "batch_size": 64, "lr": 0.1, "schedule": "onecycle", "head_weight_decay": 0.05},
}


@pytest.fixture
def recipe_file(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


@pytest.fixture
def start() -> Callable[..., subprocess.Popen[str]]:
    """Starts a Python program in a process of its own."""

    def start(*args: object) -> subprocess.Popen[str]:
        return subprocess.Popen([sys.executable, *map(str, args)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs a command in this process; its exit status, and what it said on stderr."""

    def run(*args: object) -> tuple[int, str]:
        try:
            main([str(each) for each in args])
        except SystemExit as stop:
            return int(stop.code or 0), capsys.readouterr().err
        return 0, capsys.readouterr().err

    return run


@pytest.fixture
def stopped(monkeypatch: pytest.MonkeyPatch) -> Any:
    """A context in which a training stops, with an error that it expects, in the second step of the second epoch."""
    step = Classifier.training_step

    def stop(self: Classifier, batch: Any, index: int) -> torch.Tensor:
        if (self.current_epoch, index) == (1, 1):
            raise RuntimeError("stopped")
        return step(self, batch, index)

    @contextmanager
    def within() -> Iterator[None]:
        with monkeypatch.context() as patch:
            patch.setattr(Classifier, "training_step", stop)
            with pytest.raises(RuntimeError, match="stopped"):
                yield

    return within
