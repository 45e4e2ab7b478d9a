"""The optimiser as users of torch.optim.SGD use it."""

import copy
import io
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

import dynamick as dk
from dynamick.optim import InterpretableSGD, interpretable_gradient, sampled_groups
from tests.optim.network import B, H, M, O, batch, loss_of, net, optimizer_of, same, train


@pytest.mark.parametrize(
    "options",
    [
        {"momentum": 0.9, "weight_decay": 0.1},
        {"momentum": 0.9, "dampening": 0.3},
        {"momentum": 0.9, "nesterov": True},
        {"maximize": True, "lr": 0.01},
        {"foreach": False},
        {"fused": True, "momentum": 0.5},
        {"lr": torch.tensor(0.1)},
    ],
    ids=str,
)
def test_where_all_is_drawn_it_is_sgd(options: dict[str, Any]) -> None:
    """K = M draws every coordinate that has curvature; where x is 0 there is none, and no gradient either."""
    options = {"lr": 0.2} | options
    ours, theirs = net(), net()
    train(ours, optimizer_of(ours, block_size=H, **options))
    train(theirs, torch.optim.SGD(theirs.parameters(), **options))
    assert same(ours, theirs, 1e-6)


def test_a_run_that_was_broken_off_goes_on_with_the_same_bits() -> None:
    def start() -> tuple[nn.Module, InterpretableSGD, Any]:
        model = net()
        optimizer = optimizer_of(model, momentum=0.9, weight_decay=0.01)
        return model, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 2, 0.5)

    def go(model: nn.Module, optimizer: InterpretableSGD, rates: Any, steps: range) -> nn.Module:
        for step in steps:
            train(model, optimizer, range(step, step + 1))
            rates.step()
        return model

    whole = go(*start(), range(6))
    model, optimizer, rates = start()
    go(model, optimizer, rates, range(3))
    file = io.BytesIO()
    torch.save([each.state_dict() for each in (model, optimizer, rates)], file)
    file.seek(0)
    others = start()
    others[1].generator.manual_seed(99)
    for each, state in zip(others, torch.load(file, weights_only=True), strict=True):
        each.load_state_dict(state)
    assert others[1].param_groups[0]["lr"] == 0.25
    assert same(go(*others, range(3, 6)), whole)
    # A generator that the new optimiser was not given comes with the state.
    model, optimizer, rates = start()[0], None, None
    bare = InterpretableSGD(model.parameters(), 0.5, 0.5, 2, model=model)
    file.seek(0)
    state = torch.load(file, weights_only=True)[1]
    bare.load_state_dict(state)
    assert torch.equal(bare.state_dict()["generator"], state["generator"])


def test_the_state_of_an_sgd_loads_and_options_stay() -> None:
    model = net()
    groups = sampled_groups(model)
    plain = torch.optim.SGD([{"params": group["params"]} for group in groups], lr=0.1, momentum=0.9)
    train(model, plain, range(2))
    optimizer = optimizer_of(model, groups, s=0.7)
    optimizer.load_state_dict(plain.state_dict())
    assert [group["s"] for group in optimizer.param_groups] == [0.7, None]
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.1]
    assert torch.equal(optimizer.state[model[2].weight]["momentum_buffer"], plain.state[model[2].weight]["momentum_buffer"])
    assert model[2]._forward_hooks
    assert not model[0]._forward_hooks


def test_groups_have_options_of_their_own() -> None:
    model = net()
    groups = [
        {"params": model[2].parameters(), "s": 1.0, "block_size": 1, "estimate": "votes"},
        {"params": model[0].parameters(), "lr": 0.0, "weight_decay": 0.5},
    ]
    optimizer = optimizer_of(model, groups, s=0.3)
    assert [group["s"] for group in optimizer.param_groups] == [1.0, 0.3]
    assert (optimizer.defaults["s"], optimizer.param_groups[1]["block_size"]) == (0.3, 2)
    assert "estimate: votes" in repr(optimizer)
    x, _ = batch(size=1)
    nn.functional.cross_entropy(model(x), torch.tensor([0])).backward()
    # One sample, s = 1, K = 1: one weight a class, and all of the bias.
    assert (model[2].weight.grad != 0).sum(1).max() == 1
    assert (model[2].bias.grad != 0).all()
    before = model[0].weight.detach().clone()
    optimizer.step()
    assert torch.equal(model[0].weight, before)


def test_named_parameters_may_be_given() -> None:
    model = net()
    optimizer = optimizer_of(model, model.named_parameters())
    assert optimizer.param_groups[0]["param_names"][2] == "2.weight"
    other = net()
    assert same(train(model, optimizer), train(other, optimizer_of(other)))


def test_a_plain_group_is_sgd_and_a_later_one_is_sampled() -> None:
    model = net()
    body = {"params": model[0].parameters(), "s": None}
    optimizer = optimizer_of(model, [{"params": model[2].weight}, body], s=1.0)
    loss_of(model).backward()
    dense = net()
    loss_of(dense).backward()
    assert torch.equal(model[0].weight.grad, dense[0].weight.grad)
    assert not torch.equal(model[2].weight.grad, dense[2].weight.grad)
    model[2].bias.requires_grad_()
    optimizer.add_param_group({"params": [model[2].bias], "lr": 0.0})
    assert (optimizer.param_groups[2]["s"], optimizer.param_groups[2]["lr"]) == (1.0, 0.0)
    model = net()
    optimizer = optimizer_of(model, model[2].parameters(), s=1.0)
    optimizer.add_param_group({"params": model[0].parameters()})
    loss_of(model).backward()
    assert not torch.equal(model[0].weight.grad, dense[0].weight.grad)


def test_s_may_change_as_training_goes_on() -> None:
    model, dense = net(), net()
    optimizer = optimizer_of(model, s=0.9)
    optimizer.param_groups[0]["s"] = None
    train(model, optimizer)
    train(dense, torch.optim.SGD(dense.parameters(), 0.5))
    assert same(model, dense)
    optimizer.param_groups[0]["s"] = 0.2
    assert not same(train(model, optimizer), train(dense, torch.optim.SGD(dense.parameters(), 0.5)))
    optimizer.param_groups[0]["s"] = 2.0
    with pytest.raises(dk.InputError, match=r"^s: 2\.0 is no sparsity level"):
        train(model, optimizer)


def test_accumulation_adds_the_draws_of_both_halves() -> None:
    model, twin = net(), net()
    optimizer, generator = optimizer_of(model), torch.Generator().manual_seed(7)
    for seed in (1, 2):
        (loss_of(model, seed) / 2).backward()
    want = torch.zeros(O, H)
    for seed in (1, 2):
        x, labels = batch(seed)
        hidden = twin[:2](x).detach()
        logits = twin[2](hidden)
        [gy] = torch.autograd.grad(nn.functional.cross_entropy(logits, labels) / 2, logits)
        want += interpretable_gradient(gy, hidden, twin[2].weight.detach(), logits.detach(), 0.5, 2, generator=generator)
        torch.rand(B, H, M, generator=generator)  # the hidden layer's coins
    torch.testing.assert_close(model[2].weight.grad, want)
    optimizer.step()
    torch.testing.assert_close(model[2].weight, twin[2].weight - 0.5 * want)


def test_a_gradient_scaler_and_clipping_work() -> None:
    model, scaled = net(), net()
    optimizer = optimizer_of(model)
    train(model, optimizer)
    other, scaler = optimizer_of(scaled), torch.amp.GradScaler("cpu", init_scale=2.0**12)
    for step in range(4):
        other.zero_grad()
        scaler.scale(loss_of(scaled, step)).backward()
        scaler.unscale_(other)
        torch.nn.utils.clip_grad_norm_(scaled.parameters(), 1e9)
        scaler.step(other)
        scaler.update()
    assert same(model, scaled, 1e-6)
    # A step with infinite gradients is skipped, and the next one is not confused by it.
    before = copy.deepcopy(scaled.state_dict())
    other = optimizer_of(scaled, batch_size=B)
    for factor in (math.inf, 1.0):
        other.zero_grad()
        scaler.scale(loss_of(scaled) * factor).backward()
        scaler.step(other)
        scaler.update()
        assert torch.equal(scaled[2].weight, before["2.weight"]) == (factor == math.inf)


def test_users_step_hooks_run_once() -> None:
    torch.optim.SGD(net().parameters(), 0.1)
    model, seen = net(), []
    optimizer = optimizer_of(model)
    optimizer.register_step_pre_hook(lambda *_: seen.append("before"))
    optimizer.register_step_post_hook(lambda *_: seen.append("after"))
    train(model, optimizer, range(1))
    assert seen == ["before", "after"]


def test_what_is_not_finite_is_not_hidden_by_the_draws() -> None:
    model = net()
    x, labels = batch()
    x[3, 2] = math.nan
    with optimizer_of(model, s=1.0, block_size=1):
        nn.functional.cross_entropy(model(x), labels).backward()
    assert model[2].weight.grad.isnan().all()
    assert model[0].weight.grad.isnan().all()


def test_the_next_layer_may_work_in_place() -> None:
    model, other = net(), net()
    other[1] = nn.ReLU(inplace=True)
    for each in (model, other):
        train(each, optimizer_of(each))
    assert same(model, other)


@pytest.mark.parametrize("batch_size", [None, B])
def test_nothing_is_drawn_for_the_inputs_gradient_alone(batch_size: int | None) -> None:
    """As for images that are altered against the network, before the step."""
    model = net()
    optimizer = optimizer_of(model, batch_size=batch_size)
    x, labels = batch()
    x.requires_grad_()
    state = optimizer.generator.get_state()
    torch.autograd.grad(nn.functional.cross_entropy(model(x), labels), x)
    assert torch.equal(optimizer.generator.get_state(), state)
    loss_of(model).backward()
    optimizer.step()
    assert not torch.equal(model[2].weight, net()[2].weight)


# Precision and memory.


def test_autocast_and_half_precision() -> None:
    model = net()
    optimizer = optimizer_of(model, s=1.0, estimate="votes")
    with torch.autocast("cpu", torch.bfloat16):
        x, labels = batch()
        logits = model(x)
        assert logits.dtype == torch.bfloat16
        loss = nn.functional.cross_entropy(logits.float(), labels)
        loss.backward()
    assert model[2].weight.grad.dtype == torch.float32
    exact = net()
    with optimizer_of(exact, s=1.0, estimate="votes"):
        loss_of(exact).backward()
    torch.testing.assert_close(model[2].weight.grad, exact[2].weight.grad, rtol=0.1, atol=0.01)
    optimizer.step()
    # A model in bfloat16: coins and constants are float32, so that small chances are not rounded.
    gy, x, weight = torch.ones(4000, 1), torch.tensor([[1.0, 0.05]]).expand(4000, 2), torch.ones(1, 2)
    half = [each.bfloat16() for each in (gy, x, weight, x @ weight.T)]
    found = interpretable_gradient(*half, s=0.5, block_size=1, generator=torch.Generator().manual_seed(0))
    assert found.dtype == torch.bfloat16
    count = float(found[0, 1]) / 0.05
    assert abs(count - 4000 * 0.05**2) < 4 * (4000 * 0.05**2) ** 0.5


class Largest(TorchDispatchMode):
    """The size of the largest tensor that was made."""

    def __init__(self) -> None:
        super().__init__()
        self.found = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple | list) else [out]:
            if isinstance(each, Tensor):
                self.found = max(self.found, each.untyped_storage().nbytes() // each.element_size())
        return out


@pytest.mark.parametrize("form", ["literal", "normalised"])
@pytest.mark.parametrize(("size", "O", "M"), [(500, 30, 100), (20, 600, 600)])
def test_the_products_of_a_batch_are_never_all_in_memory(form: str, size: int, O: int, M: int) -> None:
    from dynamick.optim.gradient import CHUNK

    gy, x, weight = torch.randn(size, O), torch.rand(size, M), torch.randn(O, M)
    with Largest() as largest:
        interpretable_gradient(gy, x, weight, x @ weight.T, 0.5, 5, form)
    assert max(CHUNK // 2, O * M) <= largest.found <= max(CHUNK, O * M) < size * O * M
