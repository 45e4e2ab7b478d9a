"""Losses, averages, augmentation and stages of a training, each held to what it says."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

import dynamick as dk
from dynamick.data.recipe import DataRecipe, open_images
from dynamick.errors import InputError
from dynamick.training import Recipe, read_history, train
from dynamick.training.augmenting import Augmenting
from dynamick.training.evaluate import evaluate
from dynamick.training.losses import Loss, Teacher, class_weights
from dynamick.training.static import L

Command = Callable[..., tuple[int, str]]


def scenes(**changes: Any) -> Recipe:
    """Seconds of training on generated scenes."""
    keys = {"model": "res8-d3a", "stem": "compact", "width": 8, "precision": "32", "data.kind": "scenes", "data.size": 32}
    keys |= {"data.train_images": 64, "data.val_images": 40, "optim.epochs": 4, "optim.batch_size": 32}
    return Recipe.read(None, {**keys, **changes})


def test_losses_are_what_is_written() -> None:
    torch.manual_seed(0)
    logits, said, images = torch.randn(6, 3), torch.randn(6, 3), torch.zeros(6, 3, 2, 2)
    labels = torch.tensor([0, 1, 2, 2, 2, 1])
    weights = torch.tensor([6 / 3, 6 / 6, 6 / 9])
    p = logits.exp() / logits.exp().sum(1, keepdim=True)
    w = weights[labels]
    own = -(w * p[torch.arange(6), labels].log()).sum() / w.sum()
    torch.testing.assert_close(Loss(weights=weights)(logits, labels, images), own)
    network = torch.nn.Module()
    network.forward = lambda x: said[:, [2, 0, 1]]  # type: ignore[method-assign]
    network.preprocessing = lambda x: x  # type: ignore[assignment]
    teacher = Teacher(network, [1, 2, 0], 0.25)
    q = said.softmax(1)
    apart = (q * (q.log() - p.log())).sum() / 6
    torch.testing.assert_close(Loss(weights=weights, teacher=teacher)(logits, labels, images), 0.75 * own + 0.25 * apart)
    targets = torch.tensor([[0, 1, 1]] * 6)
    s = logits.sigmoid()
    several = -(torch.where(targets == 1, s, 1 - s)).log().mean()
    torch.testing.assert_close(Loss(several=True)(logits, targets, images), several)
    t = said.sigmoid()
    apart = -(t * s.log() + (1 - t) * (1 - s).log()).mean()
    torch.testing.assert_close(Loss(several=True, teacher=teacher)(logits, targets, images), 0.75 * several + 0.25 * apart)


def test_rare_classes_weigh_more() -> None:
    blank = torch.zeros(6, 3, 2, 2, dtype=torch.uint8)
    one = dk.data.ImageTensors(blank, torch.tensor([0, 1, 1, 2, 2, 2]), list("abc"))
    assert class_weights(one).tolist() == pytest.approx([2, 1, 2 / 3])
    several = dk.data.ImageTensors(blank, torch.tensor([[1, 0], [1, 1], [1, 0], [0, 0], [0, 0], [0, 0]]), list("ab"))
    assert class_weights(several).tolist() == [1, 5]


def test_averaged_weights_are_measured_and_written(tmp_path: Path) -> None:
    kept: list[dict[str, torch.Tensor]] = []

    class Keep(L.Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *_: Any) -> None:
            kept.append({name: value.clone() for name, value in pl_module.model.state_dict().items()})

    train(scenes(**{"optim.ema": 0.6, "optim.epochs": 3}), tmp_path / "out", callbacks=[Keep()])
    found: Any = dk.load(tmp_path / "out" / "last.safetensors")
    for name in ("fc.weight", "layer1.0.conv1.weight", "bn1.running_mean"):
        average = kept[0][name].double()
        for step, new in enumerate(kept[1:], 1):
            decay = min(0.6, (1 + step) / (10 + step))
            average = decay * average + (1 - decay) * new[name]
        torch.testing.assert_close(found.state_dict()[name].double(), average, rtol=1e-4, atol=1e-6)
    assert not torch.allclose(found.fc.weight, kept[-1]["fc.weight"])
    figures = evaluate(found, scenes().data)
    assert figures["val_loss"] == pytest.approx(read_history(tmp_path / "out")[-1]["val_loss"], rel=1e-4)


def test_draws_depend_on_their_place_alone() -> None:
    torch.manual_seed(0)
    images, labels = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8), torch.arange(8) % 4
    data = DataRecipe("scenes", size=32, crop=0.5, trivial=True, erase=1.0, mixup=0.3)
    augment = Augmenting(data, 4, cropped=False, blank=(0.2, 0.4, 0.6), seed=3)
    before = torch.get_rng_state()
    x, targets = augment(images, labels, (1, 2, 0))
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(7)
    again, _ = augment(images, labels, (1, 2, 0))
    assert torch.equal(x, again)
    for place in ((2, 2, 0), (1, 3, 0), (1, 2, 1)):
        assert not torch.equal(augment(images, labels, place)[0], x)
    assert not torch.equal(Augmenting(data, 4, False, (0.2, 0.4, 0.6), 4)(images, labels, (1, 2, 0))[0], x)
    assert (x.shape, x.dtype, targets.shape) == (images.shape, torch.float32, (8, 4))
    torch.testing.assert_close(targets.sum(1), torch.ones(8))
    erased, _ = Augmenting(DataRecipe("scenes", erase=1.0), 4, False, (0.2, 0.4, 0.6), 0)(images, labels, (0, 0, 0))
    same = torch.isclose(erased, images / 255)
    torch.testing.assert_close(erased[:, 1][~same[:, 1]], torch.full_like(erased[:, 1][~same[:, 1]], 0.4))
    assert 0.02 < (~same).double().mean() < 0.4
    plain, kept = Augmenting(DataRecipe("scenes"), 4, False, (0.0,), 0)(images, labels, (0, 0, 0))
    assert plain is images
    assert kept is labels


def test_k_falls_and_what_is_measured_has_the_same_k(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []

    class Watch(L.Callback):
        def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
            seen.append((pl_module.head.k, pl_module.evaluated.fc.k))

    train(scenes(k_start=12, **{"optim.ema": 0.9}), tmp_path / "out", callbacks=[Watch()])
    # Eight steps: after two of them it is half way down, geometrically; from the fourth on it is 3.
    assert seen == [(6, 6), (3, 3), (3, 3), (3, 3)]
    assert dk.load(tmp_path / "out" / "last.safetensors").fc.k == 3  # type: ignore[union-attr]


def test_a_training_that_gets_no_better_ends_and_stays_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = scenes(**{"optim.stop_after": 1, "optim.stop_metric": "top1", "optim.epochs": 6})
    monkeypatch.setattr("dynamick.training.stages.STOP_METRICS", {"top1": "min"})
    # Accuracy rises, and the least of it is wanted.
    rows = train(recipe, tmp_path / "out")
    assert 1 < len(rows) < 6
    assert dk.open_network(tmp_path / "out").state is None
    (tmp_path / "out" / "result.json").unlink()
    assert [{**row, "seconds": 0} for row in train(recipe, tmp_path / "out")] == [{**row, "seconds": 0} for row in rows]


@pytest.fixture
def table(tmp_path: Path) -> Path:
    """Images with no colour, one, or two, and tables that say which."""
    generator = torch.Generator().manual_seed(0)
    root = tmp_path / "table"
    (root / "images").mkdir(parents=True)
    for split, count in (("train", 48), ("val", 16)):
        lines = ["file,red,blue"]
        for number in range(count):
            red, blue = number % 2, number // 2 % 2
            pixels = torch.randint(0, 60, (16, 16, 3), generator=generator, dtype=torch.uint8)
            pixels[:8, :, 0] += 180 * red
            pixels[8:, :, 2] += 180 * blue
            Image.fromarray(pixels.numpy()).save(root / "images" / f"{split}{number}.png")
            lines.append(f"images/{split}{number}.png,{red},{blue}")
        (root / f"{split}.csv").write_text("\n".join(lines) + "\n")
    return root


def several(table: Path, **changes: Any) -> Recipe:
    keys = {"model": "res8-d3a", "stem": "compact", "width": 8, "precision": "32", "data.kind": "csv"}
    keys |= {"data.root": str(table), "data.size": 16, "data.pad": 0, "optim.batch_size": 16, "optim.epochs": 6}
    return Recipe.read(None, {**keys, "optim.class_weights": "balanced", **changes})


@pytest.mark.parametrize("in_memory", [True, False])
def test_several_labels_an_image_are_learnt(in_memory: bool, table: Path, tmp_path: Path, run: Command) -> None:
    images = open_images(several(table).data, "val")
    assert (images.classes, images.names[3]) == (["blue", "red"], "images/val3.png")
    assert images.labels[:4].tolist() == [[0, 0], [0, 1], [1, 0], [1, 1]]
    out = tmp_path / "out"
    rows = train(several(table, **{"data.in_memory": in_memory, "data.crop": None if in_memory else 0.9}), out)
    assert rows[-1]["map"] > 90
    assert "top1" not in rows[-1]
    assert run("evaluate", out / "last.safetensors", "--out", tmp_path / "f.json")[0] == 0


TABLES = [
    ("file,red\n", "its first line must name two classes or more"),
    ("file,red,blue\n", "names no images"),
    ("file,red,blue\nimages/val1.png,1\n", "line 2: 2 cells for 2 classes"),
    ("file,red,blue\nimages/val1.png,1,yes\n", "line 2: 'yes' is neither 0 nor 1"),
    ("file,red,blue\nimages/val1.png,1,0\nimages/gone.png,0,0\n", "images/gone.png: no such image"),
    ("file,red,blue\n" + "x" * 5000 + ",1,0\n", "x: no such image"),
    ("file,red,green\nimages/val1.png,1,0\n", "different classes (blue, green)"),
    (None, "val.csv: no such file; give a line `file,CLASS,CLASS,...`"),
]


@pytest.mark.parametrize(("text", "said"), TABLES, ids=[said for _, said in TABLES])
def test_bad_tables(text: str | None, said: str, table: Path, tmp_path: Path) -> None:
    (table / "val.csv").write_text(text) if text is not None else (table / "val.csv").unlink()
    with pytest.raises(InputError) as caught:
        train(several(table), tmp_path / "out")
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"data.mixup": 0.2}, "data.mixup: 0.2 is for images of one class each"),
        ({"optim.label_smoothing": 0.1}, "optim.label_smoothing: 0.1 is for images of one class each"),
        ({"optim.stop_after": 1, "optim.stop_metric": "top1"}, "optim.stop_metric: top1 is for images of one class each"),
    ],
)
def test_what_does_not_go_with_several_labels(changes: dict[str, Any], said: str, table: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said.replace(".", r"\.")):
        train(several(table, **changes), tmp_path / "out")
    assert not (tmp_path / "out" / "config.yaml").exists()
