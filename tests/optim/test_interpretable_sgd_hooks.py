"""The optimiser's hooks on its model: what they leave alone, and when they go."""

import copy
import gc
import pickle

import pytest
import torch
from torch import nn

import dynamick as dk
from tests.optim.network import batch, loss_of, net, optimizer_of, same, train


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
