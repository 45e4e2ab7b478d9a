"""What a user's function returns: `package.module:function`. The user alone names it; no file may."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.networks.running import check_hooks, unwrapped
from dynamick.networks.source import Source


def knows(name: str) -> bool:
    """Whether it has the form MODULE:FUNCTION."""
    return ":" in name


def build(name: str, _kept: dict[str, Any]) -> nn.Module:
    """Call the function.

    Raises:
        InputError: there is no such function, it fails, or it returns something else.
    """
    package, _, function = name.partition(":")
    with _users_modules():
        try:
            make = getattr(importlib.import_module(package), function)
        except (ImportError, AttributeError, ValueError) as error:
            raise InputError(f"model {name}: {error}; give package.module:function") from error
        try:
            # The function may import more of the user's own.
            model = make()
        except InputError:
            raise
        except Exception as error:
            raise InputError(
                f"model {name}: {type(error).__name__}: {error}; mend the function, which takes nothing"
            ) from error
    if not isinstance(model, nn.Module):
        raise InputError(f"model {name}: returns a {type(model).__name__}; it must return a torch.nn.Module")
    check_hooks(model)
    return unwrapped(model)


@contextmanager
def _users_modules() -> Iterator[None]:
    """A user's own module is in the folder in which the command was called."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


SOURCE = Source("function", "package.module:function that returns a model", build, knows, own_weights=True, runs_code=True)
