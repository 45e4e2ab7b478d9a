"""Cells of a comparison: one head, for one budget and one seed, on one backbone.

Each has a file of its own; a finished one is never computed again.
"""

import hashlib
import json
import multiprocessing
import multiprocessing.connection
import os
import signal
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from tqdm import tqdm

from dynamick.comparison.cache import Features, open_features, read_state
from dynamick.comparison.detecting import detectors
from dynamick.comparison.heads import HEADS
from dynamick.comparison.logistic import Problem, solve, standardise
from dynamick.comparison.measuring import measure
from dynamick.comparison.table import FIGURES
from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.files import write_atomically, write_json
from dynamick.nn import DynamicLinear
from dynamick.progress import bar


@dataclass(frozen=True)
class Job:
    """A head and a seed on one backbone, with the budgets that are still to be computed.

    Attributes:
        features: a folder with caches `train` and `val`.
        cells: where the cells' files go.
        head: a name of `HEADS`.
        budgets, seed: as in the heads' `fit`.
        owner: what its cells belong to: a checksum of the keys of both caches.
    """

    features: Path
    cells: Path
    head: str
    budgets: tuple[int, ...]
    seed: int
    owner: str = ""

    def file(self, budget: int) -> Path:
        """A cell's file; its weights lie beside it as .safetensors."""
        return self.cells / f"{self.head}-{budget}-{self.seed}.json"


def check_heads(heads: Iterable[str]) -> None:
    """Raise InputError unless all are names of `HEADS`."""
    for head in heads:
        if head not in HEADS:
            raise InputError(f"heads: {head!r} is unknown; give {', '.join(HEADS)}")


def pending(features: Path, cells: Path, heads: Iterable[str], budgets: Sequence[int], seeds: Iterable[int]) -> list[Job]:
    """What is still to be computed on one backbone; cells that failed are tried again.

    Raises:
        InputError: a head of no such name, or a cell in the folder (asked for or not) that is damaged or of other features.
    """
    heads, seeds = list(dict.fromkeys(heads)), list(seeds)
    check_heads(heads)
    owner = _owner(features)
    _read_all(cells, owner)
    jobs = []
    for head in heads:
        for seed in seeds if HEADS[head].seeded else [0]:
            job = Job(features, cells, head, (), seed, owner)
            asked = sorted(set(budgets)) if HEADS[head].axis else (0,)
            left = tuple(budget for budget in asked if not _is_done(job.file(budget)))
            if left:
                jobs.append(replace(job, budgets=left))
    return jobs


def run(jobs: Sequence[Job], processes: int = 1, progress: bool = False) -> None:
    """Compute all cells. One that fails is stored as failed, with its reason, and the others go on.

    Args:
        jobs: as `pending` gives them.
        processes: how many at once; of several each has a process of its own, so that one that is killed takes no other along.
        progress: show the cells done and the time left on stderr.
    """
    with bar("heads", sum(len(job.budgets) for job in jobs), show=progress, unit="cells") as shown:
        if processes > 1:
            _run_apart(jobs, processes, shown)
            return
        for job in jobs:
            run_job(job)
            _tell(shown, job)


def _tell(shown: "tqdm[Any]", job: Job) -> None:
    """Move a bar on by a job that is done, and name it."""
    budgets = " ".join(map(str, job.budgets)) if HEADS[job.head].axis else ""
    shown.set_postfix_str(f"{job.cells.name} {job.head} {budgets} seed {job.seed}", refresh=False)
    shown.update(len(job.budgets))


def run_job(job: Job) -> None:
    """Compute one job's cells in this process."""
    try:
        train, val = open_features(job.features / "train"), open_features(job.features / "val")
        for fitted in HEADS[job.head].fit(train.x, train.labels, len(train.classes), job.budgets, job.seed):
            cell = {"head": job.head, "budget": fitted.budget, "seed": job.seed, "features": job.owner}
            cell |= {"seconds": fitted.seconds, "about": fitted.about, **measure(fitted.head, val)}
            _store(job.file(fitted.budget), cell, fitted.head)
    except Exception as error:
        _fail(job, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def load_cells(folder: Path, features: Path, units: Dissection | None = None) -> list[dict[str, Any]]:
    """All cells of one backbone, failed ones too (they have `failed` instead of figures).

    Args:
        folder: its cells.
        features: its caches, as in `Job`.
        units: the dissection of its features; adds what the units see that a head uses (`detecting.detectors`).

    Raises:
        InputError: a cell is damaged, or belongs to other features; it names the file.
    """
    found = []
    for file, cell in _read_all(folder, _owner(features)):
        if units is not None and "failed" not in cell:
            cell |= detectors(load_head(file), units)
        found.append(cell)
    return found


def load_head(file: Path) -> torch.nn.Module:
    """The head that a cell's file stands beside: nn.Linear, or DynamicLinear for heads that route.

    Raises:
        InputError: it is missing or damaged, or the cell failed.
    """
    if not file.exists() or "failed" in (cell := _read(file)):
        raise InputError(f"{file}: no finished cell")
    path = file.with_suffix(".safetensors")
    try:
        tensors = safetensors.torch.load_file(path)
        classes, units = tensors["weight"].shape
        k = cell.get("k")
        head = torch.nn.Linear(units, classes) if k is None else DynamicLinear(units, classes, k, rule=cell["rule"])
        head.load_state_dict(tensors)
    except Exception as error:
        why = " ".join(str(error).split())[:200]
        raise InputError(f"{path}: missing or damaged ({why}); take {file.name} away and run again") from None
    return head.requires_grad_(False)


def estimate(jobs: Sequence[Job], processes: int = 1) -> float:
    """About how many seconds jobs take: the time of one of the solver's steps, times how many such each head needs."""
    times: dict[Path, float] = {}
    total = 0.0
    for job in jobs:
        if job.features not in times:
            times[job.features] = _step_seconds(open_features(job.features / "train"))
        total += times[job.features] * HEADS[job.head].steps * len(job.budgets)
    return total / processes


def _run_apart(jobs: Sequence[Job], processes: int, shown: "tqdm[Any]") -> None:
    context = multiprocessing.get_context("spawn")
    threads = max(1, torch.get_num_threads() // processes)
    waiting = list(jobs)
    running: dict[Any, tuple[BaseProcess, Job]] = {}
    try:
        with _terminated_as_interrupted():
            while waiting or running:
                while waiting and len(running) < processes:
                    job = waiting.pop(0)
                    process: BaseProcess = context.Process(target=_work, args=(job, threads), daemon=True)
                    process.start()
                    running[process.sentinel] = (process, job)
                for ended in multiprocessing.connection.wait(list(running)):
                    process, job = running.pop(ended)
                    process.join()
                    if process.exitcode:
                        _fail(job, f"its process ended with status {process.exitcode} (-9: killed, often for want of memory)")
                    _tell(shown, job)
    finally:
        # Reached with processes still running only where this one was interrupted: their cells are neither done nor failed.
        for process, _ in running.values():
            process.kill()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Within it SIGTERM raises KeyboardInterrupt, as Ctrl-C does; Python lets no thread but the first one ask for that."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)


def _end_with(parent: int) -> None:
    """End this process at once when the one of that sentinel ends, however that was (kill -9 too)."""
    multiprocessing.connection.wait([parent])
    os._exit(1)


def _work(job: Job, threads: int) -> None:
    # Ctrl-C reaches every process of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None
    threading.Thread(target=_end_with, args=(parent.sentinel,), daemon=True).start()
    torch.set_num_threads(threads)
    run_job(job)


def _step_seconds(data: Features) -> float:
    """Of one of the solver's steps: a gradient over all features, and one in their metric, which few images make no cheaper."""
    rows, steps = min(len(data), 5000), 10
    classes = len(data.classes)
    scaled, _, _ = standardise(data.x[:rows])
    problem = Problem(scaled, data.labels[:rows], classes)
    start = torch.zeros(classes, data.x.shape[1]), torch.zeros(classes)
    # Without what is done once a problem.
    solve(problem, start=start, tolerance=0, steps=2)
    began = time.perf_counter()
    solve(problem, start=start, tolerance=0, steps=steps)
    whole = (time.perf_counter() - began) / steps
    began = time.perf_counter()
    for _ in range(steps):
        problem.gradient(problem.logits(*start))
    return whole + (time.perf_counter() - began) / steps * (len(data) / rows - 1)


def _owner(features: Path) -> str:
    keys = [read_state(features / split)["key"] for split in ("train", "val")]
    return hashlib.sha256(json.dumps(keys, sort_keys=True).encode()).hexdigest()


def _is_done(file: Path) -> bool:
    """Whether a cell is finished; one whose weights are missing or truncated is not."""
    if not file.exists() or "failed" in _read(file):
        return False
    try:
        with safetensors.safe_open(file.with_suffix(".safetensors"), "pt"):
            return True
    except (safetensors.SafetensorError, OSError):
        return False


def _read_all(folder: Path, owner: str) -> list[tuple[Path, dict[str, Any]]]:
    """A folder's cells, all held to their owner: figures of other images or weights would stand in one table unseen."""
    found = [(file, _read(file)) for file in sorted(folder.glob("*.json"))]
    for file, cell in found:
        if cell.get("features") != owner:
            raise InputError(
                f"{file}: made of other features than are given now (weights, images, size, preprocessing or dtype); "
                f"give another --out, or take the folder {folder} away"
            )
    return found


def _read(file: Path) -> dict[str, Any]:
    try:
        cell: dict[str, Any] = json.loads(file.read_text())
    except ValueError as error:
        raise InputError(f"{file}: damaged ({error}); take it away and run again") from None
    if not _is_cell(cell):
        raise InputError(f"{file}: damaged (these are no cell's values); take it away and run again")
    return cell


def _is_cell(cell: Any) -> bool:
    """Whether all that a table reads of a cell is of the type that it must be."""
    if not isinstance(cell, dict) or not isinstance(cell.get("head"), str) or cell["head"] not in HEADS:
        return False
    if not all(isinstance(cell.get(name), int) for name in ("budget", "seed")):
        return False
    if "failed" in cell:
        return isinstance(cell["failed"], str)
    return cell.get("top1") is not None and all(isinstance(cell.get(name), int | float | None) for name in FIGURES)


def _store(file: Path, cell: dict[str, Any], head: torch.nn.Module) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(head, DynamicLinear):
        cell = {**cell, "k": head.k, "rule": head.rule}
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in head.state_dict().items()}
    write_atomically(file.with_suffix(".safetensors"), safetensors.torch.save(tensors))
    # The JSON goes last: where it is, the cell is finished.
    write_json(file, cell)


def _fail(job: Job, reason: str) -> None:
    """Store the reason for the job's cells that are not finished."""
    job.cells.mkdir(parents=True, exist_ok=True)
    for budget in job.budgets:
        file = job.file(budget)
        if not _is_done(file):
            cell = {"head": job.head, "budget": budget, "seed": job.seed, "features": job.owner, "failed": reason}
            write_json(file, cell)
