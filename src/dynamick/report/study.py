"""A study with human readers: one HTML page, and two CSV files for the questions and for the answers."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamick import report
from dynamick.errors import InputError

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True)
class Question:
    """Which of these did the network answer?

    Attributes:
        number: from 1.
        image: PNG bytes.
        concepts: what the network saw, signed: "+ grass", most telling first.
        choices: class names, at most 26, in the order shown.
        answer: the position of the network's answer among them.
    """

    number: int
    image: bytes
    concepts: list[str]
    choices: list[str]
    answer: int


def write_study(questions: Sequence[Question], page: str | Path, title: str = "What did the network answer?") -> list[Path]:
    """Write PAGE.html, PAGE.csv (the questions) and PAGE-answers.csv (only here are the answers).

    The page needs no network and sends nothing: a reader saves the answers given as a CSV file.

    Args:
        questions: at least one.
        page: the page's path; the CSV files lie beside it.
        title: the page's heading.

    Returns:
        The three paths, in this order.

    Raises:
        InputError: there is no question, or one with more choices than letters.
        OSError: a file cannot be written.
    """
    if not questions or max(len(question.choices) for question in questions) > len(LETTERS):
        raise InputError(f"questions: {len(questions)} given; give one or more, each with at most {len(LETTERS)} choices")
    path, asked, answers = files_of(Path(page))
    width = max(len(question.choices) for question in questions)
    report.save(path, render(questions, title))
    rows = [[q.number, _text("; ".join(q.concepts)), *map(_text, q.choices)] for q in questions]
    report.save(asked, _csv(["question", "concepts", *LETTERS[:width]], rows))
    rows = [[q.number, LETTERS[q.answer], _text(q.choices[q.answer])] for q in questions]
    report.save(answers, _csv(["question", "answer", "class"], rows))
    return [path, asked, answers]


def files_of(page: Path) -> list[Path]:
    """What a study writes: its page, and beside it the questions and the answers."""
    return [page, page.with_suffix(".csv"), page.with_name(f"{page.stem}-answers.csv")]


def render(questions: Sequence[Question], title: str) -> str:
    """The page, without the answers."""
    shown = [
        {
            "number": question.number,
            "image": base64.b64encode(question.image).decode(),
            "concepts": question.concepts,
            "choices": list(zip(LETTERS, question.choices, strict=False)),
        }
        for question in questions
    ]
    return report.render("study.html.j2", title=title, questions=shown)


def score(given: str, answers: str) -> tuple[int, int]:
    """How many of a reader's answers are the network's, and of how many asked.

    Args:
        given: the text of the CSV that the page saves (question, answer).
        answers: the text of the answers' CSV.

    Raises:
        InputError: a file without these columns.
    """
    columns = [_answers(text) for text in (given, answers)]
    return sum(columns[0].get(question) == answer for question, answer in columns[1].items()), len(columns[1])


def _csv(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    return text.getvalue()


def _answers(text: str) -> dict[str, str]:
    # Spreadsheets put a mark before the first letter.
    reader = csv.DictReader(io.StringIO(text.removeprefix("\ufeff")))
    if not {"question", "answer"} <= set(reader.fieldnames or ()):
        raise InputError(f"answers: columns {reader.fieldnames}; give a CSV file with question and answer")
    return {row["question"]: row["answer"] for row in reader}


def _text(value: str) -> str:
    """A text that a spreadsheet does not read as a formula: class names come from users' folders."""
    return f"'{value}" if value.startswith(("=", "+", "-", "@", "\t", "\r")) else value
