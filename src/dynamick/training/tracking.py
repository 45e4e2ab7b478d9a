"""Experiment trackers, by Lightning's loggers: each writes into the run's folder, if its package is installed."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lightning.pytorch.loggers import CSVLogger, MLFlowLogger, TensorBoardLogger, WandbLogger
from lightning.pytorch.loggers.logger import Logger

from dynamick.errors import InputError


def _mlflow(out: Path) -> Logger:
    """MLflow keeps its runs in a database; its plain files are no longer taken."""
    return MLFlowLogger(out.name, tracking_uri=f"sqlite:///{out / 'mlflow.db'}", artifact_location=(out / "mlflow").as_uri())


LOGGERS: dict[str, Callable[[Path], Logger]] = {
    "tensorboard": lambda out: TensorBoardLogger(out, name=None, version="tensorboard"),
    "csv": lambda out: CSVLogger(out, name=None, version="csv"),
    "mlflow": lambda out: _mlflow(out.absolute()),
    "wandb": lambda out: WandbLogger(out.name, save_dir=out),
}
"""Makes a tracker for a run's folder, by its name."""


def tracker(name: str, out: Path) -> Any:
    """A tracker for a run's folder.

    Raises:
        InputError: there is none of that name, or its package is not installed.
    """
    check_tracker(name)
    return LOGGERS[name](out)


def check_tracker(name: str) -> None:
    """Raise InputError unless there is such a tracker, and its package is installed."""
    if name not in LOGGERS:
        raise InputError(f"--logger {name}: unknown; give {', '.join(LOGGERS)}")
    if name != "csv" and importlib.util.find_spec(name) is None:
        raise InputError(f"--logger {name}: the package {name} is not installed; pip install {name}, or give csv")
