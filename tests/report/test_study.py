"""The human study: a page without answers, the questions, and the answers apart."""

import csv
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from dynamick.errors import InputError
from dynamick.report.study import Question, score, write_study

PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010806000000"
    + "1f15c4890000000d49444154789c6300010000000500010d0a2db40000000049454e44ae426082"
)
HOSTILE = "<script>alert(1)</script>"


def questions() -> list[Question]:
    return [
        Question(1, PIXEL, ["+ grass", "- wall"], ["dog", HOSTILE, "cat", "car"], 2),
        Question(2, PIXEL, [], ["dog", "=1+1", "cat", "car"], 1),
    ]


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.text += data


def rows(path: Path) -> list[list[str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def test_the_page_asks_and_does_not_tell(tmp_path: Path) -> None:
    page, asked, answers = write_study(questions(), tmp_path / "study.html")
    html = page.read_text()
    seen = Page(html)
    radios = [attributes for tag, attributes in seen.tags if tag == "input"]
    assert [(each["name"], each["value"]) for each in radios] == [(str(n), letter) for n in (1, 2) for letter in "ABCD"]
    assert not any("checked" in each for each in radios)
    assert "+ grass" in seen.text
    # One page however the questions are answered: nothing in it depends on the answers.
    others = [Question(q.number, q.image, q.concepts, q.choices, 0) for q in questions()]
    assert write_study(others, tmp_path / "other.html")[0].read_text() == html
    assert rows(asked) == [
        ["question", "concepts", "A", "B", "C", "D"],
        ["1", "'+ grass; - wall", "dog", HOSTILE, "cat", "car"],
        ["2", "", "dog", "'=1+1", "cat", "car"],
    ]
    assert rows(answers) == [["question", "answer", "class"], ["1", "C", "cat"], ["2", "B", "'=1+1"]]


def test_names_stay_text_and_nothing_is_fetched(tmp_path: Path) -> None:
    html = write_study(questions(), tmp_path / "study.html", title=HOSTILE)[0].read_text()
    seen = Page(html)
    assert [tag for tag, _ in seen.tags].count("script") == 1
    assert HOSTILE not in html
    links = [value for _, attributes in seen.tags for name, value in attributes.items() if name in ("src", "href")]
    assert links
    assert all(str(link).startswith("data:") for link in links)
    assert all(attributes.get("alt") for tag, attributes in seen.tags if tag == "img")


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_people_can_use_the_page(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    browser.show(write_study(questions(), tmp_path / "study.html")[0], width, scheme)
    assert browser.violations() == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    answer = browser.find_element("css selector", "input[name='2'][value='B']")
    browser.execute_script("arguments[0].scrollIntoView({block: 'center'})", answer)
    answer.click()
    assert browser.find_element("id", "progress").text == "1 of 2 answered"


def test_a_readers_answers_are_scored(tmp_path: Path) -> None:
    answers = write_study(questions(), tmp_path / "study.html")[2].read_text()
    assert score("question,answer\r\n1,C\r\n2,A\r\n", answers) == (1, 2)
    assert score("question,answer\r\n", answers) == (0, 2)
    assert score("\ufeffquestion,answer\r\n1,C\r\n", answers) == (1, 2)
    with pytest.raises(InputError, match="columns"):
        score("a,b\r\n1,2\r\n", answers)


def test_a_study_needs_questions(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="0 given"):
        write_study([], tmp_path / "study.html")
    assert list(tmp_path.iterdir()) == []
