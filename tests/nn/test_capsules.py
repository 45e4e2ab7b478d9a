"""Algorithm 1's three forms against loops in NumPy, one number at a time; what must hold whatever the numbers; bad input."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import dynamick as dk
from dynamick.nn import Capsules, RoutingCapsules
from dynamick.nn.capsules import ROUTINGS, squash

Array = np.ndarray
TINY = 1e-8


def cast_votes(layer: RoutingCapsules, x: Array) -> Array:
    """v[i][c] = W_ci x_i for one input's poses, shape (I, C, E)."""
    weight, I, C, D, E = layer.weight.detach().numpy(), layer.in_capsules, layer.out_capsules, layer.in_dim, layer.out_dim
    v = np.zeros((I, C, E))
    for i in range(I):
        for c in range(C):
            block = weight[c * E : (c + 1) * E, i * D : (i + 1) * D]
            v[i, c] = block @ x[i]
    return v


def softmax(values: Array) -> Array:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def loop_dynamic(v: Array, iterations: int) -> tuple[Array, Array, Array]:
    """Procedure 1 of Sabour et al. 2017."""
    I, C, E = v.shape
    b = np.zeros((I, C))
    for _ in range(iterations):
        c = np.stack([softmax(b[i]) for i in range(I)])
        pose, log_odds = np.zeros((C, E)), np.zeros(C)
        for j in range(C):
            s = sum((c[i, j] * v[i, j] for i in range(I)), np.zeros(E))
            n = math.sqrt(float(s @ s))
            pose[j] = n**2 / (1 + n**2) * s / max(n, TINY)
            log_odds[j] = math.log(n**2 + TINY)
        for i in range(I):
            for j in range(C):
                b[i, j] += v[i, j] @ pose[j]
    return pose, log_odds, c.T


def loop_simplified(v: Array, iterations: int) -> tuple[Array, Array, Array]:
    """Algorithm 1 of the paper, with a Gaussian kernel for the distance function that it leaves open."""
    I, C, E = v.shape
    R, Y = np.ones((C, I)), np.zeros((C, E))
    for turn in range(iterations):
        for c in range(C):
            Y[c] = sum(R[c, i] * v[i, c] for i in range(I)) / sum(R[c])
        if turn < iterations - 1:
            for c in range(C):
                squared = [float(((v[i, c] - Y[c]) ** 2).sum()) for i in range(I)]
                spread = sum(R[c, i] * squared[i] for i in range(I)) / sum(R[c])
                R[c] = [math.exp(-squared[i] / (2 * spread + TINY)) for i in range(I)]
    return Y, np.log((Y**2).sum(1) + TINY), R / R.sum(1, keepdims=True)


def loop_em(v: Array, a_in: Array, layer: RoutingCapsules) -> tuple[Array, Array, Array]:
    """Procedure 1 of Hinton et al. 2018, densities as products of one-dimensional normal densities."""
    I, C, E = v.shape
    beta_u, beta_a = layer.beta_u.detach().numpy(), layer.beta_a.detach().numpy()
    R = np.full((I, C), 1 / C)
    for turn in range(1, layer.iterations + 1):
        temperature = layer.inverse_temperature * turn / layer.iterations
        mean, variance, log_odds = np.zeros((C, E)), np.zeros((C, E)), np.zeros(C)
        for c in range(C):
            r = [R[i, c] * a_in[i] for i in range(I)]
            total = 0.0
            for h in range(E):
                mean[c, h] = sum(r[i] * v[i, c, h] for i in range(I)) / (sum(r) + TINY)
                variance[c, h] = sum(r[i] * (v[i, c, h] - mean[c, h]) ** 2 for i in range(I)) / (sum(r) + TINY) + TINY
                total += (beta_u[c] + math.log(math.sqrt(variance[c, h]))) * sum(r)
            log_odds[c] = temperature * (beta_a[c] - total)
        if turn == layer.iterations:
            break
        for i in range(I):
            weighted = np.zeros(C)
            for c in range(C):
                density = 1 / (1 + math.exp(-log_odds[c]))
                for h in range(E):
                    exponent = -((v[i, c, h] - mean[c, h]) ** 2) / (2 * variance[c, h])
                    density *= math.exp(exponent) / math.sqrt(2 * math.pi * variance[c, h])
                weighted[c] = density
            R[i] = weighted / weighted.sum()
    return mean, log_odds, R.T


def make(routing: str, sizes: tuple[int, int, int, int], iterations: int = 3, seed: int = 0) -> RoutingCapsules:
    torch.manual_seed(seed)
    layer = RoutingCapsules(*sizes, routing, iterations, dtype=torch.float64)
    if routing == "em":
        torch.nn.init.normal_(layer.beta_u)
        torch.nn.init.normal_(layer.beta_a)
    return layer


def loop(layer: RoutingCapsules, x: torch.Tensor, a: torch.Tensor | None) -> Capsules:
    rows = []
    for b in range(len(x)):
        v = cast_votes(layer, x[b].numpy())
        if layer.routing == "em":
            rows.append(loop_em(v, np.ones(len(v)) if a is None else a[b].numpy(), layer))
        else:
            rows.append((loop_dynamic if layer.routing == "dynamic" else loop_simplified)(v, layer.iterations))
    return Capsules(*(torch.from_numpy(np.stack(each)) for each in zip(*rows, strict=True)))


# Ten inputs or more, so that EM's Gaussians are not narrower than the loop's densities can say.
@settings(max_examples=25, deadline=None)
@given(
    routing=st.sampled_from(ROUTINGS),
    inputs=st.integers(10, 14),
    sizes=st.tuples(st.integers(1, 4), st.integers(1, 4), st.integers(1, 3)),
    iterations=st.integers(1, 4),
    present=st.booleans(),
    seed=st.integers(0, 999),
)
def test_is_the_algorithm(
    routing: str, inputs: int, sizes: tuple[int, int, int], iterations: int, present: bool, seed: int
) -> None:
    layer = make(routing, (inputs, *sizes), iterations, seed)
    x = torch.randn(3, inputs, sizes[0], dtype=torch.float64)
    a = torch.rand(3, inputs, dtype=torch.float64) if present and routing == "em" else None
    with torch.no_grad():
        got = layer(x, a)
    want = loop(layer, x, a)
    for name in ("poses", "log_odds", "coupling"):
        torch.testing.assert_close(
            getattr(got, name), getattr(want, name), rtol=1e-5, atol=1e-6, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("routing", ROUTINGS)
def test_gradients_are_those_of_finite_differences(routing: str) -> None:
    layer = make(routing, (6, 2, 3, 2))
    x = torch.randn(2, 6, 2, dtype=torch.float64, requires_grad=True)
    a = torch.rand(2, 6, dtype=torch.float64, requires_grad=True) if routing == "em" else None
    names, parameters = zip(*layer.named_parameters(), strict=True)

    def outputs(x: torch.Tensor, a: torch.Tensor | None, *parameters: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x, a)))

    assert torch.autograd.gradcheck(outputs, (x, a, *parameters))


@settings(max_examples=30, deadline=None)
@given(
    routing=st.sampled_from(ROUTINGS),
    sizes=st.tuples(*[st.integers(1, 6)] * 4),
    batch=st.integers(0, 3),
    scale=st.sampled_from([0.0, 1e-3, 1.0, 100.0]),
)
def test_what_always_holds(routing: str, sizes: tuple[int, int, int, int], batch: int, scale: float) -> None:
    layer = RoutingCapsules(*sizes, routing)
    x = (scale * torch.randn(batch, *sizes[:2])).requires_grad_()
    got = layer(x)
    assert got.poses.shape == (batch, sizes[2], sizes[3])
    assert got.log_odds.shape == got.activations.shape == (batch, sizes[2])
    over = 2 if routing == "simplified" else 1
    sums = got.coupling.sum(over)
    torch.testing.assert_close(sums, torch.ones_like(sums))
    got.poses.sum().backward(retain_graph=True)
    got.log_odds.sum().backward()
    assert all(bool(each.isfinite().all()) for each in (*got, x.grad, layer.weight.grad))
    if routing == "dynamic":
        torch.testing.assert_close(got.poses.norm(dim=-1), got.activations, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_order_of_the_inputs_does_not_matter(routing: str) -> None:
    layer, shuffled = make(routing, (7, 3, 4, 2)), make(routing, (7, 3, 4, 2))
    order = torch.randperm(7)
    with torch.no_grad():
        shuffled.weight.copy_(layer.weight.view(8, 7, 3)[:, order].reshape(8, 21))
        x = torch.randn(5, 7, 3, dtype=torch.float64)
        want, got = layer(x), shuffled(x[:, order])
    torch.testing.assert_close(got.poses, want.poses)
    torch.testing.assert_close(got.log_odds, want.log_odds)
    torch.testing.assert_close(got.coupling, want.coupling[:, :, order])


@pytest.mark.parametrize("routing", ROUTINGS)
def test_votes_that_agree_win(routing: str) -> None:
    """Six of eight inputs vote alike for output 0, and all eight at random for output 1."""
    layer = RoutingCapsules(8, 2, 2, 2, routing)
    votes = torch.randn(2, 8, 2, generator=torch.Generator().manual_seed(3))
    votes[0, :6] = torch.tensor([2.0, 1.0]) + 0.05 * votes[0, :6]
    votes[0, 6:] = torch.tensor([[-2.0, 0.5], [0.5, -2.0]])
    layer.votes = lambda x: votes[None]  # type: ignore[method-assign]
    got = layer(torch.zeros(1, 8, 2))
    assert got.coupling[0, 0, :6].min() > got.coupling[0, 0, 6:].max()
    assert got.log_odds[0, 0] > got.log_odds[0, 1]


def test_an_input_that_is_absent_counts_for_nothing_in_em() -> None:
    layer = make("em", (9, 2, 3, 2))
    x, a = torch.randn(1, 9, 2, dtype=torch.float64), torch.ones(1, 9, dtype=torch.float64)
    a[0, 4] = 0
    want = layer(x, a)
    x[0, 4] = 50
    torch.testing.assert_close(layer(x, a).poses, want.poses)
    torch.testing.assert_close(layer(x, a).log_odds, want.log_odds)


def test_squash_keeps_the_direction_and_stays_below_1() -> None:
    s = torch.tensor([[3.0, 4.0], [0.0, 0.0], [1e3, 0.0]], dtype=torch.float64)
    got = squash(s)
    torch.testing.assert_close(got[0], torch.tensor([3.0, 4.0], dtype=torch.float64) / 5 * 25 / 26)
    assert got[1].tolist() == [0, 0]
    assert 0.999 < got[2, 0] < 1


def test_autocast_computes_in_float32() -> None:
    layer, x = RoutingCapsules(5, 2, 3, 2, "em"), torch.randn(2, 5, 2)
    want = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        got = layer(x.bfloat16().float())
    assert got.poses.dtype == torch.float32
    torch.testing.assert_close(got.poses, layer(x.bfloat16().float()).poses)
    assert want.poses.shape == got.poses.shape
    for dtype, wide in ((torch.float16, torch.float32), (torch.float64, torch.float64)):
        layer, x = layer.to(dtype), x.to(dtype)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).poses.dtype == wide


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("routing", ROUTINGS)
def test_half_precision_routes_in_float32(routing: str, dtype: torch.dtype) -> None:
    """Poses of 0 too, as behind a ReLU: the numbers that keep quotients finite are none in float16."""
    torch.manual_seed(0)
    half = RoutingCapsules(6, 2, 3, 2, routing, dtype=dtype)
    whole = RoutingCapsules(6, 2, 3, 2, routing)
    whole.load_state_dict(half.state_dict())
    x = torch.randn(2, 6, 2, dtype=dtype)
    x[0] = 0
    x.requires_grad_()
    got, want = half(x), whole(x.detach().float())
    for a, b in zip(got, want, strict=True):
        assert a.dtype == dtype
        torch.testing.assert_close(a.float(), b, rtol=0.05, atol=0.05)
    (got.poses.sum() + got.log_odds.sum()).backward()
    assert x.grad.isfinite().all()
    assert half.weight.grad.isfinite().all()


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"in_capsules": 0}, "in_capsules"),
        ({"in_dim": 2.0}, "in_dim"),
        ({"out_capsules": True}, "out_capsules"),
        ({"out_dim": -1}, "out_dim"),
        ({"iterations": 0}, "iterations"),
        ({"routing": "most"}, "routing"),
        ({"inverse_temperature": 0.0}, "inverse_temperature"),
        ({"inverse_temperature": math.nan}, "inverse_temperature"),
        ({"inverse_temperature": "0.1"}, "inverse_temperature"),
    ],
)
def test_bad_arguments_are_refused_in_one_line(wrong: dict, named: str) -> None:
    with pytest.raises(dk.InputError, match=rf"^{named}: [^\n]+$"):
        RoutingCapsules(**{"in_capsules": 4, "in_dim": 2, "out_capsules": 3, "out_dim": 2, **wrong})


def test_bad_inputs_are_refused_in_one_line() -> None:
    dynamic, em = RoutingCapsules(4, 2, 3, 2), RoutingCapsules(4, 2, 3, 2, "em")
    for x in (torch.zeros(4, 2), torch.zeros(1, 4, 3), torch.zeros(1, 3, 2)):
        with pytest.raises(dk.InputError, match=r"^x: shape [^\n]+\(batch, 4, 2\)$"):
            dynamic(x)
    with pytest.raises(dk.InputError, match=r"^activations: dynamic [^\n]+$"):
        dynamic(torch.zeros(1, 4, 2), torch.ones(1, 4))
    with pytest.raises(dk.InputError, match=r"^activations: shape [^\n]+$"):
        em(torch.zeros(1, 4, 2), torch.ones(1, 5))


def test_says_what_it_is() -> None:
    assert repr(RoutingCapsules(4, 2, 3, 5, "em")) == "RoutingCapsules(4x2, 3x5, routing=em, iterations=3)"
