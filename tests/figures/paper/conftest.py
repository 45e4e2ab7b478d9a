"""Runs whose networks and figures are known: 16 units, each of which detects a concept of its own."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynamick import models
from dynamick.dissection import Dissection
from dynamick.figures.runs import Run
from dynamick.training.recipe import Recipe


@pytest.fixture
def known_run(tmp_path: Path, tally: Callable[[Path, float], None]) -> Callable[..., Run]:
    def known_run(model: str, top1: float, sparse: float, score: float = 0.05) -> Run:
        """A finished run with these last figures, whose units have this score."""
        tally(tmp_path / "tally.csv", score)
        name = models.parse(model)
        torch.manual_seed(0)
        return Run(
            folder=tmp_path,
            model=model,
            head=name.label,
            k=name.routed,
            depth=name.depth,
            recipe=Recipe(model=model, width=4),
            network=models.create(model, 3, "cifar", 4, classes=["a", "b", "c"]),
            history=[{"epoch": epoch, "top1": top1 - 2 + epoch, "sparse_share": sparse} for epoch in (1.0, 2.0)],
            units=Dissection.read_tally(tmp_path / "tally.csv"),
        )

    return known_run
