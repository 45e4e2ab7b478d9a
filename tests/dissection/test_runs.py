"""Runs of several processes, runs that are killed and go on, and the command."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.data import broden
from dynamick.dissection import Dissection, dissect, read_tally, saving
from dynamick.dissection.gallery import Example, sheet
from dynamick.errors import InputError
from dynamick.files import write_atomically
from dynamick.preprocessing import Preprocessing

SCRIPT = """
import sys, time
from pathlib import Path
import torch
sys.path.insert(0, sys.argv[1])
from conftest import Table, random_case
from dynamick import processes
from dynamick.dissection import dissect, first_pass, saving

maps, dataset = random_case(30, images=60, units=5, ties=True)
saving.SAVE_EVERY = 0
pause = float(sys.argv[3])
class Slow(Table):
    def forward(self, x):
        time.sleep(pause)
        return super().forward(x)
type(dataset).maps = lambda self, i: time.sleep(pause / 10) or self[i].maps
state = Path(sys.argv[4]) if len(sys.argv) > 4 else None
with processes.joined():
    result = dissect(Slow(maps), "layer", dataset, "lite", quantile=0.95, batch_size=4, state=state, progress=False)
    Path(f"{sys.argv[2]}-{processes.rank()}").write_text(result.to_json())
"""


def start(tmp_path, out, pause=0.0, state=None, **environment):
    (tmp_path / "script.py").write_text(SCRIPT)
    command = [
        sys.executable,
        str(tmp_path / "script.py"),
        str(Path(__file__).parent),
        str(out),
        str(pause),
        *([str(state)] if state else []),
    ]
    return subprocess.Popen(command, env={**os.environ, "OMP_NUM_THREADS": "1", **environment})


def alone(small):
    maps, dataset = small.case(30, images=60, units=5, ties=True)
    return dissect(small.Table(maps), "layer", dataset, "lite", quantile=0.95, batch_size=4, progress=False)


def assert_equal(result, expected):
    assert result.rows == expected.rows
    for name in ("thresholds", "intersections", "areas", "sizes", "top_images", "top_values", "nan_counts"):
        np.testing.assert_array_equal(getattr(result, name), getattr(expected, name))


def test_processes_give_what_one_gives_bit_for_bit(small, tmp_path):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    network = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, "WORLD_SIZE": "2"}
    both = [start(tmp_path, tmp_path / "out", RANK=str(rank), LOCAL_RANK=str(rank), **network) for rank in range(2)]
    assert [each.wait(120) for each in both] == [0, 0]
    for rank in range(2):
        assert_equal(Dissection.from_json((tmp_path / f"out-{rank}").read_text()), alone(small))


def test_killed_runs_go_on_and_end_with_the_same_tally(small, tmp_path):
    """Killed once among the forward passes and once among the counts."""
    state = tmp_path / "state"
    saved = state / "process-0-of-1" / "state.pt"

    def progress():
        if not saved.exists():
            return (0, 0)
        read = torch.load(saved, weights_only=True)
        return read["first"]["next"], read["counted"]

    reached = []
    for until in (lambda: progress()[0] >= 5, lambda: progress()[1] >= 5):
        process = start(tmp_path, tmp_path / "out", 0.1, state)
        while not until():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        reached.append(progress())
    assert 5 <= reached[0][0] < 15
    assert reached[0][1] == 0
    assert reached[1][0] == 15
    assert 5 <= reached[1][1] < 15
    assert start(tmp_path, tmp_path / "out", 0.0, state).wait(120) == 0
    assert_equal(Dissection.from_json((tmp_path / "out-0").read_text()), alone(small))
    assert not (saved.parent / "maps").exists()


def test_a_finished_state_is_not_computed_again_and_another_configuration_is_refused(small, tmp_path):
    maps, dataset = small.case(31)
    arguments = {"state": tmp_path, "progress": False}
    first = dissect(small.Table(maps), "layer", dataset, **arguments)
    model = small.Table(maps)
    assert_equal(dissect(model, "layer", dataset, **arguments), first)
    assert model.passes == 1
    with pytest.raises(InputError, match=r"rule 'netdissect', now 'lite'.*give another folder"):
        dissect(model, "layer", dataset, "lite", **arguments)
    with pytest.raises(InputError, match="model"):
        dissect(small.Table(maps + 1), "layer", dataset, **arguments)
    other = dissect(small.Table(maps), "layer", dataset, "lite", restart=True, **arguments)
    assert_equal(other, dissect(small.Table(maps), "layer", dataset, "lite", progress=False))


def test_another_number_of_processes_does_not_hide_another_configuration(small, tmp_path):
    maps, dataset = small.case(35)

    def run(rule, **more):
        return dissect(small.Table(maps), "layer", dataset, rule, state=tmp_path, progress=False, **more)

    expected = run("lite")
    (tmp_path / "process-0-of-1").rename(tmp_path / "process-0-of-3")
    with pytest.raises(InputError, match="rule 'lite', now 'netdissect'"):
        run("netdissect")
    assert_equal(run("lite"), expected)
    (tmp_path / "process-0-of-1" / ".state.pt.123-456").write_bytes(b"killed while it saved")
    run("lite")
    assert {each.name for each in (tmp_path / "process-0-of-1").iterdir()} == {"state.pt"}
    run("netdissect", restart=True)
    assert [each.name for each in tmp_path.iterdir()] == ["process-0-of-1"]


def test_other_images_are_another_configuration(small, tmp_path):
    maps, dataset = small.case(34)
    model = small.Table(maps)
    model.get_extra_state = lambda: {"not": "a tensor"}
    dissect(model, "layer", dataset, state=tmp_path, progress=False)
    dissect(model, "layer", dataset, state=tmp_path, progress=False)
    for change in ({"name": lambda self, index: f"other-{index}"}, {"image": lambda self, index: self[index + 1].image}):
        _, other = small.case(34)
        other.__class__ = type("Other", (small.InMemory,), change)
        with pytest.raises(InputError, match="images and label maps"):
            dissect(model, "layer", other, state=tmp_path, progress=False)


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path):
    (tmp_path / "file" / "full").mkdir(parents=True)
    with pytest.raises(OSError, match=re.escape(str(tmp_path / "file"))):
        write_atomically(tmp_path / "file", b"content")
    assert [each.name for each in tmp_path.iterdir()] == ["file"]


def test_maps_that_are_gone_are_made_again(small, tmp_path, monkeypatch):
    """Killed at the first count, and someone has removed the kept maps."""
    maps, dataset = small.case(32)
    monkeypatch.setattr(saving, "SAVE_EVERY", 0)
    type(dataset).maps = lambda self, index: 1 / 0
    try:
        with pytest.raises(ZeroDivisionError):
            dissect(small.Table(maps), "layer", dataset, state=tmp_path, progress=False, batch_size=7)
    finally:
        del type(dataset).maps
    (tmp_path / "process-0-of-1" / "maps" / "00000002.npz").unlink()
    result = dissect(small.Table(maps), "layer", dataset, state=tmp_path, progress=False, batch_size=7)
    assert_equal(result, dissect(small.Table(maps), "layer", dataset, progress=False, batch_size=7))


def test_a_damaged_state_is_named(small, tmp_path):
    maps, dataset = small.case(33)
    (tmp_path / "process-0-of-1").mkdir()
    (tmp_path / "process-0-of-1" / "state.pt").write_bytes(b"PK damaged")
    with pytest.raises(InputError, match=r"state\.pt: is not the state of a dissection"):
        dissect(small.Table(maps), "layer", dataset, state=tmp_path, progress=False)


@pytest.fixture
def directory(tmp_path):
    """Eight images: a bright square on the left is labelled."""
    rng = np.random.default_rng(0)
    records = []
    for i in range(8):
        image = rng.integers(0, 60, (16, 16, 3)).astype(np.uint8)
        plane = np.zeros((8, 8), np.uint16)
        if i % 2:
            image[4:12, 2:8], plane[2:6, 1:4] = 250, 1
        records.append(broden.Record(f"image{i}", "train", image, {"object": [plane], "scene": [2]}))
    broden.write(tmp_path / "data", [broden.Label(1, "square", "object"), broden.Label(2, "room", "scene")], records)
    (tmp_path / "own_model.py").write_text(
        "import torch\n"
        "def bright():\n"
        "    model = torch.nn.Sequential(torch.nn.AvgPool2d(2), torch.nn.Flatten())\n"
        "    return model\n"
        "number = lambda: 3\n"
        "def imports_more():\n"
        "    from own_helper import bright\n"
        "    return bright()\n"
    )
    (tmp_path / "own_helper.py").write_text("from own_model import bright\n")
    return tmp_path / "data"


def command(directory, *more, model="own_model:bright", layer="0"):
    main(
        ["dissect", "--model", model, "--layer", layer, "--data", str(directory), "--out", str(directory.parent / "out"), *more]
    )


PREPARED = ("--mean", "0", "0", "0", "--std", "1", "1", "1", "--size", "16", "--quantile", "0.9")


def test_the_command_finds_the_square(directory, monkeypatch, capsys):
    monkeypatch.chdir(directory.parent)
    command(directory, *PREPARED)
    out = directory.parent / "out"
    tally = read_tally(out / "tally.csv")
    assert tally.labels == ["square"] * 3
    assert tally.scores.min() > 0.5
    assert json.loads((out / "dissection.json").read_text())["summary"]["units"] == 3
    assert Image.open(out / "units.png").width > 100
    said = capsys.readouterr()
    assert "distinct labels  1" in said.out
    assert "images/s" in said.err
    assert "left" in said.err
    with pytest.raises(SystemExit) as caught:
        command(directory, *PREPARED, "--rule", "lite")
    assert caught.value.code == 2
    command(directory, *PREPARED, "--rule", "lite", "--restart", model="own_model:imports_more")


def offline(*arguments, **options):
    raise OSError("no network")


@pytest.mark.parametrize(
    ("change", "more", "message"),
    [
        ({"layer": "nowhere"}, PREPARED, "layer: 'nowhere' is not in the model; it has 0, 1"),
        ({"model": "own_model:nothing"}, PREPARED, "own_model:nothing"),
        ({"model": "own_model:number"}, PREPARED, "returns a int"),
        ({"model": "no_such_module:f"}, PREPARED, "No module named"),
        ({"model": "resnet9000"}, PREPARED, "unknown"),
        ({"model": "resnet18"}, PREPARED, "needs --weights"),
        ({"model": "res18-d5a"}, PREPARED, "needs --weights"),
        ({"model": "res18-d0a"}, PREPARED, "K of '0'"),
        ({}, (), "preprocessing: the model does not name its own"),
        ({}, ("--mean", "0", "0", "0"), "give both --mean and --std"),
        ({}, (*PREPARED, "--quantile", "2"), "quantile: 2.0"),
        ({}, (*PREPARED, "--device", "bogus"), "--device bogus: not a device of this machine"),
        ({"model": "resnet18"}, (*PREPARED, "--weights", "DEFAULT"), "--weights DEFAULT: resnet18's could not be downloaded"),
        ({}, (*PREPARED, "--workers", "-1"), "--workers -1"),
        ({}, (*PREPARED, "--out", "own_model.py/out"), "--out own_model.py/out: it or a folder above it is a file"),
    ],
)
def test_bad_input_is_one_line_and_status_2(directory, monkeypatch, capsys, change, more, message):
    monkeypatch.chdir(directory.parent)
    monkeypatch.setattr(torchvision.models._api, "load_state_dict_from_url", offline)
    with pytest.raises(SystemExit) as caught:
        command(directory, *more, **change)
    said = capsys.readouterr().err.strip().splitlines()
    assert caught.value.code == 2
    assert message in said[-1]
    assert len(said) == 1
    assert not (directory.parent / "out").exists()


def test_the_check_lists_problems_and_fails(directory, capsys):
    main(["dissect", "check", str(directory)])
    assert "nothing is wrong" in capsys.readouterr().out
    next((directory / "images").glob("*image3*.png")).unlink()
    for argv in (["check", str(directory)], ["chekc", str(directory)], []):
        with pytest.raises(SystemExit) as caught:
            main(["dissect", *argv])
        assert caught.value.code == 2
    said = capsys.readouterr()
    assert "image3" in said.out


def test_torchvision_models_and_state_dicts(directory, monkeypatch):
    monkeypatch.chdir(directory.parent)
    path = directory.parent / "weights.pth"
    torch.save(torchvision.models.get_model("squeezenet1_1").state_dict(), path)
    command(directory, "--weights", str(path), "--size", "32", model="squeezenet1_1", layer="features.0")
    assert len(read_tally(directory.parent / "out" / "tally.csv").rows) == 64
    with pytest.raises(SystemExit):
        command(directory, "--weights", str(path), model="resnet18", layer="fc")


@pytest.mark.parametrize(("own", "given", "seen"), [(None, None, 32), (48, None, 48), (None, 16, 16)])
def test_a_network_sees_concepts_at_the_size_at_which_it_saw_its_own_images(directory, monkeypatch, own, given, seen):
    path = directory.parent / "w.safetensors"
    model = models.create("res8", 3, stem="patch", width=4, preprocessing=Preprocessing(own))
    dk.save(model, path, {"recipe": {"data": {"kind": "cifar10", "size": 64}}})
    sizes = set()
    monkeypatch.setattr(models.ResNet, "forward", watched(models.ResNet.forward, sizes))
    size = [] if given is None else ["--size", str(given)]
    command(directory, "--weights", str(path), *size, model="res8", layer="layer3")
    assert sizes == {(seen, seen)}


def watched(forward, sizes):
    def see(self, x):
        sizes.add(tuple(x.shape[-2:]))
        return forward(self, x)

    return see


def test_what_was_dissected_before_is_not_served_for_other_data_or_another_network(directory, monkeypatch, capsys):
    monkeypatch.chdir(directory.parent)
    out = directory.parent / "out"

    def outcome():
        try:
            command(directory, *PREPARED)
        except SystemExit as stop:
            return stop.code, capsys.readouterr().err
        return 0, (out / "tally.csv").read_bytes()

    first = outcome()
    assert outcome() == first
    plane = next((directory / "images").rglob("*object*.png"))
    Image.fromarray(np.zeros_like(np.array(Image.open(plane)))).save(plane)
    status, said = outcome()
    assert status == 2
    assert "images and label maps" in said
    command(directory, *PREPARED, "--restart")
    # The same weights, none, but another forward pass.
    source = directory.parent / "own_model.py"
    source.write_text(source.read_text().replace("AvgPool2d(2)", "MaxPool2d(2)"))
    sys.modules.pop("own_model")
    status, said = outcome()
    assert status == 2
    assert "first image's maps" in said


def test_captions_stay_in_their_place():
    def example(unit, label):
        return Example(unit, label, 0.5, [torch.zeros(3, 8, 8, dtype=torch.uint8)], [torch.ones(8, 8, dtype=torch.bool)])

    short = np.asarray(sheet([example(0, "a"), example(1, "b")], across=2))
    long = np.asarray(sheet([example(0, "a long name " * 9), example(1, "b")], across=2))
    assert short.shape == long.shape
    middle = short.shape[1] // 2
    # The second unit's half is the same, whatever the first one is called.
    assert (short[:, middle + 8 :] == long[:, middle + 8 :]).all()
    assert (short != long).any()


def test_a_tally_with_an_open_quote_is_named(tmp_path):
    (tmp_path / "tally.csv").write_text('unit,category,label,score\n1,part,"' + "x" * 200_000)
    with pytest.raises(InputError, match=r"tally\.csv: cannot be read as a tally"):
        Dissection.read_tally(tmp_path / "tally.csv")
