"""Poisson-sampled minibatches, empty ones too, and two processes."""

import copy
import math
from pathlib import Path

import pytest
import torch
from torch import nn

import dynamick as dk
from dynamick.optim import sampled_groups
from tests.optim.network import B, batch, loss_of, net, optimizer_of, same, train


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
from dynamick.optim import InterpretableSGD, interpretable_gradient, sampled_groups

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
