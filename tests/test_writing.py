"""The one way to write a file, and what is said where the system refuses."""

import ast
import errno
import os
from pathlib import Path

import pytest

import dynamick
from dynamick.cli.main import main
from dynamick.errors import InputError
from dynamick.files import LOCK, alone, told, why_no_folder, write_atomically, write_by

SOURCE = Path(dynamick.__file__).parent
PUTS_OUT = {"dump", "save", "savefig", "savez", "savez_compressed", "savetxt", "save_file", "safe_dump", "tofile", "to_csv"}
OURS = {"networks.save", "report.save", "saved.save"}
OPEN_FILES = ("buffer", "file", "written")
"""What a file that is open, in memory or in `write_by`, is called."""


def odd_writes(path: Path) -> list[str]:
    """Calls that may write a file by its path, and so by halves."""
    found = []
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.Call):
            continue
        called = ast.unparse(node.func)
        given = [*node.args, *(each.value for each in node.keywords)]
        modes = [each.value for each in given if isinstance(each, ast.Constant) and isinstance(each.value, str)]
        name = called.rpartition(".")[2]
        puts_out = name in PUTS_OUT and "." in called and called not in OURS
        into = any(isinstance(each, ast.Name) and each.id in OPEN_FILES for each in node.args)
        makes_bytes = called in ("safetensors.torch.save", "yaml.safe_dump")
        opens = name == "open" and any(set(mode) <= set("rwxabt+") and set(mode) & set("wxa+") for mode in modes)
        if name in ("write_text", "write_bytes") or opens or (puts_out and not into and not makes_bytes):
            found.append(f"{path.name}:{node.lineno}: {called}")
    return found


def test_nothing_is_written_in_another_way() -> None:
    found = [each for path in SOURCE.rglob("*.py") if path != SOURCE / "files.py" for each in odd_writes(path)]
    assert found == []
    assert len(odd_writes(SOURCE / "files.py")) == 2


@pytest.mark.parametrize("line", ['open(p, "w")', "p.write_text(t)", "image.save(p)", "torch.save(x, p)", 'p.open(mode="ab")'])
def test_another_way_would_be_found(tmp_path: Path, line: str) -> None:
    (tmp_path / "odd.py").write_text(line)
    assert len(odd_writes(tmp_path / "odd.py")) == 1


def test_what_a_function_writes_is_whole_or_not_there(tmp_path: Path) -> None:
    def fails(file: object) -> None:
        assert hasattr(file, "write")
        file.write(b"half")
        raise ZeroDivisionError

    write_by(tmp_path / "file", lambda file: file.write(b"content"))
    with pytest.raises(ZeroDivisionError):
        write_by(tmp_path / "file", fails)
    assert (tmp_path / "file").read_bytes() == b"content"
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_a_name_that_is_too_long_is_told(tmp_path: Path) -> None:
    long = tmp_path / ("x" * 300)
    assert why_no_folder(long / "below") == "File name too long"
    with pytest.raises(InputError, match="cannot be written"), alone(long):
        pass
    with pytest.raises(OSError, match="File name too long") as refused:
        write_atomically(long, b"content")
    assert "give a shorter name" in told(refused.value)


def test_a_folder_that_is_removed_meanwhile_is_told(tmp_path: Path) -> None:
    with alone(tmp_path / "out"):
        (tmp_path / "out" / LOCK).unlink()
        (tmp_path / "out").rmdir()
        with pytest.raises(FileNotFoundError) as refused:
            write_atomically(tmp_path / "out" / "file", b"content")
    assert "run the same command again" in told(refused.value)


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "make room"), (errno.EROFS, "folder of your own"), (errno.EIO, "run the same command again")],
)
def test_what_a_file_system_refuses_is_one_line(
    number: int, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(argv: list[str]) -> None:
        raise OSError(number, os.strerror(number), "out/table.md")

    monkeypatch.setattr("dynamick.cli.main._run", refused)
    with pytest.raises(SystemExit) as stop:
        main(["compare"])
    assert stop.value.code == (2 if number == errno.EROFS else 1)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"dynamick: out/table.md: {os.strerror(number)}; ")
    assert said in line
