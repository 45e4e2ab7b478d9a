"""What the explanation page shows, as plain dataclasses."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from numpy.typing import NDArray

Array = NDArray[Any]


def digits_of(logits: Iterable[Sequence[float]]) -> int:
    """How many decimals evidence and logits are said with: the fewest with which no lead reads as nothing.

    Args:
        logits: of each decision those that are compared; its lead is the largest one's before the second.

    >>> digits_of([[11.34, 6.86]]), digits_of([[11.34, 11.31]])
    (1, 2)
    """
    known = [sorted((value for value in each if not math.isnan(value)), reverse=True) for each in logits]
    largest = max((abs(value) for each in known for value in each if math.isfinite(value)), default=0.0)
    leads = [each[0] - each[1] for each in known if len(each) > 1]
    if largest < 2:
        return 4 if largest < 0.2 else 3
    return 2 if any(0 < lead < 0.05 for lead in leads) else 1


@dataclass(frozen=True)
class ModelSummary:
    """One model's line in the overview; None if a figure was not measured.

    Attributes:
        name: for example `res8-d5a`.
        accuracy: top-1 on held-out images, 0..1.
        weights_per_class: weights of magnitude 1e-3 and more, divided by classes.
        most_weights: the largest number of such weights of a class.
        units: inputs of the head.
        routed_units: how many of them any class uses, by such a weight.
        detectors: units whose concept counts (IoU of 0.04 and more).
        mean_iou: over all units, 0..1.
        covered: the share of classes that at most 5 concepts cover, 0..1.
    """

    name: str
    accuracy: float | None = None
    weights_per_class: float | None = None
    most_weights: int | None = None
    units: int | None = None
    routed_units: int | None = None
    detectors: int | None = None
    mean_iou: float | None = None
    covered: float | None = None


@dataclass(frozen=True)
class HeadNumbers:
    """The classifier's numbers, from which the page computes.

    Attributes:
        weight: float32, shape (O, M).
        bias: float32, shape (O,).
        rule: `at_most`, `exactly` or `dense`.
        k: how many products a class routes at most; None when dense.
        mask: bool, shape (O, M), False where a connection is pruned; or None.
    """

    weight: Array
    bias: Array
    rule: str
    k: int | None = None
    mask: Array | None = None


@dataclass(frozen=True)
class TopImage:
    """An image that excites a unit most: uint8 (H, W, 3), and where in it: (h, w) of any size, above 0.5, or None.

    `instance`: the position of the explained image that it is, which the page then holds once; None for another image.
    """

    image: Array
    mask: Array | None = None
    instance: int | None = None


@dataclass(frozen=True)
class Unit:
    """What a unit stands for.

    Attributes:
        index: 0-based; the page counts from 1, as tally.csv does.
        label, category: its concept by dissection; empty if it has none.
        score: its IoU, or None without a dissection.
        detector: whether the score counts.
        top_images: the images that excite it most, in order; the page shows at most four.
    """

    index: int
    label: str = ""
    category: str = ""
    score: float | None = None
    detector: bool = False
    top_images: Sequence[TopImage] = ()


@dataclass(frozen=True)
class ConceptShare:
    """A concept of a class: its summed weight, its share of the class's positive weight, and (unit, weight) pairs, 0-based."""

    label: str
    category: str
    weight: float
    share: float
    units: Sequence[tuple[int, float]]


@dataclass(frozen=True)
class ClassComposition:
    """What a class is made of: its concepts by descending weight, and the size of its negative weights."""

    name: str
    concepts: Sequence[ConceptShare]
    negative: float = 0.0


@dataclass(frozen=True)
class Instance:
    """One explained image.

    Attributes:
        name: its file name.
        image: uint8 (H, W, 3), as people are shown it: of any size, but all that the network saw and no more.
        x: the head's inputs, float32 (M,).
        logits: the network's own, (O,). The page checks its arithmetic with them.
        true_class: index of the true class; None if it is not known.
        maps: the maps whose mean over locations is x, float (M, h, w); None if there is no exact split.
    """

    name: str
    image: Array
    x: Array
    logits: Array
    true_class: int | None = None
    maps: Array | None = None


@dataclass(frozen=True)
class OtherConcept:
    """What another network's units of one concept add to a class: name, sum of W x, and the units, 0-based."""

    name: str
    evidence: float
    units: Sequence[int]


@dataclass(frozen=True)
class OtherDecision:
    """Another network's answer to one image.

    Attributes:
        sentence: the decision in words.
        ranking: its best classes: name, logit, probability.
        concepts: of the answer, by descending size; the largest only.
        rest: the sum of W x of the others.
        bias: of the answer.
        heat: where the evidence for the answer is, (h, w); None without an exact split.
    """

    sentence: str
    ranking: Sequence[tuple[str, float, float]]
    concepts: Sequence[OtherConcept]
    rest: float
    bias: float
    heat: Array | None = None


@dataclass(frozen=True)
class Beside:
    """Another network on the same images: its figures, how it decides, in words, and its decisions, one an image."""

    model: ModelSummary
    rule: str
    decisions: Sequence[OtherDecision]


@dataclass(frozen=True)
class Page:
    """All that the page shows.

    Attributes:
        title: the heading.
        model: the explained model's figures.
        head: its classifier.
        classes: O names, as people say them.
        instances: at least one explained image.
        units: M units by index, or none.
        compositions: O compositions, or none.
        twin: another network's figures, if only they are known; else None.
        beside: another network's figures and decisions, or None.
        raw: the names as files have them, by the name that people say, where the two differ.
        notes: sentences for the overview: images skipped, why there are no maps, a training that still runs.
    """

    title: str
    model: ModelSummary
    head: HeadNumbers
    classes: Sequence[str]
    instances: Sequence[Instance]
    units: Sequence[Unit] = ()
    compositions: Sequence[ClassComposition] = ()
    twin: ModelSummary | None = None
    beside: Beside | None = None
    raw: Mapping[str, str] = field(default_factory=dict)
    notes: Sequence[str] = field(default_factory=tuple)

    @property
    def digits(self) -> int:
        """With how many decimals the page says evidence and logits: `digits_of` all its decisions."""
        return digits_of(each.logits.tolist() for each in self.instances)

    @property
    def columns(self) -> list[ModelSummary]:
        """The networks whose figures are known: this one first."""
        other = self.twin if self.beside is None else self.beside.model
        return [self.model, *([] if other is None else [other])]
