"""One training, from a recipe to a folder of weights and figures."""

import errno
import logging
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
import yaml
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from dynamick import models, networks
from dynamick.errors import InputError
from dynamick.files import read_text, why_no_folder, write_atomically, write_json
from dynamick.models import Network, ResNet
from dynamick.ops import torch_internals
from dynamick.preprocessing import Preprocessing
from dynamick.training.callbacks import METRICS, STATE, AtomicCheckpointIO, Keeper, read_history
from dynamick.training.data import VAL_BATCH, Images
from dynamick.training.module import Classifier
from dynamick.training.pruning import prune
from dynamick.training.recipe import Recipe, differences
from dynamick.training.static import StaticAfter

CONFIG = "config.yaml"
RESULT = "result.json"
OURS = (CONFIG, RESULT, METRICS, STATE, "last.safetensors", "best.safetensors", "pruned.safetensors", "tensorboard")


def train(
    recipe: Recipe,
    out: str | Path,
    restart: bool = False,
    images: Images | None = None,
    callbacks: list[Callback] | None = None,
    progress: bool = False,
) -> list[dict[str, float]]:
    """Train by a recipe into a folder; go on where an earlier run with the same recipe and folder was interrupted.

    Writes config.yaml, metrics.csv, best.safetensors, last.safetensors, last.ckpt (to resume), pruned.safetensors and
    result.json (after the last epoch), and TensorBoard's logs.

    Args:
        recipe: what to train.
        out: the folder; made where it is missing.
        restart: begin again, whatever is in the folder.
        images: the recipe's images where they are loaded already.
        callbacks: further Lightning callbacks.
        progress: show a progress bar.

    Returns:
        The figures of every epoch.

    Raises:
        InputError: the recipe, the data or the folder is not fit; or the folder holds a run of another recipe.
        OSError: something could not be written; what was written before is whole.
    """
    recipe.check()
    out, world = Path(out), int(os.environ.get("WORLD_SIZE", 1))
    if recipe.optim.batch_size % world:
        raise InputError(
            f"optim.batch_size: {recipe.optim.batch_size} has no equal parts for {world} processes; give a multiple"
        )
    _join_processes()
    _check_folder(out, recipe, restart)
    if not restart and (out / RESULT).exists():
        return read_history(out)
    images = images or Images(recipe)
    L.seed_everything(recipe.seed, verbose=False)
    classifier = Classifier(build(recipe, images), recipe.optim, recipe.channels_last, recipe.seed)
    # Only now, for a run that cannot begin leaves the folder as it was.
    if int(os.environ.get("RANK", 0)) == 0:
        _open_folder(out, recipe, restart)
    if torch.distributed.is_initialized():
        # No process looks into the folder before the first one has made it fit.
        torch.distributed.barrier()
    keeper = Keeper(out, recipe.to_dict())
    with quiet():
        static = [] if recipe.static_after is None else [StaticAfter(recipe.static_after, recipe.optim.weight_decay)]
        trainer = _trainer(recipe, out, [*static, keeper, *(callbacks or [])], progress)
        try:
            trainer.fit(classifier, images, ckpt_path=_state(out))
        except SystemExit as stop:
            # What Lightning makes of Ctrl-C and of SIGTERM, which would end the process as if all were done.
            raise KeyboardInterrupt from stop
    if trainer.is_global_zero:
        keeper.write_metrics()
        _finish(out, recipe, images, keeper.history[-1])
    trainer.strategy.barrier()
    trainer.strategy.teardown()
    return keeper.history


def build(recipe: Recipe, images: Images) -> Network:
    """The recipe's model, new; images are normalised by the mean and deviation of the training images."""
    preprocessing = Preprocessing(recipe.data.side, *(images.train.moments() or ()))
    classes = images.train.classes
    return models.create(
        recipe.model, len(classes), recipe.stem, recipe.width, preprocessing, classes=classes, rule=recipe.rule
    )


def _in_bf16(precision: str, device: torch.device) -> bool:
    """What `auto` means: bf16 where the device has instructions for it."""
    if precision != "auto":
        return precision == "bf16"
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported()
    return device.type == "cpu" and torch_internals.has_bf16_instructions()


def autocast(precision: str, device: torch.device) -> AbstractContextManager[Any]:
    """The context in which a recipe's training steps run."""
    return torch.autocast(device.type, torch.bfloat16) if _in_bf16(precision, device) else nullcontext()


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Lightning's hints and notices to itself."""
    logger = logging.getLogger("lightning.pytorch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)


def _trainer(recipe: Recipe, out: Path, callbacks: list[Callback], progress: bool) -> L.Trainer:
    world, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=here,
        num_nodes=world // here,
        strategy="ddp" if world > 1 else "auto",
        precision="bf16-mixed" if _in_bf16(recipe.precision, device) else "32-true",
        max_epochs=recipe.optim.epochs,
        logger=TensorBoardLogger(out, name=None, version="tensorboard"),
        callbacks=[*callbacks, *([TQDMProgressBar(leave=False)] if progress else [])],
        plugins=[AtomicCheckpointIO()],
        sync_batchnorm=device.type == "cuda" and world > 1,
        reload_dataloaders_every_n_epochs=1,
        use_distributed_sampler=False,
        num_sanity_val_steps=0,
        enable_progress_bar=progress,
        enable_model_summary=False,
        log_every_n_steps=50,
        benchmark=True,
    )


def _join_processes() -> None:
    """Under torchrun, connect the processes; Lightning takes the connection over."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1 and not torch.distributed.is_initialized():
        torch.distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")


def differences_from(out: Path, recipe: Recipe) -> list[str]:
    """In what a recipe differs from that of the run in a folder, as `recipe.differences`; nothing where there is none yet.

    Raises:
        InputError: what the folder keeps is no recipe.
    """
    config = out / CONFIG
    if not config.exists() or not any((out / name).exists() for name in (STATE, METRICS, RESULT)):
        # Without these it never began.
        return []
    try:
        kept = yaml.safe_load(read_text(config))
        return differences(kept, recipe)
    except (yaml.YAMLError, UnicodeDecodeError, AttributeError, TypeError, KeyError):
        raise InputError(f"{config}: is damaged, it holds no recipe; give another folder") from None


def _check_folder(out: Path, recipe: Recipe, restart: bool) -> None:
    """Raise InputError where a folder cannot be written to, or holds another recipe's run that is not to go."""
    if (why := why_no_folder(out)) is not None:
        raise InputError(f"{out}: cannot be written ({why}); give a folder that can")
    if not restart and (changes := differences_from(out, recipe)):
        more = f" and {len(changes) - 1} more" if len(changes) > 1 else ""
        raise InputError(f"{out}: holds another run ({changes[0]}{more}); give another folder, or --restart")


def _open_folder(out: Path, recipe: Recipe, restart: bool) -> None:
    """Make the run's folder, without what is to be begun again."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        if restart:
            for name in OURS:
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink(missing_ok=True)
        if _state(out) is None or not (out / CONFIG).exists():
            write_atomically(out / CONFIG, yaml.safe_dump(recipe.to_dict(), sort_keys=False).encode())
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise
        raise InputError(f"{out}: cannot be written ({error.strerror}); give a folder that can") from None


def _state(out: Path) -> str | None:
    return str(out / STATE) if (out / STATE).exists() else None


def _finish(out: Path, recipe: Recipe, images: Images, last: dict[str, float]) -> None:
    """Prune the last weights, and write the run's result, with the figures of the last epoch."""
    result: dict[str, Any] = {"recipe": recipe.to_dict(), "metrics": last}
    if recipe.prune and models.parse(recipe.model).kind.routes:
        model = networks.load(out / "last.safetensors")
        assert isinstance(model, ResNet)
        pruned = prune(model, _prepared(model, images))
        result["pruned"] = asdict(pruned)
        networks.save(model, out / "pruned.safetensors", result)
        print(
            f"pruned: {pruned.kept} of {pruned.total} weights remain, at most {pruned.max_per_class} a class; "
            f"{pruned.changed} of the logits of {pruned.images} training images changed",
            flush=True,
        )
    write_json(out / RESULT, result)


def _prepared(model: ResNet, images: Images) -> Any:
    """The training images as they are evaluated: no augmentation."""
    device = next(model.parameters()).device
    for batch, _ in images.train.batches(VAL_BATCH, workers=images.recipe.data.workers):
        yield model.preprocessing(batch.to(device)).contiguous(memory_format=torch.channels_last)
