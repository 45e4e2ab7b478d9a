"""Which parameters are sampled, and what the optimiser refuses."""

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.utils import prune

import dynamick as dk
from dynamick.optim import InterpretableSGD, sampled_groups
from tests.optim.network import H, M, O, loss_of, net, optimizer_of, train


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
