"""How a long run shows how far it is: on a terminal, and in a file."""

import io
import sys

import pytest

from dynamick import progress
from dynamick.durations import in_words


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def shown_on(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch, show: bool = True) -> str:
    monkeypatch.setattr(sys, "stderr", stream)
    with progress.bar("counts", 100, done=10, show=show) as bar:
        for _ in range(45):
            bar.update(2)
    return stream.getvalue()


def test_it_is_one_line_on_a_terminal_and_few_lines_in_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    times = (number / 4 for number in range(1000))
    monkeypatch.setattr("tqdm.std.time", lambda: next(times))
    on_terminal, in_file = (shown_on(stream, monkeypatch) for stream in (Terminal(), io.StringIO()))
    assert on_terminal.count("\r") > 5
    assert on_terminal.count("\n") == 1
    assert "\r" not in in_file
    assert in_file.count("\n") == 2
    for text in (on_terminal, in_file):
        assert text.endswith("\n")
        last = text.replace("\r", "\n").strip().splitlines()[-1]
        assert last.startswith("counts: ")
        assert "100/100" in last
        assert "images/s" in last


def test_a_short_run_leaves_one_line_in_a_file_and_a_failed_one_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on(io.StringIO(), monkeypatch).count("\n") == 1
    failed = io.StringIO()
    monkeypatch.setattr(sys, "stderr", failed)
    with pytest.raises(ZeroDivisionError), progress.bar("counts", 100):
        1 / 0  # noqa: B018
    assert failed.getvalue() == ""


def test_nothing_is_shown_where_it_is_not_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert shown_on(Terminal(), monkeypatch, show=False) == shown_on(io.StringIO(), monkeypatch, show=False) == ""


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0.2, "a few seconds"),
        (20.4, "about 20 seconds"),
        (89, "about 89 seconds"),
        (90, "about 2 minutes"),
        (7000, "about 2 hours"),
    ],
)
def test_a_time_in_words(seconds: float, words: str) -> None:
    assert in_words(seconds) == words
