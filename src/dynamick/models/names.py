"""Models by the paper's names: `res18`, `res18-d5a`, `res18-l1`, `res50-d25a`, and `capsnet-em`."""

import re
from dataclasses import dataclass

from dynamick.errors import InputError
from dynamick.models import capsnet
from dynamick.models.heads import TrainedHead, heads
from dynamick.models.resnet import STAGES
from dynamick.nn.capsules import ROUTINGS

CAPSULES = "capsules-"
DENSE = "none"
"""The name of a dense head where one must be said: its suffix is empty."""


@dataclass(frozen=True)
class ModelName:
    """A model's name, taken apart.

    Attributes:
        depth: 8, 10, 14, 18, 34, 50 or 101; 0 for a CapsNet.
        head: the name of one of `dynamick.models.heads`: `dense`, `l1`, `dynamic` (the paper's a: thresholds activations) or
            `gradients` (g: thresholds gradients); of a CapsNet the routing of its capsules, such as `capsules-em`.
        k: the K in the name: how many inputs a class routes at most; None if the head has none.

    >>> dk.models.ModelName(18, "dynamic", 5).k
    5
    """

    depth: int
    head: str = "dense"
    k: int | None = None

    def __str__(self) -> str:
        if self.routing is not None:
            return f"capsnet-{self.routing}"
        return f"res{self.depth}-{self.kind.suffix.format(k=self.k)}".removesuffix("-")

    @property
    def routing(self) -> str | None:
        """How a CapsNet's capsules route; None for a ResNet."""
        return self.head.removeprefix(CAPSULES) if self.head.startswith(CAPSULES) else None

    @property
    def kind(self) -> TrainedHead:
        """All that its head says of itself."""
        return capsnet.HEAD if self.routing is not None else heads()[self.head]

    @property
    def label(self) -> str:
        """The head's short name in tables and figures: `dense`, `l1`, `d5`, ..."""
        return self.head if self.routing is not None else self.kind.label.format(k=self.k)

    @property
    def routed(self) -> int | None:
        """How many products a class sums at most for an input; None if it sums all."""
        return self.k if self.kind.routes else None


def parse(name: str) -> ModelName:
    """Take a name such as `res18-d5a` apart.

    Raises:
        InputError: it is no such name, or no ResNet of this depth is known.

    >>> dk.models.parse("res18-d5a")
    ModelName(depth=18, head='dynamic', k=5)
    """
    if name.startswith("capsnet"):
        return _parse_capsnet(name)
    parts = re.fullmatch(r"res(\d+)(?:-(.+))?", name)
    depth, suffix = (parts[1], parts[2] or "") if parts else ("", "")
    found = _find_head(suffix) if parts else None
    if found is None:
        raise InputError(f"model: {name!r} is no model's name; {_forms()}")
    if depth not in map(str, STAGES):
        raise InputError(f"model: {name!r}: no ResNet of depth {depth}; there are {', '.join(map(str, STAGES))}")
    head, k = found
    if k is None:
        return ModelName(int(depth), head.name)
    if not _counts(k):
        raise InputError(f"model: {name!r}: K of {k!r} is no integer from 1 up; {_forms()}")
    return ModelName(int(depth), head.name, int(k))


def parse_head(name: str) -> tuple[TrainedHead, int | None]:
    """A head by the suffix of a model's name, such as `d5a`, or `none` for a dense one; and its K, None if it has none.

    Raises:
        InputError: there is none of that name.

    >>> head, k = dk.models.parse_head("d5a")
    >>> head.name, k
    ('dynamic', 5)
    """
    found = _find_head("" if name == DENSE else name) if name else None
    forms = ", ".join(head.suffix.format(k=5) or DENSE for head in heads().values())
    if found is None:
        raise InputError(f"head: {name!r} is unknown; give {forms} (the 5 is K, from 1 up)")
    head, k = found
    if k is not None and not _counts(k):
        raise InputError(f"head: {name!r}: K of {k!r} is no integer from 1 up; give {forms}")
    return head, None if k is None else int(k)


def _find_head(suffix: str) -> tuple[TrainedHead, str | None] | None:
    """The head of a suffix, and what stands there for K; None if there is no such head."""
    found = [(head, match) for head in heads().values() if (match := re.fullmatch(_pattern(head), suffix))]
    return None if not found else (found[0][0], found[0][1][1] if found[0][0].takes_k else None)


def _counts(k: str) -> bool:
    return re.fullmatch(r"[0-9]{1,18}", k) is not None and int(k) >= 1


def _parse_capsnet(name: str) -> ModelName:
    routing = name.removeprefix("capsnet-")
    if routing not in ROUTINGS:
        raise InputError(f"model: {name!r} is no CapsNet's name; give {', '.join(f'capsnet-{each}' for each in ROUTINGS)}")
    return ModelName(0, f"{CAPSULES}{routing}")


def _pattern(head: TrainedHead) -> str:
    """What a suffix of this head looks like; whether its K is a number is looked at later."""
    return re.escape(head.suffix).replace(re.escape("{k}"), "(.*)")


def _forms() -> str:
    names = [str(ModelName(18, head.name, 5 if head.takes_k else None)) for head in heads().values()]
    return f"give {', '.join(names)} or capsnet-em (the 5 is K, from 1 up: how many inputs a class routes)"
