"""The table: means and deviations over the right cells, and a verdict over the same networks."""

import csv
from pathlib import Path

import pytest

from dynamick.comparison import table
from dynamick.comparison.cell import FIGURES, Cell, FailedCell


def cell(head: str, budget: int, top1: float, seed: int = 0, **figures: float | None) -> Cell:
    return Cell(head, budget, seed, "", {**dict.fromkeys(FIGURES, 1.0), "top1": top1, **figures})


def test_rows_average_heads_then_backbones() -> None:
    """Seeds of heads on one backbone are no independent trainings: the deviation is over backbones where there are several."""
    given = [("res8", "res8-0", cell("dice", 5, top1, seed)) for seed, top1 in enumerate((80.0, 82.0, 84.0))]
    given += [("res8", "res8-1", cell("dice", 5, 88.0)), ("res8-d5a", "res8-d5a-0", cell("dice", 5, 50.0))]
    found = {row["backbone"]: row for row in table.rows(given)}
    assert (found["res8"]["top1"], found["res8"]["cells"]) == (85.0, 4)
    assert found["res8"]["top1_std"] == pytest.approx(18**0.5)
    assert found["res8-d5a"]["top1_std"] is None
    alone = table.rows(given[:3])[0]
    assert (alone["top1"], alone["top1_std"]) == (82.0, 2.0)


def test_the_most_is_the_worst_and_what_is_missing_is_left_out() -> None:
    a = cell("dice", 5, 80.0, max_per_class=9, n98=None)
    row = table.rows([("res8", "res8-0", a), ("res8", "res8-1", cell("dice", 5, 80.0, 1, max_per_class=5, n98=4))])[0]
    assert (row["max_per_class"], row["n98"]) == (9, 4)
    lacking = table.rows([("res8", "res8-0", a)])
    assert "| none |" in table.as_markdown(lacking)


def test_the_average_leaves_one_out() -> None:
    budgets = (1, 5, 10, 15, 20, 25, 30)
    rows = table.rows(("res8", "res8-0", cell("dice", budget, float(budget))) for budget in budgets)
    assert [each["top1"] for each in table.averages(rows)] == [105 / 6]
    assert table.averages(rows[:-1]) == []


@pytest.mark.parametrize(
    ("static", "path", "dense", "met"),
    [
        (90.0, 85.0, 90.2, True),
        (86.9, 85.0, 90.0, False),
        (89.9, 89.7, 90.0, True),
        (89.8, 89.7, 90.1, False),
        (80.5, 80.0, 81.5, False),
    ],
)
def test_the_verdict_is_the_goal_as_written(static: float, path: float, dense: float, met: bool) -> None:
    given = [cell("dynamic-static", 5, static), cell("elastic-net", 5, path), cell("dense", 0, dense)]
    rows = table.rows(("res8", "res8-0", each) for each in given)
    assert [each["met"] for each in table.verdict(rows)] == [met]
    assert ("missed", "met")[met] in table.verdict_lines(rows)[-1]


def failed(head: str, budget: int, seed: int = 0) -> FailedCell:
    return FailedCell(head, budget, seed, "", "boom")


def test_the_verdict_is_over_the_networks_that_have_all_its_heads() -> None:
    """The second network, on which everything is worse, lacks the deployed head; its path and dense head do not count."""
    given = [("n0", cell("dense", 0, 90.0)), ("n0", cell("elastic-net", 5, 85.0)), ("n0", cell("dynamic-static", 5, 86.0))]
    given += [("n0", cell("elastic-net-tuned", 5, 88.0)), ("n1", cell("dense", 0, 70.0)), ("n1", cell("elastic-net", 5, 60.0))]
    given += [("n1", failed("dynamic-static", 5))]
    rows = table.rows(("res8", name, each) for name, each in given)
    (found,) = table.verdict(rows)
    assert (found["static"], found["path"], found["tuned"], found["dense"]) == (86, 85, 88, 90)
    assert (found["ahead"], found["behind"], found["met"]) == (1, 4, False)
    assert "- res8 (1 of 2 networks): Dynamic-K static 86.00 %, elastic-net path 85.00 (88.00 fine-tuned) %" in (
        table.as_markdown(rows)
    )
    # No network has all three.
    apart = [("n0", cell("dense", 0, 90.0)), ("n0", cell("elastic-net", 5, 85.0)), ("n1", cell("dynamic-static", 5, 86.0))]
    assert table.verdict(table.rows(("res8", *each) for each in apart)) == []


def test_the_verdict_without_fine_tuning_on_one_network_gives_none() -> None:
    given = [cell("dense", 0, 90.0), cell("elastic-net", 5, 85.0), cell("dynamic-static", 5, 89.8)]
    both = [("res8", name, each) for name in ("n0", "n1") for each in given]
    (found,) = table.verdict(table.rows([*both, ("res8", "n1", cell("elastic-net-tuned", 5, 60.0))]))
    assert found["tuned"] is None
    assert found["met"]
    assert " networks)" not in table.verdict_lines(table.rows(both))[-1]


def test_the_average_is_over_the_networks_that_have_all_budgets() -> None:
    budgets = (5, 10, 15, 20, 25, 30)
    given = [("res8", "n0", cell("dice", budget, 80.0)) for budget in budgets]
    given += [("res8", "n1", cell("dice", budget, 60.0)) for budget in budgets[1:]]
    rows = table.rows([*given, ("res8", "n1", failed("dice", 5))])
    assert [each["top1"] for each in table.averages(rows)] == [80.0]
    assert "| DICE (1 of 2 networks) | mean of 5 to 30 | 80.00 |" in table.as_markdown(rows)
    # Each network lacks one budget.
    assert table.averages(table.rows(given[1:])) == []


def test_a_row_that_lacks_cells_says_so_and_names_the_failures(tmp_path: Path) -> None:
    given = [("n0", cell("dice", 5, 80.0)), ("n1", failed("dice", 5)), ("n2", cell("dense", 0, 90.0))]
    given += [("n0", cell("dynamic-static", 5, 70.0, 1)), ("n0", failed("dynamic-static", 5, 2))]
    rows = table.rows(("res8", name, each) for name, each in given)
    text = table.as_markdown(rows)
    assert "| DICE (1 of 3 cells) | 5 | 80.00 |" in text
    assert "exchanged, fine-tuned) (1 of 4 cells) | 5 | 70.00 |" in text
    assert "- DICE, 5: failed: n1, seed 0: boom" in text
    assert "fine-tuned), 5: failed: n0, seed 2: boom" in text
    table.write(rows, [], tmp_path)
    with (tmp_path / "table.csv").open() as file:
        assert [row["lacking"] for row in csv.DictReader(file)] == ["2", "2", "3"]


def test_one_network_of_several_has_no_deviation() -> None:
    """The others' deviations are over networks; that of one network's seeds is another figure."""
    given = [("res8", "n0", cell("dynamic-static", 5, top1, seed)) for seed, top1 in enumerate((70.0, 80.0))]
    row = table.rows([*given, ("res8", "n1", failed("dynamic-static", 5))])[0]
    assert (row["top1"], row["top1_std"]) == (75.0, None)
