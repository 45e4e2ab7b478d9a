"""A head that becomes static during training: it keeps what was routed most, stays so, and an interruption changes no bit."""

from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

import dynamick as dk
from dynamick.errors import InputError
from dynamick.nn import DynamicLinear
from dynamick.training import DataRecipe, OptimRecipe, Recipe, read_history, train
from dynamick.training.static import L, keep_most_used


def recipe(**changes: Any) -> Recipe:
    """Four epochs of seconds; from the second one's end on each class has at most three weights."""
    data = DataRecipe("scenes", size=32, train_images=192, val_images=100, pad=2)
    optim = OptimRecipe(epochs=4, batch_size=64, schedule="onecycle", weight_decay=1e-4, head_weight_decay=0.05)
    return Recipe(
        **{"model": "res8-d3a", "stem": "compact", "width": 8, "precision": "32", "static_after": 2} | changes,
        data=data,
        optim=optim,
    )


class Watch(L.Callback):
    """Keeps the head's decay at each epoch's end; interrupts at the start of one."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop, self.decays = stop, []

    def on_train_epoch_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        if trainer.current_epoch == self.stop:
            raise RuntimeError("interrupted")

    def on_train_epoch_end(self, trainer: L.Trainer, pl_module: Any) -> None:
        self.decays.append(trainer.optimizers[0].param_groups[1]["weight_decay"])


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[float]]:
    out, watch = tmp_path_factory.mktemp("static") / "whole", Watch()
    train(recipe(), out, callbacks=[watch])
    return out, watch.decays


def test_from_then_on_no_class_has_more_than_k_weights(whole: tuple[Path, list[float]]) -> None:
    out, decays = whole
    most = [row["weights_per_class_max"] for row in read_history(out)]
    assert most[0] > 3
    assert all(each <= 3 for each in most[1:])
    assert decays == [0.05, 1e-4, 1e-4, 1e-4]
    model = dk.load(out / "last.safetensors")
    kept = model.fc.mask
    assert kept.sum(1).max() == 3
    # Momentum and decay leave what is pruned at zero, and the network gives the logits of a plain linear layer.
    assert (model.fc.weight[~kept] == 0).all()
    x = torch.rand(50, model.fc.in_features)
    linear = torch.nn.functional.linear(x, model.fc.weight.clamp(min=0), model.fc.bias)
    torch.testing.assert_close(model.fc(x), linear)


def test_an_interruption_after_it_changes_no_bit(whole: tuple[Path, list[float]], tmp_path: Path) -> None:
    with pytest.raises(RuntimeError, match="interrupted"):
        train(recipe(), tmp_path / "cut", callbacks=[Watch(stop=2)])
    train(recipe(), tmp_path / "cut")
    want, got = (safetensors.torch.load_file(out / "last.safetensors") for out in (whole[0], tmp_path / "cut"))
    assert want.keys() == got.keys()
    assert all(torch.equal(want[key], got[key]) for key in want)


def test_what_is_used_most_is_kept() -> None:
    head = DynamicLinear(5, 3, 2)
    optimizer = torch.optim.SGD([head.weight], lr=0.1, momentum=0.9)
    head(torch.rand(4, 5)).square().sum().backward()
    head.weight.grad = torch.ones_like(head.weight)
    optimizer.step()
    used = torch.tensor([[0, 3, 9, 3, 1], [0, 0, 4, 0, 0], [2, 2, 2, 2, 2]])
    keep_most_used(head, used, optimizer)
    assert head.mask is not None
    # Of equally used ones the lower index; what was never used is not kept, however few there are.
    assert [row.nonzero().flatten().tolist() for row in head.mask] == [[1, 2], [2], [0, 1]]
    assert torch.equal(head.weight != 0, head.mask)
    assert torch.equal(optimizer.state[head.weight]["momentum_buffer"], head.mask.float())


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"static_after": 0}, "static_after: 0 of 4 epochs; give one from 1 to one less"),
        ({"static_after": 4}, "static_after: 4 of 4 epochs"),
        ({"model": "res8"}, "prunes a head that routes, which res8 has not"),
        ({"model": "res8-d3g"}, "prunes a head that routes, which res8-d3g has not"),
    ],
)
def test_what_cannot_be_is_refused(changes: dict[str, Any], said: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=said):
        train(recipe(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()
