"""What the explanation page says: the sentence, the groups, the links, the lists, and what comes out on paper."""

import base64
import io
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from selenium.webdriver.support.ui import WebDriverWait

import dynamick as dk
from dynamick.explanation.sentence import Side, sentence
from dynamick.report.explanation import (
    Beside,
    ClassComposition,
    ConceptShare,
    HeadNumbers,
    Instance,
    ModelSummary,
    OtherConcept,
    OtherDecision,
    Page,
    TopImage,
    Unit,
    write_page,
)
from tests.report.page_samples import all_of, click, elements, fill_in, pick, show, text_of

pytestmark = pytest.mark.browser

CLASSES = ["aeroplane", "car", "swimming pool, outdoor"]
LABELS = ["wing", "wing", "wheel", "water", "sky", "road"]
WEIGHT = np.array([[2.0, 1.5, 1.5, 0, 0, 0], [0, 0, 1.2, 0, 0, 3.0], [0, 0, 0, 4.0, 0.4, 0]], "f4")
BIAS = np.array([0.0, -0.6, 0.5], "f4")
# The last two are a car that looks like an aeroplane, and a pool with a road.
INPUTS = np.array(
    [[1, 1, 1, 0, 0.1, 0], [0, 0, 1, 0, 0.1, 2], [0.3, 0, 1, 0, 0, 1], [0.5, 0.5, 0.5, 0, 0, 0], [0, 0, 0, 0.4, 0.2, 1]], "f4"
)
TRUTH = [0, 1, 1, 1, 2]


def example(**changes: Any) -> Page:
    """A head of five named units and one that is not; at most three units a class."""
    logits = np.stack([WEIGHT @ x + BIAS for x in INPUTS])
    noise = np.random.default_rng(0).integers(0, 256, (len(INPUTS), 40, 60, 3), dtype=np.uint8)
    region = np.zeros((8, 8), bool)
    region[2:6, 2:6] = True
    units = [
        Unit(i, label, "part", 0.2 if i != 4 else 0.0396, i != 4, [TopImage(noise[i % 5], region, i % 5)])
        for i, label in enumerate(LABELS)
    ]
    made_of = []
    for name, row in zip(CLASSES, WEIGHT, strict=True):
        concepts = [ConceptShare(LABELS[i], "part", w, w / row.sum(), [(i, float(w))]) for i, w in enumerate(row) if w]
        made_of.append(ClassComposition(name, concepts))
    page = Page(
        title="Traffic, 3 of 5 right",
        model=ModelSummary("res8-d3a", 0.9),
        head=HeadNumbers(WEIGHT, BIAS, "at_most", 3),
        classes=CLASSES,
        instances=[Instance(f"{i}.png", noise[i], x, logits[i], TRUTH[i]) for i, x in enumerate(INPUTS)],
        units=units,
        compositions=made_of,
        raw={"swimming pool, outdoor": "swimming_pool-outdoor-s"},
    )
    return replace(page, **changes)


def opened(browser: Any, tmp_path: Path, at: str = "", **changes: Any) -> None:
    path = write_page(example(**changes), tmp_path / "page.html")
    browser.get("about:blank")
    browser.get(path.as_uri() + at)


def says(browser: Any) -> str:
    return text_of(browser, "#sentence")


def test_the_sentence(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    assert says(browser) == "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing."
    python = sentence(
        Side("aeroplane", 5.0, [("wing", 2.0), ("wing", 1.5), ("wheel", 1.5)]), Side("car", 0.6, [("wheel", 1.2)])
    )
    assert says(browser) == f"{python}.", "the page, the notebook and the terminal say the same"
    click(browser, "[data-key='image-3']")
    assert says(browser) == "aeroplane (wrong: it is car): wing 70 %, wheel 30 %; 2.5 ahead of car, which lacks wing."
    pick(browser, "explained", 1)
    assert says(browser) == "car: wheel 100 %; 2.5 behind aeroplane, which has wing."
    pick(browser, "explained", 2)
    assert says(browser).startswith("swimming pool, outdoor: no unit speaks for it; 2.0 behind aeroplane, which has wing")


def test_the_page_and_python_say_the_same_of_every_image(browser: Any, tmp_path: Path) -> None:
    scenes = dk.data.ComposedScenes("val", 24, image_size=32)
    torch.manual_seed(0)
    model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes).eval()
    with torch.no_grad():
        model.fc.weight *= 30
        model.fc.bias *= 30
    page = dk.explanation.page(model, scenes.images, tmp_path / "page.html", truth=scenes.labels, twin=model)
    explained = [f"{each.said(page.digits)}." for each in dk.explain(model, scenes.images, truth=scenes.labels)]
    browser.show(tmp_path / "page.html")
    each_of = (
        "return instances.map(each => { choose(each.index); return byId(arguments[0]).textContent.replaceAll('\u00a0', ' ') })"
    )
    assert browser.execute_script(each_of, "sentence") == explained
    assert browser.execute_script(each_of, "beside-sentence") == explained


def test_units_of_one_concept_have_one_switch(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    lines = all_of(browser, "#products > li", "each.querySelector('.concept-line').textContent.replaceAll('\u00a0', ' ')")
    assert lines == ["wing+3.570 %", "wheel unit 3+1.530 %"]
    assert all_of(browser, "#products > li:first-child .member-line", "each.textContent") == ["unit 1+2.0", "unit 2+1.5"]
    click(browser, "[data-key='group-wing|part']")
    assert text_of(browser, "#status").startswith("2 units off.")
    assert "wing" not in says(browser)
    click(browser, "#products [data-key='switch-1']")
    state = browser.execute_script(
        "const s = document.querySelector('[data-key=\"group-wing|part\"]'); return [s.checked, s.indeterminate]"
    )
    assert state == [True, True]
    # A unit whose IoU is just too low never reads as one that counts, and stands for itself.
    card = text_of(browser, "#unit-list li[data-unit='4']")
    assert "Closest: sky, IoU 0.0396, too low to count" in card


def test_shown_figures_add_up(browser: Any, tmp_path: Path) -> None:
    """In whole steps of the last digit, whatever rounding would do; and shares to 100 %."""
    rng = np.random.default_rng(3)
    x = rng.random((6, 6)).astype("f4")
    page = example()
    instances = [replace(page.instances[0], x=row, logits=WEIGHT @ row + BIAS, name=f"{i}.png") for i, row in enumerate(x)]
    opened(browser, tmp_path, instances=instances)
    for i in range(6):
        click(browser, f"[data-key='image-{i}']")
        parts, total = figures_of(browser)
        assert sum(parts) == pytest.approx(total, abs=1e-9)
        shares = [int(each.split("\xa0")[0]) for each in all_of(browser, "#products .concept-line .share", "each.textContent")]
        assert sum(shares) == 100


def figures_of(browser: Any) -> tuple[list[float], float]:
    """All evidence lines and the bias as they are shown, and the shown logit."""
    shown = all_of(browser, "#products .concept-line .evidence, #sums .evidence", "each.textContent")
    values = [float(each.replace("\u2212", "-")) for each in shown]
    return values[:-1], values[-1]


def test_wrong_answers_and_the_image_that_is_looked_at(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    pick(browser, "image-filter", "wrong")
    assert text_of(browser, "#caption").startswith("3.png: the network says aeroplane. Wrong: it is car.")
    assert "true class" in text_of(browser, "#ranking")
    # A switch makes the answer wrong: the image stays in the gallery.
    pick(browser, "image-filter", "right")
    assert text_of(browser, "#caption").startswith("0.png: the network says aeroplane. Right.")
    for key in ("group-wing|part", "switch-2"):
        click(browser, f"#products [data-key='{key}']")
    assert text_of(browser, "#caption").startswith("0.png: the network says swimming pool, outdoor. Wrong")
    assert "0" in all_of(browser, "#gallery .outside input", "each.value")
    assert "The image you look at stays." in text_of(browser, "#gallery-note")
    click(browser, "#reset")
    table = all_of(browser, "#confusions tbody tr", "[...each.cells].map(cell => cell.textContent)")
    assert table == [["car", "aeroplane", "1"], ["swimming pool, outdoor", "car", "1"]]
    click(browser, "[data-key='pair-2-1']")
    assert all_of(browser, "#gallery input", "each.value") == ["4"]
    assert text_of(browser, "#caption").startswith("4.png")
    rows = all_of(browser, "#by-class tbody tr", "[...each.cells].map(cell => cell.textContent.replace('\u00a0', ' '))")
    assert rows == [["swimming pool, outdoor", "0 of 1", "0 %"], ["car", "2 of 3", "67 %"], ["aeroplane", "1 of 1", "100 %"]]
    pick(browser, "image-filter", "all")
    pick(browser, "image-class", "1")
    pick(browser, "image-sure", "high")
    sure = browser.execute_script("return instances.filter(matches).map(saidOf).map(each => each.sure)")
    assert sure
    assert min(sure) >= 0.9


def test_the_address_says_what_is_looked_at(browser: Any, tmp_path: Path) -> None:
    def at() -> str:
        return browser.execute_script("return location.hash")

    opened(browser, tmp_path, "#image=4")
    assert text_of(browser, "#caption").startswith("3.png")
    opened(browser, tmp_path, "#class=3")
    assert text_of(browser, "#class-heading") == "swimming pool, outdoor"
    opened(browser, tmp_path, "#unit=3")
    assert all_of(browser, "#unit-list > li", "each.dataset.unit") == ["2"]
    assert browser.execute_script("return document.getElementById('units').getBoundingClientRect().top") < 300
    opened(browser, tmp_path)
    click(browser, "[data-key='image-1']")
    click(browser, "[data-key='image-3']")
    click(browser, "#products [data-key='link-2']")
    click(browser, "#products [data-key='switch-0']")
    assert at() == "#image=4&unit=3&explain=1&off=1"
    browser.refresh()
    assert says(browser).startswith("aeroplane")
    assert text_of(browser, "#status").startswith("1 unit off.")
    browser.back()
    browser.back()
    assert at() == "#image=2"
    assert text_of(browser, "#caption").startswith("1.png")
    assert text_of(browser, "#status") == "All units are on."
    opened(browser, tmp_path, "#image=99&unit=x&off=77")
    assert text_of(browser, "#caption").startswith("0.png"), "what is not there is left out"


def test_names_pictures_and_colours(browser: Any, tmp_path: Path) -> None:
    opened(browser, tmp_path)
    titles = browser.execute_script(
        "return [...document.querySelectorAll('[title=\"swimming_pool-outdoor-s\"]')].map(each => each.textContent)"
    )
    assert set(titles) == {"swimming pool, outdoor"}
    colours = all_of(browser, "[data-concept='wing|part']", "getComputedStyle(each).getPropertyValue('--own')")
    assert len(colours) > 3
    assert len(set(colours)) == 1, "one colour a concept over the whole page"
    browser.execute_script("document.querySelector('[data-key=\"group-wing|part\"]').focus()")
    # A window that has just come up may hear of the focus a moment later.
    lit = WebDriverWait(browser, 10).until(lambda _: all_of(browser, ".lit", "each.dataset.concept"))
    assert len(lit) > 2
    assert set(lit) == {"wing|part"}
    sizes = all_of(browser, ".top", "each.getBoundingClientRect().width")
    assert min(sizes) >= 120
    click(browser, "#products .top")
    assert text_of(browser, "#enlarged-text") == "wing (unit 1): image 1 of 1 that excite it most, its region outlined"
    assert elements(browser, "#enlarged-picture path.over")
    click(browser, "#enlarged .close")


def test_without_names_units_are_known_by_their_pictures(browser: Any, tmp_path: Path) -> None:
    page = example()
    units = [replace(unit, label="", category="", score=None, detector=False) for unit in page.units]
    opened(browser, tmp_path, units=units)
    assert says(browser).startswith("aeroplane: unit 1 with 40 %, unit 2 with 30 %, unit 3 with 30 %; 4.4 ahead of car")
    bare = all_of(browser, "#products .members > li, #unit-list > li, #composition li", "each.querySelectorAll('.top').length")
    assert min(bare) >= 1
    small = all_of(
        browser, "#differences tbody:first-of-type tr, #glance li:first-child", "each.querySelectorAll('.tiny').length"
    )
    assert min(small) >= 1, "nothing is a bare number"
    assert "dynamick dissect" in text_of(browser, "#classes")


def test_two_networks_on_one_image(browser: Any, tmp_path: Path) -> None:
    concepts = [OtherConcept("wing", 1.24, [3, 5]), OtherConcept("unit 8", -0.53, [7])]
    one = OtherDecision("car: wing 60 %", [("car", 1.6, 0.8), ("aeroplane", 0.2, 0.2)], concepts, 0.75, 0.14, np.eye(3))
    opened(browser, tmp_path, beside=Beside(ModelSummary("res8", 0.91), "sums all", [one] * 5))
    assert text_of(browser, "#beside-sentence") == "car: wing 60 %."
    assert "They disagree: res8 says car (80.0 %)" in text_of(browser, "#beside-note")
    cells = [float(each.replace("\u2212", "-")) for each in all_of(browser, "#beside-table td", "each.textContent")]
    assert sum(cells[:-1]) == pytest.approx(cells[-1], abs=1e-9)
    assert all_of(browser, "table.figures thead th", "each.textContent.trim()")[2].startswith("res8")


def paper(browser: Any) -> list[str]:
    import pypdf

    found = browser.execute_cdp_cmd("Page.printToPDF", {"printBackground": False, "paperWidth": 8.27, "paperHeight": 11.69})
    return [page.extract_text() for page in pypdf.PdfReader(io.BytesIO(base64.b64decode(found["data"]))).pages]


def test_a_decision_on_paper(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    opened(browser, tmp_path)
    sheets = paper(browser)
    first = " ".join(sheets[0].split())
    assert "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing." in first
    for gone in ("Copy link", "Explain", "Compare with", "Image only", "Switch all on", "Search"):
        assert gone not in " ".join(sheets), gone
    assert "Details: the formulae" in first, "what is folded is open on paper"
    decision = first.partition("Details: the formulae")[0]
    lines = re.findall(r"(?:wing|wheel unit 3|Bias, the same for every image) ?([+\u2212]?\d+\.\d)", decision)
    total = re.search(r"Sum: the logit ?(\d+\.\d)", first)
    assert total
    assert sum(float(each.replace("\u2212", "-")) for each in lines) == pytest.approx(float(total[1]), abs=1e-9)
    assert sum("Sum: the logit" in sheet for sheet in sheets) == 1
    assert all(name in " ".join(" ".join(sheets).split()) for name in (*CLASSES, *LABELS[:4], LABELS[5]))
    assert not browser.execute_script("return document.getElementById('details').open")


def test_every_decision_on_a_sheet_of_its_own(browser: Any, tmp_path: Path) -> None:
    pytest.importorskip("pypdf")
    opened(browser, tmp_path)
    browser.execute_script("layOut()")
    sheets = [" ".join(sheet.split()) for sheet in paper(browser)]
    of = [[i for i in range(5) if f"{i}.png: the network says" in sheet] for sheet in sheets]
    assert [each for each in of if each] == [[0], [1], [2], [3], [4]]
    assert sum("Sum: the logit" in sheet for sheet in sheets) == 5


def test_the_list_of_keys(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys: str) -> None:
        ActionChains(browser).send_keys(*keys).perform()

    opened(browser, tmp_path)
    press("n")
    assert text_of(browser, "#caption").startswith("1.png")
    press("w")
    assert text_of(browser, "#caption").startswith("3.png")
    press("?")
    assert browser.execute_script("return document.getElementById('keys').open")
    press("n", Keys.ESCAPE)
    assert text_of(browser, "#caption").startswith("3.png"), "an open window keeps the keys"
    press("/")
    press("w")
    assert browser.execute_script("return document.getElementById('unit-text').value") == "w", "who types is not interrupted"
    fill_in(browser, "unit-text", "")


def test_five_hundred_images_beside_the_page(browser: Any, tmp_path: Path) -> None:
    page = example()
    many = [replace(page.instances[i % 5], name=f"{i}.png") for i in range(500)]
    browser.show(write_page(replace(page, instances=many, units=[]), tmp_path / "page.html", tmp_path / "its pictures"))
    assert len(elements(browser, "#gallery img")) == 500
    browser.execute_script("choose(399)")
    top = "document.querySelector(each).getBoundingClientRect().top"
    box, chosen = browser.execute_script(f"return ['#gallery', '#gallery label:has(:checked)'].map(each => {top})")
    assert box <= chosen <= box + 150, "the image that is looked at is seen in the gallery"
    browser.execute_script("choose(0)")
    loaded = "const done = arguments[0], image = byId('image'); image.decode().then(() => done(image.naturalWidth))"
    assert browser.execute_async_script(loaded) == 60
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []
    show(browser, page, tmp_path)
