"""What `dynamick dissect` leaves in a folder: whole files, from one process at a time."""

import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data.scenes import ComposedScenes
from dynamick.dissection import Dissection, dissect, dissect_into, engine
from dynamick.errors import InputError
from dynamick.files import alone
from dynamick.preprocessing import Preprocessing

OPTIONS = {"preprocessing": Preprocessing(size=32), "quantile": 0.9, "progress": False}


def small_network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU())


def test_a_folder_that_another_process_fills_is_refused(squares, tmp_path: Path) -> None:
    dissect_into(tmp_path / "out", small_network(), "1", squares, **OPTIONS)
    before = {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    for folder in (tmp_path / "out", tmp_path / "out" / "state" / "process-0-of-1"):
        with alone(folder), pytest.raises(InputError, match=rf"^{folder}: another process is filling this; wait for it"):
            dissect_into(tmp_path / "out", small_network(), "1", squares, restart=True, **OPTIONS)
    assert before == {path: path.read_bytes() for path in (tmp_path / "out").glob("*.*")}
    dissect_into(tmp_path / "out", small_network(), "1", squares, restart=True, **OPTIONS)


def test_what_a_dead_process_left_is_taken_away(squares, tmp_path: Path) -> None:
    dissect_into(tmp_path, small_network(), "1", squares, **OPTIONS)
    left = [tmp_path / ".units.png.99999-1", tmp_path / "state" / "process-0-of-1" / ".state.pt.99999-1"]
    for path in left:
        path.write_bytes(b"half")
    dissect_into(tmp_path, small_network(), "1", squares, **OPTIONS)
    assert not any(path.exists() for path in left)


def test_a_refused_network_leaves_no_folder(squares, tmp_path: Path) -> None:
    with pytest.raises(InputError):
        dissect_into(tmp_path / "new" / "out", small_network(), "9", squares, **OPTIONS)
    assert not (tmp_path / "new").exists()


def test_beginning_again_keeps_other_processes_out(squares, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dissect(small_network(), "1", squares, state=tmp_path, **OPTIONS)
    real, tried = engine._survivors, []

    def meanwhile(*given):
        with pytest.raises(InputError, match="another process"), alone(tmp_path / "process-0-of-1"):
            pass
        tried.append(True)
        return real(*given)

    monkeypatch.setattr(engine, "_survivors", meanwhile)
    dissect(small_network(), "1", squares, state=tmp_path, restart=True, **OPTIONS)
    assert tried == [True]


def test_a_full_disk_leaves_every_file_as_it_was(tmp_path: Path) -> None:
    ComposedScenes("val", 40, image_size=32).write_broden(tmp_path / "concepts")
    dk.save(dk.models.create("res8", num_classes=10, stem="patch", width=4), tmp_path / "w.safetensors")
    command = ["dissect", "--model", "res8", "--weights", str(tmp_path / "w.safetensors"), "--layer", "layer3"]
    command += ["--data", str(tmp_path / "concepts"), "--out", str(tmp_path / "out")]
    main(command)
    names, picture = sorted((tmp_path / "out").iterdir()), (tmp_path / "out" / "units.png").read_bytes()
    most = len(picture) // 2
    # A limit on the size of files stands for the full disk.
    again = subprocess.run(
        [sys.executable, "-m", "dynamick.cli", *command],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (most, most)),
    )
    assert again.returncode == 1
    assert "units.png" in again.stderr.strip().splitlines()[-1]
    assert sorted((tmp_path / "out").iterdir()) == names
    assert (tmp_path / "out" / "units.png").read_bytes() == picture
    Dissection.from_json((tmp_path / "out" / "dissection.json").read_text())


def test_a_note_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ComposedScenes("val", 12, image_size=32).write_broden(tmp_path / "concepts")
    dk.save(dk.models.create("res8", num_classes=10, stem="patch", width=4), tmp_path / "w.safetensors")
    command = ["dissect", "--model", "res8", "--weights", str(tmp_path / "w.safetensors"), "--layer", "avgpool"]
    main([*command, "--data", str(tmp_path / "concepts"), "--out", str(tmp_path / "out")])
    noted = [line for line in capsys.readouterr().err.splitlines() if line.startswith("dynamick: ")]
    assert len(noted) == 1
    assert noted[0].startswith("dynamick: note: layer: 'avgpool' gives a unit 12 activations, too few")
