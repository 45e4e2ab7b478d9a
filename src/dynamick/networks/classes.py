"""The names of a network's classes, in every usual form."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dynamick.errors import InputError
from dynamick.files import read_json, read_text


def names_of(value: Any) -> list[str] | None:
    """Class names in the outputs' order: of a list, a dictionary by index (`id2label`) or by name (`class_to_idx`).

    None for what is none of these, such as a number, or a dictionary whose numbers are not 0, 1, 2 ...
    """
    if isinstance(value, Mapping):
        return _of_mapping(value)
    if isinstance(value, str | bytes) or not hasattr(value, "__len__") or not hasattr(value, "__iter__"):
        return None
    return [str(name) for name in value]


def _of_mapping(value: Mapping[Any, Any]) -> list[str] | None:
    # JSON has only text as keys.
    for pairs in (list(value.items()), [(number, name) for name, number in value.items()]):
        try:
            by_number = {int(number): str(name) for number, name in pairs}
        except (TypeError, ValueError):
            continue
        if sorted(by_number) == list(range(len(value))):
            return [by_number[number] for number in range(len(by_number))]
    return None


def read_names(file: Path) -> list[str]:
    """The names in a file: one a line, or JSON in any of the forms that `names_of` takes.

    Raises:
        InputError: it cannot be read, or holds no names.
    """
    try:
        if file.suffix.lower() != ".json":
            return [line.strip() for line in read_text(file).splitlines() if line.strip()]
        names = names_of(read_json(file))
    except (OSError, ValueError) as error:
        raise InputError(f"--classes {file}: cannot be read ({error}); give a text file in UTF-8, one class a line") from None
    if names is None:
        raise InputError(f"--classes {file}: holds no names; give a list, or a dictionary of numbers and names")
    return names


def classes_of(own: Any, outputs: int | None, given: Any = None) -> list[str]:
    """A name for each output: those that the user gives, else the network's own, else the outputs' numbers.

    Args:
        own: the network's own names in any form. They are ignored if they are no names, or of another number.
        outputs: how many there are; None if it is not known.
        given: a text file's path, or names in any form.

    Raises:
        InputError: what is given is no list of names, or of another number.
    """
    if given is None:
        names = names_of(own)
        if outputs is None or (names is not None and len(names) == outputs):
            return names or []
        return [str(number) for number in range(outputs)]
    names = read_names(Path(given)) if isinstance(given, str | Path) else names_of(given)
    if names is None:
        raise InputError(f"classes: {type(given).__name__}; give a file, one name a line, or a list of names")
    if outputs is not None and len(names) != outputs:
        where = given if isinstance(given, str | Path) else "classes"
        raise InputError(f"{where}: {len(names)} names for {outputs} outputs; give one a line for each output")
    return names
