"""Folders that one process fills at a time, and what dead processes left in them."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from dynamick.errors import InputError
from dynamick.files import alone, read_table, read_text, write_atomically

DIES = """
import os, pathlib, signal, sys
from dynamick.files import alone, write_atomically
pathlib.Path.replace = lambda self, to: os.kill(os.getpid(), signal.SIGKILL)
folder = pathlib.Path(sys.argv[1])
with alone(folder):
    write_atomically(folder / "weights.bin", bytes(1000))
"""
COMES_AND_GOES = """
import os, pathlib, sys
from dynamick.errors import InputError
from dynamick.files import alone
folder = pathlib.Path(sys.argv[1])
done = 0
while done < 100:
    try:
        with alone(folder):
            # Fails where it is there already.
            os.close(os.open(folder / "inside", os.O_CREAT | os.O_EXCL))
            (folder / "inside").unlink()
            done += 1
    except InputError:
        pass
"""


def test_one_process_at_a_time(tmp_path: Path) -> None:
    with alone(tmp_path / "out"), pytest.raises(InputError, match="another process is filling this"), alone(tmp_path / "out"):
        pass
    with alone(tmp_path / "out"):
        pass


def test_many_processes_that_come_and_go_are_never_two_at_once(tmp_path: Path) -> None:
    """Each takes its lock away, which another one may just have opened."""
    (tmp_path / "keep").touch()
    workers = [subprocess.Popen([sys.executable, "-c", COMES_AND_GOES, tmp_path]) for _ in range(4)]
    assert [worker.wait() for worker in workers] == [0] * 4
    assert {each.name for each in tmp_path.iterdir()} == {"keep"}


def test_a_new_folder_that_stays_empty_is_taken_away(tmp_path: Path) -> None:
    with pytest.raises(ZeroDivisionError), alone(tmp_path / "a" / "b"):
        1 / 0  # noqa: B018
    assert list(tmp_path.iterdir()) == []
    with alone(tmp_path / "a" / "b"):
        write_atomically(tmp_path / "a" / "b" / "file", b"content")
    assert {each.name for each in (tmp_path / "a" / "b").iterdir()} == {"file"}


def test_what_a_dead_process_left_is_taken_away_at_the_next_start(tmp_path: Path) -> None:
    for _ in range(2):
        # The second one takes away what the first one left, and leaves its own.
        died = subprocess.run([sys.executable, "-c", DIES, tmp_path], capture_output=True, text=True)
        assert died.returncode == -signal.SIGKILL, died.stderr
    (tmp_path / ".hidden").write_text("the user's own")
    (left,) = (each for each in tmp_path.iterdir() if each.name.startswith(".weights"))
    assert left.stat().st_size == 1000
    assert f"{os.getpid()}-" not in left.name
    with alone(tmp_path):
        pass
    assert {each.name for each in tmp_path.iterdir()} == {".hidden"}


def test_writing_a_file_takes_away_what_the_dead_left_of_it(tmp_path: Path) -> None:
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = [f".page.html.{ended.pid}-1", f".page.html.{os.getpid()}-1", f".page.html.x.{ended.pid}-1", ".page.html.1-"]
    for name in names:
        (tmp_path / name).write_text("half")
    write_atomically(tmp_path / "page.html", b"whole")
    assert {each.name for each in tmp_path.iterdir()} == {"page.html", *names[1:]}


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_text_of_any_mark_is_read(tmp_path: Path, encoding: str) -> None:
    text = "Käse\r\nжук\n"
    (tmp_path / "a.txt").write_bytes(text.encode(encoding))
    assert read_text(tmp_path / "a.txt") == text
    (tmp_path / "big.txt").write_bytes(b"\xfe\xff" + text.encode("utf-16-be"))
    assert read_text(tmp_path / "big.txt") == text


@pytest.mark.parametrize("content", ["Käse".encode("latin-1"), "ab".encode("utf-16-le"), b"\xff\xfea"])
def test_text_in_another_encoding_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UnicodeDecodeError):
        read_text(tmp_path / "a.txt")


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_a_table_of_any_line_ends_is_read(tmp_path: Path, end: str) -> None:
    (tmp_path / "a.csv").write_bytes(end.join(["a,b", "", '1,"x,\ny"', "2,"]).encode())
    assert read_table(tmp_path / "a.csv") == [["a", "b"], ["1", "x,\ny"], ["2", ""]]
