import base64
import io
import math
import re
import subprocess
import sys
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from dynamick.errors import InputError
from dynamick.report import figures, training
from dynamick.report.training import Comparison, Decision, Run, Section

EVIL = "<script>alert(1)</script>"
VOID = {"meta", "br", "img", "link", "input", "hr", "col", "wbr"}


class Page(HTMLParser):
    """What a browser would find: tags with their attributes, the text inside each kind of tag, and whether all tags close."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.texts: dict[str, list[str]] = {}
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)
            self.texts.setdefault(tag, []).append("")

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        for tag in set(self.open):
            self.texts[tag][-1] += data

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]


def run(name="res8-d5a", title="Dynamic-5", accuracy=98.4, weights=2.0, head=None, **changes) -> Run:
    weight = np.array([[0.9, 0, 0, -0.3], [0, 0.5, 0.2, 0], [0, 0, 0, 0.0004]]) if head is None else head
    history = {
        "epoch": [1, 2, 3],
        "top1": [60.0, 90.0, accuracy],
        "train_loss": [1.0, 0.5, 0.2],
        "val_loss": [1.1, 0.6, 0.3],
        "sparse_share": [0.0, 0.4, 0.6],
        "weights_per_class": [4.0, 3.0, weights],
        "routed_units": [4.0, 4.0, 2.0],
        "dead_units": [0.0, 0.0, 1.0],
    }
    found = Run(name, title, accuracy, weights, 2, 2.0, 12.3, history, weight)
    return replace(found, **changes)


def comparison(**changes) -> Comparison:
    dense = run("res8", "Dense", 98.6, 4.0, np.full((3, 4), 0.1))
    l1 = run("res8-l1", "L1", 98.0, 3.0)
    found = Comparison(
        title="Three heads",
        dataset="scenes",
        classes=["laptop", "TV", EVIL],
        runs=[dense, l1, run(extra={"mean IoU": 0.0832, "parts found": "9 of 12"})],
        parts=["keyboard", "screen"],
        part_table=np.array([[True, True], [False, True], [False, False]]),
        unit_names={"res8-d5a": ["Keyboard", "screen", "", "screen"]},
        sections=[Section("Dissection", "<p id='ours'>trusted</p>", "by IoU & more")],
        command="dynamick demo",
        machine="two cores",
    )
    return replace(found, **changes)


@pytest.fixture(scope="module")
def text() -> str:
    return training.page(comparison())


def test_the_page_asks_for_nothing_from_outside(text):
    page = Page(text)
    assert not page.open
    assert "http" not in text.replace("http-equiv", "")
    assert "@import" not in text
    assert "url(" not in text.replace("url(#", "")
    links = [value for _, attrs in page.tags for key, value in attrs.items() if key.split(":")[-1] in ("href", "src")]
    assert links
    assert all(value.startswith(("#", "data:")) for value in links)
    assert not page.all("script")
    assert len(text) < 1_000_000
    policy = next(attrs["content"] for attrs in page.all("meta") if attrs.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none'")


def test_names_are_escaped_and_trusted_sections_are_not(text):
    page = Page(text)
    assert EVIL not in text
    assert EVIL in page.texts["th"]  # shown as it is written
    assert {"id": "ours"} in page.all("p")
    assert "by IoU & more" in page.texts["p"]


def test_every_name_is_escaped_wherever_it_appears():
    evil = comparison(
        title=EVIL,
        dataset=EVIL,
        runs=[run(title=EVIL, extra={EVIL: EVIL})],
        parts=[EVIL, "screen"],
        unit_names={"res8-d5a": [EVIL] * 4},
        sections=[Section(EVIL, "", EVIL)],
        command=EVIL,
        machine=EVIL,
    )
    page = Page(training.page(evil))
    assert not page.all("script")
    assert not page.open
    for tag in ("title", "h1", "h2", "code", "dd", "summary", "li", "th", "td", "text"):
        assert any(EVIL[:12] in found for found in page.texts[tag]), tag


def test_figures_are_there_and_described(text):
    page = Page(text)
    labels = [attrs["aria-label"] for attrs in page.all("svg")]
    assert len(labels) == 2 + 4 + 3 + 1  # training, sparsity, one image a head, the tables
    assert labels[0] == "Line chart, Top-1 accuracy in percent over epochs. At the end: Dense 98.6, L1 98, Dynamic-5 98.4."
    # Other than the units in use by their weights, of explanations.html.
    assert any(label.startswith("Line chart, Units routed for no validation image over epochs.") for label in labels)
    assert any(label.startswith("Head weights of Dynamic-5: 3 classes by 4 units, of which 4 carry") for label in labels)
    assert all(attrs["role"] == "img" and attrs["viewbox"] for attrs in page.all("svg"))
    assert len(page.all("image")) == 3 + 2
    ids = [attrs["id"] for _, attrs in page.tags if attrs.get("id")]
    assert len(ids) == len(set(ids))
    assert not any(colour in text for colour in figures._VARIABLES)  # all became variables of the page


def test_the_tables_figures(text):
    page = Page(text)
    cells = page.texts["td"]
    assert cells[:5] == ["98.60", "4.0", "2", "2.0", "12"]
    assert {"0.083", "9 of 12", "–", "keyboard, screen"} <= set(cells)
    chips = [" ".join(chip.split()) for chip in page.texts["li"]]
    first = ["98.4 %right answersDense: 98.6 %", "2.0 of 4weights a classDense: 4.0"]
    assert chips[:2] == first
    chips = chips[4:]
    # The sparsest head comes first. "Keyboard" is a part of the laptop; "screen" speaks against it, so it confirms nothing.
    assert chips[:4] == ["Keyboard ✓ +0.90", "screen −0.30", "screen ✓ +0.50", "unit 3 +0.20"]
    shown = training.table(comparison()).splitlines()
    assert " ".join(shown[0].split()) == "head accuracy weights/class most routed/input seconds mean IoU parts found"
    assert " ".join(shown[-1].split()) == "Dynamic-5 98.40 2.0 2 2.0 12 0.083 9 of 12"
    assert len({len(line) for line in shown}) == 1


def test_the_first_screen_has_a_decision_and_the_way_to_all():
    pixels = np.zeros((8, 8, 3), np.uint8)
    said = "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing"
    made = Decision(
        said,
        pixels,
        None,
        [("wing", "70 %", 0.7), ("wheel", "30 %", 0.3)],
        "explanations.html#image=3",
        "explanations.html",
        50,
        [pixels] * 6,
    )
    meanings, remarks = {"mean IoU": "how well units match"}, ["L1 has dashes: it is not dissected."]
    page = Page(training.page(comparison(decision=made, meanings=meanings, remarks=remarks)))
    assert [attrs["href"] for attrs in page.all("a")] == ["explanations.html#image=3", "explanations.html"]
    assert len(page.all("img")) == 1 + 6
    assert {said, *remarks} <= {text.replace("\xa0", " ") for text in page.texts["p"]}
    assert "how well units match" in page.texts["dd"]
    # Every column is explained where it stands.
    columns = {column.split("\n")[0] for column in page.texts["th"]}
    assert {"accuracy", "weights/class", "most", "routed/input", "seconds", "mean IoU"} <= set(page.texts["dt"]), columns


def test_the_text_table_fits_a_terminal():
    names = ["mean IoU", "detectors", "parts found", "parts: precision", "parts: recall", "heat: precision", "heat: recall"]
    wide = comparison(runs=[run(extra=dict.fromkeys(names, "0.123"))])
    lines = training.table(wide).splitlines()
    assert max(map(len, lines)) <= 100
    assert sum(line.startswith("Dynamic-5") for line in lines) == 2
    assert all(name in "".join(lines) for name in names)


@pytest.mark.parametrize(
    ("accuracy", "words"),
    [
        (98.4, "Dynamic-5 keeps the accuracy of Dense (98.4 % against 98.6 %) with 2.0 of 4 weights per class instead of 4.0."),
        (90.1, "Dynamic-5 falls 8.5 points behind Dense (90.1 % against 98.6 %)"),
        (99.9, "Dynamic-5 is 1.3 points more accurate than Dense"),
        (math.nan, "Dynamic-5 cannot be compared with Dense (– against 98.6 %)"),
    ],
)
def test_the_finding_in_words(accuracy, words):
    pair = comparison(runs=[run("res8", "Dense", 98.6, 4.0), run(accuracy=accuracy)])
    assert training.finding(pair).startswith(words)


def test_the_focus_is_the_sparsest_head_within_one_point():
    dense, near, far = run("a", "Dense", 98.6, 4.0), run("b", "L1", 98.0, 3.0), run("c", "Dynamic-1", 90.0, 1.0)
    assert training.focus_run([near, far, dense]) is near
    assert training.focus_run([far, dense]) is far
    assert training.focus_run([dense]) is dense
    assert "Dynamic-1 reaches 90.0 % with 1.0 weights per class." in training.finding(comparison(runs=[dense, near, far]))


def test_one_run_without_parts_names_and_history():
    alone = comparison(
        runs=[run(history={})], parts=None, part_table=None, unit_names=None, sections=[], command="", machine=""
    )
    page = Page(training.page(alone))
    assert len(page.all("svg")) == 1
    assert "Dynamic-5 reaches 98.4 % with 2.0 of 4 weights per class." in page.texts["p"]
    assert not any("true parts" in found for found in page.texts["th"])


@pytest.mark.filterwarnings("error")
def test_figures_that_are_not_numbers():
    nan, history = (
        math.nan,
        {"epoch": [1], "top1": [math.nan], "val_loss": [], "sparse_share": [0.5], "dead_units": [0.0]},
    )
    odd = run(
        "x", "Odd", nan, nan, np.full((3, 4), nan), routed=math.inf, seconds=nan, weights_per_class_max=0, history=history
    )
    both = comparison(runs=[odd, run("y", "Empty", head=np.zeros((3, 4)), history={"top1": [1.0, nan, 3.0]})])
    text = training.page(both)
    assert not re.search(r"\b(nan|inf)\b", re.sub(r"data:[^\"]*", "", text), re.IGNORECASE)
    assert training.table(both).splitlines()[2].split() == ["Odd", "–", "–", "0", "–", "–"]
    assert not Page(text).open


@pytest.mark.filterwarnings("error")
def test_names_that_are_no_formulas_and_many_classes(tmp_path):
    names = ["$\\frac{$", "_hidden", "猫", "a" * 400, "\ud800"] + [f"class {n}" for n in range(60)]
    weight = np.eye(65, 70)
    big = comparison(
        classes=names, runs=[run("x", "_under", head=weight)], parts=["p"], part_table=np.ones((65, 1), bool), unit_names=None
    )
    training.write(big, tmp_path / "report.html")  # "\ud800" alone cannot be encoded; it must not cost the page
    page = Page((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert {"$\\frac{$", "_hidden", "猫", "a" * 400} <= set(page.texts["th"])
    small = comparison(classes=["$\\frac{$", "_hidden", "猫"], unit_names={"res8-d5a": ["$x", "猫", "_", "^"]})
    assert "$\\frac{$" in Page(training.page(small)).texts["text"]


def test_units_are_sorted_by_the_class_that_uses_them_most():
    weight = np.array([[0.1, 0.0, 0.9, 0.0, np.nan], [0.5, 0.0005, 0.0, -2.0, 0.0]])
    assert figures.unit_order(weight).tolist() == [2, 3, 0, 1, 4]
    assert figures.weight_scale([weight, np.zeros((2, 5))]) == pytest.approx(np.quantile([0.1, 0.5, 0.9, 2.0], 0.98))
    assert figures.weight_scale([np.zeros((2, 5))]) == 1


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"runs": []}, "it has no run"),
        ({"classes": ["one"]}, "run res8: head_weight has shape (3, 4)"),
        ({"parts": None}, "belong together"),
        ({"part_table": np.ones((2, 2), bool)}, "part_table: shape (2, 2)"),
        ({"unit_names": {"res8": ["one"]}}, "run res8: 1 unit names; its head has 4 units"),
    ],
)
def test_figures_that_do_not_fit_are_refused(changes, words, tmp_path):
    with pytest.raises(InputError) as caught:
        training.write(comparison(**changes), tmp_path / "report.html")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_writing_is_whole_or_not_at_all(tmp_path, monkeypatch):
    path = tmp_path / "new" / "report.html"
    training.write(comparison(), path)
    before = path.read_text(encoding="utf-8")
    assert before == training.page(comparison())  # and the same figures give the same page

    def full(self, *_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(type(path), "replace", full)
    with pytest.raises(OSError, match="No space left"):
        training.write(comparison(title="another"), path)
    assert path.read_text(encoding="utf-8") == before
    assert [found.name for found in path.parent.iterdir()] == ["report.html"]


def test_a_newer_page_replaces_the_older(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("older")
    training.write(comparison(), path)
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_importing_the_report_loads_no_plotting():
    code = "import sys, dynamick.report.training; print([m for m in ('matplotlib', 'jinja2', 'lightning') if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "[]"


@pytest.mark.browser
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (390, "dark")])
def test_people_can_use_the_page(browser, tmp_path, width, scheme):
    # As many columns as the demo's table has.
    names = ["mean IoU", "detectors", "parts found", "parts: precision", "parts: recall", "heat: precision", "heat: recall"]
    runs = [replace(each, extra=dict.fromkeys([*names, "heat on parts"], "0.123")) for each in comparison().runs]
    training.write(comparison(runs=runs), tmp_path / "page.html")
    pypdf = pytest.importorskip("pypdf")
    browser.show(tmp_path / "page.html", width, scheme)
    assert browser.violations() == []
    assert browser.execute_script("return document.documentElement.scrollWidth") <= width
    if width == 1280:
        assert (
            browser.execute_script("const box = document.querySelector('.scroll'); return box.scrollWidth - box.clientWidth")
            == 0
        ), "the table fits"
        printed = browser.execute_cdp_cmd("Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69})["data"]
        sheets = pypdf.PdfReader(io.BytesIO(base64.b64decode(printed))).pages
        assert " ".join("".join(sheet.extract_text() for sheet in sheets).split()).count("0.123") >= 8 * len(runs), (
            "nothing is cut"
        )
