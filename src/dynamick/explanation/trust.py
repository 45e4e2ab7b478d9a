"""How far explanations can be trusted, measured: what `dynamick explain --measure` and `--study` write."""

import random
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from dynamick.dissection import Dissection
from dynamick.errors import InputError
from dynamick.explanation.attribution import METHODS, captum_attr
from dynamick.explanation.composition import composition, share_covered
from dynamick.explanation.explained import Explanation
from dynamick.explanation.faithfulness import OURS, faithfulness_of
from dynamick.explanation.maps import Maps
from dynamick.explanation.pages import FEW_CONCEPTS
from dynamick.explanation.reading import Reader, Seen
from dynamick.explanation.simulability import simulability, study_questions
from dynamick.report.study import Question, write_study

CHOICES = 4
CONCEPTS = 5
"""How many concepts of each image a reader sees, a person or the proxy."""


def measure(
    model: nn.Module, images: Tensor, explanations: Sequence[Explanation], units: Dissection | None = None
) -> dict[str, Any]:
    """Faithfulness and simulability of a model's explanations, as plain JSON values.

    Args:
        model: any that `explain` takes.
        images: uint8 (N, 3, H, W), two or more.
        explanations: of their predicted classes.
        units: the dissection of the layer that enters the head.

    Returns:
        `faithfulness` (curves of deletion and insertion, n98, the error of the sum), `simulability`, `covered` (the share of
        classes that at most 5 concepts cover; None without a dissection), and `left_out`: the methods that could not be
        compared with, and why.

    Raises:
        InputError: as `faithfulness` and `simulability`.
    """
    return measure_seen(Reader(model).see(images, maps=False), explanations, units)


def measure_seen(seen: Seen, explanations: Sequence[Explanation], units: Dissection | None = None) -> dict[str, Any]:
    """`measure` for images that the network was shown already.

    Raises:
        InputError: as `simulability`.
    """
    orders, left_out = _orders(seen.where)
    return {
        "faithfulness": faithfulness_of(seen, explanations, orders).to_dict(),
        "simulability": asdict(simulability(explanations, CONCEPTS)),
        "covered": None if units is None else share_covered(composition(seen.reader.model, units), FEW_CONCEPTS),
        "left_out": left_out,
    }


def table(measured: dict[str, Any]) -> str:
    """The figures of `measure`, for people."""
    of, reader = measured["faithfulness"], measured["simulability"]
    lines = [f"{'units removed by':22} {'deletion':>9} {'insertion':>9}"]
    lines += [f"{each['order']:22} {each['deletion_area']:9.3f} {each['insertion_area']:9.3f}" for each in of["curves"]]
    lines += [f"{order:22} left out: {why}" for order, why in measured["left_out"].items()]
    n98 = "none" if of["median_n98"] is None else f"{of['median_n98']:g} of {of['units']} units (median)"
    lines += [
        f"98 % of the score      {n98}",
        f"error of the sum       {of['error']:.1e}",
        f"proxy reader           {reader['agreement']:.1%} of {reader['held_out']} answers, by chance {reader['chance']:.1%}",
    ]
    if measured["covered"] is not None:
        lines.append(f"classes of few concepts {measured['covered']:.1%} are covered by {FEW_CONCEPTS} concepts at most")
    return "\n".join(lines)


def ask_people(explanations: Sequence[Explanation], images: Tensor, classes: Sequence[str], page: Path) -> list[Path]:
    """Write a study with human readers: PAGE.html and PAGE.csv with the questions, PAGE-answers.csv with the answers.

    Raises:
        InputError: a model of one class.
    """
    # Folders give images class by class. The order of the questions must not reveal the answers.
    shuffled = random.Random(0).sample(explanations, len(explanations))
    questions = study_questions(shuffled, images, classes, CONCEPTS, min(CHOICES, len(classes)))
    return write_study([Question(**vars(each)) for each in questions], page)


def _orders(where: Maps) -> tuple[list[str], dict[str, str]]:
    """The orders that can be measured, and of the others why not."""
    left_out = {}
    try:
        captum_attr()
    except InputError as error:
        left_out = dict.fromkeys(METHODS, str(error))
    if where.no_grad_cam is not None:
        left_out["grad-cam"] = where.no_grad_cam
    return [order for order in (*OURS, *METHODS) if order not in left_out], left_out
