"""The rule for which preprocessing counts, the same in every command."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from dynamick.data.recipe import DataRecipe
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing


def preprocessing_that_counts(
    own: Any,
    data: DataRecipe | None = None,
    size: int | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> Preprocessing | None:
    """First what the user says, then what the network says. The size may also be that of the images it learnt from.

    Args:
        own: the network's own `preprocessing`: its file's, else its own attribute, else what its source says; or None.
        data: the images that it learnt from.
        size, mean, std: what the user says.

    Returns:
        None if nothing says anything.

    Raises:
        InputError: an impossible value, or the user gives only a part and the network gives nothing.
    """
    options = {"size": size, "mean": mean and tuple(mean), "std": std and tuple(std)}
    given: dict[str, Any] = {name: value for name, value in options.items() if value is not None}
    if isinstance(own, Preprocessing):
        seen = {} if own.size is not None or data is None else {"size": data.side}
        return replace(own, **(seen | given))
    if not given:
        return None
    if {"mean", "std"} - set(given):
        raise InputError("--mean, --std: the model does not say how its images are prepared; give both --mean and --std")
    return Preprocessing(**given)
