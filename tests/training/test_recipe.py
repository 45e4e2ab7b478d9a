"""What the command refuses in a recipe, in one line that names the key."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Command = Callable[..., tuple[int, str]]


BAD: list[tuple[list[Any], str]] = [
    (["--model", "res8-d0a"], "K of '0' is no integer"),
    (["--model", "res8-d-1a"], "K of '-1' is no integer"),
    (["--model", "res8-d2.5a"], "K of '2.5' is no integer"),
    (["--model", "res8-dfivea"], "K of 'five' is no integer"),
    (["--model", "res9"], "no ResNet of depth 9"),
    (["--model", "res8-l1"], "optim.l1: 0 leaves res8-l1 without its penalty"),
    (["--optim.l1", "0.1"], "optim.l1: 0.1 has no effect on res8-d3a"),
    (["--optim.lr", "-1"], "optim.lr: -1.0 must be"),
    (["--optim.lr", "fast"], "dynamick: optim.lr: fast must be a number\n"),
    (["--optim.lr", "nan"], "dynamick: optim.lr: nan must be a number\n"),
    (["--data", "scenes"], "--data: a section of a recipe; give --data.KEY, where KEY is one of kind, "),
    (["--optim.lr", ""], "optim.lr: is empty; it must be a number"),
    (["--optim.s", "much"], "optim.s: much must be a number or null"),
    (["--optim.epochs=1.5"], "optim.epochs: 1.5 must be an integer"),
    (["--data.flip", "maybe"], "data.flip: maybe must be true or false"),
    (["--seed"], "--seed: expected one argument; see dynamick train --help"),
    (["stray"], "unrecognized arguments: stray; see dynamick train --help"),
    (["--optim.epochs", "0"], "optim.epochs: 0 must be"),
    (["--optim.lrr", "0.1"], "optim.lrr: no key of a recipe; known there are epochs, batch_size, optimizer, lr, "),
    (["--colour=red"], "colour: no key of a recipe; known there are model, stem, width, weights, head, "),
    (["--data.size", "5"], "data.size: 5 must be an integer from 32 up for scenes"),
    (["--optim.batch_size", "1000"], "batch_size: 1000 is more than the 192 training images"),
    (["--data.kind", "mnist"], "data.kind: 'mnist' is unknown; give cifar10, csv, folder, scenes"),
    (["--data.kind", "cifar10", "--data.root", "/nowhere"], "/nowhere/cifar-10-batches-py: missing or damaged"),
    (["--data.kind", "folder", "--data.root", "/nowhere"], "/nowhere/train: no such folder"),
    (["--stem", "wide"], "stem: 'wide' is unknown"),
    (["--rule", "foo"], "rule: 'foo' is unknown; the rules are at_most and exactly"),
    (["--optim.momentum", "-1"], "optim.momentum: -1.0 must be a number from 0 to below 1"),
    (["--optim.momentum", "7"], "optim.momentum: 7.0 must be"),
    (["--optim.nesterov", "true", "--optim.momentum", "0"], "above 0 for nesterov"),
    (["--optim.label_smoothing", "2"], "optim.label_smoothing: 2.0 must be a number in 0..1"),
    (["--optim.label_smoothing", "-0.5"], "optim.label_smoothing: -0.5 must be"),
    (["--optim.warmup", "2"], "optim.warmup: 2.0 must be"),
    (["--seed", "5000000000"], "seed: 5000000000 must be an integer in 0..4294967295"),
]


@pytest.mark.parametrize(("settings", "message"), BAD, ids=[" ".join(map(str, each)) for each, _ in BAD])
def test_bad_recipes(settings: list[Any], message: str, recipe_file: Path, tmp_path: Path, run: Command) -> None:
    code, err = run("train", recipe_file, "--out", tmp_path / "run", *settings)
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert message in err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "holds no keys"),
        (b"- a\n", "holds no keys"),
        (b"\xff\xfe\x00", "no YAML"),
        (b"optim: {lr: [", "no YAML"),
        (b"optim: 3\n", "optim: 3 must be keys and values"),
        (b"model: null\n", "bad.yaml: model: null must be text"),
        (b"optim: {lr: null}\n", "bad.yaml: optim.lr: null must be a number"),
        (b"optim: {lr: {a: 1}}\n", "bad.yaml: optim.lr: "),
        (b"optim: {lrr: 1}\n", "bad.yaml: optim.lrr: no key of a recipe; known there are epochs, batch_size, optimizer, lr, "),
        (b"lr: 1\n", "bad.yaml: lr: no key of a recipe; known there are model, stem, "),
        (b"optim: {epoch: 1}\n", "bad.yaml: optim.epoch: no key of a recipe; known there are epochs, "),
        (b"3: 1\n", "bad.yaml: 3: no key of a recipe"),
    ],
)
def test_files_that_are_no_recipes(content: bytes, said: str, tmp_path: Path, run: Command) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    code, err = run("train", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert said in err
    assert not (tmp_path / "run").exists()


def test_an_unknown_key_in_a_recipe(recipe_file: Path, tmp_path: Path, run: Command) -> None:
    recipe_file.write_text(recipe_file.read_text() + "colour: red\n")
    code, err = run("train", recipe_file, "--out", tmp_path / "run")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert f"{recipe_file}: colour: no key of a recipe; known there are model, " in err
    assert err.strip().endswith(", static_after, data, optim")
    code, err = run("train", tmp_path / "nothing.yaml", "--out", tmp_path / "run")
    assert (code, "no such recipe" in err) == (2, True)
