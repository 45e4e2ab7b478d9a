"""Cells: each is stored once, failures stay apart, and what is damaged or of other features is told."""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from dynamick.comparison import cell, cells, table
from dynamick.comparison.cache import Features, cache_features, open_features
from dynamick.comparison.cell import Cell, load_head
from dynamick.comparison.heads import HEADS, Fitted, elastic_net
from dynamick.comparison.measuring import measure
from dynamick.data.images import ImageTensors
from dynamick.errors import InputError
from dynamick.models import ResNet
from dynamick.nn import DynamicLinear


@pytest.fixture
def backbone(model: ResNet, images: ImageTensors, tmp_path: Path) -> Path:
    for split in ("train", "val"):
        cache_features(model, images, tmp_path / "features" / split)
    return tmp_path


def jobs_of(backbone: Path, heads: Sequence[str], budgets: Sequence[int] = (1, 2), seeds: int = 1) -> list[cells.Job]:
    return cells.pending(backbone / "features", backbone / "cells", heads, budgets, range(seeds))


def test_a_finished_cell_is_never_computed_again(backbone: Path) -> None:
    heads = ["dense", "dice", "dynamic-at-most"]
    cells.run(jobs_of(backbone, heads, seeds=2))
    files = sorted((backbone / "cells").glob("*.json"))
    # dense once, DICE at two budgets (no seed changes it), Dynamic-K at two budgets and two seeds
    assert len(files) == 1 + 2 + 4
    assert jobs_of(backbone, heads, seeds=2) == []
    assert [(job.head, job.budgets) for job in jobs_of(backbone, heads, (1, 2, 3))] == [
        ("dice", (3,)),
        ("dynamic-at-most", (3,)),
    ]


def test_a_head_is_read_back(backbone: Path) -> None:
    cells.run(jobs_of(backbone, ["dynamic-exactly", "elastic-net"]))
    routed = load_head(backbone / "cells" / "dynamic-exactly-2-0.json")
    assert isinstance(routed, DynamicLinear)
    assert (routed.k, routed.rule) == (2, "exactly")
    static = load_head(backbone / "cells" / "elastic-net-2-0.json")
    cell = json.loads((backbone / "cells" / "elastic-net-2-0.json").read_text())
    assert cell["nec"] == (static.get_parameter("weight") != 0).sum().item() / 3


@pytest.mark.parametrize("name", HEADS)
def test_every_head_is_read_back(backbone: Path, name: str) -> None:
    budget = 2 if HEADS[name].axis else 0
    cells.run(jobs_of(backbone, [name], (budget,)))
    file = backbone / "cells" / f"{name}-{budget}-0.json"
    figures = cell.read(file).figures
    again = measure(load_head(file), open_features(backbone / "features" / "val"))
    assert again == {figure: figures[figure] for figure in again}


def test_an_estimate_counts_what_is_left_and_divides_it_among_the_processes(
    backbone: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert cells.estimate([]) == 0
    assert cells.estimate(jobs_of(backbone, ["dice"])) > 0
    monkeypatch.setattr(cells, "_step_seconds", lambda data: 0.5 * len(data.classes))
    jobs = jobs_of(backbone, ["dense", "dice"])
    assert cells.estimate(jobs) == 1.5 * (HEADS["dense"].steps + 2 * HEADS["dice"].steps)
    assert cells.estimate(jobs, 2) == cells.estimate(jobs) / 2
    cells.run(jobs_of(backbone, ["dice"], (1,)))
    assert cells.estimate(jobs_of(backbone, ["dice"])) == 1.5 * HEADS["dice"].steps


def broken(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """Fits its first budget, then fails."""
    yield next(HEADS["dice"].fit(x, labels, classes, budgets[:1]))
    raise RuntimeError("the solver\ndiverged")


def test_a_failed_cell_says_why_and_stops_nothing(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "l1", replace(HEADS["l1"], fit=broken))
    cells.run(jobs_of(backbone, ["l1", "dice"]))
    found = {(cell.head, cell.budget): cell for cell in cells.load_cells(backbone / "cells", backbone / "features")}
    assert found["l1", 2].reason == "RuntimeError: the solver diverged"
    assert all(isinstance(found[key], Cell) for key in (("l1", 1), ("dice", 1), ("dice", 2)))
    # It is tried again; what was finished is not.
    assert [(job.head, job.budgets) for job in jobs_of(backbone, ["l1", "dice"])] == [("l1", (2,))]
    rows = table.rows(("res8", "res8-0", cell) for cell in found.values())
    text = table.as_markdown(rows)
    assert "L1 path, 2: failed: res8-0, seed 0: RuntimeError: the solver diverged" in text
    assert "| L1 path | 2 | failed |" in text


def forked(monkeypatch: pytest.MonkeyPatch, work: Callable[[cells.Job], None]) -> None:
    """Processes that see a replaced `run_job`; spawned ones would import the real one."""
    context = multiprocessing.get_context("fork")
    monkeypatch.setattr(cells.multiprocessing, "get_context", lambda name: context)
    monkeypatch.setattr(cells, "run_job", work)
    # More threads than one may hang in a forked process.
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)


def test_a_killed_process_takes_no_other_along(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = cells.run_job

    def killed(job: cells.Job) -> None:
        if job.head == "dice":
            os.kill(os.getpid(), signal.SIGKILL)
        real(job)

    forked(monkeypatch, killed)
    cells.run(jobs_of(backbone, ["dice", "magnitude"], (1,)), 2)
    found = {cell.head: cell for cell in cells.load_cells(backbone / "cells", backbone / "features")}
    assert "status -9" in found["dice"].reason
    assert isinstance(found["magnitude"], Cell)


def test_an_interrupted_run_ends_its_processes_and_blames_no_cell(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C while one of two processes is at work: it ends at once, and nothing is stored as failed."""
    real = cells.run_job

    def slow(job: cells.Job) -> None:
        if job.head == "dice":
            time.sleep(60)
        real(job)

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    forked(monkeypatch, slow)
    monkeypatch.setattr(cells, "_tell", interrupt)
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        cells.run(jobs_of(backbone, ["dice", "magnitude"], (1,)), 2)
    assert time.monotonic() - began < 30
    assert [cell.head for cell in cells.load_cells(backbone / "cells", backbone / "features")] == ["magnitude"]
    assert [job.head for job in jobs_of(backbone, ["dice", "magnitude"], (1,))] == ["dice"]


def test_a_killed_run_goes_on(backbone: Path) -> None:
    """kill -9 while the second of three budgets is computed: the first one stays as it is, the others are computed."""
    program = f"""
        import os, signal
        from dataclasses import replace
        from pathlib import Path
        from dynamick.comparison import cells
        from dynamick.comparison.heads import HEADS
        real = HEADS["dice"].fit
        def fit(*given):
            for number, fitted in enumerate(real(*given)):
                if number == 1:
                    os.kill(os.getpid(), signal.SIGKILL)
                yield fitted
        HEADS["dice"] = replace(HEADS["dice"], fit=fit)
        place = Path({str(backbone)!r})
        cells.run(cells.pending(place / "features", place / "cells", ["dice"], [1, 2, 3], [0]))
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    first = backbone / "cells" / "dice-1-0.json"
    assert [path.name for path in (backbone / "cells").glob("*.json")] == [first.name]
    written = first.stat().st_mtime_ns
    left = jobs_of(backbone, ["dice"], (1, 2, 3))
    assert [job.budgets for job in left] == [(2, 3)]
    cells.run(left)
    assert jobs_of(backbone, ["dice"], (1, 2, 3)) == []
    assert first.stat().st_mtime_ns == written


@pytest.mark.parametrize("signalled", [signal.SIGTERM, signal.SIGKILL])
def test_no_process_outlives_the_first_one(backbone: Path, tmp_path: Path, signalled: signal.Signals) -> None:
    """SIGTERM or kill -9 while two processes, of their own programs, are at work: both end, and no cell is blamed."""
    (tmp_path / "slow.py").write_text(
        textwrap.dedent(f"""
        import os, time
        from pathlib import Path
        from dynamick.comparison import cells
        place = Path({str(backbone)!r})
        def work(job, threads):
            (place / f"{{job.head}}.pid").write_text(str(os.getpid()))
            real(job, threads)
        def run_job(job):
            while True:
                pass
        real, cells._work, cells.run_job = cells._work, work, run_job
        if __name__ == "__main__":
            cells.run(cells.pending(place / "features", place / "cells", ["dice", "magnitude"], [1], [0]), 2)
        """)
    )
    run = subprocess.Popen([sys.executable, tmp_path / "slow.py"], stderr=subprocess.PIPE, text=True)
    files = [backbone / "dice.pid", backbone / "magnitude.pid"]
    workers: list[int] = []
    try:
        wait_for(lambda: run.poll() is not None or all(file.exists() and file.read_text() for file in files))
        workers = [int(file.read_text()) for file in files]
        run.send_signal(signalled)
        _, err = run.communicate(timeout=30)
        wait_for(lambda: not any(map(is_running, workers)))
    finally:
        run.kill()
        for worker in filter(is_running, workers):
            os.kill(worker, signal.SIGKILL)
    assert ("KeyboardInterrupt" in err) == (signalled == signal.SIGTERM)
    assert not (backbone / "cells").exists()


def wait_for(what: Callable[[], bool]) -> None:
    # On a busy machine three processes that import torch have taken a minute.
    until = time.monotonic() + 180
    while not what():
        assert time.monotonic() < until
        time.sleep(0.05)


def is_running(process: int) -> bool:
    try:
        # A zombie has ended; where nothing collects orphans it stays in the list.
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_sigterm_does_again_what_it_did_before(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGTERM)
    forked(monkeypatch, cells.run_job)
    cells.run(jobs_of(backbone, ["dice"], (1,)), 2)
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.parametrize(
    "content",
    [
        b'{"head": "den',
        b"\xff\xfe\x00garbage",
        b"[]",
        b"{}",
        b'{"head": ["dense"], "budget": 0, "seed": 0, "failed": "x"}',
        b'{"head": "dense", "budget": "0", "seed": 0, "failed": "x"}',
        b'{"head": "dense", "budget": 0, "seed": 0}',
        b'{"head": "dense", "budget": 0, "seed": 0, "top1": "90"}',
        b'{"head": "dense", "budget": 0, "seed": 0, "failed": null}',
    ],
)
def test_a_damaged_cell_is_named(backbone: Path, content: bytes) -> None:
    cells.run(jobs_of(backbone, ["dense"]))
    (backbone / "cells" / "dense-0-0.json").write_bytes(content)
    for heads in (["dense"], ["dice"]):
        with pytest.raises(InputError, match=r"dense-0-0\.json: damaged"):
            jobs_of(backbone, heads)
    with pytest.raises(InputError, match=r"dense-0-0\.json: damaged"):
        cells.load_cells(backbone / "cells", backbone / "features")


@pytest.mark.parametrize("left", [None, 0, 100, -1])
def test_a_cell_without_its_weights_is_computed_again(backbone: Path, left: int | None) -> None:
    cells.run(jobs_of(backbone, ["dense", "dice"]))
    weights = backbone / "cells" / "dense-0-0.safetensors"
    whole = weights.read_bytes()
    weights.unlink()
    if left is not None:
        weights.write_bytes(whole[:left])
    with pytest.raises(InputError, match=r"^[^\n]*dense-0-0\.safetensors: missing or damaged[^\n]*$"):
        load_head(weights.with_suffix(".json"))
    jobs = jobs_of(backbone, ["dense", "dice"])
    assert [job.head for job in jobs] == ["dense"]
    cells.run(jobs)
    assert weights.read_bytes() == whole


def test_a_cell_that_lost_its_weights_and_fails_is_no_finished_one(backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("no luck")

    cells.run(jobs_of(backbone, ["dense"]))
    weights = backbone / "cells" / "dense-0-0.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1])
    monkeypatch.setitem(HEADS, "dense", replace(HEADS["dense"], fit=fails))
    cells.run(jobs_of(backbone, ["dense"]))
    assert [cell.reason for cell in cells.load_cells(backbone / "cells", backbone / "features")] == ["RuntimeError: no luck"]
    with pytest.raises(InputError, match="no finished cell"):
        load_head(backbone / "cells" / "dense-0-0.json")


def other_weights(model: ResNet, images: ImageTensors) -> None:
    with torch.no_grad():
        model.conv1.weight += 1


def other_images(model: ResNet, images: ImageTensors) -> None:
    images.images[0] += 1


def other_preprocessing(model: ResNet, images: ImageTensors) -> None:
    model.preprocessing = replace(model.preprocessing, mean=(0, 0, 0))


@pytest.mark.parametrize("split", ["train", "val"])
@pytest.mark.parametrize("change", [other_weights, other_images, other_preprocessing])
@pytest.mark.parametrize("fails", [False, True])
def test_cells_of_other_features_are_refused(
    backbone: Path,
    model: ResNet,
    images: ImageTensors,
    change: Callable[[ResNet, ImageTensors], None],
    split: str,
    fails: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Whether they are asked for or not: all of a folder's cells stand in one table."""
    if fails:
        monkeypatch.setitem(HEADS, "dense", replace(HEADS["dense"], fit=broken))
    cells.run(jobs_of(backbone, ["dense"]))
    shutil.rmtree(backbone / "features" / split)
    change(model, images)
    cache_features(model, images, backbone / "features" / split)
    for heads in (["dense"], ["magnitude"]):
        with pytest.raises(
            InputError, match=r"dense-0-0\.json: made of other features .* give another --out, or take the folder"
        ):
            jobs_of(backbone, heads)
    with pytest.raises(InputError, match=r"dense-0-0\.json: made of other features"):
        cells.load_cells(backbone / "cells", backbone / "features")


def test_the_same_features_made_again_keep_their_cells(backbone: Path, model: ResNet, images: ImageTensors) -> None:
    cells.run(jobs_of(backbone, ["dense"]))
    for split in ("train", "val"):
        shutil.rmtree(backbone / "features" / split)
        cache_features(model, images, backbone / "features" / split)
    assert jobs_of(backbone, ["dense"]) == []


def test_cells_of_a_network_that_differed_by_its_code_alone_are_refused(
    backbone: Path, model: ResNet, images: ImageTensors, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its features were refused, and taken away as the refusal says: the cells are still of the old ones."""
    cells.run(jobs_of(backbone, ["dense"]))
    shutil.rmtree(backbone / "features")
    monkeypatch.setattr(ResNet, "features", lambda self, x, real=ResNet.features: real(self, x).square())
    for split in ("train", "val"):
        cache_features(model, images, backbone / "features" / split)
    with pytest.raises(InputError, match=r"dense-0-0\.json: made of other features .* the network's code"):
        jobs_of(backbone, ["dense"])


def test_an_unknown_head_is_refused(backbone: Path) -> None:
    with pytest.raises(InputError, match="heads: 'nonsense' is unknown"):
        jobs_of(backbone, ["nonsense"])


def test_an_estimate_grows_with_the_work(backbone: Path) -> None:
    assert cells.estimate(jobs_of(backbone, ["dice"])) > 0
    assert cells.estimate([]) == 0


def test_the_path_needs_no_seed(features: Features) -> None:
    a, b = (next(elastic_net.fit(features.x, features.labels, 3, [2], seed)) for seed in (0, 1))
    assert torch.equal(a.head.get_parameter("weight"), b.head.get_parameter("weight"))
