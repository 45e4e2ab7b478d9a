"""`dynamick retrofit`: a user's network gets a Dynamic-K head, and its file does what the command printed."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
import torchvision
from torch import nn

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.comparison.heads import stepped
from dynamick.data.class_folders import image_folder
from dynamick.retrofit import head_alone


@pytest.fixture
def data(two_colours: Path) -> Path:
    return two_colours


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 60)


def test_a_network_of_dynamick(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.manual_seed(0)
    dk.save(models.create("res8", 2, "patch", 4, classes=["blue", "red"]), tmp_path / "w.safetensors")
    out = tmp_path / "out"
    given = ["retrofit", "--units", "none", "--model", "res8", "--weights", str(tmp_path / "w.safetensors"), "--size", "16"]
    main([*given, "--data", str(data), "--k", "2", "--out", str(out)])
    told = capsys.readouterr().out
    model = dk.load(out / "weights.safetensors")
    assert model.config["model"] == "res8-d2a"
    assert model.classes == ["blue", "red"]
    written = json.loads((out / "retrofit.json").read_text())
    assert f"top-1 after      {written['after']['top1']:.2f} %" in told
    # Images that have the size already are shown whole.
    whole = image_folder(data, "val", 16)
    right = model(model.preprocessing(whole.images)).argmax(1) == whole.labels
    assert 100 * right.double().mean().item() == pytest.approx(written["after"]["top1"])
    # The body is random; chance is 50 %.
    assert written["after"]["top1"] >= 75
    assert (model.fc.weight != 0).sum(1).max() == written["after"]["max_per_class"]


class Net(nn.Module):
    """A user's own network, of more outputs than there are classes."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.body(x))


def test_a_network_of_the_users_own(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "usernet.py").write_text("import torch\nfrom builtins import NET\ndef make():\n    return NET()\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.NET", Net, raising=False)
    torch.manual_seed(0)
    torch.save(Net().state_dict(), tmp_path / "w.pt")
    given = [
        "retrofit",
        "--units",
        "none",
        "--model",
        "usernet:make",
        "--weights",
        "w.pt",
        "--data",
        str(data),
        "--k",
        "1",
        "--out",
        "out",
    ]
    main([*given, "--size", "16", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--rule", "exactly"])
    assert "5 outputs, and 2 classes" in capsys.readouterr().out
    model = Net()
    model.head = dk.DynamicLinear(8, 2, 1, rule="exactly")
    model.load_state_dict(safetensors.torch.load_file("out/weights.safetensors"))
    whole = image_folder(data, "val", 16)
    right = model(whole.images.float() / 255).argmax(1) == whole.labels
    written = json.loads(Path("out/retrofit.json").read_text())
    assert 100 * right.double().mean().item() == pytest.approx(written["after"]["top1"])
    assert written["before"] is None
    with safetensors.safe_open("out/weights.safetensors", "pt") as file:
        assert json.loads(file.metadata()["dynamick"])["preprocessing"]["size"] == 16


def test_a_network_of_torchvision_with_as_many_outputs_as_its_file(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.manual_seed(0)
    torch.save(torchvision.models.resnet18(num_classes=2).state_dict(), tmp_path / "w.pth")
    given = [
        "retrofit",
        "--units",
        "none",
        "--model",
        "resnet18",
        "--weights",
        str(tmp_path / "w.pth"),
        "--data",
        str(data),
        "--size",
        "32",
    ]
    main([*given, "--k", "3", "--out", str(tmp_path / "out")])
    told = capsys.readouterr().out
    assert "top-1 before" in told
    assert "training the head, " in told
    net = torchvision.models.resnet18(num_classes=2)
    dk.convert(net, k=3)
    net.load_state_dict(safetensors.torch.load_file(tmp_path / "out" / "weights.safetensors"))
    whole = image_folder(data, "val", 37)
    with torch.no_grad():
        logits = net.eval()(dk.Preprocessing()(whole.images[:, :, 2:34, 2:34]))
    written = json.loads((tmp_path / "out" / "retrofit.json").read_text())
    assert 100 * (logits.argmax(1) == whole.labels).double().mean().item() == pytest.approx(written["after"]["top1"])
    with pytest.raises(SystemExit) as stop:
        main([*given[:5], "--weights", str(data / "train" / "red" / "0.png"), *given[7:], "--out", str(tmp_path / "other")])
    assert stop.value.code == 2
    assert "0.png: a whole model, or no weights at all; give a state dict" in capsys.readouterr().err


def test_a_folder_holds_one_head(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The same command again makes the same; another is refused, and changes nothing."""
    torch.manual_seed(0)
    for name in ("w", "v"):
        dk.save(models.create("res8", 2, "patch", 4, classes=["blue", "red"]), tmp_path / f"{name}.safetensors")
    out = tmp_path / "out"
    given = [
        "retrofit",
        "--units",
        "none",
        "--model",
        "res8",
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--data",
        str(data),
        "--size",
        "16",
    ]
    given += ["--out", str(out), "--k", "2"]
    main(given)
    files = [out / "weights.safetensors", out / "retrofit.json"]
    made = [file.read_bytes() for file in files]
    for change, said in (
        (["--k", "3"], "--k 2, not 3"),
        (["--rule", "exactly"], "--rule at_most, not exactly"),
        (["--seed", "1"], "--seed 0, not 1"),
        (["--weights", str(tmp_path / "v.safetensors")], "other weights"),
    ):
        with pytest.raises(SystemExit) as stop:
            main([*given, *change])
        assert stop.value.code == 2
        assert f"retrofit.json: its head was made with {said}; give another --out" in capsys.readouterr().err
        assert [file.read_bytes() for file in files] == made
    main(given)
    assert [file.read_bytes() for file in files] == made
    files[1].write_bytes(b"\xff")
    with pytest.raises(SystemExit) as stop:
        main(given)
    assert stop.value.code == 2
    assert "retrofit.json: damaged" in capsys.readouterr().err


def test_the_size_of_the_images_is_kept(data: Path, tmp_path: Path) -> None:
    """The network does not name one: they are opened at 224 pixels, and so they must be again."""
    dk.save(models.create("res8", 2, "patch", 4, classes=["blue", "red"]), tmp_path / "w.safetensors")
    given = ["retrofit", "--units", "none", "--model", "res8", "--data", str(data), "--k", "2"]
    main([*given, "--weights", str(tmp_path / "w.safetensors"), "--out", str(tmp_path / "out")])
    model = dk.load(tmp_path / "out" / "weights.safetensors")
    assert model.preprocessing.size == 224
    seen: list[tuple[int, ...]] = []
    model.register_forward_pre_hook(lambda _, inputs: seen.append(tuple(inputs[0].shape)))
    model(model.preprocessing(torch.zeros(1, 3, 64, 64, dtype=torch.uint8)))
    assert seen == [(1, 3, 224, 224)]


def test_pruning_changes_no_training_logit() -> None:
    x = torch.rand(40, 6)
    head = dk.DynamicLinear(6, 3, 2)
    before = head(x)
    head.requires_grad_(False)
    head_alone.prune_unrouted(head, x)
    assert torch.equal(head(x), before)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (["--k", "0"], "--k: 0 is no number"),
        (["--data", "nowhere"], "nowhere/train: no such folder"),
        (["--weights", "nowhere.safetensors"], "no such file"),
        (["--model", "resnet18", "--weights", "nowhere.pth"], "nowhere.pth: no such file"),
        (["--mean", "1", "2", "3", "--std", "0", "1", "1"], "must be positive"),
        (["--out", "w.safetensors"], "w.safetensors: cannot be written"),
        (["--size", "0"], "size: 0 is no image side"),
        (["--device", "foo"], "--device foo: not a device of this machine"),
        (["--device", "meta"], "--device meta: not a device of this machine"),
    ],
)
def test_bad_input_is_one_line(
    data: Path,
    tmp_path: Path,
    change: list[str],
    said: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    dk.save(models.create("res8", 2, "patch", 4), tmp_path / "w.safetensors")
    given = [
        "retrofit",
        "--units",
        "none",
        "--model",
        "res8",
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--data",
        str(data),
    ]
    with pytest.raises(SystemExit) as stop:
        main([*given, "--size", "16", "--out", str(tmp_path / "out"), *change])
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert said in err
    assert len(err.strip().splitlines()) == 1


def test_a_class_of_one_split_only_is_named(data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (data / "val" / "red").rename(data / "val" / "pink")
    dk.save(models.create("res8", 2, "patch", 4), tmp_path / "w.safetensors")
    with pytest.raises(SystemExit):
        main(
            [
                "retrofit",
                "--units",
                "none",
                "--model",
                "res8",
                "--weights",
                str(tmp_path / "w.safetensors"),
                "--data",
                str(data),
                "--out",
                "x",
            ]
        )
    assert "different classes (pink, red)" in capsys.readouterr().err


@pytest.mark.parametrize("trained", ["nowhere", "in memory", "from disk"])
def test_whoever_opens_the_file_sees_what_its_head_saw(data: Path, tmp_path: Path, trained: str) -> None:
    """`evaluate` and `explain` show the same part of the images, at the same size, as they were shown to the head."""
    torch.manual_seed(0)
    about = {"kind": "folder", "root": str(data), "size": 12, "in_memory": trained == "in memory"}
    extra = {} if trained == "nowhere" else {"recipe": {"data": about}}
    dk.save(models.create("res8", 2, "patch", 4, classes=["blue", "red"]), tmp_path / "w.safetensors", extra)
    given = [
        "retrofit",
        "--units",
        "none",
        "--model",
        "res8",
        "--weights",
        str(tmp_path / "w.safetensors"),
        "--data",
        str(data),
        "--size",
        "12",
    ]
    main([*given, "--out", str(tmp_path / "out"), "--k", "2"])
    file = str(tmp_path / "out" / "weights.safetensors")
    want = json.loads((tmp_path / "out" / "retrofit.json").read_text())["after"]["top1"]
    for more in ([], ["--data", "folder", "--root", str(data)]):
        main(["evaluate", file, *more, "--out", str(tmp_path / "evaluated.json")])
        assert json.loads((tmp_path / "evaluated.json").read_text())["top1"] == pytest.approx(want)
    main(["explain", "--weights", file, "--images", str(data / "val"), "--limit", "99", "--json", str(tmp_path / "e.json")])
    model = dk.load(file)
    size = 12 if trained == "in memory" else 14
    images = image_folder(data, "val", size).images[:, :, (size - 12) // 2 :, (size - 12) // 2 :][:, :, :12, :12]
    logits = model(model.preprocessing(images))
    for each, row in zip(json.loads((tmp_path / "e.json").read_text()), logits, strict=True):
        assert each["logit"] == pytest.approx(float(row.max()), rel=1e-4)
