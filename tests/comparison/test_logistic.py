"""The solver and the path against scikit-learn and against the optimality conditions, computed anew."""

import warnings

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamick.comparison.cache import Features
from dynamick.comparison.heads import HEADS, elastic_net, l1
from dynamick.comparison.heads.elastic_net import first, follow
from dynamick.comparison.logistic import Problem, Solution, solve, standardise, unscale
from dynamick.errors import InputError

sklearn = pytest.importorskip("sklearn.linear_model")


def objective(x: np.ndarray, y: np.ndarray, w: np.ndarray, b: np.ndarray, l1: float, l2: float) -> float:
    z = x @ w.T + b
    top = z.max(1, keepdims=True)
    loss = (np.log(np.exp(z - top).sum(1)) + top[:, 0] - z[np.arange(len(y)), y]).mean()
    return float(loss + l1 * np.abs(w).sum() + l2 / 2 * (w**2).sum())


def conditions(problem: Problem, solution: Solution, l1: float, l2: float) -> float:
    """The optimality conditions by autograd in float64: how far 0 is from the subdifferential."""
    w, b = (each.double().requires_grad_() for each in (solution.weight, solution.bias))
    loss = torch.nn.functional.cross_entropy(problem.x.double() @ w.T + b, problem.y) + l2 / 2 * w.square().sum()
    g_w, g_b = torch.autograd.grad(loss, (w, b))
    on, off = w != 0, w == 0
    missed = [g_b.abs().max(), (g_w[on] + l1 * w[on].sign()).abs().max() if on.any() else g_b.new_zeros(())]
    if off.any():
        missed.append((g_w[off].abs() - l1).clamp(min=0).max())
    return max(each.item() for each in missed)


@pytest.fixture
def problem(features: Features) -> Problem:
    return Problem(standardise(features.x)[0], features.labels, 3)


@pytest.mark.parametrize(("strength", "alpha"), [(0.1, 0.99), (0.02, 0.99), (0.02, 0.5), (0.005, 1.0), (0.01, 0.0)])
def test_as_scikit_learn(problem: Problem, strength: float, alpha: float) -> None:
    l1, l2 = alpha * strength, (1 - alpha) * strength
    found = solve(problem, l1, l2, tolerance=1e-6)
    # Its objective is the sum over images, divided by C: C = 1 / (strength * N) makes them the same.
    x, y = problem.x.double().numpy(), problem.y.numpy()
    theirs = sklearn.LogisticRegression(
        solver="saga", l1_ratio=alpha, C=1 / (strength * len(x)), tol=1e-8, max_iter=20000, random_state=0
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if sklearn.LogisticRegression().get_params().get("penalty") not in (None, "deprecated"):
            theirs.set_params(penalty="elasticnet")
        theirs.fit(x, y)
    w, b = found.weight.double().numpy(), found.bias.double().numpy()
    assert objective(x, y, w, b, l1, l2) <= objective(x, y, theirs.coef_, theirs.intercept_, l1, l2) + 1e-6
    np.testing.assert_allclose(w, theirs.coef_, atol=2e-3)
    if alpha:
        assert ((w != 0) == (np.abs(theirs.coef_) > 1e-6)).mean() > 0.94


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 60),
    st.integers(1, 9),
    st.integers(2, 4),
    st.floats(1e-3, 0.3),
    st.floats(0, 1),
    st.integers(0, 10_000),
)
def test_conditions_hold_where_it_says_so(N: int, M: int, C: int, strength: float, alpha: float, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = standardise(torch.randn(N, M, generator=generator))[0]
    problem = Problem(x, torch.randint(C, (N,), generator=generator), C)
    # A class without an image has its bias at minus infinity; the cache refuses such data.
    if len(problem.y.unique()) < C:
        return
    found = solve(problem, alpha * strength, (1 - alpha) * strength, steps=3000)
    assert conditions(problem, found, alpha * strength, (1 - alpha) * strength) <= found.violation + 1e-5
    assert found.violation < 1e-4 or found.steps == 3000


def test_a_mask_is_kept_and_the_rest_is_best(problem: Problem) -> None:
    mask = torch.zeros(3, 12, dtype=torch.bool)
    mask[0, [0, 3]] = mask[1, 1] = mask[2, 7] = True
    found = solve(problem, l2=1e-3, mask=mask, tolerance=1e-6)
    assert (found.weight[~mask] == 0).all()
    w, b = found.weight.double().requires_grad_(), found.bias.double().requires_grad_()
    loss = torch.nn.functional.cross_entropy(problem.x.double() @ w.T + b, problem.y) + 5e-4 * w.square().sum()
    g_w, g_b = torch.autograd.grad(loss, (w, b))
    assert g_w[mask].abs().max() < 1e-5
    assert g_b.abs().max() < 1e-5


def test_the_path_is_the_minimum_at_each_strength(problem: Problem) -> None:
    """Warm starts and left out features change the time, never the result."""
    point = first(problem, 0.99)
    assert point.nec == 0
    for _ in range(16):
        point = follow(problem, point, point.strength * elastic_net.STRIDE, 0.99)
        assert conditions(problem, point.solution, 0.99 * point.strength, 0.01 * point.strength) < 1.1e-4
    assert point.nec > 1


def test_just_above_the_first_strength_all_is_zero_and_just_below_it_is_not(problem: Problem) -> None:
    strongest = first(problem, 1.0).strength
    assert (solve(problem, strongest * 1.001, tolerance=1e-6).weight == 0).all()
    assert (solve(problem, strongest * 0.98, tolerance=1e-6).weight != 0).any()


@pytest.mark.parametrize("fit", [elastic_net.fit, l1.fit])
def test_budgets_are_kept(features: Features, fit: object) -> None:
    assert callable(fit)
    found = list(fit(features.x, features.labels, 3, [4, 1, 30]))
    assert [each.budget for each in found] == [1, 4, 30]
    counts = [(each.head.weight != 0).sum().item() / 3 for each in found]
    assert all(count <= each.budget for count, each in zip(counts, found, strict=True))
    assert counts == sorted(counts)
    assert counts[1] > 3


def test_scaling_back_changes_no_logit(features: Features) -> None:
    scaled, mean, std = standardise(features.x)
    weight, bias = torch.randn(3, 12), torch.randn(3)
    raw, shift = unscale(weight, bias, mean, std)
    torch.testing.assert_close(features.x @ raw.T + shift, scaled @ weight.T + bias, rtol=1e-4, atol=1e-4)


def test_a_constant_feature_is_no_obstacle() -> None:
    x = torch.cat([torch.rand(50, 2), torch.full((50, 1), 7.0)], 1)
    scaled, _, std = standardise(x)
    assert std[2] == 1
    assert scaled[:, 2].abs().max() < 1e-5


@pytest.mark.parametrize("head", ["dense", "elastic-net"])
def test_a_class_without_examples_is_named(features: Features, head: str) -> None:
    with pytest.raises(InputError, match="no example of class 2; give each of the 3 classes one or more"):
        list(HEADS[head].fit(features.x, features.labels.clamp(max=1), 3, [2]))
