"""docs/theory.md: every inequality and every identity of it, on small problems where the expectations can be summed exactly."""

import itertools
from collections.abc import Iterator
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dynamick as dk
from dynamick.optim import (
    diagonal_ggn,
    global_lipschitz,
    interpretable_gradient,
    local_lipschitz,
    probabilities,
    vote_lipschitz,
)

SEEDS = st.integers(0, 9999)


class Problem(NamedTuple):
    """Multinomial logistic regression: convex, smooth, and one final layer."""

    x: Tensor
    y: Tensor

    def losses(self, W: Tensor) -> Tensor:
        return nn.functional.cross_entropy(self.x @ W.T, self.y, reduction="none")

    def f(self, W: Tensor) -> Tensor:
        return self.losses(W).mean()

    def g(self, W: Tensor) -> Tensor:
        """g_ij of every sample, shape (n, O, M), by autograd."""
        return torch.func.jacrev(self.losses)(W)

    def bound(self) -> Tensor:
        """What no Hessian of f exceeds, (OM, OM): diag(P) - P P^T is at most (I - 1/O) / 2 (Boehning 1992)."""
        O = int(self.y.max()) + 1
        softmax = (torch.eye(O, dtype=self.x.dtype) - 1 / O) / 2
        return torch.kron(softmax, self.x.T @ self.x / len(self.x))


def make(n: int, O: int, M: int, seed: int, scale: float = 1.0) -> tuple[Problem, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(n, M, generator=generator, dtype=torch.float64)
    y = torch.cat([torch.arange(O).roll(seed), torch.randint(0, O, (max(0, n - O),), generator=generator)])[:n]
    return Problem(x, y), scale * torch.randn(O, M, generator=generator, dtype=torch.float64)


def draws(chances: Tensor) -> Iterator[tuple[float, Tensor]]:
    """All outcomes of independent coins, each with its probability."""
    flat = chances.flatten()
    for coins in itertools.product((0.0, 1.0), repeat=len(flat)):
        mask = torch.tensor(coins, dtype=chances.dtype)
        yield float((mask * flat + (1 - mask) * (1 - flat)).prod()), mask.view_as(chances)


# Lemma 2, the final layer.


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.1, 1.0, 5.0]), step=st.floats(-4, 4))
def test_along_a_weight_of_the_final_layer_the_gradient_moves_no_faster_than_the_estimates(
    seed: int, scale: float, step: float
) -> None:
    problem, W = make(1, 4, 3, seed, scale)
    j = (seed % 4, seed % 3)
    moved = W.clone()
    moved[j] += step
    x, slope = problem.x[0, j[1]], problem.g(W)[0][j]
    local = local_lipschitz(problem.x, problem.x @ W.T)[0][j]
    everywhere = global_lipschitz(problem.x, 4)[0][j]
    change = (problem.g(moved)[0][j] - slope).abs()
    assert change <= everywhere * abs(step) * (1 + 1e-9) + 1e-12
    # The local estimate is exact at W, and grows by at most exp(|step x|) on the way.
    assert change <= local * torch.expm1(abs(step) * x.abs()) / x.abs() * (1 + 1e-9) + 1e-12
    # The descent lemma along the coordinate.
    assert problem.f(moved) <= problem.f(W) + slope * step + everywhere * step**2 / 2 + 1e-12


def test_the_estimates_know_nothing_of_the_label() -> None:
    problem, W = make(3, 3, 4, 0)
    other = problem._replace(y=(problem.y + 1) % 3)
    for each in (problem, other):
        curvature = torch.func.hessian(each.losses)(W).reshape(3, 12, 12).diagonal(dim1=1, dim2=2)
        torch.testing.assert_close(local_lipschitz(problem.x, problem.x @ W.T), curvature.view(3, 3, 4))


# Lemma 2, hidden layers.


def network(activation: nn.Module, seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), activation, nn.Linear(4, 4), activation, nn.Linear(4, 3)).double()


def hidden_hessian(model: nn.Sequential, x: Tensor, y: Tensor) -> Tensor:
    """The Hessian's diagonal for the first layer's weights, of one sample."""

    def loss(weight: Tensor) -> Tensor:
        return nn.functional.cross_entropy(torch.func.functional_call(model, {"0.weight": weight}, (x[None],)), y[None])

    return torch.func.hessian(loss)(model[0].weight.detach()).reshape(12, 12).diagonal().view(4, 3)


@pytest.mark.parametrize("seed", range(5))
def test_of_a_relu_network_gauss_newton_is_the_hessian_and_of_a_tanh_network_it_is_not(seed: int) -> None:
    x, y = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)), torch.tensor(seed % 3)
    for activation, alike in ((nn.ReLU(), True), (nn.Tanh(), False)):
        model = network(activation, seed)
        ggn, hessian = diagonal_ggn(model, model[0], x)[0], hidden_hessian(model, x[0], y)
        assert torch.allclose(ggn, hessian, rtol=1e-8, atol=1e-12) == alike


@pytest.mark.parametrize("activation", [nn.ReLU(), nn.Tanh()])
def test_gauss_newton_is_the_variance_of_the_logits_derivatives_and_bounded_by_the_layers_norms(activation: nn.Module) -> None:
    for seed in range(20):
        model = network(activation, seed)
        x = torch.randn(1, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))

        def logits(weight: Tensor, model: nn.Sequential = model, x: Tensor = x) -> Tensor:
            return torch.func.functional_call(model, {"0.weight": weight}, (x,))[0]

        slopes = torch.func.jacrev(logits)(model[0].weight.detach())
        P = model(x)[0].detach().softmax(0)[:, None, None]
        variance = (P * slopes**2).sum(0) - (P * slopes).sum(0) ** 2
        ggn = diagonal_ggn(model, model[0], x)[0]
        torch.testing.assert_close(ggn, variance)
        spread = slopes.max(0).values - slopes.min(0).values
        norms = torch.linalg.matrix_norm(model[2].weight, 2) * torch.linalg.matrix_norm(model[4].weight, 2)
        assert (ggn <= spread**2 / 4 + 1e-12).all()
        assert (ggn <= x**2 * norms.detach() ** 2 / 2 + 1e-12).all()


# Theorem 1.


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, scale=st.sampled_from([0.3, 3.0]))
def test_descent_with_one_coin_a_coordinate(seed: int, scale: float) -> None:
    problem, W = make(5, 2, 3, seed, scale)
    A, g = problem.bound(), problem.g(W).mean(0)
    L = torch.linalg.eigvalsh(A)[-1]
    pi = torch.rand(2, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    ell = (1 - pi) * A.diagonal().view(2, 3) + pi * L
    assert (ell <= L + 1e-12).all()
    rate = float(1 / ell.max())
    after = sum(chance * float(problem.f(W - rate * q * g)) for chance, q in draws(pi))
    assert after <= float(problem.f(W) - rate / 2 * (pi * g**2).sum()) + 1e-12


@settings(max_examples=10, deadline=None)
@given(seed=SEEDS, B=st.integers(1, 2), scale=st.sampled_from([0.3, 3.0]), short=st.booleans())
def test_mean_noise_and_descent_of_a_step_whose_coins_depend_on_the_sample(
    seed: int, B: int, scale: float, short: bool
) -> None:
    n, O, M = 2, 2, 2
    problem, W = make(n, O, M, seed, scale)
    # Two samples in one direction with two labels, so that no weights fit both.
    problem = problem._replace(x=torch.stack([problem.x[0], 2 * problem.x[0]]))
    L = torch.linalg.eigvalsh(problem.bound())[-1]
    pi = torch.rand(n, O, M, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    p = torch.full((n,), B / n, dtype=torch.float64)
    # At rest the bias is all that counts if steps are short, and the noise if they are long.
    W, rate = walk(problem, W, pi, 500, float(1 / L)), float((0.02 if short else 1) / L)
    g_i = problem.g(W)
    mean, square, after = torch.zeros(O, M, dtype=torch.float64), 0.0, 0.0
    for p_chance, p_i in draws(p):
        for q_chance, q_ij in draws(pi):
            d, chance = (p_i[:, None, None] * q_ij * g_i).sum(0) / B, p_chance * q_chance
            mean, square = mean + chance * d, square + chance * float((d**2).sum())
            after += chance * float(problem.f(W - rate * d))
    h, g, e, rho = parts(pi, g_i)
    torch.testing.assert_close(mean, h)
    noise = float((pi * (1 - B / n * pi) * g_i**2).sum() / (B * n))
    assert square - float((h**2).sum()) == pytest.approx(noise, rel=1e-9, abs=1e-15)
    bound = problem.f(W) - rate / 2 * (rho * g**2).sum() + rate / 2 * (e**2 / rho).sum() + L * rate**2 / 2 * noise
    assert after <= float(bound) + 1e-12


def parts(pi: Tensor, g_i: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """h, g, the covariance e of what is drawn with the gradients, and the mean rho of what is drawn: h = rho g + e."""
    h, g, rho = (pi * g_i).mean(0), g_i.mean(0), pi.mean(0)
    e = ((pi - rho) * (g_i - g)).mean(0)
    torch.testing.assert_close(h, rho * g + e)
    return h, g, e, rho


@pytest.mark.parametrize("least", [0.2, 1.0])
def test_all_samples_and_one_coin_a_coordinate_give_the_rate_of_one_over_t(least: float) -> None:
    problem, W = make(30, 3, 4, 2)
    minimum = walk(problem, W, torch.ones(30, 3, 4).double())
    pi = least + (1 - least) * torch.rand(3, 4, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    rate = float(1 / torch.linalg.eigvalsh(problem.bound())[-1])
    # 30 walks side by side stand for the expectations.
    generator = torch.Generator().manual_seed(4)
    V_SOM, start, smallest, radius = W.expand(30, 3, 4), float(problem.f(W) - problem.f(minimum)), torch.inf, 0.0
    for t in range(1, 101):
        P = (V_SOM @ problem.x.T).transpose(1, 2).softmax(2) - nn.functional.one_hot(problem.y, 3)
        g_SOM = torch.einsum("sno,nm->som", P, problem.x) / 30
        smallest = min(smallest, float((g_SOM**2).sum((1, 2)).mean()))
        assert smallest <= 2 * start / (rate * float(pi.min()) * t)
        radius = max(radius, float((V_SOM - minimum).flatten(1).norm(dim=1).max()))
        V_SOM = V_SOM - rate * (torch.rand(30, 3, 4, generator=generator) < pi) * g_SOM
        left = torch.stack([problem.f(V) for V in V_SOM]).mean() - problem.f(minimum)
        assert left <= 2 * radius**2 / (rate * float(pi.min()) * t)


@settings(max_examples=20, deadline=None)
@given(seed=SEEDS, B=st.integers(1, 6))
def test_where_each_samples_gradient_vanishes_with_fs_the_noise_does_too(seed: int, B: int) -> None:
    problem, W = make(6, 3, 2, seed)
    pi = torch.rand(3, 2, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) + 0.01
    g_i = problem.g(W)
    C = (g_i**2).sum() / 6 / (g_i.mean(0) ** 2).sum()
    noise = (pi * (1 - B / 6 * pi) * g_i**2).sum() / (6 * B)
    assert noise <= pi.max() * C / (pi.min() * B) * (pi * g_i.mean(0) ** 2).sum()


def test_where_the_coins_depend_on_the_sample_another_point_is_approached() -> None:
    """f_i = (w - a_i)^2 / 2: the minimum is the mean of the a_i, and what is approached is their mean weighted by pi_i."""
    a, pi = torch.tensor([0.0, 1.0, 5.0]).double(), torch.tensor([0.9, 0.5, 0.1]).double()
    generator = torch.Generator().manual_seed(0)
    # 200 walks side by side, their last halves averaged.
    w, total, steps = torch.zeros(200, 1).double(), 0.0, 1000
    for step in range(steps):
        q = (torch.rand(200, 3, generator=generator) < pi).double()
        w = w - 0.05 * (q * (w - a)).mean(1, keepdim=True)
        total += float(w.mean()) * (step >= steps // 2) / (steps // 2)
    approached = float((pi * a).sum() / pi.sum())
    assert approached == pytest.approx(2 / 3)
    assert total == pytest.approx(approached, abs=0.02)
    # What is left of the gradient there is the covariance over the mean.
    covariance = float((pi * a).mean() - pi.mean() * a.mean())
    assert approached - float(a.mean()) == pytest.approx(covariance / float(pi.mean()))


def drawn(problem: Problem, s: float) -> Tensor:
    """pi_ij of the normalised form, two weights a row; the local and the global estimate are one there."""
    return probabilities(global_lipschitz(problem.x, 3), s, 2)


def walk(problem: Problem, W: Tensor, pi: Tensor, steps: int = 3000, rate: float = 1.0) -> Tensor:
    """The expected step of Algorithm 3, repeated."""
    for _ in range(steps):
        P = (problem.x @ W.T).softmax(1) - nn.functional.one_hot(problem.y, len(W))
        W = W - rate * (pi * P[:, :, None] * problem.x[:, None]).mean(0)
    return W


@pytest.mark.parametrize("s", [0.1, 0.5, 0.9])
def test_the_gradient_left_at_the_point_approached_is_the_covariance_over_the_mean_and_below_its_bounds(s: float) -> None:
    problem, W = make(24, 3, 4, 5)
    # Half of what the optimiser draws, and half whatever happens: bounded below.
    for pi in (drawn(problem, s), (1 + drawn(problem, s)) / 2):
        g_i = problem.g(walk(problem, W, pi))
        h, g, e, rho = parts(pi, g_i)
        assert (h**2).sum() < 1e-20
        floor, spread, least = (g**2).sum(), g_i.var(0, correction=0), pi.min()
        assert floor > 1e-4
        torch.testing.assert_close(floor, ((e / rho) ** 2).sum())
        # Theorem 1's inequality is an equality there: the floor is one that is reached.
        torch.testing.assert_close((rho * g**2).sum(), (e**2 / rho).sum())
        assert floor <= (pi.var(0, correction=0) / rho**2 * spread).sum()
        assert (e**2 / rho).sum() <= ((1 - least) ** 2 / (4 * least) * spread).sum()


def test_what_is_followed_is_no_gradient() -> None:
    problem, W = make(24, 3, 4, 5)
    for pi, symmetric in ((drawn(problem, 0.5), False), (torch.full((24, 3, 4), 0.3).double(), True)):
        slope = torch.func.jacrev(lambda V, pi=pi: (pi * problem.g(V)).mean(0))(W).reshape(12, 12)
        assert torch.allclose(slope, slope.T) == symmetric


def test_interpretable_sgd_leaves_the_minimum_for_that_point() -> None:
    problem, W = make(24, 3, 4, 5)
    pi = drawn(problem, 0.5)
    minimum, goal = walk(problem, W, torch.ones_like(pi)), walk(problem, W, pi)
    assert (problem.g(minimum).mean(0) ** 2).sum() < 1e-20
    model = nn.Linear(4, 3, bias=False).double()
    model.weight.data = minimum.clone()
    mean, steps = torch.zeros_like(goal), 500
    generator = torch.Generator().manual_seed(1)
    with dk.optim.InterpretableSGD(model.parameters(), 0.5, 0.5, 2, model=model, generator=generator) as optimizer:
        for step in range(2 * steps):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(problem.x), problem.y).backward()
            optimizer.step()
            mean += (step >= steps) * model.weight.detach() / steps
    # The constants that are added to all rows of W change no probability.
    apart, left = ((each - each.mean(0)).norm() for each in (goal - minimum, mean - goal))
    assert left < 0.3 * apart


def test_dividing_by_the_chances_takes_the_bias_away() -> None:
    problem, W = make(2, 2, 2, 1)
    g_i, pi = problem.g(W), torch.rand(2, 2, 2, dtype=torch.float64) * 0.9 + 0.1
    outcomes = [(chance, (q / pi * g_i).mean(0)) for chance, q in draws(pi)]
    torch.testing.assert_close(sum(chance * d for chance, d in outcomes), g_i.mean(0))


# "Dynamic-K is exactly Algorithm 3 for large s."


def routed(x: Tensor, W: Tensor, K: int) -> Tensor:
    """R as 0 and 1, (B, O, M), by sorting each row in Python."""
    R = torch.zeros(len(x), *W.shape, dtype=x.dtype)
    for b, c in itertools.product(range(len(x)), range(len(W))):
        products = (W[c] * x[b]).tolist()
        best = sorted(range(len(products)), key=lambda i: (-products[i], i))[:K]
        R[b, c, [i for i in best if products[i] > 0]] = 1
    return R


@settings(max_examples=40, deadline=None)
@given(seed=SEEDS, K=st.integers(1, 6), ties=st.booleans(), s=st.sampled_from([0.2, 0.9, 1.0]))
def test_with_votes_the_limit_is_dynamic_k(seed: int, K: int, ties: bool, s: float) -> None:
    torch.manual_seed(seed)
    x, W, y = torch.randn(4, 5).double(), torch.randn(3, 5).double(), torch.randint(0, 3, (4,))
    if ties:
        x, W = x.round(), W.round()
    R = routed(x, W, K)
    assert torch.equal(probabilities(vote_lipschitz(x, W), 1.0, K), R)
    # Below 1 the next coordinate's chance is what the page says, and falls to 0 (or is 1, in a tie).
    votes = vote_lipschitz(x, W).sort(-1, descending=True).values
    if K < 5 and (votes[..., K - 1] > 0).all():
        q = probabilities(vote_lipschitz(x, W), 0.9, K).sort(-1, descending=True).values
        torch.testing.assert_close(q[..., K], (votes[..., K] / votes[..., K - 1]) ** 10)
    # The Dynamic-K forward pass with Algorithm 3's coins is SGD on Dynamic-K: what is off the route has nothing to be drawn.
    layer = dk.DynamicLinear(5, 3, K, bias=False).double()
    layer.weight.data = W.clone()
    logits = layer(x)
    loss = nn.functional.cross_entropy(logits, y)
    loss.backward()
    gy = (logits.detach().softmax(1) - nn.functional.one_hot(y, 3)) / 4
    q = (torch.rand(4, 3, 5) < probabilities(vote_lipschitz(x, W), s, K)).double()
    torch.testing.assert_close(torch.einsum("bo,bm,bom,bom->om", gy, x, R, q), layer.weight.grad)
    # The dense forward pass, Algorithm 3 as printed, updates the same weights by other amounts: thresholded gradients.
    twin = dk.DynamicLinear(5, 3, K, bias=False, threshold="gradients").double()
    twin.weight.data = W.clone()
    nn.functional.cross_entropy(twin(x), y).backward()
    dense = x @ W.T
    gy = (dense.softmax(1) - nn.functional.one_hot(y, 3)) / 4
    torch.testing.assert_close(interpretable_gradient(gy, x, W, dense, 1.0, K, estimate="votes"), twin.weight.grad)


def test_the_two_forward_passes_differ_in_the_amounts() -> None:
    x, W = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [2.0, -1.0]])
    grads = []
    for threshold in ("activations", "gradients"):
        layer = dk.DynamicLinear(2, 2, 1, bias=False, threshold=threshold)
        layer.weight.data = W.clone()
        nn.functional.cross_entropy(layer(x), torch.tensor([0])).backward()
        grads.append(layer.weight.grad)
    assert torch.equal(grads[0] != 0, grads[1] != 0)
    # Dynamic-1 says (2, 2): P = 1/2. Dense says (3, 0): P = 1 / (1 + e^3) for the second class.
    torch.testing.assert_close(grads[0], torch.tensor([[0.0, -1.0], [0.5, 0.0]]))
    p = 1 / (1 + torch.tensor(3.0).exp())
    torch.testing.assert_close(grads[1], torch.stack([torch.stack([0 * p, -2 * p]), torch.stack([p, 0 * p])]))


def test_votes_are_the_curvature_along_the_weights_logarithm() -> None:
    problem, u = make(1, 3, 4, 3)
    W = u.exp()
    votes, P = problem.x * W, (problem.x @ W.T).softmax(1).T
    curvature = torch.func.hessian(lambda u: problem.f(u.exp()))(u).reshape(12, 12).diagonal().view(3, 4)
    # The rest is the second derivative of exp(u), which Gauss-Newton leaves out.
    rest = (P - nn.functional.one_hot(problem.y, 3).T) * votes
    torch.testing.assert_close(curvature - rest, P * (1 - P) * votes**2)


def test_with_lemma_2s_constants_the_limit_is_the_largest_inputs_whatever_the_weights() -> None:
    x, W = torch.tensor([[3.0, -4.0, 1.0]]).double(), torch.tensor([[1.0, 1.0, 1.0], [-1.0, 0.0, 9.0]]).double()
    limit = torch.tensor([0.0, 1.0, 0.0]).double().expand(1, 2, 3)
    for L in (local_lipschitz(x, x @ W.T), global_lipschitz(x, 2)):
        assert torch.equal(probabilities(L, 1.0, 1), limit)
    assert routed(x, W, 1).tolist() == [[[1, 0, 0], [0, 0, 1]]]


def test_the_literal_form_updates_nothing_in_the_limit() -> None:
    L = global_lipschitz(torch.tensor([[3.0, -4.0, 1.0]]).double(), 2)
    sums = [float(probabilities(L, s, 2, "literal", beta=4.0).sum()) for s in (0.1, 0.5, 0.9, 0.99, 1.0)]
    assert sums == sorted(sums, reverse=True)
    assert sums[0] > 1
    assert max(sums[3:]) < 1e-30
