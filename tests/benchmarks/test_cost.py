"""The runner of benchmarks/cost: it times what is right, once or in turns, and refuses what is wrong."""

import importlib
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from benchmarks.cost import interpretable_sgd, runner
from benchmarks.cost.suite import Suite

ROOT = Path(__file__).parents[2]
RESULTS = sorted(path.stem for path in (ROOT / "benchmarks" / "results").glob("*.py") if "def main" in path.read_text())


def toy(**changes: object) -> Suite:
    suite = Suite(
        about="a toy",
        cases=["one"],
        ways=lambda case: ("first", "second", "slow"),
        make=lambda case, way: lambda: len(way) * bytes(10**7).count(0),
        check=lambda case: None,
        once=frozenset({"slow"}),
        notes=lambda case, way, seconds, result: f"{result:.0e}",
        pairs=3,
    )
    return replace(suite, **changes)  # type: ignore[arg-type]


def test_a_way_is_held_against_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "load", lambda name: toy())
    first, second, slow = runner.measure("toy", "one", pairs=3)
    assert (first["ratio"], first["rounds"], first["notes"]) == (1, 3, "5e+07")
    low, high = second["interval"]
    assert low <= second["ratio"] <= high
    assert slow["rounds"] == 1
    assert "interval" not in slow
    assert runner.line(first).startswith("| one | first | ")


def test_quick_leaves_slow_ways_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner, "load", lambda name: toy())
    assert [row["way"] for row in runner.measure("toy", "one", pairs=1, quick=True)] == ["first", "second"]


def test_what_is_wrong_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    def wrong(case: str) -> None:
        raise AssertionError

    monkeypatch.setattr(runner, "load", lambda name: toy(check=wrong))
    with pytest.raises(AssertionError):
        runner.measure("toy", "one", pairs=1)


def test_memory_is_compared_with_the_first() -> None:
    rows = runner.compared([{"way": "a", "bytes": 50}, {"way": "b", "bytes": 75}, {"way": "c"}])
    assert [row.get("bytes_ratio") for row in rows] == [1, 1.5, None]


@pytest.mark.parametrize("name", runner.names())
def test_suites_say_what_they_are(name: str) -> None:
    suite = runner.load(name)
    assert suite.about
    assert suite.cases or suite.with_data
    assert len({str(case) for case in suite.cases}) == len(suite.cases)
    for case in suite.cases:
        assert suite.ways(case)[0] not in suite.once, "the yardstick takes its turns"


def test_a_case_from_the_command_line() -> None:
    command = [sys.executable, "-m", "benchmarks.cost", "interpretable_sgd", "--only", "10 ", "head", "--pairs", "1", "--quick"]
    table = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout.splitlines()
    assert [line.split("|")[2].strip() for line in table[2:]] == list(interpretable_sgd.KINDS)


@pytest.mark.parametrize("name", ["cost.beside_netdissect", "cost.beside_glm_saga", *(f"results.{name}" for name in RESULTS)])
def test_scripts_explain_themselves(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit, match="0"):
        importlib.import_module(f"benchmarks.{name}").main()
    assert f"python -m benchmarks.{name} " in capsys.readouterr().out
