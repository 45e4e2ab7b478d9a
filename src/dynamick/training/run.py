"""One training, from a recipe to a folder of weights and figures."""

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, TQDMProgressBar
from lightning.pytorch.loggers import TensorBoardLogger

from dynamick import models, networks
from dynamick.errors import InputError
from dynamick.files import write_json
from dynamick.models import Network, ResNet
from dynamick.ops import torch_internals
from dynamick.preprocessing import Preprocessing
from dynamick.training.callbacks import Keeper, read_history
from dynamick.training.data import VAL_BATCH, Images
from dynamick.training.folder import RESULT, held, open_folder, refuse_another, state_of
from dynamick.training.module import Classifier
from dynamick.training.pruning import prune
from dynamick.training.recipe import Recipe
from dynamick.training.state import AtomicCheckpointIO, unreadable
from dynamick.training.static import StaticAfter


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
        images: the recipe's images, if they are loaded already.
        callbacks: further Lightning callbacks.
        progress: show a progress bar.

    Returns:
        The figures of every epoch.

    Raises:
        InputError: the recipe, the data or the folder cannot be used; or the folder holds a run of another recipe.
        OSError: something could not be written; what was written before is whole.
    """
    recipe.check()
    out, world = Path(out), int(os.environ.get("WORLD_SIZE", 1))
    if recipe.optim.batch_size % world:
        raise InputError(
            f"optim.batch_size: {recipe.optim.batch_size} has no equal parts for {world} processes; give a multiple"
        )
    _join_processes()
    with held(out):
        if not restart:
            refuse_another(out, recipe)
            if (out / RESULT).exists():
                return read_history(out)
        return _train(recipe, out, restart, images or Images(recipe), callbacks or [], progress)


def _train(
    recipe: Recipe, out: Path, restart: bool, images: Images, callbacks: list[Callback], progress: bool
) -> list[dict[str, float]]:
    L.seed_everything(recipe.seed, verbose=False)
    classifier = Classifier(build(recipe, images), recipe.optim, recipe.channels_last, recipe.seed)
    # Only now: a run that cannot begin leaves the folder as it was.
    if int(os.environ.get("RANK", 0)) == 0:
        open_folder(out, recipe, restart)
    if torch.distributed.is_initialized():
        # No process looks into the folder before the first one has made it fit.
        torch.distributed.barrier()
    keeper = Keeper(out, recipe.to_dict())
    static = [] if recipe.static_after is None else [StaticAfter(recipe.static_after, recipe.optim.weight_decay)]
    with quiet():
        trainer = _trainer(recipe, out, [*static, keeper, *callbacks], progress)
        _fit(trainer, classifier, images, keeper)
    if trainer.is_global_zero:
        keeper.write_metrics()
        _finish(out, recipe, images, keeper.history[-1])
    trainer.strategy.barrier()
    trainer.strategy.teardown()
    return keeper.history


def _fit(trainer: L.Trainer, classifier: Classifier, images: Images, keeper: Keeper) -> None:
    state = state_of(keeper.out)
    try:
        trainer.fit(classifier, images, ckpt_path=state)
    except SystemExit as stop:
        # What Lightning makes of Ctrl-C and of SIGTERM, which would end the process as if all were done.
        raise KeyboardInterrupt from stop
    except (LookupError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        if state is None or keeper.trains or isinstance(error, InputError | torch.OutOfMemoryError):
            raise
        # The values of a whole state may still be those of another network or optimiser.
        raise unreadable(state, f"it does not fit this training: {' '.join(str(error).split())[:200]}") from error


def build(recipe: Recipe, images: Images) -> Network:
    """The recipe's model, new; images are normalised by the mean and deviation of the training images."""
    preprocessing = Preprocessing(recipe.data.side, *(images.train.moments() or ()))
    classes = images.train.classes
    return models.create(
        recipe.model, len(classes), recipe.stem, recipe.width, preprocessing, classes=classes, rule=recipe.rule
    )


def _in_bf16(precision: str, device: torch.device) -> bool:
    """What `auto` means: bf16 if the device has instructions for it."""
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
    """Switch off Lightning's hints and notices."""
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
