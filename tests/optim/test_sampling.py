"""q_j in both forms, the overlap with Dynamic-K, and Poisson-sampled minibatches."""

import itertools
import math
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dynamick as dk
from dynamick.optim import (
    FORMS,
    PoissonSampler,
    global_lipschitz,
    interpretable_gradient,
    local_lipschitz,
    overlap,
    probabilities,
    vote_lipschitz,
)


def row(*values: float) -> Tensor:
    return torch.tensor([[values]], dtype=torch.float64)


def test_the_literal_form_by_hand() -> None:
    L = torch.tensor([[[4.0, 2.0], [1.0, 1.0]]])
    # 1/(1-s) = 2; L_i = 8 over the whole block.
    want = torch.tensor([[[3 / 4, 3 / 16], [3 / 64, 3 / 64]]])
    torch.testing.assert_close(probabilities(L, 0.5, 9, "literal", 3.0), want)
    # Without beta: block_size for each of the two rows; probabilities end at 1.
    torch.testing.assert_close(probabilities(L, 0.5, 4, "literal"), (want / 3 * 8).clamp(max=1))


def test_the_literal_form_draws_beta_coordinates_at_small_s_and_none_at_large_s() -> None:
    L = torch.rand(20, 6, 30) + 0.5
    assert probabilities(L, 1e-6, 5, "literal").sum((1, 2)) == pytest.approx([30] * 20, rel=1e-3)
    assert probabilities(L, 1 - 1e-4, 5, "literal").max() == 0
    assert (probabilities(L, 1.0, 5, "literal") == 0).all()
    # Unless one coordinate has all of it.
    assert probabilities(row(0, 3, 0), 1.0, 1, "literal").tolist() == [[[0, 1, 0]]]


def test_the_normalised_form_by_hand() -> None:
    L = row(8, 4, 2, 1)
    torch.testing.assert_close(probabilities(L, 0.5, 2), row(1, 1, 1 / 4, 1 / 16))
    torch.testing.assert_close(probabilities(L, 0.75, 1), row(1, 1 / 16, 1 / 256, 1 / 4096))
    assert probabilities(L, 1.0, 2).tolist() == [[[1, 1, 0, 0]]]
    assert probabilities(L, 0.3, 9).tolist() == [[[1, 1, 1, 1]]]


def test_of_equal_ones_the_lower_index_is_taken_at_s_1_alone() -> None:
    L = row(3, 5, 3, 3)
    assert probabilities(L, 1.0, 2).tolist() == [[[1, 1, 0, 0]]]
    # Below 1 all that tie with the K-th are drawn for sure.
    assert probabilities(L, 0.999, 2).tolist() == [[[1, 1, 1, 1]]]


@pytest.mark.parametrize("s", [0.2, 0.9, 1.0])
def test_zeros_are_never_drawn(s: float) -> None:
    assert probabilities(row(0, 7, 0), s, 2).tolist() == [[[0, 1, 0]]]
    assert probabilities(row(0, 0, 0), s, 2).tolist() == [[[0, 0, 0]]]
    for form in ("literal", "normalised"):
        assert (probabilities(torch.zeros(2, 3, 4), s, 2, form) == 0).all()
    # Products make negative zeros too; 1 / (1 - s) may be an odd number, an even one, or none.
    for odd in (s, 0.5, 0.8):
        votes = row(3, *[-0.0] * 99).float()
        assert torch.equal(probabilities(votes, odd, 2), votes / 3)
    # The smallest number that there is beside zero.
    assert probabilities(row(5e-324, 0), s, 2).tolist() == [[[1, 0]]]


@settings(max_examples=80, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 9), s=st.floats(0.01, 0.9999), form=st.sampled_from(FORMS))
def test_probabilities_follow_the_constants(seed: int, k: int, s: float, form: str) -> None:
    torch.manual_seed(seed)
    L = torch.rand(3, 2, 6, dtype=torch.float64).mul(5).round()
    q = probabilities(L, s, k, form)
    assert q.shape == L.shape
    assert ((q >= 0) & (q <= 1)).all()
    assert ((q == 0) | (L > 0)).all()
    # A larger constant is never drawn less often, and the scale of L does not matter.
    larger = L[..., :, None] >= L[..., None, :]
    assert (q[..., :, None] * (1 + 1e-9) >= q[..., None, :])[larger].all()
    torch.testing.assert_close(probabilities(8 * L, s, k, form), q)
    if form == "normalised":
        # At least K of a row, or all that are not zero; and sparser with larger s.
        assert ((q == 1).sum(-1) >= torch.minimum((L > 0).sum(-1), torch.tensor(k))).all()
        assert (probabilities(L, (1 + s) / 2, k) <= q + 1e-12).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"s": 0.0}, r"s: 0\.0 is no sparsity level; give a number above 0 and at most 1"),
        ({"s": 1.01}, r"s: 1\.01 is no sparsity level"),
        ({"s": -1}, r"s: -1 is no sparsity level"),
        ({"s": math.nan}, r"s: nan is no sparsity level"),
        ({"s": True}, r"s: True is no sparsity level"),
        ({"s": "0.5"}, r"s: '0\.5' is no sparsity level"),
        ({"block_size": 0}, r"block_size: 0 is no number of coordinates; give an integer from 1 up"),
        ({"block_size": 2.0}, r"block_size: 2\.0 is no number of coordinates"),
        ({"block_size": True}, r"block_size: True is no number of coordinates"),
        ({"form": "exact"}, r"form: 'exact' is unknown; the forms are literal and normalised"),
        ({"beta": 0.0}, r"beta: 0\.0 is no block size; give a positive number"),
        ({"beta": math.inf}, r"beta: inf is no block size"),
        ({"beta": "3"}, r"beta: '3' is no block size"),
    ],
    ids=str,
)
def test_bad_options(options: dict[str, object], message: str) -> None:
    with pytest.raises(dk.InputError, match=rf"^{message}[^\n]*$"):
        probabilities(torch.rand(1, 2, 3), **({"s": 0.5, "block_size": 2} | options))


# The paper: "Dynamic-K is exactly equivalent to Algorithm 3 for sufficiently large s".


def routed(x: Tensor, weight: Tensor, k: int) -> Tensor:
    """R of Algorithm 2 (rule at_most), boolean (B, O, M)."""
    indices = dk.functional.dynamic_route(x, weight, k).indices
    return torch.stack([(indices == j).any(-1) for j in range(x.shape[1])], -1)


def sample(seed: int, ties: bool = False) -> tuple[Tensor, Tensor, Tensor]:
    torch.manual_seed(seed)
    x, weight = torch.randn(7, 9, dtype=torch.float64), torch.randn(4, 9, dtype=torch.float64)
    return (x.round(), weight.round(), torch.randint(0, 4, (7,))) if ties else (x, weight, torch.randint(0, 4, (7,)))


@settings(max_examples=50, deadline=None)
@given(seed=st.integers(0, 10_000), k=st.integers(1, 10), ties=st.booleans())
def test_by_votes_the_overlap_is_1_at_s_1(seed: int, k: int, ties: bool) -> None:
    x, weight, _ = sample(seed, ties)
    R = routed(x, weight, k)
    votes = vote_lipschitz(x, weight)
    assert overlap(probabilities(votes, 1.0, k), R) == 1
    if not ties:
        # It is a limit: s near 1 comes near, and never passes.
        near = [overlap(probabilities(votes, s, k), R) for s in (0.5, 0.9, 0.99, 0.99999)]
        assert near == sorted(near)
        assert near[-1] > 0.95
    # What is routed is drawn for sure at every s, so that only what is drawn besides differs.
    assert (probabilities(votes, 0.3, k)[R] == 1).all()


@pytest.mark.parametrize("s", [0.1, 0.6, 1.0])
def test_with_the_routed_forward_pass_votes_give_dynamic_k_at_every_s(s: float) -> None:
    """There g_ij is 0 off the route, and every routed coordinate is drawn for sure."""
    x, weight, labels = sample(1)
    layer = dk.DynamicLinear(9, 4, 3, bias=False, dtype=torch.float64)
    layer.weight.data = weight.clone()
    logits = layer(x)
    loss = nn.functional.cross_entropy(logits, labels)
    [gy] = torch.autograd.grad(loss, logits, retain_graph=True)
    loss.backward()
    q = probabilities(vote_lipschitz(x, weight), s, 3)
    g = gy[:, :, None] * x[:, None, :] * routed(x, weight, 3)
    for seed in range(5):
        drawn = torch.rand(q.shape, generator=torch.Generator().manual_seed(seed)) < q
        torch.testing.assert_close((g * drawn).sum(0), layer.weight.grad)


def test_at_s_1_votes_on_the_dense_forward_pass_are_the_deterministic_twin() -> None:
    """Training by Interpretable SGD, and training `threshold="gradients"` by SGD, are one: body, momentum and all."""
    x, labels = torch.rand(12, 9, dtype=torch.float64), torch.randint(0, 4, (12,))
    ends = []
    for sampled in (True, False):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 4)).double()
        settings_ = {"lr": 0.5, "momentum": 0.9, "weight_decay": 0.01}
        optimizer: torch.optim.Optimizer
        if sampled:
            groups = dk.optim.sampled_groups(model)
            optimizer = dk.optim.InterpretableSGD(groups, s=1.0, block_size=2, estimate="votes", model=model, **settings_)
        else:
            twin = dk.DynamicLinear(8, 4, 2, dtype=torch.float64, threshold="gradients")
            twin.weight, twin.bias = model[2].weight, model[2].bias
            model[2] = twin
            optimizer = torch.optim.SGD(model.parameters(), **settings_)
        for _ in range(8):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), labels).backward()
            optimizer.step()
        ends.append(model)
    for a, b in zip(ends[0].parameters(), ends[1].parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_by_lemma_2_no_s_makes_it_dynamic_k() -> None:
    """x_j^2 is alike for all classes; Dynamic-K routes others for each."""
    x, weight, labels = sample(2)
    R = routed(x, weight, 3)
    for L in (global_lipschitz(x, 4), local_lipschitz(x, x @ weight.T)):
        q = probabilities(L, 1.0, 3)
        assert torch.equal(q, q[:, :1].expand_as(q))
        assert 0 < overlap(q, R) < 0.6
    # The literal form ends in no update at all, whatever the estimate.
    assert overlap(probabilities(vote_lipschitz(x, weight), 1.0, 3, "literal"), R) == 0
    # And dense logits give another gradient than routed ones, even with the same coordinates.
    dense, dynamic = (
        torch.autograd.grad(nn.functional.cross_entropy(y, labels), y)[0]
        for y in ((x @ weight.T).requires_grad_(), dk.functional.dynamic_linear(x, weight, k=3).requires_grad_())
    )
    found = [interpretable_gradient(gy, x, weight, x @ weight.T, 1.0, 3, estimate="votes") for gy in (dense, dynamic)]
    assert not torch.allclose(*found)


def test_overlap_by_hand() -> None:
    R = torch.tensor([[[True, True, False, False]]])
    assert overlap(row(1, 1, 0, 0), R) == 1
    assert overlap(row(1, 0, 0, 0), R) == 1 / 2
    assert overlap(row(0.5, 0.5, 0.5, 0.5), R) == 1 / 3
    assert overlap(row(0, 0, 1, 0), R) == 0
    assert overlap(row(0, 0, 0, 0), torch.zeros(1, 1, 4, dtype=torch.bool)) == 1


# p_i ~ Bernoulli(B/n).


def test_poisson_batches_are_independent_coins() -> None:
    n, B, passes = 50, 10, 400
    sampler = PoissonSampler(n, B, seed=3)
    assert len(sampler) == 5
    batches = [batch for _ in range(passes) for batch in sampler]
    drawn = torch.zeros(len(batches), n)
    for i, batch in enumerate(batches):
        assert batch == sorted(set(batch))
        drawn[i, batch] = 1
    p, N = B / n, 5 * passes
    assert len(batches) == N
    sizes = drawn.sum(1)
    assert abs(float(sizes.mean()) - B) < 5 * (n * p * (1 - p) / N) ** 0.5
    # The size is binomial: its variance is n p (1 - p), and that of a variance of N normal numbers about 2 var^2 / N.
    assert abs(float(sizes.var()) - n * p * (1 - p)) < 5 * n * p * (1 - p) * (2 / N) ** 0.5
    assert ((drawn.mean(0) - p).abs() < 5 * (p * (1 - p) / N) ** 0.5).all()
    together = torch.corrcoef(drawn.T) - torch.eye(n)
    assert together.abs().max() < 6 / N**0.5


def test_poisson_batches_repeat_and_go_on() -> None:
    first, again, other = PoissonSampler(30, 6, 1), PoissonSampler(30, 6, 1), PoissonSampler(30, 6, 2)
    a, b, c = ([list(sampler) for _ in range(3)] for sampler in (first, again, other))
    assert a == b
    assert a != c
    assert a[0] != a[1]
    # PyTorch's generator takes 32 bits of a seed, and the epoch takes 20 of them.
    every = [list(PoissonSampler(30, 6, seed)) for seed in (1, 4097, 2**33 + 1, 2**60 + 1)]
    assert all(a != b for a, b in itertools.combinations(every, 2))
    resumed = PoissonSampler(30, 6, 1)
    resumed.epoch = 2
    assert list(resumed) == a[2]


def test_empty_poisson_batches_are_left_out() -> None:
    sampler = PoissonSampler(3, 1, 0)
    batches = [batch for _ in range(300) for batch in sampler]
    assert min(map(len, batches)) == 1
    # (1 - 1/3)^3 of 900 draws are empty.
    assert abs(len(batches) / 900 - (1 - (2 / 3) ** 3)) < 5 * 0.5 / 30
    assert list(PoissonSampler(4, 4)) == [[0, 1, 2, 3]]


def test_poisson_batches_feed_a_loader() -> None:
    data = torch.utils.data.TensorDataset(torch.arange(20))
    loader = torch.utils.data.DataLoader(data, batch_sampler=PoissonSampler(20, 5, 0))
    want = list(PoissonSampler(20, 5, 0))
    assert [batch.tolist() for [batch] in loader] == want


@pytest.mark.parametrize("batch_size", [0, 11, -1, 2.5, True])
def test_bad_batch_sizes(batch_size: Any) -> None:
    with pytest.raises(dk.InputError, match=rf"^batch_size: {batch_size} is not from 1 to the 10 samples of the set$"):
        PoissonSampler(10, batch_size)
