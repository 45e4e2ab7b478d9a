"""The explanation page in Debian's chromium: its arithmetic is PyTorch's, its names stay text, and it needs no mouse."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from dynamick.report.explanation import (
    ConceptShare,
)
from tests.report.page_samples import (
    HEADS,
    HOSTILE,
    Sample,
    all_of,
    click,
    elements,
    fill_in,
    pick,
    products,
    ranking,
    show,
    switch,
    text_of,
)

browser_test = pytest.mark.browser


def test_switched_off_units_change_something() -> None:
    for kind in HEADS:
        sample = Sample(kind)
        assert not torch.allclose(sample.logits(set()), sample.logits({2, 5}))
        assert (sample.logits(set()).argmax(1) != sample.logits({0, 1, 2, 3, 5, 7}).argmax(1)).any()


@browser_test
@pytest.mark.parametrize("kind", HEADS)
def test_switches_recompute_what_pytorch_computes(browser: Any, tmp_path: Path, kind: str) -> None:
    sample = Sample(kind)
    show(browser, sample.page(), tmp_path)
    assert "differ from the network" in text_of(browser, "#check") or "to the last digit" in text_of(browser, "#check")
    click(browser, "#ranking-all")
    click(browser, "#unit-used")
    first = sample.logits(set())
    off: set[int] = set()
    for unit in (None, 2, 5, 0, 7, 1, 3):
        if unit is not None:
            off.add(unit)
            switch(browser, unit)
        expected = sample.logits(off)
        for image in (0, len(sample.x) - 1):
            click(browser, f"#gallery [data-key='image-{image}']")
            rows = ranking(browser)
            logits, probabilities = expected[image], expected[image].softmax(0)
            assert [c for c, _, _ in rows] == logits.argsort(descending=True, stable=True).tolist()
            torch.testing.assert_close(
                torch.tensor([row[1] for row in rows]), logits[[row[0] for row in rows]], atol=1e-6, rtol=1e-6
            )
            torch.testing.assert_close(torch.tensor([row[2] for row in rows]), probabilities[[row[0] for row in rows]])
            if sample.rule != "dense":
                for c in (rows[0][0], rows[-1][0]):
                    pick(browser, "explained", c)
                    # A unit that is off is listed apart, though `exactly` may route its product of zero.
                    units, values = sample.routed(image, c, off)
                    routed = [(unit, value) for unit, value in zip(units, values, strict=True) if unit not in off]
                    routed.sort(key=lambda pair: -abs(pair[1]))
                    assert products(browser) == routed, "the same float32 products, of equal ones the one routed first"
        if off:
            kept = int((expected.argmax(1) == first.argmax(1)).sum())
            right = int((expected.argmax(1) == sample.labels).sum())
            assert f"{kept} of 5 answers kept, {right} of 5 right." in text_of(browser, "#status")
    click(browser, "#reset")
    torch.testing.assert_close(torch.tensor(ranking(browser)[0][1]), first[-1].max(), atol=1e-6, rtol=1e-6)


@browser_test
@pytest.mark.parametrize("kind", HEADS)
def test_an_input_that_is_no_number_reaches_the_same_classes(browser: Any, tmp_path: Path, kind: str) -> None:
    sample = Sample(kind)
    sample.x[0, 4], sample.x[1, 6] = float("nan"), float("inf")
    show(browser, sample.page(), tmp_path)
    click(browser, "#ranking-all")
    expected = sample.logits(set())
    for image in (0, 1):
        click(browser, f"#gallery [data-key='image-{image}']")
        rows = ranking(browser)
        logits = expected[image][[row[0] for row in rows]]
        torch.testing.assert_close(torch.tensor([row[1] for row in rows]), logits, equal_nan=True)
        assert rows[0][0] == int(expected[image].argmax())


@browser_test
@pytest.mark.parametrize("kind", ["at_most", "dense"])
def test_the_evidence_adds_up_and_says_what_separates(browser: Any, tmp_path: Path, kind: str) -> None:
    sample = Sample(kind)
    show(browser, sample.page(), tmp_path)
    logits = sample.logits(set())[0]
    best, second = int(logits.argmax()), int(sample.labels[0])
    assert best != second, "a wrong answer is compared with the true class"
    assert text_of(browser, "#why-heading") == f"Why class {best}?"
    assert text_of(browser, "#versus-heading") == f"What separates class {best} from class {second}"
    values = [value for _, value in products(browser)]
    if kind == "dense":
        p = sample.weight[best] * sample.x[0]
        order = p.abs().argsort(descending=True, stable=True)[:10]
        assert [unit for unit, _ in products(browser)][:10] == order.tolist()
        partial = p[p.abs().argsort(descending=True, stable=True)].double().cumsum(0)
        enough = int(((partial - partial[-1]).abs() > 0.02 * partial[-1].abs()).nonzero().max()) + 2
        assert f"It takes {enough} units" in text_of(browser, "#shares-note")
    else:
        bias, logit = (float(value) for value in all_of(browser, "#sums data", "each.value"))
        assert sum(values) + bias == pytest.approx(logit, abs=1e-6), "products and bias are the logit"
        share = sum(values) / float((sample.weight[best] * sample.x[0]).sum())
        assert f"{100 * share:.1f} %".replace("-", "\u2212") in text_of(browser, "#shares-note")
    gap = float(browser.execute_script("return [...document.querySelectorAll('#differences data')].at(-1).value"))
    assert gap == pytest.approx(float(logits[best] - logits[second]), abs=1e-6)
    pick(browser, "explained", 2)
    assert float(all_of(browser, "#sums data", "each.value")[-1]) == pytest.approx(float(logits[2]), abs=1e-6)


@browser_test
def test_heat_is_where_the_products_come_from(browser: Any, tmp_path: Path) -> None:
    sample = Sample("at_most", side=4)
    sample.maps[:] = 0
    sample.maps[:, 0, 0, 0] = 1  # unit 0 sees the upper left corner
    sample.maps[:, 1, 3, 3] = 1
    sample.x, sample.weight = sample.maps.mean((2, 3)), torch.zeros_like(sample.weight)
    sample.weight[1, 0], sample.weight[1, 1], sample.bias[1] = 2.0, 1.0, 9.0
    show(browser, sample.page(), tmp_path)
    alpha = (
        "const c = document.getElementById('heat'), d = c.getContext('2d').getImageData(0, 0, 256, 256).data;"
        "return [[10, 10], [245, 245], [245, 10]].map(([x, y]) => d[4 * (256 * y + x) + 3])"
    )
    upper, lower, empty = browser.execute_script(alpha)
    assert upper > lower > empty == 0
    click(browser, "[data-key='map-1']")
    upper, lower, empty = browser.execute_script(alpha)
    assert lower > upper == empty == 0
    click(browser, "[data-key='draw-none']")
    assert browser.execute_script(alpha) == [0, 0, 0]


@browser_test
def test_names_stay_text(browser: Any, tmp_path: Path) -> None:
    page = Sample("at_most").page(name=HOSTILE)
    evil = f"</script>{HOSTILE}<img src=x onerror=alert(1)>"
    page = replace(
        page,
        title=evil,
        classes=[evil, *page.classes[1:-1], HOSTILE],
        instances=[replace(each, name=f"{evil}.png") for each in page.instances],
        notes=[evil],
        model=replace(page.model, name=evil),
        units=[replace(unit, category=evil) for unit in page.units],
    )
    show(browser, page, tmp_path)
    for c in (0, len(page.classes) - 1):
        pick(browser, "class", c)
        assert text_of(browser, "#class-heading") == page.classes[c]
    for choice in ("explained", "compared"):
        pick(browser, choice, 0)
    assert browser.execute_script("return document.scripts.length") == 2
    assert elements(browser, "img[src='x']") == []
    assert evil in text_of(browser, "#caption")
    assert HOSTILE in text_of(browser, "#unit-list")
    assert browser.title == evil
    from selenium.common.exceptions import NoAlertPresentException

    with pytest.raises(NoAlertPresentException):
        browser.switch_to.alert.accept()


@browser_test
def test_no_request_leaves_the_page(browser: Any, tmp_path: Path) -> None:
    browser.get_log("performance")
    show(browser, Sample("at_most").page(), tmp_path)
    for selector in ("#ranking-all", "#unit-used", "[data-key='switch-2']", "[data-key='image-3']", "#reset"):
        click(browser, selector)
    sent = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [message["params"]["request"]["url"] for message in sent if message["method"] == "Network.requestWillBeSent"]
    assert (tmp_path / "page.html").as_uri() in urls, "the log sees requests"
    assert {url.split(":")[0] for url in urls} <= {"file", "data"}
    assert [url for url in urls if url.startswith("file")] == [(tmp_path / "page.html").as_uri()]
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@browser_test
def test_the_keyboard_alone_reaches_everything(browser: Any, tmp_path: Path) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    show(browser, Sample("at_most", M=6, B=3).page(), tmp_path)
    # All that can be operated and is seen; of a group of radio buttons the chosen one stands for all.
    browser.execute_script(
        "window.wanted = [...document.querySelectorAll('a[href], button, select, input, [tabindex=\"0\"]')]"
        ".filter(each => each.checkVisibility() && !(each.type === 'radio' && !each.checked)); window.reached = []"
    )
    count = browser.execute_script("return wanted.length")
    assert count > 40
    for _ in range(count + 5):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        seen = browser.execute_script(
            "const at = document.activeElement; reached.push(at);"
            "const ring = getComputedStyle(at.type === 'radio' ? at.nextElementSibling : at);"
            "return at === document.body || (ring.outlineStyle !== 'none' && parseFloat(ring.outlineWidth) > 1)"
        )
        assert seen, "whatever has the focus shows it"
    missed = browser.execute_script(
        "return wanted.filter(each => !reached.includes(each)).map(each => each.outerHTML.slice(0, 200))"
    )
    assert missed == []

    def press(selector: str, *keys: str) -> None:
        browser.execute_script("document.querySelector(arguments[0]).focus()", selector)
        ActionChains(browser).send_keys(*keys).perform()

    press("#gallery input:checked", Keys.ARROW_RIGHT)
    assert text_of(browser, "#caption").startswith("1.png")
    focused = browser.execute_script("return document.querySelector('#products input').dataset.key")
    press("#products input", Keys.SPACE)
    assert text_of(browser, "#status").startswith("1 unit off.")
    assert browser.execute_script("return document.activeElement.dataset.key") == focused, "the focus stays on the switch"
    ActionChains(browser).send_keys(Keys.SPACE).perform()
    assert text_of(browser, "#status") == "All units are on."
    press("#products button.map", Keys.ENTER)
    assert browser.execute_script("return document.activeElement.getAttribute('aria-pressed')") == "true"
    press("#unit-text", *"part 3")
    assert len(elements(browser, "#unit-list > li")) == 1


@browser_test
@pytest.mark.parametrize(("width", "scheme"), [(1280, "light"), (1280, "dark"), (390, "light"), (320, "dark")])
def test_axe_finds_no_violation(browser: Any, tmp_path: Path, width: int, scheme: str) -> None:
    page = Sample("dense" if scheme == "dark" else "at_most").page()
    long = ["natural_history_museum_interior/exhibition", "river horse, Hippopotamus amphibius, known as hippopotamus"]
    page = replace(page, classes=[f"{long[c % 2]} {c}" for c in range(len(page.classes))])
    show(browser, page, tmp_path, width, scheme)
    for selector in (None, "#products [data-key^='switch-']"):
        if selector:
            click(browser, selector)
        assert browser.violations() == []
    windows = [("#show-keys", "#keys .close"), (".top", "#enlarged .close")] if (width, scheme) != (1280, "dark") else []
    for opens, closes in windows:
        click(browser, opens)
        assert browser.execute_script("return document.querySelector('dialog[open]') !== null")
        assert browser.violations() == []
        click(browser, closes)
    hidden = all_of(browser, "html, .scroll, #products, #differences", "each.scrollWidth - each.clientWidth")
    assert hidden == [0] * len(hidden), "nothing is cut off or scrolled for, on a phone neither"


@browser_test
def test_a_dense_model_without_units_or_maps_gets_a_page(browser: Any, tmp_path: Path) -> None:
    page = Sample("dense").page(units=False)
    page = replace(page, instances=[replace(each, maps=None, true_class=None) for each in page.instances], twin=None)
    show(browser, page, tmp_path)
    assert "no exact split" in text_of(browser, "#map-note")
    assert "unit 8" in text_of(browser, "#products")
    switch(browser, 2)
    assert "answers kept." in text_of(browser, "#status")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@browser_test
def test_every_class_is_seen_at_a_glance(browser: Any, tmp_path: Path) -> None:
    sample = Sample("at_most", O=30)
    page = sample.page()
    show(browser, replace(page, units=[replace(unit, detector=unit.index != 2) for unit in page.units]), tmp_path)
    lines = all_of(browser, "#glance li", "each.textContent.replaceAll('\u00a0', ' ')")
    # A unit whose label does not count stands for itself.
    assert lines == [f"class {c}part 0 with 50 %, part 1 with 25 %, unit 3 with 25 %" for c in range(24)]
    click(browser, "#glance-all")
    assert len(elements(browser, "#glance li")) == 30
    assert all_of(browser, "#glance li:last-child .stack > span", "each.style.width") == ["50%", "25%", "25%"]
    assert "hold 75 % of the weight" in text_of(browser, "#class-text")
    click(browser, "[data-key='glance-29']")
    assert text_of(browser, "#class-heading") == "class 29"
    assert browser.execute_script("return document.getElementById('class').value") == "29"
    fill_in(browser, "class-search", "ss 12")
    assert all_of(browser, "#glance a", "each.textContent") == ["class 12"]
    fill_in(browser, "class-search", "")
    pick(browser, "class-sort", "name", "input")
    assert all_of(browser, "#glance a", "each.textContent")[:3] == ["class 0", "class 1", "class 10"]


@browser_test
def test_bands_join_the_class_to_its_concepts(browser: Any, tmp_path: Path) -> None:
    page = Sample("at_most").page()
    shares = [
        ConceptShare("wheel", "part", 4.0, 4 / 6, [(0, 3.0), (1, 1.0)]),
        ConceptShare("red", "color", 2.0, 2 / 6, [(2, 2.0)]),
    ]
    named = [
        replace(unit, label=label, category="part", detector=True)
        for unit, label in zip(page.units[:3], ("wheel", "wheel", "red"), strict=True)
    ]
    # A concept is pictured by the first of its units that has pictures.
    units = [replace(named[0], top_images=()), *named[1:], *page.units[3:]]
    made_of = [replace(page.compositions[0], concepts=shares), *page.compositions[1:]]
    show(browser, replace(page, units=units, compositions=made_of), tmp_path)
    assert all_of(browser, "#composition .top:first-child", "each.ariaLabel.split(':')[0]") == [
        "Enlarge wheel (unit 2)",
        "Enlarge red (unit 3)",
    ]
    # At either end of a band: M8 top C.. .. right bottom V.. C.. .. 8 bottom Z.
    ends = [
        [float(part) for part in re.findall(r"-?[\d.]+", each)]
        for each in all_of(browser, "#composition path.band", "each.getAttribute('d')")
    ]
    widths = [numbers[14] - numbers[1] for numbers in ends]
    assert widths == pytest.approx([numbers[8] - numbers[7] for numbers in ends])
    trunk = float(all_of(browser, "#composition rect", "each.getAttribute('height')")[0])
    # A hairline parts the bands of one concept.
    assert widths == pytest.approx([trunk * 3 / 6 - 1, trunk * 1 / 6 - 1, trunk * 2 / 6], abs=1e-3)
    assert [row.text.splitlines()[0] for row in elements(browser, "#composition li .concept")] == ["wheel", "red"]
    assert [row.text.replace("\xa0", " ") for row in elements(browser, "#composition li .share")] == ["67 %", "33 %"]
