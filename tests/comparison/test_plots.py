"""The two plots: every head is on its own one, nothing collapses, budget 1 and the mean stand apart."""

import warnings
from pathlib import Path
from typing import Any

import pytest

from dynamick.comparison import plots
from dynamick.comparison.heads import HEADS


def row(backbone: str, head: str, budget: int, top1: float) -> dict[str, Any]:
    axis = HEADS[head].axis
    row = {"backbone": backbone, "head": head, "axis": axis, "budget": budget, "cells": 3, "top1": top1, "top1_std": 0.3}
    return {**row, "each": {"0": top1}, "of": 1}


@pytest.fixture
def table() -> list[dict[str, Any]]:
    """Two backbones; accuracy rises with the budget, and fails altogether at 1."""
    rows = [row(kind, "dense", 0, 83.0) for kind in ("a", "b")]
    for kind in ("a", "b"):
        for head, entry in HEADS.items():
            if entry.axis:
                rows += [row(kind, head, budget, 83 - 50 / budget**2) for budget in (1, 5, 10, 15, 20, 25, 30)]
    return rows


@pytest.mark.parametrize("axis", ["static", "routed"])
def test_every_head_is_drawn_on_its_own_plot(table: list[dict[str, Any]], axis: str) -> None:
    figure = plots.accuracy(table, axis)
    with warnings.catch_warnings():
        # Such as "axes sizes collapsed to zero".
        warnings.simplefilter("error")
        figure.canvas.draw()
    assert len(figure.axes) == 4
    assert all(axes.get_position().width > 0.3 for axes in figure.axes)
    shown = {text.get_text() for text in figure.legends[0].get_texts()}
    assert shown == {"dense"} | {entry.title for entry in HEADS.values() if entry.axis == axis}
    upper, lower = figure.axes[0], figure.axes[2]
    assert upper.get_ylim()[0] < 34
    assert lower.get_ylim() == (82, pytest.approx(83.8))  # with the bar of the best: its deviation is 0.3
    # The published mean is one of static heads.
    assert ("mean of\n5 to 30" in [label.get_text() for label in lower.get_xticklabels()]) == (axis == "static")


def test_backbones_of_different_budgets_share_an_axis_and_what_is_better_than_dense_is_seen(
    table: list[dict[str, Any]],
) -> None:
    fewer = [each for each in table if each["backbone"] == "a" or each["budget"] in (0, 1, 5)]
    fewer.append(row("a", "dynamic-static", 40, 88.0))
    figure = plots.accuracy(fewer, "static")
    figure.canvas.draw()
    for axes in figure.axes[2:]:
        shown = [label.get_text() for label in axes.get_xticklabels()]
        assert shown == ["1", "5", "10", "15", "20", "25", "30", "40", "mean of\n5 to 30"]
    assert figure.axes[2].get_ylim()[1] > 88


def test_few_rows_are_drawn_too(table: list[dict[str, Any]], tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for part in ([], table[:1], [each for each in table if each["head"] == "dice" and each["budget"] == 1]):
            plots.write(part, tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"static.svg", "routed.svg"}
