"""What happens at the end of each epoch: figures kept, weights and the state to resume from written, a line printed."""

import csv
import io
import math
import time
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Checkpoint

from dynamick import networks
from dynamick.durations import in_words
from dynamick.errors import InputError
from dynamick.files import read_table, write_atomically
from dynamick.training.folder import METRICS, STATE
from dynamick.training.state import unreadable


class Keeper(Checkpoint):
    """Keeps a run in its folder: `metrics.csv`, `last.safetensors`, `best.safetensors`, and `last.ckpt` to resume from.

    The checkpoint keeps the figures of past epochs. So after an interruption metrics.csv has every epoch once.
    Lightning calls it last, as a `Checkpoint`: it has what other callbacks log at an epoch's end.

    Args:
        out: the run's folder.
        recipe: the recipe as plain values; kept inside the weights' files.

    Attributes:
        history: what was measured in each epoch.
        trains: a new run has begun to train, or an old one's state was put in place and it goes on.
    """

    def __init__(self, out: Path, recipe: dict[str, Any]) -> None:
        self.out, self.recipe = out, recipe
        self.history: list[dict[str, float]] = []
        self.began, self.trains = 0.0, False

    def state_dict(self) -> dict[str, Any]:
        return {"history": self.history}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        history = state_dict.get("history")
        rows: list[Any] = history if isinstance(history, list) and history else [None]
        if not all(isinstance(row, dict) and _is_whole(row) for row in rows):
            raise unreadable(self.out / STATE, "it does not hold what was measured")
        self.history = rows

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.trains = True

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.began = time.monotonic()
        # Lightning keeps what an earlier epoch logged. A row holds only what its own epoch measured.
        trainer.callback_metrics.clear()

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        figures = {name: float(value) for name, value in trainer.callback_metrics.items()}
        losses = {name: value for name, value in figures.items() if name.endswith("_loss") and not math.isfinite(value)}
        if losses:
            said = ", ".join(f"{name} {value}" for name, value in losses.items())
            raise FloatingPointError(f"{said} in epoch {trainer.current_epoch + 1}: it diverged; give a lower optim.lr")
        seconds = time.monotonic() - self.began
        best = max((score_of(row)[1] for row in self.history), default=-1.0)
        self.history.append({"epoch": trainer.current_epoch + 1, "seconds": round(seconds, 3), **figures})
        if trainer.is_global_zero:
            row = self.history[-1]
            if score_of(row)[1] > best:
                self._save(pl_module, "best.safetensors", row, trainer.should_stop)
            self._save(pl_module, "last.safetensors", row, trainer.should_stop)
            self.write_metrics()
        # The state goes last: what it says is done has been written.
        trainer.save_checkpoint(self.out / STATE)
        if trainer.is_global_zero:
            print(_line(row, trainer.max_epochs) + _left(self.history, trainer.max_epochs), flush=True)

    def write_metrics(self) -> None:
        """Write metrics.csv: a row an epoch."""
        write_atomically(self.out / METRICS, _as_csv(self.history).encode())

    def _save(self, module: Any, name: str, row: dict[str, float], stopped: bool) -> None:
        extra = {"recipe": self.recipe, "metrics": row, **({"stopped": True} if stopped else {})}
        networks.save(module.evaluated, self.out / name, extra, vouch=True)


def read_history(out: Path) -> list[dict[str, float]]:
    """The rows of a run's metrics.csv. Figures that were not measured in an epoch are left out.

    Raises:
        InputError: it is missing or damaged.

    >>> few = {"width": 8, "data.train_images": 64, "data.val_images": 20, "optim.epochs": 1}
    >>> recipe = dk.training.Recipe.read("scenes-small", few)
    >>> history = dk.training.train(recipe, "out")
    epoch 1/1 ...
    >>> from pathlib import Path
    >>> len(dk.training.read_history(Path("out")))
    1
    """
    try:
        names, *lines = read_table(out / METRICS) or [[]]
        rows = [{name: float(value) for name, value in zip(names, line, strict=True) if value} for line in lines]
        if not rows or not all(_is_whole(row) for row in rows):
            raise ValueError("rows or columns are missing")
        return rows
    except (OSError, UnicodeDecodeError, csv.Error, ValueError, TypeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise InputError(f"{out / METRICS}: no figures of a training ({reason}); begin it again with --restart") from None


def score_of(row: dict[str, float]) -> tuple[str, float]:
    """What an epoch is judged by, in words, and its value in %: top-1, or the mean average precision of several labels."""
    return ("top-1", row["top1"]) if "top1" in row else ("mean average precision", row["map"])


def _is_whole(row: dict[str, Any]) -> bool:
    return "epoch" in row and ("top1" in row or "map" in row)


def _as_csv(rows: list[dict[str, float]]) -> str:
    text = io.StringIO()
    # A callback may measure something for the first time after some epochs.
    columns = list(dict.fromkeys(name for row in rows for name in row))
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _left(rows: list[dict[str, float]], epochs: int | None) -> str:
    """How long the epochs that are left will take, by the last one."""
    left = (epochs or 0) - int(rows[-1]["epoch"])
    return f"  {in_words(left * rows[-1]['seconds'])} left" if left > 0 else ""


def _line(row: dict[str, float], epochs: int | None) -> str:
    what, score = score_of(row)
    return (
        f"epoch {row['epoch']:.0f}/{epochs}  train loss {row['train_loss']:.3f}  {what} {score:.2f} %  "
        f"weights/class {row['weights_per_class']:.1f}  routed {row['routed_units']:.2f}  {row['seconds']:.0f} s"
    )
