"""What a class is made of: the concepts of the units with its positive weights (Fig. 6; docs/definitions.md, "Conventions")."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.explained import Concept
from dynamick.explanation.head import find_head
from dynamick.explanation.instances import class_names, concepts_of
from dynamick.explanation.sentence import per_cent, spoken
from dynamick.networks.running import unwrapped
from dynamick.tables import frame

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

# The concepts of the units that hold this part of its positive weight cover a class (docs/definitions.md, "Conventions").
COVERED = 0.95
COLUMNS = ("class", "concept", "category", "share", "unit", "weight", "score", "detector")
"""Of compositions as a table; the share is the concept's, of the class's positive weight."""


@dataclass(frozen=True)
class UnitLink:
    """One connection: the unit's index, its weight, its dissection score, and the link's width (the class's largest is 1)."""

    index: int
    weight: float
    score: float
    detector: bool
    width: float

    @property
    def unit(self) -> int:
        """The unit's number, which counts from 1."""
        return self.index + 1


@dataclass(frozen=True)
class ConceptLink:
    """All of a class's links of one concept: their summed weight, its share of the positive weight, the units by weight."""

    label: str
    category: str
    weight: float
    share: float
    units: list[UnitLink]


@dataclass(frozen=True, repr=False)
class Composition:
    """What one class is made of.

    Attributes:
        class_index, class_name: the class.
        concepts: the concepts of the units that hold 95 % of its positive weight, by descending weight.
        covered: how many they are; None for a class without a positive weight.
        detected: the part of those units' weight that is on units whose concept counts (score of 0.04 and more).
        positive: how many positive weights the class has.
        negative: the size of the sum of its negative weights. These speak against the class and are not drawn.

    >>> made = dk.explanation.Composition(0, "car", [], None, 0.0, 0, 0.0)
    >>> made
    car: no positive weight
    """

    class_index: int
    class_name: str
    concepts: list[ConceptLink]
    covered: int | None
    detected: float
    positive: int
    negative: float

    def __repr__(self) -> str:
        shares = per_cent([*(each.share for each in self.concepts), 1 - sum(each.share for each in self.concepts)])
        said = [f"{spoken(each.label)} {n} %" for each, n in zip(self.concepts, shares, strict=False)]
        return f"{spoken(self.class_name)}: {', '.join(said) or 'no positive weight'}"

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each of these units: its concept, weight, score, and the concept's share.

        Raises:
            InputError: pandas is not installed.
        """
        return frame(self._rows(), COLUMNS)

    def _rows(self) -> list[tuple[Any, ...]]:
        return [
            (self.class_name, of.label, of.category, of.share, link.unit, link.weight, link.score, link.detector)
            for of in self.concepts
            for link in of.units
        ]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values. Units are given by number, as everywhere."""
        result = asdict(self)
        for link in (link for concept in result["concepts"] for link in concept["units"]):
            link["unit"] = link.pop("index") + 1
        return result


class Compositions(list[Composition]):
    """What each class is made of, in the classes' order.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> made_of = dk.explanation.composition(model, units)
    >>> list(made_of.to_pandas().columns)[:2]
    ['class', 'concept']
    """

    def __repr__(self) -> str:
        return "\n".join(map(repr, self)) or "no classes"

    def to_pandas(self) -> Any:
        """A pandas.DataFrame with a row for each unit of each class.

        Raises:
            InputError: pandas is not installed.
        """
        return frame([row for each in self for row in each._rows()], COLUMNS)


def composition(model: nn.Module, units: "Dissection | None") -> Compositions:
    """What each class is made of, by its positive weights.

    A unit without any label is a concept of its own, "unit 12".

    Args:
        model: a classifier that ends in a linear layer, dense or Dynamic-K. Pruned connections do not count.
        units: the dissection of the layer that enters it; without one, every unit is a concept of its own.

    Raises:
        InputError: no linear classifier, or a dissection of another number of units.

    >>> dk.data.ComposedScenes("val", 20, image_size=32).write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> found = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> classes = dk.explanation.composition(model, found)
    >>> len(classes), classes[0].class_index, 0 <= dk.explanation.share_covered(classes) <= 1
    (10, 0, True)
    """
    model = unwrapped(model)
    head = find_head(model)
    weight_OM = head.effective_weight.cpu()
    concepts = [None] * weight_OM.shape[1] if units is None else concepts_of(units)
    if len(concepts) != weight_OM.shape[1]:
        raise InputError(f"units: {len(concepts)} units dissected, but the head reads {weight_OM.shape[1]}")
    names = class_names(model, head)
    return Compositions(_composition(c, names[c], weight_M, concepts) for c, weight_M in enumerate(weight_OM))


def _composition(c: int, name: str, weight_M: Tensor, concepts: Sequence[Concept | None]) -> Composition:
    made_of = _made_of(weight_M.clamp(min=0), concepts)
    return Composition(
        class_index=c,
        class_name=name,
        concepts=made_of,
        covered=len(made_of) or None,
        detected=_detected(made_of),
        positive=int((weight_M > 0).sum()),
        negative=float(-weight_M.clamp(max=0).sum()),
    )


def _made_of(positive_M: Tensor, concepts: Sequence[Concept | None]) -> list[ConceptLink]:
    """The concepts of the units that hold `COVERED` of a class's positive weight, by descending weight."""
    order = positive_M.argsort(descending=True, stable=True)
    ranked = positive_M[order]
    partial = ranked.cumsum(0)
    # The fewest units that hold the part: those up to the first partial sum that reaches it.
    n = int((partial < COVERED * partial[-1]).sum()) + 1 if partial[-1] > 0 else 0
    links: dict[tuple[str, str], list[UnitLink]] = {}
    for unit, weight in zip(order[:n].tolist(), ranked[:n].tolist(), strict=True):
        concept = concepts[unit]
        key = (f"unit {unit + 1}", "") if concept is None else (concept.label, concept.category)
        score, detector = (0.0, False) if concept is None else (concept.score, concept.detector)
        links.setdefault(key, []).append(UnitLink(unit, weight, score, detector, weight / float(ranked[0])))
    made_of = [
        ConceptLink(label, category, held := sum(link.weight for link in of), held / float(partial[-1]), of)
        for (label, category), of in links.items()
    ]
    return sorted(made_of, key=lambda link: (-link.weight, link.units[0].index))


def share_covered(compositions: Sequence[Composition], n: int = 5) -> float:
    """The share of classes covered by at most n concepts (the paper: more than 95 % by 5). NaN without classes.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> 0 <= dk.explanation.share_covered(dk.explanation.composition(model, units), 5) <= 1
    True
    """
    covered = torch.tensor([each.covered is not None and each.covered <= n for each in compositions], dtype=torch.float64)
    return float(covered.mean())


def _detected(made_of: Sequence[ConceptLink]) -> float:
    links = [link for concept in made_of for link in concept.units]
    total = sum(link.weight for link in links)
    return sum(link.weight for link in links if link.detector) / total if total else 0.0
