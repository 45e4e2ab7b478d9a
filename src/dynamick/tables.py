"""Rows as a table of pandas, which is an extra."""

import importlib
from collections.abc import Sequence
from typing import Any

from dynamick.errors import InputError


def frame(rows: Sequence[Sequence[Any]], columns: Sequence[str]) -> Any:
    """A pandas.DataFrame of some rows; it has the columns also if there is no row.

    Raises:
        InputError: pandas is not installed.
    """
    try:
        pandas = importlib.import_module("pandas")
    except ImportError:
        raise InputError("pandas is not installed; install it with: pip install 'dynamick[pandas]'") from None
    return pandas.DataFrame(rows, columns=list(columns))
