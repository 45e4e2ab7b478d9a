"""The explanation page in Debian's chromium: its arithmetic is PyTorch's, its names stay text, and it needs no mouse."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from dynamick.errors import InputError
from dynamick.functional import dynamic_linear, dynamic_route
from dynamick.report.explanation import (
    MAX_BYTES,
    ClassComposition,
    ConceptShare,
    HeadNumbers,
    Instance,
    ModelSummary,
    Page,
    TopImage,
    Unit,
    render,
    write_page,
)

HOSTILE = "<script>alert(1)</script>"
HEADS = ["at_most", "exactly", "exactly masked", "dense"]


class Sample:
    """A page of random numbers with ties, and what PyTorch makes of them."""

    def __init__(self, kind: str, O: int = 6, M: int = 14, B: int = 5, k: int = 6, side: int = 7, image: int = 48) -> None:
        g = torch.Generator().manual_seed(O * M + B)
        self.kind, self.k = kind, k
        # Few levels, so that products tie; inputs of both signs for the rule `exactly`, and heads with zero weights.
        self.weight = torch.randint(-4, 5, (O, M), generator=g) / 3 * (torch.rand(O, M, generator=g) < 0.7)
        self.bias = torch.randn(O, generator=g)
        self.maps = torch.randint(-2 if kind.startswith("exactly") else 0, 5, (B, M, side, side), generator=g) / 5
        self.maps *= torch.randint(4, (B, M, 1, 1), generator=g)
        self.x = self.maps.mean((2, 3))
        self.x[:, 3] = self.x[:, 2]
        self.weight[:, 3] = self.weight[:, 2]
        self.mask = torch.rand(O, M, generator=g) < 0.8 if "masked" in kind else None
        self.labels = torch.randint(O, (B,), generator=g)
        self.images = torch.randint(256, (B, image, image, 3), generator=g, dtype=torch.uint8).numpy()

    @property
    def rule(self) -> str:
        return self.kind.split()[0]

    def logits(self, off: set[int]) -> torch.Tensor:
        x = self.x.clone()
        x[:, list(off)] = 0
        if self.rule == "dense":
            return torch.nn.functional.linear(x, self.weight, self.bias)
        return dynamic_linear(x, self.weight, self.bias, self.k, self.rule, mask=self.mask)

    def routed(self, image: int, c: int, off: set[int]) -> tuple[list[int], list[float]]:
        x = self.x[image].clone()
        x[list(off)] = 0
        route = dynamic_route(x, self.weight, self.k, [c], self.rule, mask=self.mask)
        n = int((route.indices[0] >= 0).sum())
        return route.indices[0, :n].tolist(), route.products[0, :n].tolist()

    def page(self, units: bool = True, name: str = "part") -> Page:
        O, M = self.weight.shape
        summary = ModelSummary("res8-d3a", 0.9, 4.5, 6, M, M - 1, 9, 0.11)
        top = [TopImage(image, np.arange(16).reshape(4, 4) > 7) for image in self.images[:4]]
        linked = [(0, 1.0), (1, 0.5)]
        shares = [
            ConceptShare(f"{name} 0", "part", 1.5, 0.75, linked),
            ConceptShare(f"{name} 2", "color", 0.5, 0.25, [(2, 0.5)]),
        ]
        return Page(
            title="Explained",
            model=summary,
            head=HeadNumbers(
                self.weight.numpy(),
                self.bias.numpy(),
                self.rule,
                None if self.rule == "dense" else self.k,
                None if self.mask is None else self.mask.numpy(),
            ),
            classes=[f"class {c}" for c in range(O)],
            instances=[
                Instance(f"{i}.png", image, x.numpy(), logits.numpy(), int(label), maps.numpy())
                for i, (image, x, logits, label, maps) in enumerate(
                    zip(self.images, self.x, self.logits(set()), self.labels, self.maps, strict=True)
                )
            ],
            units=[Unit(i, f"{name} {i}", ("part", "color")[i % 2], i / M, i > 0, top) for i in range(M)] if units else [],
            compositions=[ClassComposition(f"class {c}", shares, 0.2) for c in range(O)] if units else [],
            twin=replace(summary, name="res8"),
            notes=["1 file was skipped."],
        )


# ---- without a browser


def test_a_page_of_50_images_is_small_enough(tmp_path: Path) -> None:
    page = Sample("dense", O=100, M=512, B=50, image=224).page()
    path = write_page(page, tmp_path / "report.html")
    assert path.stat().st_size <= MAX_BYTES


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def test_a_head_too_large_keeps_the_classes_that_come_closest() -> None:
    sample = Sample("dense", O=1000, M=768, B=3)
    html = render(sample.page(units=False))
    kept = {int(name.removeprefix("class ")) for name in data_of(html)["classes"]}
    assert 100 < len(kept) < 1000
    assert set(sample.logits(set()).topk(100).indices.flatten().tolist()) <= kept
    assert f"The head has 1000 classes. This page computes with the {len(kept)}" in html


@pytest.mark.parametrize(("M", "shown"), [(600, 600), (1600, 500)])
def test_top_images_are_thinned_before_the_page_grows_too_large(M: int, shown: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (256, 72, 72, 3), dtype=np.uint8)
    sample = Sample("at_most", M=M)
    units = [Unit(i, top_images=[TopImage(noise[(i + n) % 256]) for n in range(2)]) for i in range(M)]
    html = render(replace(sample.page(units=False), units=units))
    assert len(html) <= MAX_BYTES
    given = [bool(strip) for strip in data_of(html)["strips"]]
    assert shown <= sum(given) <= M
    if shown < M:
        # The units of the largest weights are those that keep an image.
        weight = sample.weight.abs().sum(0)
        assert weight[torch.tensor(given)].min() >= weight[~torch.tensor(given)].max()


def test_what_does_not_fit_is_refused() -> None:
    page = Sample("at_most").page()
    wrong = replace(page.instances[0], x=page.instances[0].x[:-1])
    for broken, message in [
        (replace(page, instances=[]), "instances: 0"),
        (replace(page, instances=[wrong]), r"x of 0\.png: shape \(13,\); give \(14,\)"),
        (replace(page, units=page.units[1:]), "units: 13 given; give all 14"),
        (replace(page, compositions=page.compositions[1:]), "compositions: 5 given"),
        (replace(page, head=replace(page.head, k=None)), "head: rule 'at_most' with k=None"),
    ]:
        with pytest.raises(InputError, match=message):
            render(broken)


# ---- in a browser

browser_test = pytest.mark.browser


def show(browser: Any, page: Page, path: Path, width: int = 1280, scheme: str = "light") -> None:
    browser.show(write_page(page, path / "page.html"), width, scheme)


def elements(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def click(browser: Any, selector: str) -> None:
    browser.execute_script("arguments[0].click()", browser.find_element("css selector", selector))


def text_of(browser: Any, selector: str) -> str:
    """The text of the first element found, with no-break spaces as spaces."""
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector).replace("\xa0", " ")


def pick(browser: Any, identity: str, value: int) -> None:
    code = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event('change'))"
    browser.execute_script(code, identity, str(value))


def all_of(browser: Any, selector: str, what: str) -> list[str]:
    """The value of a JavaScript expression of `each`, for all elements that the selector finds."""
    return browser.execute_script(f"return [...document.querySelectorAll(arguments[0])].map(each => {what})", selector)


def switch(browser: Any, unit: int) -> None:
    click(browser, f"#unit-list [data-key='switch-{unit}']")


def ranking(browser: Any) -> list[tuple[int, float, float]]:
    """Class, logit and probability of every class, the best first, in full precision."""
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#ranking li')]"
        ".map(row => [row.dataset.class, ...[...row.querySelectorAll('data')].map(each => each.value)])"
    )
    return [(int(c), float(logit), float(probability)) for c, logit, probability in rows]


def products(browser: Any) -> list[tuple[int, float]]:
    """Unit and product of the rows of the evidence table that are on."""
    rows = browser.execute_script(
        "return [...document.querySelectorAll('#products tbody tr:not(.off)')]"
        ".map(row => [row.querySelector('input').dataset.key.slice(7), row.querySelector('data').value])"
    )
    return [(int(unit), float(product)) for unit, product in rows]


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
                    assert products(browser) == routed, "the same float32 products, of equal ones the lower unit first"
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
    best, second = logits.topk(2).indices.tolist()
    assert text_of(browser, "#why-heading") == f"Why class {best}?"
    assert text_of(browser, "#versus-heading") == f"What separates class {best} from class {second}"
    values = [float(value) for value in all_of(browser, "#products data", "each.value")]
    if kind == "dense":
        p = sample.weight[best] * sample.x[0]
        order = p.abs().argsort(descending=True, stable=True)[:10]
        assert [unit for unit, _ in products(browser)] == order.tolist()
        partial = p[p.abs().argsort(descending=True, stable=True)].double().cumsum(0)
        enough = int(((partial - partial[-1]).abs() > 0.02 * partial[-1].abs()).nonzero().max()) + 2
        assert f"It takes {enough} units" in text_of(browser, "#shares-note")
    else:
        assert sum(values[:-1]) == pytest.approx(values[-1], abs=1e-6), "products and bias are the logit"
        share = sum(values[:-2]) / float((sample.weight[best] * sample.x[0]).sum())
        assert f"{100 * share:.1f} %".replace("-", "\u2212") in text_of(browser, "#shares-note")
    gap = float(browser.execute_script("return [...document.querySelectorAll('#differences data')].at(-1).value"))
    assert gap == pytest.approx(float(logits[best] - logits[second]), abs=1e-6)
    pick(browser, "explained", 2)
    assert text_of(browser, "#equation").endswith(f"= logit {logits[2]:.2f}.".replace("-", "\u2212"))


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
    hidden = all_of(browser, "html, .scroll, #products, #differences", "each.scrollWidth - each.clientWidth")
    assert hidden == [0] * len(hidden), "nothing is cut off or scrolled for, on a phone neither"


@browser_test
def test_a_dense_model_without_units_or_maps_gets_a_page(browser: Any, tmp_path: Path) -> None:
    page = Sample("dense").page(units=False)
    page = replace(page, instances=[replace(each, maps=None, true_class=None) for each in page.instances], twin=None)
    show(browser, page, tmp_path)
    assert "no exact split" in text_of(browser, "#map-note")
    assert "unit 3" in text_of(browser, "#products")
    switch(browser, 2)
    assert "answers kept." in text_of(browser, "#status")
    assert [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"] == []


@browser_test
def test_every_class_is_seen_at_a_glance(browser: Any, tmp_path: Path) -> None:
    sample = Sample("at_most", O=30)
    page = sample.page()
    show(browser, replace(page, units=[replace(unit, detector=unit.index != 2) for unit in page.units]), tmp_path)
    lines = all_of(browser, "#glance li", "each.textContent.replaceAll('\u00a0', ' ')")
    assert lines == [f"class {c}part 0 75 %, part 2 25 %" for c in range(24)]
    click(browser, "#glance-all")
    assert len(elements(browser, "#glance li")) == 30
    widths = all_of(browser, "#glance li:last-child .stack > span", "each.style.width")
    assert widths == ["75%", "25%"]
    # Italics say of which concept no unit counts, and the text how much of the weight is on units that count.
    assert all_of(browser, "#glance li:last-child .weak, #composition .weak", "each.textContent") == ["part 2", "part 2"]
    click(browser, "[data-key='glance-29']")
    assert text_of(browser, "#class-heading") == "class 29"
    assert browser.execute_script("return document.getElementById('class').value") == "29"
    counted, drawn = (float(sample.weight[29, units].sum()) for units in ([0, 1], [0, 1, 2]))
    assert f"{100 * counted / drawn:.0f} % of that weight".replace("-", "\u2212") in text_of(browser, "#class-text")


@browser_test
def test_bands_join_the_class_to_its_concepts(browser: Any, tmp_path: Path) -> None:
    sample = Sample("at_most")
    sample.weight[0, :3] = torch.tensor([3.0, 1.0, 2.0])
    page = sample.page()
    shares = [
        ConceptShare("wheel", "part", 4.0, 4 / 6, [(0, 3.0), (1, 1.0)]),
        ConceptShare("red", "color", 2.0, 2 / 6, [(2, 2.0)]),
    ]
    # A concept is pictured by the first of its units that has pictures.
    page = replace(page, units=[replace(page.units[0], top_images=()), *page.units[1:]])
    show(
        browser, replace(page, compositions=[replace(page.compositions[0], concepts=shares), *page.compositions[1:]]), tmp_path
    )
    assert all_of(browser, "#composition img", "each.alt.split(' most')[0]") == [
        "Images that excite part 1 (unit 2)",
        "Images that excite part 2 (unit 3)",
    ]
    # At either end of a band: M8 top C.. .. right bottom V.. C.. .. 8 bottom Z.
    ends = [
        [float(part) for part in re.findall(r"-?[\d.]+", each)]
        for each in all_of(browser, "#composition path", "each.getAttribute('d')")
    ]
    widths = [numbers[14] - numbers[1] for numbers in ends]
    assert widths == pytest.approx([numbers[8] - numbers[7] for numbers in ends])
    trunk = float(all_of(browser, "#composition rect", "each.getAttribute('height')")[0])
    # A hairline parts the bands of one concept.
    assert widths == pytest.approx([trunk * 3 / 6 - 1, trunk * 1 / 6 - 1, trunk * 2 / 6], abs=1e-3)
    assert [row.text.splitlines()[0] for row in elements(browser, "#composition li .concept")] == ["wheel", "red"]
    assert [row.text.replace("\xa0", " ") for row in elements(browser, "#composition li .share")] == ["66.7 %", "33.3 %"]
