"""What an explanation is: the numbers of one decision, and how they are said, kept and shown."""

import json
import math
from dataclasses import dataclass
from typing import Any, SupportsIndex, overload

from torch import Tensor

from dynamick.discovery import home_of
from dynamick.explanation.sentence import Side, sentence, unit_name
from dynamick.tables import frame

_DRAWN = {"html": "dynamick.explanation.notebook", "figure": "dynamick.explanation.notebook"}
"""What draws loads matplotlib, so it is imported when it is first used."""
MOST_SHOWN = 10
"""Of a long list, so many decisions are drawn."""


@dataclass(frozen=True)
class Concept:
    """What a unit stands for, by dissection: its label, the label's category, its score (IoU), and whether that counts.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> concepts = [each for each in dk.explain(model, scenes.images[0], units=units)[0].concepts if each]
    >>> all(each.detector == (each.score >= 0.04) for each in concepts)
    True
    """

    label: str
    category: str
    score: float
    detector: bool


@dataclass(frozen=True)
class RunnerUp:
    """The best class beside the explained one (if the answer is wrong, the true one), and what separates the two ("why not").

    Attributes:
        class_index, class_name, logit, bias: the other class.
        indices: of the units that either class routes, by descending absolute difference; ties: lower index first.
        differences: a unit's product for the explained class minus its product for this one. Their sum is the difference
            of the logits minus the difference of the biases.
        concepts: a unit's concept each; None without a dissection.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> why = dk.explain(model, scenes.images[0])[0]
    >>> gap = sum(why.runner_up.differences) + why.bias - why.runner_up.bias
    >>> abs(gap - (why.logit - why.runner_up.logit)) < 1e-4
    True
    """

    class_index: int
    class_name: str
    logit: float
    bias: float
    indices: list[int]
    differences: list[float]
    concepts: list[Concept | None]

    @property
    def units(self) -> list[int]:
        """The same units by their numbers, which count from 1."""
        return [index + 1 for index in self.indices]


@dataclass(frozen=True, repr=False)
class Explanation:
    """Why one image gets the logit of one class: logit = bias + sum of products.

    Attributes:
        image: the image's position among those given.
        class_index, class_name: the class explained; the name is the index if the model has no `classes`.
        predicted: the class of the largest logit.
        logit, bias: Y_c and b_c.
        rule, k: `at_most`, `exactly` or `dense`, and how many products a class routes at most (None when dense).
        indices: where the routed units are in the head's input, by descending product; a dense head routes all of them.
        products: W_ci * x_i, one each.
        concepts: one each; None if no dissection was given.
        shares: `share_of_routed`: p / (Y - b), and `share_of_all`: p / (sum of W_ci x_i over all units), the paper's; one
            list each. A zero denominator gives None.
        residual: 1 minus the sum of `share_of_all`: what the routed units leave of the dense sum (the paper's 2 %). None
            where that sum is zero.
        n98: the smallest n such that the n largest |p|, and any more of them, stay within 2 % of Y - b; None if it is 0.
        runner_up: None for a model of one class.
        maps: each product's split over the image, (n, H, W): W_ci * A_i(h, w) / (H * W), which sums to the product.
        why: why there are no maps; None if there are.
        truth: the image's true class by index; None if it is not known.
        picture: the image as it was given, (C, H, W); None if it is no picture but prepared already.

    >>> scenes = dk.data.ComposedScenes("val", 1, image_size=32)
    >>> model = dk.models.create("res8-d2a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> [why] = dk.explain(model, scenes.images)
    >>> abs(why.bias + sum(why.products) - why.logit) < 1e-5
    True
    >>> why.units == [index + 1 for index in why.indices]  # units count from 1, indices from 0
    True
    >>> why.sentence.startswith(why.class_name)
    True
    """

    image: int
    class_index: int
    class_name: str
    predicted: int
    logit: float
    bias: float
    rule: str
    k: int | None
    indices: list[int]
    products: list[float]
    concepts: list[Concept | None]
    shares: dict[str, list[float | None]]
    residual: float | None
    n98: int | None
    runner_up: RunnerUp | None
    maps: Tensor | None
    why: str | None
    truth: int | None = None
    picture: Tensor | None = None

    def __repr__(self) -> str:
        return self.sentence

    @property
    def units(self) -> list[int]:
        """The routed units by their numbers, which count from 1 as on the page and in tally.csv: unit 12 has the index 11."""
        return [index + 1 for index in self.indices]

    @property
    def names(self) -> list[str]:
        """What each routed unit is called in the sentence: by its concept if that counts, else "unit 12"."""
        return _names(self.units, self.concepts)

    @property
    def wrong(self) -> bool:
        """Whether this is the network's answer, and it is known to be wrong."""
        return self.truth is not None and self.class_index == self.predicted != self.truth

    @property
    def sentence(self) -> str:
        """The decision in words, such as "aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing"."""
        return self.said()

    def said(self, digits: int | None = None) -> str:
        """`sentence` with so many decimals, as a page of several decisions says it (`Page.digits`)."""
        mine = dict(zip(self.indices, self.products, strict=True))
        answer = Side(self.class_name, self.logit, list(zip(self.names, self.products, strict=True)))
        other = self.runner_up
        if other is None:
            return sentence(answer, digits=digits)
        theirs = [mine.get(index, 0.0) - apart for index, apart in zip(other.indices, other.differences, strict=True)]
        routed = list(zip(_names(other.units, other.concepts), theirs, strict=True))
        return sentence(answer, Side(other.class_name, other.logit, routed), self.wrong, digits)

    def largest(self, n: int | None = None) -> list[int]:
        """Positions in `units` and `products` of the n largest |p|, descending (None: as many as reach 98 %, else all)."""
        order = sorted(range(len(self.indices)), key=lambda place: (-abs(self.products[place]), self.indices[place]))
        return order[: n if n is not None else self.n98]

    def residual_after(self, n: int) -> float | None:
        """1 minus the share of all units' sum that the n largest |p| hold."""
        shares = self.shares["share_of_all"]
        chosen = [shares[place] for place in self.largest(n)]
        if self.residual is None:
            return None
        return 1 - exact_sum([share for share in chosen if share is not None])

    def to_dict(self, maps: bool = True) -> dict[str, Any]:
        """Plain JSON values; a number that is not finite becomes None. Units are given by number, as everywhere.

        `maps=False` leaves the maps out.
        """
        result = {name: plain(value) for name, value in self.__dict__.items() if name not in ("maps", "picture")}
        for counted in (result, *([result["runner_up"]] if self.runner_up is not None else [])):
            counted["units"] = [index + 1 for index in counted.pop("indices")]
        result["maps"] = plain(self.maps.tolist()) if maps and self.maps is not None else None
        return result

    def to_json(self, maps: bool = True) -> str:
        """`to_dict` as a JSON text."""
        return json.dumps(self.to_dict(maps), allow_nan=False)

    def to_pandas(self) -> Any:
        """The routed units as a pandas.DataFrame, a row each: image, class, unit, concept, category, score, product, shares.

        Raises:
            InputError: pandas is not installed.
        """
        return frame(self._rows(), UNIT_COLUMNS)

    def plot(self) -> Any:
        """The decision as a matplotlib Figure: the sentence, the image, and each concept's evidence on it."""
        return Explanations([self]).plot()

    def _repr_html_(self) -> str:
        return Explanations([self])._repr_html_()

    def _rows(self) -> list[tuple[Any, ...]]:
        routed, all_units = self.shares["share_of_routed"], self.shares["share_of_all"]
        rows = []
        for place, (unit, product, concept) in enumerate(zip(self.units, self.products, self.concepts, strict=True)):
            label, category, score = (None, None, None) if concept is None else (concept.label, concept.category, concept.score)
            shares = (routed[place], all_units[place])
            rows.append((self.image, self.class_name, unit, label, category, score, product, *shares))
        return rows

    def _row(self) -> tuple[Any, ...]:
        other, right = self.runner_up, None if self.truth is None else self.predicted == self.truth
        lead = None if other is None else self.logit - other.logit
        beside = None if other is None else other.class_name
        values = (self.image, self.class_name, self.logit, self.bias, self.class_index == self.predicted, right)
        return (*values, beside, lead, len(self.indices), self.n98, self.sentence)


UNIT_COLUMNS = ("image", "class", "unit", "concept", "category", "score", "product", "share_of_routed", "share_of_all")
COLUMNS = ("image", "class", "logit", "bias", "answer", "right", "runner_up", "lead", "units", "n98", "sentence")


class Explanations(list[Explanation]):
    """Explanations, as a list that shows itself: `repr` says each in a sentence, a notebook draws the first ten.

    >>> scenes = dk.data.ComposedScenes("val", 3, image_size=32)
    >>> explanations = dk.explain(dk.models.create("res8-d2a", 10, stem="compact", width=8), scenes.images)
    >>> len(explanations[1:]), len(explanations.to_pandas())
    (2, 3)
    >>> explanations.plot().savefig("decisions.png")
    """

    @overload
    def __getitem__(self, place: SupportsIndex, /) -> Explanation: ...
    @overload
    def __getitem__(self, place: slice, /) -> "Explanations": ...
    def __getitem__(self, place: SupportsIndex | slice, /) -> "Explanation | Explanations":
        return Explanations(super().__getitem__(place)) if isinstance(place, slice) else super().__getitem__(place)

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no explanations"

    def _repr_html_(self) -> str:
        drawn: str = home_of(__name__, _DRAWN, "html")(self[:MOST_SHOWN], len(self) - MOST_SHOWN)
        return drawn

    def plot(self, most: int = MOST_SHOWN) -> Any:
        """The first `most` decisions as one matplotlib Figure: the sentence, the image, each concept's evidence on it.

        Raises:
            InputError: there is none.
        """
        return home_of(__name__, _DRAWN, "figure")(self[:most])

    def to_pandas(self, units: bool = False) -> Any:
        """A pandas.DataFrame with a row for each decision; with `units`, for each routed unit of each decision.

        Raises:
            InputError: pandas is not installed.
        """
        if units:
            return frame([row for each in self for row in each._rows()], UNIT_COLUMNS)
        return frame([each._row() for each in self], COLUMNS)


def exact_sum(values: list[float]) -> float:
    """The exact sum. Numbers that are not finite, which fsum refuses, are added as floating point does."""
    return math.fsum(values) if all(map(math.isfinite, values)) else sum(values)


def _names(units: list[int], concepts: list[Concept | None]) -> list[str]:
    return [
        unit_name(unit) if concept is None else unit_name(unit, concept.label, concept.detector)
        for unit, concept in zip(units, concepts, strict=True)
    ]


def plain(value: Any) -> Any:
    """A value for JSON; numbers that JSON does not have become None."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, Concept | RunnerUp):
        return {name: plain(each) for name, each in value.__dict__.items()}
    return value
