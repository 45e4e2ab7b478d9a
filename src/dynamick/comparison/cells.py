"""Which cells of a comparison are to be computed, and their computation; a finished one is never computed again."""

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

import torch
from tqdm import tqdm

from dynamick.comparison import cell
from dynamick.comparison.cache import NEAR, Features, open_features, probe, read_state
from dynamick.comparison.cell import Cell, FailedCell, is_done, load_head
from dynamick.comparison.detecting import detectors
from dynamick.comparison.heads import HEADS
from dynamick.comparison.logistic import Problem, solve, standardise
from dynamick.comparison.measuring import measure
from dynamick.dissection import Dissection
from dynamick.errors import InputError
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
    _read_all(cells, features)
    jobs = []
    for head in heads:
        for seed in seeds if HEADS[head].seeded else [0]:
            job = Job(features, cells, head, (), seed, owner)
            asked = sorted(set(budgets)) if HEADS[head].axis else (0,)
            left = tuple(budget for budget in asked if not is_done(job.file(budget)))
            if left:
                jobs.append(replace(job, budgets=left))
    return jobs


def run(jobs: Sequence[Job], processes: int = 1, progress: bool = False) -> None:
    """Compute all cells. One that fails is stored as failed, with its reason, and the others go on.

    Args:
        jobs: as `pending` gives them.
        processes: how many at once; with several, each job has a process of its own, so a killed one does not stop the others.
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
        seen = probe(job.features / "val")
        for fitted in HEADS[job.head].fit(train.x, train.labels, len(train.classes), job.budgets, job.seed):
            figures = {"seconds": fitted.seconds, **measure(fitted.head, val)}
            k, rule = (fitted.head.k, fitted.head.rule) if isinstance(fitted.head, DynamicLinear) else (None, None)
            found = Cell(job.head, fitted.budget, job.seed, job.owner, figures, fitted.about, k, rule, seen)
            cell.write(job.file(fitted.budget), found, fitted.head)
    except Exception as error:
        _fail(job, f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")


def load_cells(folder: Path, features: Path, units: Dissection | None = None) -> list[Cell | FailedCell]:
    """All cells of one backbone, failed ones too.

    Args:
        folder: its cells.
        features: its caches, as in `Job`.
        units: the dissection of its features; adds what the units see that a head uses (`detecting.detectors`).

    Raises:
        InputError: a cell is damaged, or belongs to other features; it names the file.
    """
    found = []
    for file, each in _read_all(folder, features):
        if units is not None and isinstance(each, Cell):
            each = replace(each, figures={**each.figures, **detectors(load_head(file), units)})
        found.append(each)
    return found


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
        # Processes still run here only if this one was interrupted. Their cells are neither done nor failed.
        for process, _ in running.values():
            process.kill()


@contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """Inside the context SIGTERM raises KeyboardInterrupt, as Ctrl-C does. Python allows this only in the first thread."""
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
    """End this process at once when the one of that sentinel ends, in any way (also by kill -9)."""
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
    """Of one of the solver's steps: a gradient over all features, and one in their metric, which no image makes longer."""
    rows, steps = min(len(data), 5000), 10
    classes = len(data.classes)
    scaled, _, _ = standardise(data.x[:rows])
    problem = Problem(scaled, data.labels[:rows], classes)
    start = torch.zeros(classes, data.x.shape[1]), torch.zeros(classes)
    # Without the work that is done once a problem.
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


def _read_all(folder: Path, features: Path) -> list[tuple[Path, Cell | FailedCell]]:
    """A folder's cells, all checked against their features. Otherwise one table could mix other images or weights."""
    found = [(file, cell.read(file)) for file in sorted(folder.glob("*.json"))]
    owner, seen = _owner(features), probe(features / "val") if found else []
    for file, each in found:
        if file.stem != f"{each.head}-{each.budget}-{each.seed}":
            raise InputError(
                f"{file}: damaged (it holds the cell {each.head}-{each.budget}-{each.seed}); take it away and run again"
            )
        if each.features != owner or (isinstance(each, Cell) and each.seen and not _is_near(each.seen, seen)):
            raise InputError(
                f"{file}: made of other features than are given now (weights, images, size, preprocessing, dtype or the "
                f"network's code); give another --out, or take the folder {folder} away"
            )
    return found


def _is_near(kept: Sequence[float], now: Sequence[float]) -> bool:
    largest = max(map(abs, kept))
    return len(kept) == len(now) and all(abs(a - b) <= NEAR * largest for a, b in zip(kept, now, strict=True))


def _fail(job: Job, reason: str) -> None:
    """Store the reason for the job's cells that are not finished."""
    for budget in job.budgets:
        if not is_done(file := job.file(budget)):
            cell.write(file, FailedCell(job.head, budget, job.seed, job.owner, reason))
