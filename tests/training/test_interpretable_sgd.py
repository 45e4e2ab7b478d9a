"""Recipes that train by Interpretable SGD: what they sample, and that a resumed run ends with the same bits."""

import itertools
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.training import Recipe, read_history, train
from dynamick.training.module import Classifier
from dynamick.training.optimising import make_optimizer
from dynamick.training.recipe import DataRecipe, OptimRecipe


def recipe(**optim: Any) -> Recipe:
    data = DataRecipe("scenes", size=32, train_images=192, val_images=60, pad=2)
    settings = {"epochs": 3, "batch_size": 64, "schedule": "onecycle", "s": 0.9, "block_size": 3, "head_weight_decay": 0.05}
    return Recipe("res8", "compact", 8, precision="32", data=data, optim=OptimRecipe(**(settings | optim)))


def weights(out: Path) -> dict[str, torch.Tensor]:
    return safetensors.torch.load_file(out / "last.safetensors")


def test_a_resumed_run_ends_with_the_same_bits(tmp_path: Path, stopped: Any) -> None:
    train(recipe(), tmp_path / "whole")
    with stopped():
        train(recipe(), tmp_path / "broken")
    assert len(read_history(tmp_path / "broken")) == 1
    train(recipe(), tmp_path / "broken")
    want, got = weights(tmp_path / "whole"), weights(tmp_path / "broken")
    assert all(torch.equal(got[name], want[name]) for name in want)
    state = torch.load(tmp_path / "whole" / "last.ckpt", weights_only=True)["optimizer_states"][0]
    assert state["generator"].dtype == torch.uint8
    # Another s, and none, end elsewhere: the recipe's value is what is trained.
    for s in (0.5, None):
        train(recipe(s=s), tmp_path / str(s))
        assert not torch.equal(weights(tmp_path / str(s))["fc.weight"], want["fc.weight"])


def test_the_heads_weight_alone_is_sampled() -> None:
    model = dk.models.create("res8", width=4)
    optimizer = make_optimizer(
        model, OptimRecipe(s=0.8, block_size=2, form="literal", beta=7.0, estimate="global", nesterov=True)
    )
    assert isinstance(optimizer, dk.optim.InterpretableSGD)
    body, head = optimizer.param_groups
    assert body["s"] is None
    assert [id(p) for p in head["params"]] == [id(model.fc.weight)]
    assert [head[name] for name in ("s", "block_size", "form", "beta", "estimate")] == [0.8, 2, "literal", 7.0, "global"]
    assert type(make_optimizer(model, OptimRecipe())) is torch.optim.SGD


def test_every_seed_process_and_epoch_draws_anew() -> None:
    module = Classifier(dk.models.create("res8", width=4), OptimRecipe(s=0.8), seed=3)
    optimizer = make_optimizer(module.model, module.recipe)
    module.optimizers = lambda use_pl_optimizer: optimizer  # type: ignore[method-assign,assignment]
    seen = set()
    for module.seed, rank, epoch in itertools.product((0, 3, 4096), (0, 1), (0, 1)):
        module._trainer = type("Trainer", (), {"current_epoch": epoch, "global_rank": rank})()
        module.on_train_epoch_start()
        seen.add(float(torch.rand(1, generator=optimizer.generator)))
    assert len(seen) == 12


BAD = [
    (["--optim.s", "0"], "optim.s: 0.0 is no sparsity level; give a number above 0 and at most 1"),
    (["--optim.s", "1.5"], "optim.s: 1.5 is no sparsity level"),
    (["--optim.block_size", "0"], "optim.block_size: 0 is no number of coordinates"),
    (["--optim.form", "loose"], "optim.form: 'loose' is unknown; give literal, normalised"),
    (["--optim.estimate", "guess"], "optim.estimate: 'guess' is unknown; give local, global, votes"),
    (["--optim.beta", "-1"], "optim.beta: -1.0 is no block size"),
    (["--model", "res8-d5a", "--optim.s", "0.5"], "optim.s: 0.5 samples the weights of a dense head, which res8-d5a has not"),
    (
        ["--model", "capsnet-em", "--optim.s", "0.5"],
        "optim.s: 0.5 samples the weights of a dense head, which capsnet-em has",
    ),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[" ".join(each) for each, _ in BAD])
def test_bad_recipes(settings: list[str], message: str, tmp_path: Path) -> None:
    names = [name.removeprefix("--") for name in settings[::2]]
    changed = Recipe.read(None, {"model": "res8", **dict(zip(names, settings[1::2], strict=True))})
    with pytest.raises(InputError) as caught:
        train(changed, tmp_path / "run")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


def test_a_run_begun_before_the_options_were_there_goes_on(tmp_path: Path) -> None:
    plain = recipe(epochs=1, s=None, block_size=5)
    train(plain, tmp_path)
    kept = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for name in ("s", "block_size", "form", "beta", "estimate"):
        del kept["optim"][name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(kept))
    assert len(train(plain, tmp_path)) == 1
    with pytest.raises(InputError, match=r"optim\.s: None there, 0\.5 here"):
        train(recipe(epochs=1, s=0.5, block_size=5), tmp_path)


def test_draws_that_take_every_weight_train_as_sgd_does() -> None:
    torch.manual_seed(0)
    x, labels = torch.rand(30, 6), torch.randint(0, 3, (30,))
    ends = []
    for s in (None, 1.0):
        torch.manual_seed(1)
        model = nn.Module()
        model.fc = nn.Linear(6, 3)
        optimizer = make_optimizer(model, OptimRecipe(s=s, block_size=6, lr=0.1))  # type: ignore[arg-type]
        for _ in range(5):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model.fc(x), labels).backward()
            optimizer.step()
        ends.append(model.fc.weight.detach().clone())
    torch.testing.assert_close(ends[0], ends[1])
