"""Which networks `dynamick explain` takes: a training that goes on, retrofitted ones, and anybody's state dict."""

import base64
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data import ComposedScenes, read_pictures
from dynamick.retrofit import head_alone
from dynamick.training.recipe import DataRecipe

NAMES = ["cat", "<b>dog</b>", "bird"]
PREPARED = dk.Preprocessing(size=32, mean=(0.2, 0.3, 0.4), std=(0.5, 0.6, 0.7))
AS_PREPARED = ["--size", "32", "--mean", "0.2", "0.3", "0.4", "--std", "0.5", "0.6", "0.7"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    scenes = ComposedScenes("val", 3, image_size=32)
    (tmp_path / "images").mkdir()
    for i in range(3):
        Image.fromarray(scenes.images[i].permute(1, 2, 0).numpy()).save(tmp_path / "images" / f"{i}.png")
    return tmp_path / "images"


def explain(tmp_path: Path, *args: object) -> int:
    out = ["--json", tmp_path / "e.json", "--out", tmp_path / "page.html"]
    try:
        main([str(each) for each in ("explain", *args, *out)])
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


def logits_said(tmp_path: Path) -> list[tuple[str, float]]:
    return [(each["class_name"], each["logit"]) for each in json.loads((tmp_path / "e.json").read_text())]


def logits_wanted(model: nn.Module, folder: Path, names: list[str]) -> list[tuple[str, float]]:
    images = [torch.from_numpy(np.array(Image.open(path))).permute(2, 0, 1) for path in sorted(folder.iterdir())]
    with torch.no_grad():
        logits = model.eval()(PREPARED(torch.stack(images)))
    return [(names[int(row.argmax())], pytest.approx(float(row.max()), rel=1e-4)) for row in logits]


def test_a_training_that_goes_on_says_how_far_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tmp_path / "run"
    run.mkdir()
    assert explain(tmp_path, "--weights", run, "--images", folder) == 2
    assert "after its first epoch" in capsys.readouterr().err
    assert explain(tmp_path, "--weights", tmp_path / "nowhere", "--images", folder) == 2
    assert "nowhere: no such file" in capsys.readouterr().err
    model = dk.models.create("res8-d3a", 10, stem="compact", width=8)
    for epoch, told in ((2, True), (7, False)):
        extra = {"recipe": {"optim": {"epochs": 7}}, "metrics": {"epoch": float(epoch), "top1": 61.5}}
        dk.save(model, run / "last.safetensors", extra)
        assert explain(tmp_path, "--weights", run, "--images", folder) == 0
        page = (tmp_path / "page.html").read_text(encoding="utf-8")
        assert "61.5\N{NO-BREAK SPACE}%" in page
        for text in (page, capsys.readouterr().err):
            assert ("after epoch 2 of 7" in text) is told


@pytest.mark.parametrize(("data", "side"), [({"kind": "cifar10", "size": 64}, 32), ({"kind": "scenes", "size": 40}, 40)])
def test_photographs_are_shown_in_their_own_size(data: dict, side: int, tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    photograph = ComposedScenes("val", 1, image_size=96).images[0].permute(1, 2, 0).numpy()
    Image.fromarray(photograph).resize((120, 90)).save(tmp_path / "images" / "a.png")
    dk.save(dk.models.create("res8-d3a", 10, stem="compact", width=8), tmp_path / "w.safetensors", {"recipe": {"data": data}})
    for given, wanted in (([], side), (["--size", 48], 48)):
        assert explain(tmp_path, "--weights", tmp_path / "w.safetensors", "--images", tmp_path / "images", *given) == 0
        data_of_page = json.loads((tmp_path / "page.html").read_text().split('id="data">')[1].split("</script>")[0])
        picture = base64.b64decode(data_of_page["pictures"][0][0].split(",")[1])
        # What the network sees in fewer pixels is shown with all of the file's.
        assert Image.open(io.BytesIO(picture)).size == (90, 90)
        assert len(data_of_page["instances"]) == 1
        assert read_pictures(tmp_path / "images", 1, wanted).images.shape[-1] == wanted


def test_a_state_dict_of_torchvisions(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model = torchvision.models.resnet18(num_classes=3)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    names = tmp_path / "names.txt"
    names.write_text("\n".join(NAMES) + "\n")
    given = ["--weights", tmp_path / "w.pth", "--images", folder]
    assert explain(tmp_path, *given) == 2
    assert "give --model" in capsys.readouterr().err
    assert explain(tmp_path, *given, "--model", "resnet18", "--classes", names, *AS_PREPARED) == 0
    assert logits_said(tmp_path) == logits_wanted(model, folder, NAMES)
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert "resnet18" in page
    assert "<b>dog" not in page
    names.write_text("cat\n")
    assert explain(tmp_path, *given, "--model", "resnet18", "--classes", names) == 2
    assert "1 names for 3 outputs" in capsys.readouterr().err
    assert explain(tmp_path, *given, "--model", "resnet34") == 2
    assert "no weights of a resnet34" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["--classes", "nowhere"], "--classes: "),
        (["--model", "resnet18"], "--model: "),
        (["--mean", "9", "9", "9"], "--mean: "),
        (["--std", "0", "1", "1"], "--std: "),
        (["--size", "0"], "--size 0: "),
    ],
)
def test_options_of_no_effect_are_refused(
    given: list[str], said: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dk.save(dk.models.create("res8-d3a", 10, stem="compact", width=8), tmp_path / "w.safetensors")
    own = ["--weights", tmp_path / "w.safetensors", "--images", folder]
    assert explain(tmp_path, *own, *given) == 2
    assert capsys.readouterr().err.startswith(f"dynamick: {said}")
    if given[0] == "--model":
        # For the twin it says something.
        torch.save(torchvision.models.resnet18(num_classes=10).state_dict(), tmp_path / "twin.pth")
        assert explain(tmp_path, *own, *given, "--twin", tmp_path / "twin.pth", "--size", "32") == 0


def test_what_retrofit_wrote_says_what_it_is(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    model: Any = dk.networks.new_network("resnet18", 3)
    head = dk.DynamicLinear(512, 3, 2, rule="exactly")
    head_alone.prune_unrouted(head.requires_grad_(False), torch.rand(9, 512))
    model.preprocessing, model.classes = PREPARED, NAMES
    head_alone.write(dk.open_network(model), head, DataRecipe(), tmp_path / "weights.safetensors")
    assert explain(tmp_path, "--weights", tmp_path / "weights.safetensors", "--images", folder) == 0
    assert isinstance(model.fc, dk.DynamicLinear)
    assert logits_said(tmp_path) == logits_wanted(model, folder, NAMES)
    assert all(len(each["units"]) == 2 for each in json.loads((tmp_path / "e.json").read_text()))
    again: Any = dk.open_network("resnet18", tmp_path / "weights.safetensors").model
    assert torch.equal(again.fc.weight, model.fc.weight)
    assert again.preprocessing == PREPARED
    with pytest.raises(dk.InputError, match="holds a resnet18, not a resnet34"):
        dk.open_network("resnet34", tmp_path / "weights.safetensors")


def test_a_network_of_the_users_own(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "explainednet.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
        "    return nn.Sequential(body, nn.Linear(8, 3))\n"
    )
    monkeypatch.chdir(tmp_path)
    body = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    model = nn.Sequential(body, nn.Linear(8, 3))
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    given = ["--weights", "w.safetensors", "--model", "explainednet:make", "--images", folder]
    assert explain(tmp_path, *given, *AS_PREPARED) == 0
    assert logits_said(tmp_path) == logits_wanted(model, folder, ["0", "1", "2"])


def test_one_image_is_a_folder_of_one(folder: Path, tmp_path: Path) -> None:
    dk.save(dk.models.create("res8-d3a", 10, stem="compact", width=8), tmp_path / "w.safetensors")
    assert explain(tmp_path, "--weights", tmp_path / "w.safetensors", "--images", folder / "1.png") == 0
    assert [each["file"] for each in json.loads((tmp_path / "e.json").read_text())] == ["1.png"]


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "no such file"), (b"no weights", "no readable safetensors file")],
)
def test_weights_that_are_none(
    content: bytes | None, message: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    assert explain(tmp_path, "--weights", path, "--images", folder) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "page.html").exists()
