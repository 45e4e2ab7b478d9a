"""Decisions for a notebook: small HTML that needs nothing else, calm on a light page and on a dark one."""

import base64
from collections.abc import Sequence
from dataclasses import dataclass

from dynamick.report.writing import render


@dataclass(frozen=True)
class DecisionPart:
    """A concept of a decision.

    Attributes:
        name, text: what it is called, and its share.
        width: its evidence as a part of the largest, -1..1.
        units: the numbers of its units.
        heat: PNG of where in the image it is; None if it has no place there.
    """

    name: str
    text: str
    width: float
    units: Sequence[int]
    heat: bytes | None


@dataclass(frozen=True)
class Decision:
    """What is shown of a decision.

    Attributes:
        sentence: in words.
        picture: PNG; None if there is no picture.
        parts: its concepts, the largest first.
        units: number, concept, IoU or None, and product of each unit.
        bias, logit: what is added to the products, and the sum.
    """

    sentence: str
    picture: bytes | None
    parts: Sequence[DecisionPart]
    units: Sequence[tuple[int, str, float | None, float]]
    bias: float
    logit: float


def render_decisions(decisions: Sequence[Decision], more: int = 0) -> str:
    """Markup for a notebook's cell. Every value is escaped.

    Args:
        decisions: those that are shown.
        more: how many more there are.
    """
    return render("decisions.html.j2", decisions=decisions, more=more, uri=_uri, number=_number, unbroken=unbroken)


def _uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"


def unbroken(text: str) -> str:
    """A number and its per cent stay on one line."""
    return text.replace(" %", "\N{NO-BREAK SPACE}%")


def _number(value: float, form: str = "+.2f") -> str:
    return format(value, form).replace("-", "\N{MINUS SIGN}")
