"""The Lipschitz estimates of Lemma 2 against torch.func's Hessian."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import dynamick as dk
from dynamick.optim import ESTIMATES, diagonal_ggn, global_lipschitz, lipschitz, local_lipschitz, vote_lipschitz

M, H, O = 5, 6, 4


def network(activation: type[nn.Module], seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(M, H), activation(), nn.Linear(H, H), activation(), nn.Linear(H, O)).double()


def logits_of(model: nn.Module, name: str, x: Tensor) -> Callable[[Tensor], Tensor]:
    """One sample's logits as a function of one weight."""
    rest = {each: p.detach() for each, p in model.named_parameters() if each != name}
    return lambda weight: torch.func.functional_call(model, {**rest, name: weight}, x[None])[0]


def hessian_diagonal(loss: Callable[[Tensor], Tensor], weight: Tensor) -> Tensor:
    full = torch.func.hessian(loss)(weight).reshape(weight.numel(), weight.numel())
    return full.diagonal().reshape(weight.shape)


@pytest.mark.parametrize("label", range(O))
def test_local_is_the_final_layers_hessian_diagonal(label: int) -> None:
    model = network(nn.Tanh)
    x = torch.randn(3, M, dtype=torch.float64)
    features = model[:-1](x).detach()
    found = local_lipschitz(features, model(x).detach())
    for i in range(3):
        logits = logits_of(model, "4.weight", x[i])
        want = hessian_diagonal(lambda w, f=logits: cross_entropy(f(w), torch.tensor(label)), model[4].weight.detach())
        torch.testing.assert_close(found[i], want)
    assert (found <= global_lipschitz(features, O) * (1 + 1e-12)).all()


@pytest.mark.parametrize("place", [0, 2, 4])
def test_ggn_is_the_hessian_diagonal_of_relu_networks(place: int) -> None:
    model, x = network(nn.ReLU), torch.randn(4, M, dtype=torch.float64)
    found = diagonal_ggn(model, model[place], x)
    for i in range(4):
        logits = logits_of(model, f"{place}.weight", x[i])
        want = hessian_diagonal(lambda w, f=logits: cross_entropy(f(w), torch.tensor(1)), model[place].weight.detach())
        torch.testing.assert_close(found[i], want, atol=1e-12, rtol=1e-7)
    assert (found > 0).any()


def test_ggn_of_other_networks_leaves_the_logits_own_curvature_out() -> None:
    """J^T (diag P - P P^T) J, which for tanh is not the Hessian."""
    model, x = network(nn.Tanh), torch.randn(3, M, dtype=torch.float64)
    found = diagonal_ggn(model, model[0], x)
    for i in range(3):
        logits, weight = logits_of(model, "0.weight", x[i]), model[0].weight.detach()
        J = torch.func.jacrev(logits)(weight).reshape(O, -1)
        p = logits(weight).softmax(0)
        torch.testing.assert_close(found[i], (J.T @ (p.diag() - p[:, None] * p) @ J).diagonal().reshape(H, M))
        assert not torch.allclose(found[i], hessian_diagonal(lambda w, f=logits: cross_entropy(f(w), torch.tensor(1)), weight))


@pytest.mark.parametrize("frozen", [True, False])
def test_ggn_of_layers_that_the_next_one_overwrites_and_of_frozen_ones(frozen: bool) -> None:
    plain, overwritten = network(nn.ReLU), network(nn.ReLU)
    overwritten[1], overwritten[3] = nn.ReLU(inplace=True), nn.ReLU(inplace=True)
    overwritten.requires_grad_(not frozen)
    x = torch.randn(4, M, dtype=torch.float64)
    for place in (0, 2, 4):
        assert torch.equal(diagonal_ggn(overwritten, overwritten[place], x), diagonal_ggn(plain, plain[place], x))


@pytest.mark.parametrize("draws", [1, 7])
def test_monte_carlo_ggn_is_unbiased(draws: int) -> None:
    """The mean of 4,000 independent estimates lies within five standard errors of the exact diagonal."""
    model, x = network(nn.ReLU, seed=3), torch.randn(1, M, dtype=torch.float64)
    exact = diagonal_ggn(model, model[2], x)[0]
    found = diagonal_ggn(model, model[2], x.expand(4000, -1), draws, torch.Generator().manual_seed(0))
    error = found.std(0) / 4000**0.5
    assert ((found.mean(0) - exact).abs() <= 5 * error + 1e-12).all()
    # More draws scatter less, by the root of their number.
    one = diagonal_ggn(model, model[2], x.expand(4000, -1), 1, torch.Generator().manual_seed(1)).std(0)
    spread = (found.std(0) / one)[one > 0]
    torch.testing.assert_close(spread, torch.full_like(spread, draws**-0.5), rtol=0.15, atol=0)


def test_monte_carlo_draws_repeat() -> None:
    model, x = network(nn.ReLU), torch.randn(6, M, dtype=torch.float64)
    a, b, c = (diagonal_ggn(model, model[0], x, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert torch.equal(a, b)
    assert not torch.equal(a, c)


@settings(max_examples=60, deadline=None)
@given(
    scale=st.sampled_from([1e-3, 1.0, 30.0, 1e3]),
    inputs=st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=3),
    label=st.integers(0, 2),
    seed=st.integers(0, 10_000),
)
def test_the_global_bound_is_never_below_the_measured_curvature(
    scale: float, inputs: list[float], label: int, seed: int
) -> None:
    """Along every coordinate, wherever the weights are, and as a Lipschitz constant between two points as well."""
    torch.manual_seed(seed)
    weight, x = scale * torch.randn(3, 3, dtype=torch.float64), torch.tensor(inputs, dtype=torch.float64)

    def loss(w: Tensor) -> Tensor:
        return cross_entropy(w @ x, torch.tensor(label))

    bound = global_lipschitz(x[None], 3)[0]
    assert (hessian_diagonal(loss, weight) <= bound * (1 + 1e-9) + 1e-12).all()
    gradient = torch.func.grad(loss)
    for c in range(3):
        for j in range(3):
            step = torch.zeros(3, 3, dtype=torch.float64)
            step[c, j] = scale * float(torch.randn(()))
            change = (gradient(weight + step) - gradient(weight))[c, j].abs()
            assert change <= bound[c, j] * step[c, j].abs() * (1 + 1e-9) + 1e-9


def test_the_global_bound_is_reached() -> None:
    """No smaller constant will do: with two classes of equal probability the curvature is x^2 / 4."""
    x = torch.tensor([0.5, -3.0], dtype=torch.float64)
    found = hessian_diagonal(lambda w: cross_entropy(w @ x, torch.tensor(0)), torch.zeros(2, 2, dtype=torch.float64))
    torch.testing.assert_close(found, global_lipschitz(x[None], 2)[0])


def test_votes_are_the_curvature_along_the_logarithm_of_a_weight() -> None:
    """For positive weights: its Gauss-Newton term is P (1 - P) times the vote's square."""
    weight, x = torch.rand(O, M, dtype=torch.float64), torch.rand(1, M, dtype=torch.float64)
    logits = torch.func.jacrev(lambda log: x[0] @ log.exp().T)(weight.log()).reshape(O, -1)
    p = (x @ weight.T).softmax(1)[0]
    want = (logits.T @ (p.diag() - p[:, None] * p) @ logits).diagonal().reshape(O, M)
    torch.testing.assert_close((p * (1 - p))[:, None] * vote_lipschitz(x, weight)[0] ** 2, want)
    assert (vote_lipschitz(-x, weight) == 0).all()


def test_the_estimates_have_names() -> None:
    x, weight = torch.rand(2, M), torch.randn(O, M)
    logits = x @ weight.T
    want = {"local": local_lipschitz(x, logits), "global": global_lipschitz(x, O), "votes": vote_lipschitz(x, weight)}
    assert set(want) == set(ESTIMATES)
    for name, value in want.items():
        assert torch.equal(lipschitz(name, x, weight, logits), value)
        assert value.shape == (2, O, M)


def test_ggn_needs_one_row_a_sample() -> None:
    model = nn.Sequential(nn.Linear(M, H), nn.Flatten(), nn.Linear(2 * H, O))
    with pytest.raises(dk.InputError, match=r"^layer: it must see one row a sample, once; [^\n]+$"):
        diagonal_ggn(model, model[0], torch.randn(3, 2, M))
    with pytest.raises(dk.InputError, match=r"^draws: 0 is no number of classes; give 1 or more[^\n]*$"):
        diagonal_ggn(model, model[2], torch.randn(3, 2, M), 0)
    for layer in (model[1], dk.DynamicLinear(M, O, 2)):
        with pytest.raises(dk.InputError, match=rf"^layer: a {type(layer).__name__} is no layer that sums all [^\n]+$"):
            diagonal_ggn(model, layer, torch.randn(3, 2, M))
    with pytest.raises(dk.InputError, match=r"^estimate: 'exact' is unknown; the estimates are local, global, votes$"):
        lipschitz("exact", torch.rand(1, M), torch.rand(O, M), torch.rand(1, O))
    assert not model[0]._forward_hooks
