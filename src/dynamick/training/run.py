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

from dynamick import models, networks, processes
from dynamick.errors import InputError
from dynamick.files import write_json
from dynamick.networks import OpenNetwork
from dynamick.networks.opening import is_place
from dynamick.networks.sources import find
from dynamick.ops import torch_internals
from dynamick.training.augmenting import Augmenting
from dynamick.training.averaging import Averaging
from dynamick.training.building import build, completed, opened
from dynamick.training.callbacks import Keeper, read_history
from dynamick.training.data import VAL_BATCH, Images
from dynamick.training.folder import RESULT, held, open_folder, refuse_another, state_of
from dynamick.training.losses import loss_of
from dynamick.training.module import Classifier
from dynamick.training.pruning import prune
from dynamick.training.recipe import Recipe
from dynamick.training.stages import FallingK, Frozen, Stopping
from dynamick.training.state import AtomicCheckpointIO, unreadable
from dynamick.training.static import StaticAfter
from dynamick.training.tracking import check_tracker, tracker


def train(
    recipe: Recipe,
    out: str | Path,
    restart: bool = False,
    images: Images | None = None,
    callbacks: list[Callback] | None = None,
    progress: bool = False,
    logger: str = "tensorboard",
) -> list[dict[str, float]]:
    """Train by a recipe into a folder; go on where an earlier run with the same recipe and folder was interrupted.

    Writes config.yaml, metrics.csv, best.safetensors, last.safetensors, last.ckpt (to resume), pruned.safetensors and
    result.json (after the last epoch), and an experiment tracker's logs.

    Args:
        recipe: what to train.
        out: the folder; made where it is missing.
        restart: begin again, whatever is in the folder.
        images: the recipe's images, if they are loaded already.
        callbacks: further Lightning callbacks.
        progress: show a progress bar.
        logger: the experiment tracker: tensorboard, csv, mlflow or wandb.

    Returns:
        The figures of every epoch.

    Raises:
        InputError: the recipe, the data or the folder cannot be used; or the folder holds a run of another recipe.
        OSError: something could not be written; what was written before is whole.

    >>> few = {"width": 8, "data.train_images": 64, "data.val_images": 20, "optim.epochs": 1}
    >>> recipe = dk.training.Recipe.read("scenes-small", few)
    >>> history = dk.training.train(recipe, "out")
    epoch 1/1 ...
    >>> len(history)
    1
    """
    recipe = recipe.with_heads_name()
    recipe.check()
    check_tracker(logger)
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
        L.seed_everything(recipe.seed, verbose=False)
        network = opened(recipe)
        whole = completed(recipe, network)
        images = images or Images(whole)
        classifier = _classifier(whole, network, images)
        # Only now: a run that cannot begin leaves the folder as it was.
        if processes.first():
            open_folder(out, recipe, restart)
        # No process looks into the folder before the first one has made it fit.
        processes.wait()
        keeper = Keeper(out, whole.to_dict())
        added = [*stages(whole, classifier), keeper, *(callbacks or [])]
        with quiet():
            trainer = _trainer(whole, out, added, tracker(logger, out), progress)
            _fit(trainer, classifier, images, keeper)
        if trainer.is_global_zero:
            keeper.write_metrics()
            _finish(out, whole, images, keeper.history[-1])
        trainer.strategy.barrier()
        trainer.strategy.teardown()
        return keeper.history


def _classifier(recipe: Recipe, network: OpenNetwork | None, images: Images) -> Classifier:
    built = build(recipe, network, images.train)
    loss = loss_of(recipe, images.train)
    blank = built.model.preprocessing.mean
    cropped = not images.train.in_memory
    augmenting = Augmenting(recipe.data, len(images.train.classes), cropped, blank, recipe.seed)
    return Classifier(built.model, recipe.optim, recipe.channels_last, recipe.seed, built.kind, loss, augmenting)


def stages(recipe: Recipe, classifier: Classifier) -> list[Callback]:
    """What changes in the course of a recipe's training, as callbacks, in the order in which they act."""
    optim = recipe.optim
    found: list[Callback] = []
    if optim.ema is not None:
        found.append(Averaging(optim.ema))
    if recipe.freeze:
        found.append(Frozen(recipe.freeze))
    if recipe.k_start is not None:
        found.append(FallingK(classifier.model, recipe.k_start, classifier.head.k))
    if recipe.static_after is not None:
        found.append(StaticAfter(recipe.static_after, optim.weight_decay))
    if optim.stop_after is not None:
        found.append(Stopping(optim.stop_after, optim.stop_metric))
    return found


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


def _trainer(recipe: Recipe, out: Path, callbacks: list[Callback], logger: Any, progress: bool) -> L.Trainer:
    world, here = int(os.environ.get("WORLD_SIZE", 1)), int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return L.Trainer(
        accelerator="gpu" if device.type == "cuda" else "cpu",
        devices=here,
        num_nodes=world // here,
        # A frozen backbone gets no gradients, and heads for training alone are not used.
        strategy=("auto" if world == 1 else "ddp" if recipe.is_new_of_ours else "ddp_find_unused_parameters_true"),
        precision="bf16-mixed" if _in_bf16(recipe.precision, device) else "32-true",
        max_epochs=recipe.optim.epochs,
        gradient_clip_val=recipe.optim.clip,
        logger=logger,
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
    model = _last(out, recipe)
    if recipe.prune and models.head_of(model).routes:
        pruned = prune(model, _prepared(model, images))
        result["pruned"] = asdict(pruned)
        networks.save(model, out / "pruned.safetensors", result, vouch=True)
        units = "" if pruned.units is None else f" on {pruned.units} units"
        print(
            f"pruned: {pruned.kept} of {pruned.total} weights{units} remain, at most {pruned.max_per_class} a class; "
            f"{pruned.changed} of the logits of {pruned.images} training images changed",
            flush=True,
        )
    write_json(out / RESULT, result)


def _last(out: Path, recipe: Recipe) -> Any:
    """The network of the last epoch, from its file."""
    runs_code = not is_place(recipe.model) and find(recipe.model)[0].runs_code
    return networks.load(out / "last.safetensors", recipe.model if runs_code else None)


def _prepared(model: Any, images: Images) -> Any:
    """The training images as they are evaluated: no augmentation."""
    device = next(model.parameters()).device
    for batch, _ in images.train.batches(VAL_BATCH, workers=images.recipe.data.workers):
        yield model.preprocessing(batch.to(device)).contiguous(memory_format=torch.channels_last)
