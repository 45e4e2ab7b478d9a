"""The small capsule network: its names, its shape, and that the usual training trains it."""

import json
from pathlib import Path

import pytest
import torch
import yaml

import dynamick as dk
from dynamick import models
from dynamick.cli.main import main
from dynamick.nn.capsules import ROUTINGS
from dynamick.training import read_history


@pytest.mark.parametrize("routing", ROUTINGS)
def test_names_are_printed_as_they_are_parsed(routing: str) -> None:
    parsed = models.parse(f"capsnet-{routing}")
    assert (str(parsed), parsed.routing, parsed.k) == (f"capsnet-{routing}", routing, None)
    assert models.create(str(parsed), width=4).fc.routing == routing


@pytest.mark.parametrize("name", ["capsnet", "capsnet-", "capsnet-most", "capsnetem", "capsnet-em-d5a"])
def test_other_names_are_refused_in_one_line(name: str) -> None:
    with pytest.raises(dk.InputError, match=r"^model: [^\n]+capsnet-simplified$"):
        models.parse(name)


@pytest.mark.parametrize(("stem", "side"), [("cifar", 32), ("compact", 32), ("patch", 64), ("imagenet", 96)])
def test_takes_images_of_any_size(stem: str, side: int) -> None:
    model = models.create("capsnet-em", 7, stem, 8).eval()
    x = torch.randn(2, 3, side, side)
    features = model.features(x)
    assert features.shape == (2, model.fc.in_features)
    assert model(x).shape == (2, 7)
    torch.testing.assert_close(model(x), model.fc(features))
    assert features.unflatten(1, (-1, 8)).norm(dim=-1).max() < 1


@pytest.mark.parametrize("width", [16, 32])
def test_has_about_as_many_parameters_as_a_res8(width: int) -> None:
    caps, res = (sum(p.numel() for p in models.create(name, width=width).parameters()) for name in ("capsnet-em", "res8"))
    assert 0.75 < caps / res < 1.25


def test_saves_and_loads(tmp_path: Path) -> None:
    model = models.create("capsnet-em", 3, "patch", 8).eval()
    dk.save(model, tmp_path / "model.safetensors")
    again, x = dk.load(tmp_path / "model.safetensors"), torch.randn(2, 3, 64, 64)
    assert torch.equal(again(x), model(x))
    assert again.config == model.config


@pytest.mark.parametrize("routing", ROUTINGS)
def test_a_short_training_lowers_the_loss(routing: str, tmp_path: Path) -> None:
    recipe = {"model": f"capsnet-{routing}", "stem": "patch", "width": 8, "precision": "32"}
    recipe["data"] = {"kind": "scenes", "size": 32, "train_images": 512, "val_images": 100, "pad": 0, "flip": False}
    recipe["optim"] = {"epochs": 6, "batch_size": 32, "lr": 0.05, "schedule": "onecycle", "weight_decay": 0.0}
    (tmp_path / "tiny.yaml").write_text(yaml.safe_dump(recipe))
    main(["train", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "run")])
    losses = [row["train_loss"] for row in read_history(tmp_path / "run")]
    assert losses[-1] < 0.95 * losses[0]
    assert dk.load(tmp_path / "run" / "last.safetensors").config["model"] == f"capsnet-{routing}"
    assert "pruned" not in json.loads((tmp_path / "run" / "result.json").read_text())
