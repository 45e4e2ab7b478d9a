"""A decision in one plain sentence, and names as people say them: the page, the notebook and the terminal all use these.

aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing
"""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from dynamick.report.explanation_parts import digits_of

MOST_NAMED = 5
"""A person can keep about so many things in mind; the sentence sums up the rest."""
LEAST_NAMED = 0.005
"""A concept of a smaller share would read "0 %"; it belongs to the rest."""
MOST_OF_ALL = 10
"""Where positive and negative evidence nearly cancel, sums are given: a share of almost nothing says nothing."""
REST = "the rest"
LACKS = 0.01
"""A class that has less than this part of the other's evidence lacks the concept: shares are said in whole per cent."""

_SCENE, _COLOURS = "-s", ["black", "blue", "brown", "green", "grey", "orange", "pink", "purple", "red", "white", "yellow"]
_WHERE = ("indoor", "outdoor", "interior", "exterior")
_KINDS = {
    "arena": ("hockey", "performance", "rodeo"),
    "atrium": ("public",),
    "bakery": ("shop",),
    "canal": ("natural", "urban"),
    "car_interior": ("backseat", "frontseat"),
    "cubicle": ("office",),
    "desert": ("sand", "vegetation"),
    "dinette": ("home", "vehicle"),
    "elevator": ("door",),
    "field": ("cultivated", "wild"),
    "forest": ("broadleaf", "needleleaf"),
    "lake": ("natural",),
    "moat": ("water",),
    "poolroom": ("establishment", "home"),
    "stadium": ("baseball", "football", "soccer"),
    "subway_station": ("platform",),
    "temple": ("asia", "east_asia", "south_asia"),
    "theater": ("indoor_procenium", "indoor_seats"),
    "train_station": ("platform",),
    "underwater": ("coral_reef", "ocean_deep"),
    "waterfall": ("block", "cascade", "cataract", "fan", "plunge"),
    "wine_cellar": ("barrel_storage", "bottle_storage"),
}
"""Scenes of SUN and Places of which there are several kinds, beside those in `_WHERE`. MiniPlaces puts a hyphen between."""
_LETTER = re.compile(r"^/?[a-z]/")


@dataclass(frozen=True)
class Side:
    """One class of a decision.

    Attributes:
        name: the class, raw or as people say it.
        logit: its logit.
        parts: the name (`unit_name`) and the product W x of each unit that it sums; several units may have one name.
    """

    name: str
    logit: float
    parts: Sequence[tuple[str, float]]


def spoken(name: str) -> str:
    """A label or a class's name as people say it: `swimming_pool-outdoor-s` is "swimming pool, outdoor".

    Broden marks scenes by `-s` and colours by `-c`; Places writes `/b/bakery/shop`, MiniPlaces `bakery-shop`. Other hyphens
    stay: "t-shirt".

    >>> spoken("swimming_pool-outdoor-s"), spoken("red-c"), spoken("t-shirt"), spoken("/b/bakery/shop")
    ('swimming pool, outdoor', 'red', 't-shirt', 'bakery, shop')
    >>> spoken("temple-east_asia")
    'temple, east asia'
    """
    plain = _LETTER.sub("", name)
    if plain.endswith(_SCENE):
        plain = plain.removesuffix(_SCENE).replace("-", "/")
    elif plain.removesuffix("-c") in _COLOURS:
        plain = plain.removesuffix("-c")
    scene, _, kind = plain.rpartition("-")
    if scene and (kind in _WHERE or kind in _KINDS.get(scene, ())):
        plain = f"{scene}/{kind}"
    parts = [" ".join(part.replace("_", " ").split()) for part in plain.split("/")]
    return ", ".join(filter(None, parts)) or name


def unit_name(unit: int, label: str = "", detector: bool = False) -> str:
    """What a unit is called in a sentence: its concept if that counts (an IoU of 0.04 or more), else its number.

    Args:
        unit: its number, which counts from 1.

    >>> unit_name(12, "wing", True), unit_name(12, "wing", False)
    ('wing', 'unit 12')
    """
    return spoken(label) if label and detector else f"unit {unit}"


def grouped(parts: Sequence[tuple[str, float]]) -> dict[str, float]:
    """The summed product of each name, by descending size; of equals the one that was given first.

    >>> grouped([("wheel", 1.0), ("wing", 1.5), ("wheel", 1.0)])
    {'wheel': 2.0, 'wing': 1.5}
    """
    sums: dict[str, float] = {}
    for name, product in parts:
        sums[name] = sums.get(name, 0.0) + product
    return dict(sorted(sums.items(), key=lambda item: -abs(item[1])))


@dataclass(frozen=True)
class Said:
    """A part of the evidence as it is said: a concept, a unit without one, or the rest.

    Attributes:
        name: "wing", "unit 12" or "the rest".
        value: the sum of its products.
        text: its share in whole per cent ("70 %"); the sum itself ("+0.3") where shares mean nothing.
    """

    name: str
    value: float
    text: str

    @property
    def words(self) -> str:
        """Both; two numbers beside each other are kept apart: "unit 12 with 30 %"."""
        return f"{self.name} {'with ' if self.name[-1:].isdigit() else ''}{self.text}"


def evidence(parts: Sequence[tuple[str, float]]) -> list[Said]:
    """What a class sums, by name, the largest first: at most five names, and the rest as one. Shares add up to 100 %.

    >>> [(each.name, each.text) for each in evidence([("wing", 1.5), ("wheel", 1.5), ("wing", 2.0)])]
    [('wing', '70 %'), ('wheel', '30 %')]
    """
    sums = grouped(parts)
    total = sum(sums.values())
    shares = 0 < total < math.inf and max(map(abs, sums.values())) <= MOST_OF_ALL * total
    least = LEAST_NAMED * total if shares else 0.0
    named = [name for name, value in sums.items() if abs(value) >= least][:MOST_NAMED]
    values = [sums[name] for name in named]
    if len(named) < len(sums):
        values.append(sum(sums[name] for name in sums.keys() - {*named}))
        named.append(REST)
    texts = [f"{_minus(str(n))} %" for n in per_cent([value / total for value in values])] if shares else map(_signed, values)
    said = map(Said, named, values, texts)
    return [each for each in said if each.name != REST or each.text != "0 %"]


def per_cent(shares: Sequence[float]) -> list[int]:
    """Shares that add up to 1 as whole per cent that add up to 100: the largest remainders are rounded up.

    >>> per_cent([1 / 3, 1 / 3, 1 / 3])
    [34, 33, 33]
    """
    floors = [math.floor(100 * share) for share in shares]
    by_remainder = sorted(range(len(shares)), key=lambda place: floors[place] - 100 * shares[place])
    for place in by_remainder[: 100 - sum(floors)]:
        floors[place] += 1
    return floors


def sentence(answer: Side, rival: Side | None = None, wrong: bool = False, digits: int | None = None) -> str:
    """One decision in words.

    Units of one name are summed. Their shares of the evidence (the logit minus the bias) add up to 100 %; what is beyond
    the five largest is "the rest". If the evidence is not above 0, or almost cancels, shares mean nothing and sums are given.

    Args:
        answer: the class that is explained.
        rival: what it is compared with: the best other class, or the true one if the answer is wrong.
        wrong: whether the answer is wrong; the rival must then be the true class.
        digits: decimals of both logits, whose difference is said; None takes as many as this lead needs.

    >>> wing, wheel = ("wing", 3.5), ("wheel", 1.5)
    >>> sentence(Side("aeroplane", 5.0, [wing, wheel]), Side("car", 0.6, [wheel]))
    'aeroplane: wing 70 %, wheel 30 %; 4.4 ahead of car, which lacks wing'
    >>> sentence(Side("aeroplane", 5.0, [wing, wheel]), Side("bird", 4.0, [("beak", 3.0)]), wrong=True)
    'aeroplane (wrong: it is bird): wing 70 %, wheel 30 %; 1.0 ahead of bird, which lacks wing'
    """
    truth = f" (wrong: it is {spoken(rival.name)})" if wrong and rival is not None else ""
    parts = ", ".join(each.words for each in evidence(answer.parts)) or "no unit speaks for it"
    said = f"{spoken(answer.name)}{truth}: {parts}"
    return said if rival is None else f"{said}; {_lead(answer, rival, digits)}"


def _lead(answer: Side, rival: Side, digits: int | None) -> str:
    name = spoken(rival.name)
    if digits is None:
        digits = digits_of([[answer.logit, rival.logit]])
    ours, theirs = 10**digits * answer.logit, 10**digits * rival.logit
    if not math.isfinite(ours - theirs):
        return f"beside {name}"
    # Of the logits as they are shown: whoever subtracts one from the other gets this lead.
    lead = math.floor(ours + 0.5) - math.floor(theirs + 0.5)
    if lead == 0:
        return f"level with {name}"
    by = f"{abs(lead) / 10**digits:.{digits}f}"
    return f"{by} {'ahead of' if lead > 0 else 'behind'} {name}, {_because(answer, rival, lead > 0)}"


def _because(answer: Side, rival: Side, ahead: bool) -> str:
    """What the rival lacks or has: the name on which the two differ most in the direction of the lead."""
    ours, theirs = grouped(answer.parts), grouped(rival.parts)
    gaps = {name: ours.get(name, 0.0) - theirs.get(name, 0.0) for name in [*ours, *theirs]}
    name = max(gaps, key=lambda each: gaps[each] if ahead else -gaps[each], default="")
    if not (gaps.get(name, 0.0) > 0 if ahead else gaps.get(name, 0.0) < 0):
        return "by its bias" if ahead else "by the bias"
    mine, its = ours.get(name, 0.0), theirs.get(name, 0.0)
    if ahead and abs(its) <= LACKS * abs(mine):
        return f"which lacks {name}"
    if ahead:
        return f"which has less {name}" if its > 0 else f"which {name} speaks against"
    if its > 0:
        return f"which has more {name}" if mine > LACKS * its else f"which has {name}"
    return f"which {name} speaks less against"


def _signed(value: float) -> str:
    return _minus(f"{value:+.1f}" if abs(value) >= 0.05 else f"{value:+.2f}")


def _minus(number: str) -> str:
    return number.replace("-", "\N{MINUS SIGN}")
