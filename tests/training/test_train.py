"""What a training writes and measures, and what it refuses."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
import yaml
from torch import nn

import dynamick as dk
from dynamick.cli.main import main
from dynamick.data.images import Batches, ImageTensors
from dynamick.errors import InputError
from dynamick.metrics import routing_compute, routing_start, routing_update, sparsity
from dynamick.training import Recipe, load_images, prune, read_history, train
from dynamick.training.module import Classifier, parameter_groups, schedule
from dynamick.training.recipe import OptimRecipe
from dynamick.training.static import L


def run(capsys: pytest.CaptureFixture[str], *args: object) -> tuple[int, str]:
    """A command's exit status and what it said on stderr."""
    try:
        main([str(each) for each in args])
    except SystemExit as stop:
        return int(stop.code or 0), capsys.readouterr().err
    return 0, capsys.readouterr().err


def test_a_run_keeps_all_that_is_promised(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    assert run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 2) == (0, "")
    rows = read_history(out)
    assert [row["epoch"] for row in rows] == [1, 2]
    assert {"top1", "top5", "train_loss", "val_loss", "sparse_share", "weights_per_class", "routed_units", "dead_units"} <= set(
        rows[0]
    )
    assert yaml.safe_load((out / "config.yaml").read_text())["optim"]["epochs"] == 2
    assert list((out / "tensorboard").glob("events.*"))
    best, last = dk.load(out / "best.safetensors"), dk.load(out / "last.safetensors")
    assert dk.checkpoint.read_config(out / "best.safetensors")["extra"]["metrics"]["top1"] == max(row["top1"] for row in rows)
    assert last.fc.k == 3
    assert best.classes == load_images(Recipe().data.__class__(kind="scenes", train_images=1), "train").classes

    # evaluate needs the weights alone, and finds what the last epoch measured.
    figures = tmp_path / "figures.json"
    assert run(capsys, "evaluate", out / "last.safetensors", "--out", figures) == (0, "")
    measured = json.loads(figures.read_text())
    for name in ("top1", "val_loss", "weights_per_class", "routed_units", "dead_units"):
        assert measured[name] == pytest.approx(rows[-1][name], rel=1e-4), name

    # The pruned head gives the same logits on the training images, with fewer weights.
    pruned = dk.load(out / "pruned.safetensors")
    images = load_images(recipe_of(out).data, "train").images
    with torch.no_grad():
        want, got = (model(model.preprocessing(images)) for model in (last, pruned))
    torch.testing.assert_close(got, want, rtol=1e-5, atol=1e-5)
    assert (pruned.fc.weight != 0).sum() < (last.fc.weight != 0).sum()
    assert json.loads((out / "result.json").read_text())["pruned"]["changed"] == 0

    # Finished: the same command does nothing, another recipe is refused, --restart begins again.
    before = (out / "last.safetensors").stat().st_mtime_ns
    assert run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 2)[0] == 0
    assert (out / "last.safetensors").stat().st_mtime_ns == before
    code, err = run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 1)
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "optim.epochs: 2 there, 1 here" in err
    assert run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 1, "--restart")[0] == 0
    assert len(read_history(out)) == 1


def recipe_of(out: Path) -> Recipe:
    return Recipe.read(out / "config.yaml")


def test_l1_makes_exact_zeros(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = ("--model", "res8-l1", "--optim.l1", 0.5, "--optim.epochs", 1)
    assert run(capsys, "train", recipe_file, "--out", tmp_path / "l1", *settings)[0] == 0
    weight = safetensors.torch.load_file(tmp_path / "l1" / "last.safetensors")["fc.weight"]
    assert (weight == 0).any()
    assert not (tmp_path / "l1" / "pruned.safetensors").exists()


def test_the_head_alone_has_its_own_decay() -> None:
    model = dk.models.create("res8-d2a", width=4)
    body, head = parameter_groups(model, OptimRecipe(weight_decay=1e-4, head_weight_decay=0.3))
    assert [id(p) for p in head["params"]] == [id(model.fc.weight)]
    assert (body["weight_decay"], head["weight_decay"]) == (1e-4, 0.3)
    assert len(body["params"]) + 1 == len(list(model.parameters()))


def test_the_papers_schedule_divides_by_ten_every_70_epochs() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    rates, steps = schedule(optimizer, OptimRecipe(), steps=200 * 2), []
    for _ in range(400):
        steps.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        rates.step()
    want = [0.1] * 140 + [0.01] * 140 + [0.001] * 120
    assert steps == pytest.approx(want)


@pytest.mark.parametrize("name", ["step", "onecycle", "cosine"])
def test_a_schedule_of_any_length_ends(name: str) -> None:
    for steps in range(1, 12):
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=0.1)
        rates = schedule(optimizer, OptimRecipe(schedule=name), steps)
        for _ in range(steps - 1):
            optimizer.step()
            rates.step()
            assert 0 <= optimizer.param_groups[0]["lr"] <= 0.1 + 1e-12


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_prune_removes_what_no_image_routes(rule: str) -> None:
    torch.manual_seed(0)
    model = dk.models.create("res8-d2a", num_classes=4, width=4, stem="compact", rule=rule).eval()
    images = model.preprocessing(torch.randint(0, 256, (50, 3, 16, 16), dtype=torch.uint8))
    before = copy.deepcopy(model)
    report = prune(model, images.split(7))
    with torch.no_grad():
        features = before.features(images)
        products = features[:, None] * before.fc.weight
        routed = torch.zeros_like(before.fc.weight, dtype=torch.bool)
        for b in range(50):
            for c in range(4):
                order = sorted(range(16), key=lambda i, b=b, c=c: (-products[b, c, i].item(), i))[:2]
                for i in order:
                    routed[c, i] |= rule == "exactly" or bool(products[b, c, i] > 0)
        assert torch.equal(model.fc.weight != 0, routed & (before.fc.weight != 0))
        assert torch.equal(model.fc(features), before.fc(features))
    assert (report.kept, report.total, report.images, report.changed) == (int(routed.sum()), 64, 50, 0)
    with pytest.raises(ValueError, match="a dense head routes nothing"):
        prune(dk.models.create("res8", width=4), [images])
    for nothing in ([], [images[:0]]):
        with pytest.raises(dk.InputError, match=r"^batches: no images"):
            prune(before, nothing)
    assert before.fc.mask is None


@pytest.mark.parametrize("k", [5, 20])
def test_prune_counts_no_logit_that_is_only_summed_in_another_order(k: int) -> None:
    """Pruned to K weights a class, a head is summed by the kernel's shortest way; before, by another."""
    torch.manual_seed(0)
    model = dk.models.create(f"res8-d{k}a", 10, "patch", 16)
    kept = torch.rand(10, 64).topk(k, 1).indices
    with torch.no_grad():
        model.fc.weight.copy_((torch.rand(10, 64) * 1e-3).scatter_(1, kept, torch.rand(10, k) + 0.1))
    model.features = lambda x: x.flatten(1)  # type: ignore[method-assign]
    features = torch.rand(400, 64) * 0.5 + 0.5
    assert prune(model, [features]).changed == 0
    assert int((model.fc.weight != 0).sum()) == 10 * k


def test_figures_of_sparsity_and_routing() -> None:
    weight = torch.tensor([[0.0, 1e-3, -0.5, 9e-4], [2.0, 0.0, 0.0, -1e-4]])
    assert sparsity(weight) == (5 / 8, 1.5, 2)
    head = dk.DynamicLinear(3, 2, k=2, bias=False)
    head.weight.data = torch.tensor([[1.0, 2.0, 0.0], [-1.0, 0.0, 0.0]])
    x = torch.tensor([[1.0, 1.0, 1.0], [0.0, 3.0, 1.0]])
    counts = routing_update(routing_start(head.weight), x[:1], head)
    counts = routing_update(counts, x[1:], head)
    # Class 0 routes units 0 and 1, then unit 1; class 1 routes nothing: 3 of 4 rows' units, and unit 2 is dead.
    assert routing_compute(counts) == (3 / 4, 1)
    assert counts.used.tolist() == [[1, 2, 0], [0, 0, 0]]
    dense = nn.Linear(3, 2, bias=False)
    dense.weight = head.weight
    assert routing_update(routing_start(head.weight), x, dense).used.tolist() == [[1, 2, 0], [1, 0, 0]]


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
    (["--optim.lrr", "0.1"], "optim.lrr: no key of a recipe; known there are epochs, batch_size, lr, "),
    (["--colour=red"], "colour: no key of a recipe; known there are model, stem, width, rule, seed, "),
    (["--data.size", "5"], "data.size: 5 must be an integer from 32 up for scenes"),
    (["--optim.batch_size", "1000"], "batch_size: 1000 is more than the 192 training images"),
    (["--data.kind", "mnist"], "data.kind: 'mnist' is unknown; give cifar10, folder, scenes"),
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
def test_bad_recipes(
    settings: list[Any], message: str, recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, err = run(capsys, "train", recipe_file, "--out", tmp_path / "run", *settings)
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
        (b"optim: {lrr: 1}\n", "bad.yaml: optim.lrr: no key of a recipe; known there are epochs, batch_size, lr, "),
        (b"lr: 1\n", "bad.yaml: lr: no key of a recipe; known there are model, stem, "),
        (b"optim: {epoch: 1}\n", "bad.yaml: optim.epoch: no key of a recipe; known there are epochs, "),
        (b"3: 1\n", "bad.yaml: 3: no key of a recipe"),
    ],
)
def test_files_that_are_no_recipes(content: bytes, said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "bad.yaml").write_bytes(content)
    code, err = run(capsys, "train", tmp_path / "bad.yaml", "--out", tmp_path / "run")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert said in err
    assert not (tmp_path / "run").exists()


def test_a_command_that_cannot_begin_costs_nothing(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Neither what a finished run left, nor the next try in a folder where the first one failed."""
    bad = ("--data.kind", "folder", "--data.root", tmp_path / "nowhere")
    out = tmp_path / "run"
    assert run(capsys, "train", recipe_file, "--out", out, *bad)[0] == 2
    assert run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 1)[0] == 0
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    for wrong in (bad, ("--optim.batch_size", 1000), ("--optim.momentum", -1)):
        assert run(capsys, "train", recipe_file, "--out", out, "--restart", *wrong)[0] == 2
        assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before
    # A recipe that is gone from a folder is written again.
    (out / "config.yaml").unlink(), (out / "result.json").unlink()
    assert run(capsys, "train", recipe_file, "--out", out, "--optim.epochs", 1)[0] == 0
    assert yaml.safe_load((out / "config.yaml").read_text())["optim"]["epochs"] == 1
    # Of one that was broken off before anything was measured, only the recipe is there.
    (tmp_path / "begun").mkdir()
    (tmp_path / "begun" / "config.yaml").write_text("seed: 7\n")
    assert run(capsys, "train", recipe_file, "--out", tmp_path / "begun", "--optim.epochs", 1)[0] == 0
    assert yaml.safe_load((tmp_path / "begun" / "config.yaml").read_text())["seed"] == 0


def test_figures_that_are_damaged_are_written_again_or_named(
    recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    command = ("train", recipe_file, "--out", out, "--optim.epochs", 1)
    assert run(capsys, *command)[0] == 0
    whole = (out / "metrics.csv").read_bytes()
    (out / "result.json").unlink()
    for damaged in (None, b"", whole[:30]):
        (out / "metrics.csv").write_bytes(damaged) if damaged is not None else (out / "metrics.csv").unlink()
        (out / "result.json").unlink(missing_ok=True)
        assert run(capsys, *command)[0] == 0
        assert (out / "metrics.csv").read_bytes() == whole
        (out / "metrics.csv").write_bytes(damaged) if damaged is not None else (out / "metrics.csv").unlink()
        code, err = run(capsys, *command)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "metrics.csv: no figures of a training" in err


def test_a_training_that_diverges_says_so(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, err = run(capsys, "train", recipe_file, "--out", tmp_path / "run", "--optim.lr", 1e30)
    assert (code, len(err.strip().splitlines())) == (1, 1), err
    assert "it diverged; give a lower optim.lr" in err
    assert not (tmp_path / "run" / "result.json").exists()
    nan = torch.full((2, 4), torch.nan)
    assert sparsity(nan).sparse_share == 0


def test_what_is_measured_later_has_a_column(recipe_file: Path, tmp_path: Path) -> None:
    class Every2(L.Callback):
        def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
            if trainer.current_epoch % 2:
                trainer.callback_metrics["later"] = torch.tensor(1.0 + trainer.current_epoch)

    recipe = Recipe.read(recipe_file, {"optim.epochs": 4})
    rows = train(recipe, tmp_path / "run", callbacks=[Every2()])
    assert [row.get("later") for row in read_history(tmp_path / "run")] == [row.get("later") for row in rows]
    assert any("later" in row for row in rows)
    assert "later" not in rows[0]


def test_one_cycle_swings_about_the_recipes_momentum() -> None:
    def momenta(momentum: float) -> list[float]:
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1, momentum)
        rates = schedule(optimizer, OptimRecipe(momentum=momentum, schedule="onecycle"), 20)
        found = []
        for _ in range(20):
            found.append(optimizer.param_groups[0]["momentum"])
            optimizer.step()
            rates.step()
        return found

    for momentum in (0.5, 0.9):
        assert min(momenta(momentum)) == pytest.approx(momentum - 0.05)
        assert max(momenta(momentum)) == pytest.approx(momentum + 0.05)
    assert set(momenta(0.0)) == {0.0}


def test_the_steps_are_of_epochs_however_long_the_trainer_goes() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    rates = schedule(optimizer, OptimRecipe(epochs=200, step_epochs=70), 100, epochs=10)
    for _ in range(99):
        optimizer.step()
        rates.step()
    assert optimizer.param_groups[0]["lr"] == 0.1


@pytest.mark.parametrize("s", [None, 0.9])
def test_the_trainers_clipping_is_heeded(s: float | None) -> None:
    data = ImageTensors(torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8), torch.arange(8) % 4, list("abcd"))
    torch.manual_seed(0)
    model = dk.models.create("res8", 4, "patch", 8)
    before = copy.deepcopy(model.state_dict())
    trainer = L.Trainer(
        max_epochs=1,
        gradient_clip_val=1e-6,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        accelerator="cpu",
    )
    trainer.fit(Classifier(model, OptimRecipe(lr=0.1, weight_decay=0.0, s=s)), Batches(data, 8))
    for name, parameter in model.named_parameters():
        assert (parameter - before[name]).abs().max() < 1e-5, name


def test_an_unknown_key_in_a_recipe(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe_file.write_text(recipe_file.read_text() + "colour: red\n")
    code, err = run(capsys, "train", recipe_file, "--out", tmp_path / "run")
    assert (code, len(err.strip().splitlines())) == (2, 1), err
    assert f"{recipe_file}: colour: no key of a recipe; known there are model, " in err
    assert err.strip().endswith(", static_after, data, optim")
    code, err = run(capsys, "train", tmp_path / "nothing.yaml", "--out", tmp_path / "run")
    assert (code, "no such recipe" in err) == (2, True)


def test_an_unwritable_folder(recipe_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        code, err = run(capsys, "train", recipe_file, "--out", out)
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "cannot be written" in err


def test_bad_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = tmp_path / "good.safetensors"
    dk.save(dk.models.create("res8-d5a", width=4), good)
    cases = {"missing": None, "empty": b"", "truncated": good.read_bytes()[:-100], "text": b"hello" * 100}
    for name, content in cases.items():
        path = tmp_path / f"{name}.safetensors"
        if content is not None:
            path.write_bytes(content)
        code, err = run(capsys, "evaluate", path, "--data", "scenes")
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert str(path) in err
    for wrong in (tmp_path, tmp_path / "nowhere" / "f.json"):
        code, err = run(capsys, "evaluate", good, "--data", "scenes", "--out", wrong)
        assert (code, "give a file's name, in a folder that exists" in err) == (2, True)
    for config in (
        "{",
        "[1]",
        '{"preprocessing": {}}',
        '{"model": "res8-d5a"}',
        '{"model": "res8", "preprocessing": {}, "a": 1}',
    ):
        safetensors.torch.save_file(safetensors.torch.load_file(good), tmp_path / "b.safetensors", {dk.checkpoint.KEY: config})
        code, err = run(capsys, "evaluate", tmp_path / "b.safetensors", "--data", "scenes")
        assert (code, len(err.strip().splitlines())) == (2, 1), err
        assert "its configuration" in err
    code, err = run(capsys, "evaluate", good)
    assert (code, "does not say on which data" in err) == (2, True)
    code, err = run(capsys, "evaluate", good, "--data", "scenes")
    assert (code, "but the model knows 10 (0, 1, 2" in err) == (2, True)
    assert err.startswith("dynamick: generated scenes: 10 classes (laptop, ")
    # A file whose weights are of another architecture than it says.
    tensors = safetensors.torch.load_file(good)
    config = dk.checkpoint.read_config(good)
    safetensors.torch.save_file(tensors, good, {dk.checkpoint.KEY: json.dumps({**config, "width": 8})})
    code, err = run(capsys, "evaluate", good, "--data", "scenes")
    assert (code, len(err.strip().splitlines())) == (2, 1)
    assert "do not fit" in err


def test_other_classes_in_train_and_val(monkeypatch: pytest.MonkeyPatch) -> None:
    from dynamick.training import data

    sets = {"train": ["a", "b"], "val": ["a", "c"]}
    blank = torch.zeros(2, 3, 8, 8, dtype=torch.uint8)
    monkeypatch.setattr(data, "open_images", lambda recipe, split: ImageTensors(blank, torch.arange(2), sets[split]))
    with pytest.raises(InputError, match=r"different classes \(b, c\)"):
        data.Images(Recipe())


@pytest.mark.parametrize(("width", "expected"), [(4, torch.contiguous_format), (16, torch.channels_last)])
def test_networks_with_thin_cells_are_not_trained_channels_last(width: int, expected: torch.memory_format) -> None:
    """There PyTorch's backward pass corrupts memory on CPUs with AVX2 alone."""
    model = dk.models.create("res8", num_classes=4, width=width)
    assert Classifier(model, OptimRecipe()).memory_format == expected
