"""A page of random numbers, what PyTorch makes of them, and hands for a browser that shows it."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dynamick.functional import dynamic_linear, dynamic_route
from dynamick.report.explanation import (
    ClassComposition,
    ConceptShare,
    HeadNumbers,
    Instance,
    ModelSummary,
    Page,
    TopImage,
    Unit,
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


def data_of(html: str) -> dict[str, Any]:
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert found
    return json.loads(found[1])


def show(browser: Any, page: Page, path: Path, width: int = 1280, scheme: str = "light") -> None:
    browser.show(write_page(page, path / "page.html"), width, scheme)


def elements(browser: Any, selector: str) -> list[Any]:
    return browser.find_elements("css selector", selector)


def click(browser: Any, selector: str) -> None:
    browser.execute_script("arguments[0].click()", browser.find_element("css selector", selector))


def text_of(browser: Any, selector: str) -> str:
    """The text of the first element found, with no-break spaces as spaces."""
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector).replace("\xa0", " ")


def pick(browser: Any, identity: str, value: int | str, event: str = "change") -> None:
    code = "const s = document.getElementById(arguments[0]); s.value = arguments[1]; s.dispatchEvent(new Event(arguments[2]))"
    browser.execute_script(code, identity, str(value), event)


def fill_in(browser: Any, identity: str, text: str) -> None:
    pick(browser, identity, text, "input")


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
    """Unit and product of all units of the evidence that are on."""
    more = browser.find_element("css selector", "#products-all")
    if not more.get_property("hidden") and "more unit" in more.get_property("textContent"):
        click(browser, "#products-all")
    rows = all_of(browser, "#products [data-product]", "[each.dataset.unit, each.dataset.product]")
    return [(int(unit), float(product)) for unit, product in rows]
