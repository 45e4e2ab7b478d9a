"""Simulability of explanations, measured by a proxy reader, and the questions of a study with human readers."""

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from dynamick.errors import InputError
from dynamick.explanation.explained import Explanation
from dynamick.explanation.pixels import png
from dynamick.metrics.simulability import ReaderState, Tokens, simulability_compute, simulability_update


@dataclass(frozen=True)
class Simulability:
    """How well a reader of the explanations alone gives the network's answers.

    Attributes:
        agreement: the share of held-out images on which reader and network agree.
        chance: the same for always giving the network's commonest answer.
        classes: how many different answers the network gives.
        k: how many concepts the reader is shown at most.
        learnt_from, held_out: how many explanations.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> explanations = dk.explain(model, scenes.images, units=units)
    >>> measured = dk.explanation.simulability(explanations, k=3)
    >>> measured.learnt_from, measured.held_out
    (10, 10)
    """

    agreement: float
    chance: float
    classes: int
    k: int
    learnt_from: int
    held_out: int


def tokens(explanation: Explanation, k: int = 5) -> Tokens:
    """What the reader sees: the concepts of the k units of largest |p|, each with its sign, such as "+grass".

    A unit without a label is named by its number, "unit 12".
    """
    places = [place for place in explanation.largest(k) if explanation.products[place] != 0]
    return frozenset(_token(explanation, place) for place in places)


def simulability(explanations: Sequence[Explanation], k: int = 5, held_out: float = 0.5, seed: int = 0) -> Simulability:
    """Let the proxy reader learn from some explanations of predictions and answer the others.

    Args:
        explanations: of the predicted class, one an image (`explain` with classes=None), of one model.
        k: how many concepts the reader is shown.
        held_out: the share of the explanations that it must answer.
        seed: of the division, which is by image and the same for any two models.

    Raises:
        InputError: explanations of other classes than the predicted one, or too few to divide.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> explanations = dk.explain(model, scenes.images, units=units)
    >>> 0 <= dk.explanation.simulability(explanations).agreement <= 1
    True
    """
    if any(each.class_index != each.predicted for each in explanations):
        raise InputError("simulability: an explanation is not of the predicted class; give explain(..., classes=None)")
    count = len(explanations)
    order = torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
    cut = count - round(held_out * count)
    if not 0 < cut < count:
        raise InputError(f"simulability: {count} explanations with {held_out} held out leave one side empty; give more")
    train, test = ([explanations[place] for place in side] for side in (order[:cut], order[cut:]))
    answers = [each.predicted for each in train]
    state = simulability_update(ReaderState(), [tokens(each, k) for each in train], answers)
    given = simulability_compute(state, [tokens(each, k) for each in test])
    truth = [each.predicted for each in test]
    commonest = min(Counter(answers).items(), key=lambda item: (-item[1], item[0]))[0]
    return Simulability(
        agreement=sum(a == b for a, b in zip(given, truth, strict=True)) / len(test),
        chance=truth.count(commonest) / len(test),
        classes=len({each.predicted for each in explanations}),
        k=k,
        learnt_from=len(train),
        held_out=len(test),
    )


@dataclass(frozen=True)
class StudyQuestion:
    """One question to a human reader: which of these did the network answer?

    Attributes:
        number: from 1.
        image: PNG bytes.
        concepts: what the network saw, signed: "+ grass", most telling first.
        choices: class names, in random order.
        answer: the position of the network's answer among them.
    """

    number: int
    image: bytes
    concepts: list[str]
    choices: list[str]
    answer: int


def study_questions(
    explanations: Sequence[Explanation], images: Tensor, names: Sequence[str], k: int = 5, choices: int = 4, seed: int = 0
) -> list[StudyQuestion]:
    """Questions for a human study, one an explanation of a predicted class.

    The choices are the network's answer, the runner-up (the hardest alternative), and other classes at random.

    Args:
        explanations: of the predicted class.
        images: uint8 (B, 3, H, W), which the explanations' `image` counts.
        names: the classes' names.
        k: concepts shown.
        choices: answers offered.
        seed: of the other classes and of all orders.

    Raises:
        InputError: fewer classes than choices, or images that are not uint8 (B, 3, H, W).

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> units = dk.dissect(model, "layer3", dk.data.Broden("scenes"), progress=False)
    >>> explanations = dk.explain(model, scenes.images, units=units)
    >>> questions = dk.explanation.study_questions(explanations, scenes.images, scenes.classes)
    >>> len(questions), len(questions[0].choices)
    (20, 4)
    """
    if len(names) < 2:
        raise InputError(f"study: {len(names)} class leaves nothing to choose; explain a network of two or more")
    if not 2 <= choices <= len(names):
        raise InputError(f"choices: {choices} with {len(names)} classes; give 2..{len(names)}")
    if images.ndim != 4 or images.dtype != torch.uint8:
        raise InputError(f"images: {images.dtype} of shape {tuple(images.shape)}; give uint8 (B, 3, H, W)")
    draw = random.Random(seed)
    questions = []
    for number, each in enumerate(explanations, start=1):
        offered = [each.predicted]
        if each.runner_up is not None:
            offered.append(each.runner_up.class_index)
        others = [c for c in range(len(names)) if c not in offered]
        offered += draw.sample(others, choices - len(offered))
        draw.shuffle(offered)
        seen = dict.fromkeys(_token(each, place) for place in each.largest(k) if each.products[place] != 0)
        concepts = [f"{token[0]} {token[1:]}" for token in seen]
        texts = [str(names[c]) for c in offered]
        questions.append(StudyQuestion(number, png(images[each.image]), concepts, texts, offered.index(each.predicted)))
    return questions


def _token(explanation: Explanation, place: int) -> str:
    concept = explanation.concepts[place]
    sign = "+" if explanation.products[place] > 0 else "-"
    return sign + (f"unit {explanation.units[place]}" if concept is None else concept.label)
