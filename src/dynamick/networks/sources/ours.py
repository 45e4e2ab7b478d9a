"""This project's own networks, by the paper's names; their files say all else."""

from typing import Any, cast

from torch import nn

from dynamick import models
from dynamick.networks.source import Source
from dynamick.preprocessing import Preprocessing

MOST = 1 << 24
"""More classes than this are a damaged file's."""


def knows(name: str) -> bool:
    """Whether it begins as the paper's names do.

    Raises:
        InputError: it does, and is none of them.
    """
    begins = name.startswith("capsnet") or (name.startswith("res") and not name.startswith("resne"))
    return begins and bool(models.parse(name))


def build(name: str, kept: dict[str, Any]) -> nn.Module:
    """A new network; `kept` holds what `dynamick.models.create` takes."""
    known: dict[str, Any] = {key: kept[key] for key in ("num_classes", "stem", "width", "rule", "classes") if key in kept}
    if "model" in kept and (missing := {"num_classes", "stem", "width"} - known.keys()):
        # A file says all of these: defaults would build another network than it holds.
        raise KeyError(min(missing))
    if known.get("num_classes", 0) > MOST:
        raise ValueError(f"num_classes is {known['num_classes']}")
    if "outputs" in kept:
        known["num_classes"] = kept["outputs"]
    if "preprocessing" in kept:
        known["preprocessing"] = Preprocessing.from_dict(kept["preprocessing"])
    return models.create(name, **known)


def keeps(model: nn.Module) -> dict[str, Any]:
    """What `build` takes; the name in it says the head as well."""
    return models.current_config(cast(models.Network, model))


SOURCE = Source("dynamick", "res18-d5a or the like", build, knows, keeps=keeps, own_files=True)
