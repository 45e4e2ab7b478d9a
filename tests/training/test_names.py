"""A run's folder has a name that everyone who writes into it can write."""

import os
from pathlib import Path

import pytest

from dynamick.errors import InputError
from dynamick.training import Recipe, train


def test_a_folder_whose_name_is_no_utf8_is_refused_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"r\\udce9': is no name in UTF-8, which TensorBoard's logs need"):
        train(Recipe(), tmp_path / os.fsdecode(b"r\xe9"))
    assert list(tmp_path.iterdir()) == []
