"""The optimiser as users of torch.optim.SGD use it, and what it refuses."""

import copy
import gc
import io
import math
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune
from torch.utils._python_dispatch import TorchDispatchMode

import dynamick as dk
from dynamick.optim import InterpretableSGD, interpretable_gradient, sampled_groups

B, M, H, O = 12, 6, 7, 4


def net() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(M, H), nn.ReLU(), nn.Linear(H, O))


def batch(seed: int = 1, size: int = B) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(size, M, generator=generator), torch.randint(0, O, (size,), generator=generator)


def loss_of(model: Callable[..., Tensor], seed: int = 1, size: int = B) -> Tensor:
    x, labels = batch(seed, size)
    return nn.functional.cross_entropy(model(x).float(), labels)


def optimizer_of(model: nn.Module, params: Any = None, lr: float = 0.5, s: float = 0.5, **options: Any) -> InterpretableSGD:
    options = {"block_size": 2, "generator": torch.Generator().manual_seed(7)} | options
    return InterpretableSGD(model.parameters() if params is None else params, lr, s, model=model, **options)


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(4), call: Any = None) -> nn.Module:
    for step in steps:
        optimizer.zero_grad()
        loss_of(call or model, step).backward()
        optimizer.step()
    return model


def same(a: nn.Module, b: nn.Module, tolerance: float = 0.0) -> bool:
    pairs = zip(a.parameters(), b.parameters(), strict=True)
    return all(torch.allclose(p, q, rtol=tolerance, atol=tolerance) for p, q in pairs)


# As torch.optim.SGD.


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


# Hooks.


def test_the_model_is_left_as_it_was() -> None:
    model = net()
    with optimizer_of(model) as optimizer:
        assert model[2]._forward_hooks
        train(model, optimizer)
    assert not model[0]._forward_hooks
    assert not model[2]._forward_hooks
    with pytest.raises(RuntimeError, match="within"), optimizer:
        raise RuntimeError("within")
    assert not model[2]._forward_hooks
    pickle.dumps(model)
    # Off, gradients are dense, and step says that they are; on again it goes on.
    with pytest.raises(dk.InputError, match=r"^0\.weight: its gradient was not sampled; attach\(\) first[^\n]*$"):
        train(model, optimizer)
    optimizer.attach()
    train(model, optimizer)


def test_hooks_go_with_the_optimiser() -> None:
    model = net()
    optimizer = optimizer_of(model)
    train(model, optimizer)
    del optimizer
    gc.collect()
    assert not model[0]._forward_hooks
    # Nor does one that could not be made leave any.
    with pytest.raises(dk.InputError):
        optimizer_of(model, [{"params": model[2].parameters()}, {"params": model[0].parameters(), "s": 7.0}])
    gc.collect()
    assert not model[2]._forward_hooks


def test_users_hooks_stay() -> None:
    x, _ = batch()
    model, plain = net(), net()
    seen = []
    model[0].register_forward_hook(lambda *args: seen.append(args[2]))
    model[2].register_forward_hook(lambda *args: 3 * args[2])
    optimizer_ = optimizer_of(model)
    model[2].register_forward_hook(lambda *args: args[2] + 1)
    found = model(x)
    torch.testing.assert_close(found, 3 * plain(x) + 1)
    # What a hook saw is what the next layer gets.
    assert torch.autograd.grad(found.sum(), seen[0], retain_graph=True)[0].any()
    found.sum().backward()
    optimizer_.step()


def test_of_two_optimisers_the_newer_samples() -> None:
    """As where a cell of a notebook is run again, and a scheduler keeps the older one in memory."""
    model, twin = net(), net()
    older = optimizer_of(model, s=1.0, block_size=1)
    train(model, optimizer_of(model))
    train(twin, optimizer_of(twin))
    assert same(model, twin)
    del older


def test_a_deep_copy_of_the_model_is_plain() -> None:
    model, dense = net(), net()
    optimizer_ = optimizer_of(model)
    average = torch.optim.swa_utils.AveragedModel(model)
    train(model, optimizer_)
    average.update_parameters(model)
    copied = copy.deepcopy(net())
    for each in (copied, dense):
        loss_of(each).backward()
    assert torch.equal(copied[2].weight.grad, dense[2].weight.grad)
    copied = copy.deepcopy(model)
    loss_of(copied).backward()
    dense.load_state_dict(model.state_dict())
    dense.zero_grad()
    loss_of(dense).backward()
    assert torch.equal(copied[2].weight.grad, dense[2].weight.grad)


def test_the_forward_pass_and_the_inputs_gradient_are_the_dense_ones() -> None:
    model, dense = net(), net()
    optimizer = optimizer_of(model, s=1.0)
    grads = []
    for each in (model, dense):
        x, labels = batch()
        x.requires_grad_()
        y = each(input=x)
        nn.functional.cross_entropy(y, labels).backward()
        grads.append((y.detach(), x.grad, each[2].bias.grad, each[0].bias.grad))
    for a, b in zip(*grads, strict=True):
        assert torch.equal(a, b)
    with torch.no_grad():
        assert torch.equal(model(batch()[0]), dense(batch()[0]))
    # Frozen: nothing to sample.
    model[2].weight.requires_grad_(False)
    optimizer.zero_grad()
    loss_of(model).backward()
    assert model[2].weight.grad is None
    assert not torch.equal(model[0].weight.grad, dense[0].weight.grad)


def test_checkpointed_activations_draw_once() -> None:
    model, twin = net(), net()
    optimizers = optimizer_of(model), optimizer_of(twin)
    x, labels = batch()
    y = torch.utils.checkpoint.checkpoint(model, x, use_reentrant=False)
    nn.functional.cross_entropy(y, labels).backward()
    nn.functional.cross_entropy(twin(x), labels).backward()
    assert torch.equal(model[2].weight.grad, twin[2].weight.grad)
    assert torch.equal(model[0].weight.grad, twin[0].weight.grad)
    del optimizers


def test_a_compiled_model_is_sampled_too() -> None:
    torch._dynamo.reset()
    model, compiled = net(), net()
    train(model, optimizer_of(model))
    optimizer = optimizer_of(compiled)
    call = torch.compile(compiled, backend="eager")
    train(compiled, optimizer, call=call)
    assert same(model, compiled, 1e-6)
    # One that was compiled before the optimiser was there does not know the hooks; step notices.
    torch._dynamo.reset()
    early = net()
    call = torch.compile(early, backend="eager")
    loss_of(call).backward()
    optimizer = optimizer_of(early)
    with pytest.raises(dk.InputError, match=r"^0\.weight: its gradient was not sampled; [^\n]*compile the model after that"):
        train(early, optimizer, call=call)


# Poisson-sampled minibatches.


def test_gradients_are_of_the_nominal_batch() -> None:
    model, twin = net(), net()
    optimizer, other = optimizer_of(model, batch_size=20), optimizer_of(twin)
    loss_of(model, size=5).backward()
    x, labels = batch(size=5)
    (nn.functional.cross_entropy(twin(x), labels, reduction="sum") / 20).backward()
    optimizer.step()
    other.step()
    assert same(model, twin, 1e-6)
    # The same gradients once more are not multiplied again.
    grad = model[0].bias.grad.clone()
    optimizer.zero_grad()
    for p in model.parameters():
        p.grad = None
    model[0].bias.grad = grad.clone()
    optimizer.step()
    assert torch.equal(model[0].bias.grad, grad)


@pytest.mark.parametrize("frozen", [True, False])
def test_gradients_are_of_the_nominal_batch_where_nothing_is_sampled_for_the_time(frozen: bool) -> None:
    model, twin = net(), net()
    optimizer = optimizer_of(model, sampled_groups(model), batch_size=20)
    model[2].weight.requires_grad_(not frozen)
    optimizer.param_groups[0]["s"] = 0.5 if frozen else None
    for size in (5, 8):
        optimizer.zero_grad()
        loss_of(model, size=size).backward()
        optimizer.step()
        twin.zero_grad()
        x, labels = batch(size=size)
        (nn.functional.cross_entropy(twin(x), labels, reduction="sum") / 20).backward()
        with torch.no_grad():
            for name, p in twin.named_parameters():
                p -= 0.5 * p.grad * (not (frozen and name == "2.weight"))
    assert same(model, twin, 1e-6)


@pytest.mark.parametrize("batch_size", [None, 20])
def test_an_empty_batch_changes_nothing(batch_size: int | None) -> None:
    model = net()
    optimizer = optimizer_of(model, batch_size=batch_size, momentum=0.9, weight_decay=0.1)
    train(model, optimizer, range(2))
    before = copy.deepcopy([model.state_dict(), optimizer.state_dict()["state"]])
    optimizer.zero_grad()
    loss_of(model, size=0).backward()
    optimizer.step()
    after = [model.state_dict(), optimizer.state_dict()["state"]]
    torch.testing.assert_close(after, before, rtol=0, atol=0)
    train(model, optimizer, range(1))
    assert not torch.equal(model[2].weight, before[0]["2.weight"])


def test_what_sees_no_row_alone_keeps_nothing_else_from_learning() -> None:
    """Every row is for another task's classifier: the body is updated all the same."""
    body, sampled, other = nn.Linear(6, 6), nn.Linear(6, 3), nn.Linear(6, 3)
    model = nn.ModuleList([body, sampled, other])
    groups = [{"params": [sampled.weight]}, {"params": [*body.parameters(), *other.parameters()], "s": None}]
    optimizer = dk.optim.InterpretableSGD(groups, 0.1, 0.9, 2, model=model)
    before = copy.deepcopy(model.state_dict())
    hidden = body(torch.randn(B, 6))
    (sampled(hidden[:0]).sum() + other(hidden).square().mean()).backward()
    want = body.weight.detach() - 0.1 * body.weight.grad
    optimizer.step()
    torch.testing.assert_close(body.weight.detach(), want)
    assert torch.equal(sampled.weight, before["1.weight"])


def test_an_empty_batch_with_a_nominal_size_changes_nothing_whatever_else_has_a_gradient() -> None:
    model = net()
    optimizer = optimizer_of(model, batch_size=B, momentum=0.9, weight_decay=0.1)
    train(model, optimizer, range(2))
    before = copy.deepcopy(model.state_dict())
    optimizer.zero_grad()
    (loss_of(model, size=0) + model[0].bias.sum()).backward()
    optimizer.step()
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_second_pass_is_refused_though_the_sampled_layer_is_frozen() -> None:
    model = net()
    for layer in (model[0], model[2]):
        layer.weight.requires_grad_(False)
    optimizer = optimizer_of(model, batch_size=B)
    loss_of(model).backward()
    with pytest.raises(dk.InputError, match="a second backward pass"):
        loss_of(model).backward()
    optimizer.zero_grad()


def test_a_skipped_step_leaves_nothing_where_the_models_own_zero_grad_is_used() -> None:
    model = net()
    optimizer, scaler = optimizer_of(model, batch_size=B), torch.amp.GradScaler("cpu", init_scale=2.0)
    for factor in (math.inf, 1.0, 1.0):
        model.zero_grad()
        before = copy.deepcopy(model[2].weight)
        scaler.scale(loss_of(model) * factor).backward()
        scaler.step(optimizer)
        scaler.update()
        assert torch.equal(model[2].weight, before) == (factor == math.inf)


def test_a_nominal_batch_allows_one_backward_pass_a_step() -> None:
    model = net()
    optimizer = optimizer_of(model, batch_size=B)
    loss_of(model).backward()
    with pytest.raises(dk.InputError, match=r"^batch_size: a second backward pass before step\(\), or [^\n]+$"):
        loss_of(model).backward()
    optimizer.zero_grad()
    train(model, optimizer)


PROCESS = """
import os
import sys
import torch
from torch import nn
import dynamick as dk

torch.distributed.init_process_group("gloo")
rank = torch.distributed.get_rank()
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(6, 7), nn.ReLU(), nn.Linear(7, 4))
x, labels = torch.randn(12, 6), torch.randint(0, 4, (12,))
shared = nn.parallel.DistributedDataParallel(model)
optimizer = dk.optim.InterpretableSGD(shared.parameters(), 0.5, 1.0, 2, model=shared, estimate="votes", momentum=0.9)
for _ in range(4):
    optimizer.zero_grad()
    nn.functional.cross_entropy(shared(x[rank::2]), labels[rank::2]).backward()
    optimizer.step()
if rank == 0:
    torch.save(model.state_dict(), sys.argv[1])
optimizer.batch_size = 12
nn.functional.cross_entropy(shared(x[rank::2]), labels[rank::2]).backward()
try:
    optimizer.step()
except dk.InputError as error:
    assert str(error).startswith("batch_size: every process draws another number; ")
else:
    raise AssertionError
# Neither leaves while the other one still talks to it.
torch.distributed.barrier()
# Gloo's threads outlive DistributedDataParallel; one that lets go of a tensor while Python shuts down aborts the process.
os._exit(0)
"""


@pytest.mark.slow
def test_two_processes_are_one(tmp_path: Path) -> None:
    import subprocess
    import sys

    (tmp_path / "process.py").write_text(PROCESS)
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    done = subprocess.run([*launch, tmp_path / "process.py", tmp_path / "out.pt"], capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    model = net()
    x, labels = torch.randn(12, 6), torch.randint(0, 4, (12,))
    optimizer = optimizer_of(model, s=1.0, estimate="votes", momentum=0.9)
    for _ in range(4):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
    for name, value in torch.load(tmp_path / "out.pt", weights_only=True).items():
        torch.testing.assert_close(model.state_dict()[name], value)


# Groups and bad input.


def test_sampled_groups_are_the_classifier_and_all_else() -> None:
    model = dk.models.create("res8", width=4)
    head, rest = sampled_groups(model)
    assert [id(p) for p in head["params"]] == [id(model.fc.weight)]
    assert rest["s"] is None
    assert {id(p) for p in rest["params"]} == {id(p) for p in model.parameters()} - {id(model.fc.weight)}
    both = sampled_groups(net(), ["0", "2"])
    assert [p.shape for p in both[0]["params"]] == [(H, M), (O, H)]
    layer = nn.Linear(3, 2, bias=False)
    assert len(sampled_groups(layer)) == 1
    for name, wrong in (("fc2", "is not in the model"), ("conv1", "is a Conv2d")):
        with pytest.raises(dk.InputError, match=rf"^layers: '{name}' {wrong}; its nn.Linear layers are 'fc'$"):
            sampled_groups(model, name)
    pruned = net()
    prune.random_unstructured(pruned[0], "weight", 0.5)
    with pytest.raises(dk.InputError, match=r"^layers: the weight of '0' is computed anew in every pass, [^\n]+$"):
        sampled_groups(pruned, "0")
    with pytest.raises(dk.InputError, match=r"^params: 0\.weight_orig \(Linear\) cannot be sampled, [^\n]+$"):
        optimizer_of(pruned)
    with pytest.raises(dk.InputError, match=r"^layers: 'fc' is a DynamicLinear; its nn.Linear layers are none$"):
        sampled_groups(dk.models.create("res8-d2a", width=4))


def test_all_parameters_of_a_convolutional_network_are_refused_by_name() -> None:
    model = dk.models.create("res8", width=4)
    with pytest.raises(dk.InputError) as caught:
        optimizer_of(model)
    said = str(caught.value)
    assert said.startswith("params: conv1.weight (Conv2d), bn1.weight (BatchNorm2d), bn1.bias (BatchNorm2d) and ")
    assert "dynamick.optim.sampled_groups(model)" in said
    assert "\n" not in said
    # What it says to do is right.
    optimizer_of(model, sampled_groups(model))


class Tied(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(O, H)
        self.head = nn.Linear(H, O)
        self.head.weight = self.embedding.weight


class Sparse(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(9, H, sparse=True)
        self.head = nn.Linear(H, O)

    def forward(self, tokens: Tensor) -> Tensor:
        return self.head(self.embedding(tokens))


BAD: list[tuple[Callable[[], Any], str]] = [
    (lambda: optimizer_of(net(), s=0.0), r"s: 0\.0 is no sparsity level; give a number above 0 and at most 1"),
    (lambda: optimizer_of(net(), s=1.5), r"s: 1\.5 is no sparsity level"),
    (lambda: optimizer_of(net(), block_size=0), r"block_size: 0 is no number of coordinates"),
    (lambda: optimizer_of(net(), form="loose"), r"form: 'loose' is unknown"),
    (lambda: optimizer_of(net(), estimate="exact"), r"estimate: 'exact' is unknown; the estimates are local, global, votes"),
    (lambda: optimizer_of(net(), beta=-1.0), r"beta: -1\.0 is no block size"),
    (lambda: optimizer_of(net(), batch_size=0), r"batch_size: 0 is no nominal batch size; give an integer from 1 up"),
    (lambda: optimizer_of(net(), batch_size=2.5), r"batch_size: 2\.5 is no nominal batch size"),
    (lambda: InterpretableSGD(net().parameters(), 0.1, 0.5, 2, model=None), r"model: a NoneType is no module; give the one"),
    (lambda: optimizer_of(net(), differentiable=True), r"differentiable: sampled gradients have no second derivative"),
    (lambda: optimizer_of(net(), net().parameters()), r"params: a tensor of shape \(7, 6\) is none of the model's; give "),
    (lambda: optimizer_of(Tied()), r"params: embedding\.weight \(Embedding\) and head\.weight \(Linear\) cannot be sampled"),
    (
        lambda: optimizer_of(nn.Sequential(dk.DynamicLinear(M, O, 2))),
        r"params: 0\.weight \(DynamicLinear\), 0\.bias \(DynamicLinear\) cannot be sampled, only [^\n]+ s=None",
    ),
    (lambda: optimizer_of(m := net(), [m[2].bias]), r"params: no group holds the weight of an nn\.Linear; add one, or take"),
    (lambda: optimizer_of(m := net(), [{"params": m[2].weight, "s": None}]), r"params: no group holds the weight"),
    (
        lambda: optimizer_of(net(), form="literal"),
        r"params: 0\.weight is hidden and P \(1 - P\) x\^2 is the final layer's curvature; take form='normalised'",
    ),
]


@pytest.mark.parametrize(("make", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_bad_input(make: Callable[[], Any], message: str) -> None:
    with pytest.raises(dk.InputError, match=rf"^{message}[^\n]*$"):
        make()


def test_closures_are_refused() -> None:
    model = net()
    optimizer = optimizer_of(model)
    before = model[2].weight.detach().clone()
    for call in (lambda: optimizer.step(lambda: loss_of(model)), lambda: optimizer.step(closure=lambda: loss_of(model))):
        with pytest.raises(dk.InputError, match=r"^closure: a second pass would draw other weights; run backward\(\)[^\n]+$"):
            call()
    assert torch.equal(model[2].weight, before)
    optimizer.step(None)
    optimizer.step(closure=None)


def test_sparse_gradients_are_refused() -> None:
    model = Sparse()
    optimizer = optimizer_of(model, sampled_groups(model))
    nn.functional.cross_entropy(model(torch.tensor([1, 2])), torch.tensor([0, 1])).backward()
    with pytest.raises(dk.InputError, match=r"^params: a gradient is sparse; make it dense \(nn\.Embedding: sparse=False\)$"):
        optimizer.step()


def test_more_than_one_row_a_sample_is_refused() -> None:
    model = net()
    optimizer = optimizer_of(model)
    message = r"^0\.weight: a sampled nn\.Linear sees one row a sample, \(B, 6\), not \(2, 3, 6\); put it in [^\n]+$"
    with pytest.raises(dk.InputError, match=message):
        model(torch.randn(2, 3, M))
    optimizer.detach()
    model(torch.randn(2, 3, M))


def test_it_is_not_copied_silently() -> None:
    optimizer = optimizer_of(net())
    for act in (pickle.dumps, copy.deepcopy):
        with pytest.raises(dk.InputError, match=r"^InterpretableSGD: it hooks its model[^\n]+ keep its state_dict\(\)$"):
            act(optimizer)


def test_a_later_group_that_is_refused_leaves_the_optimiser_as_it_was() -> None:
    model = dk.models.create("res8", width=4)
    optimizer = optimizer_of(model, [model.fc.weight])
    with pytest.raises(dk.InputError, match=r"^params: conv1\.weight \(Conv2d\) cannot be sampled"):
        optimizer.add_param_group({"params": [model.conv1.weight]})
    assert len(optimizer.param_groups) == 1
    optimizer.add_param_group({"params": [model.conv1.weight], "s": None})


def test_a_form_that_is_set_later_is_held_to_the_same() -> None:
    model = net()
    optimizer = optimizer_of(model)
    optimizer.param_groups[0]["form"] = "literal"
    with pytest.raises(dk.InputError, match=r"^params: 0\.weight is hidden and P "):
        loss_of(model).backward()


def test_a_state_that_is_refused_changes_nothing() -> None:
    model = net()
    optimizer = optimizer_of(model, momentum=0.9)
    train(model, optimizer)
    before = copy.deepcopy(optimizer.state_dict())
    for key, value in (("s", 7.0), ("generator", torch.zeros(16, dtype=torch.uint8))):
        state = copy.deepcopy(before)
        if key == "s":
            state["param_groups"][0][key] = value
        else:
            state[key] = value
        state["state"][0]["momentum_buffer"] += 1
        with pytest.raises(dk.InputError):
            optimizer.load_state_dict(state)
        after = optimizer.state_dict()
        torch.testing.assert_close(after["state"], before["state"], rtol=0, atol=0)
        assert (after["param_groups"], after["generator"].tolist()) == (before["param_groups"], before["generator"].tolist())
    train(model, optimizer)


def test_a_generators_state_of_another_kind_is_refused() -> None:
    model = net()
    optimizer = optimizer_of(model)
    state = optimizer.state_dict() | {"generator": torch.zeros(16, dtype=torch.uint8)}
    with pytest.raises(dk.InputError, match=r"^generator: its state is not one of a generator on cpu; [^\n]+$"):
        optimizer.load_state_dict(state)
