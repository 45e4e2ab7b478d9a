"""The CPU kernel against Algorithm 2: outputs, gradients and the routed sets, at every level that this CPU can run.

DYNAMICK_KERNEL_CASES sets how many random problems are tried (200 where it is not set).
"""

import os

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import Tensor

from dynamick import functional
from dynamick.ops import chunked, cpu, registry
from tests.ops.kernel_problems import (
    NO_KERNEL,
    RULES,
    check,
    decayed,
    decayed_problems,
    deterministic,
    forced,
    levels,
    problems,
    values,
)

CASES = int(os.environ.get("DYNAMICK_KERNEL_CASES", "200"))


@NO_KERNEL
@pytest.mark.parametrize("level", levels())
@given(problem=problems())
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems(level: str, problem: tuple) -> None:
    with forced(level):
        check(*problem)


@NO_KERNEL
@pytest.mark.parametrize("level", levels())
@given(problem=decayed_problems())
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems_of_decayed_weights(level: str, problem: tuple) -> None:
    with forced(level):
        check(*problem)


@NO_KERNEL
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize(("k", "zeros"), [(5, 0.07), (5, 0.4), (25, 0.03)])
def test_what_has_decayed_is_not_looked_at_before_a_gradient_needs_it(k: int, zeros: float, level: str) -> None:
    x, w = decayed(torch.Generator().manual_seed(k), (256, 40, 512), k, 1e-15, ("normal", "normal"), zeros)
    with forced(level):
        last = cpu.dynamic_linear_cpu(x, w, None, k, "at_most")[2]
        assert (last == cpu.LATER).float().mean() > 0.5
        check(x, w, None, k, "at_most", chunked.route_chunked)
        larger = torch.where(w < 1e-3, 2**-24 * 1e15 * w, w)  # by so much that sums tell
        assert not (cpu.dynamic_linear_cpu(x, larger, None, k, "at_most")[2] == cpu.LATER).any()


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("k", [1, 5, 25, 60])
def test_without_gradients_the_outputs_are_the_same(k: int, level: str, rule: str) -> None:
    x, w = decayed(torch.Generator().manual_seed(k), (67, 40, 512), k, 1e-15, ("normal", "normal"), 0.2)
    bias = torch.linspace(-1, 1, 40)
    with forced(level):
        for weight in (w, w.abs() + 0.1):
            leaf = weight.clone().requires_grad_()
            y = functional.dynamic_linear(x, leaf, bias, k, rule, "cpu")
            with torch.no_grad(), deterministic():
                torch.testing.assert_close(functional.dynamic_linear(x, leaf, bias, k, rule, "cpu"), y, rtol=1e-6, atol=1e-6)


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize(
    ("B", "O", "M"),
    [
        (1, 1, 1),
        (2, 2, 2),
        (15, 17, 15),
        (17, 15, 17),
        (31, 33, 31),
        (33, 32, 33),
        (1, 2, 511),
        (511, 1, 2),
        (2, 511, 1),
        (17, 1, 511),
        (1, 511, 17),
    ],
)
def test_odd_sizes_and_every_kind_of_k(B: int, O: int, M: int, level: str, rule: str) -> None:
    generator = torch.Generator().manual_seed(B * O * M)
    for k in sorted({1, 2, 5, 10, 25, 26, 32, 33, 100, M - 1, M, M + 1} - {0}):
        if k > M + 1:
            continue
        for kind in ("normal", "quantised", "relu"):
            x, w = values(kind, (B, M), generator), values("quantised" if kind == "quantised" else "normal", (O, M), generator)
            with forced(level):
                check(x, w, None, k, rule)


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(level: str, rule: str, threads: int) -> None:
    """Large enough that the kernel does use more than one thread."""
    generator = torch.Generator().manual_seed(threads)
    x, w = values("quantised", (67, 511), generator), values("normal", (65, 511), generator)
    mask = torch.rand((65, 511), generator=generator) > 0.2
    for k in (5, 40):
        with forced(level, threads):
            check(x, w, mask, k, rule, chunked.route_chunked)
            once, again = (grads(x, w, k, rule) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


def grads(x: Tensor, w: Tensor, k: int, rule: str) -> tuple[Tensor, ...]:
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    y = functional.dynamic_linear(x, w, None, k, rule)
    return (y, *torch.autograd.grad(y.square().sum(), (x, w)))


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
def test_ties_route_the_lower_index(rule: str) -> None:
    x = torch.tensor([[1.0, 2.0, 2.0, 1.0, 4.0]])
    w = torch.tensor([[4.0, 2.0, 2.0, 4.0, 1.0]], requires_grad=True)
    for k in range(1, 6):
        y = functional.dynamic_linear(x, w, None, k, rule, implementation="cpu")
        (gw,) = torch.autograd.grad(y, w)
        assert gw[0].ne(0).tolist() == [i < k for i in range(5)]
        assert y.item() == 4 * k


@NO_KERNEL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("where", ["x", "w"])
@pytest.mark.parametrize("k", [3, 13])
def test_what_is_not_finite_takes_the_plain_path(bad: float, rule: str, where: str, k: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = values("normal", (18, 19), generator), values("normal", (4, 19), generator) * 4
    (x if where == "x" else w)[2, 3] = bad
    mask = torch.rand((4, 19), generator=generator) > 0.2
    mask[2, 3] = True
    results = []
    for implementation in ("cpu", "chunked", "reference"):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = functional.dynamic_linear(a, b, None, k, rule, implementation, mask)
        results.append((y, *torch.autograd.grad(y.sum(), (a, b))))
    for theirs in results[1:]:
        for one, other in zip(results[0], theirs, strict=True):
            torch.testing.assert_close(one, other, equal_nan=True)
    _, _, last = cpu.dynamic_linear_cpu(x, w, mask, k, rule)
    assert (last == cpu.PLAIN).all()


@NO_KERNEL
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("k", [5, 50])
def test_zero_is_not_routed_where_subnormals_are_flushed(k: int, threads: int) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = values("normal", (64, 128), generator).sub(1.5).relu(), values("normal", (300, 128), generator)
    before = torch.get_num_threads()
    results = []
    try:
        torch.set_num_threads(threads)
        if not torch.set_flush_denormal(True):
            pytest.skip("this CPU flushes no subnormals")
        for implementation in ("cpu", "chunked"):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            y = functional.dynamic_linear(a, b, None, k, implementation=implementation)
            results.append((y, *torch.autograd.grad(y.sum(), (a, b))))
        assert not torch.tensor(1e-40).mul(1.0)  # the caller's setting is as it was
    finally:
        torch.set_flush_denormal(False)
        torch.set_num_threads(before)
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@NO_KERNEL
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_layouts_and_dtypes(dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(3)
    x, w = values("normal", (40, 19), generator).to(dtype), values("normal", (30, 19), generator).to(dtype)
    mask = torch.rand((30, 19), generator=generator) > 0.2
    layouts = [
        lambda t: t.t().contiguous().t(),
        lambda t: torch.cat([t, t], 1)[:, :19],
        lambda t: t.repeat_interleave(2, 0)[::2],
    ]
    b = torch.randn(30, generator=generator).to(dtype)
    want = functional.dynamic_linear(x, w, b, 5, "exactly", "reference", mask)
    for layout in layouts:
        got = functional.dynamic_linear(layout(x), layout(w), b, 5, "exactly", "cpu", layout(mask))
        assert got.dtype == dtype
        assert got.is_contiguous()
        torch.testing.assert_close(got, want)
    assert torch.equal(functional.dynamic_linear(x[:1].expand(6, 19), w, b)[3], functional.dynamic_linear(x[:1], w, b)[0])


@NO_KERNEL
def test_gradients_only_where_they_are_wanted() -> None:
    x, w = torch.randn(6, 8), torch.randn(3, 8)
    for want_x, want_w in ((True, False), (False, True)):
        a, b = x.clone().requires_grad_(want_x), w.clone().requires_grad_(want_w)
        functional.dynamic_linear(a, b, None, 2).sum().backward()
        assert (a.grad is not None, b.grad is not None) == (want_x, want_w)


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
def test_second_gradients_are_those_of_the_chunked_path(rule: str) -> None:
    torch.manual_seed(0)
    x, w, mask = torch.randn(5, 9), torch.randn(4, 9), torch.rand(4, 9) > 0.2
    results = []
    for implementation in ("cpu", "chunked"):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = functional.dynamic_linear(a, b, None, 3, rule, implementation, mask)
        first = torch.autograd.grad(y.square().sum(), (a, b), create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), (a, b)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
def test_opcheck(rule: str) -> None:
    x, w, mask = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True), torch.rand(3, 6) > 0.3
    for each in (None, mask):
        torch.library.opcheck(torch.ops.dynamick.dynamic_linear_cpu.default, (x, w, each, 2, rule))


@NO_KERNEL
def test_compiles_with_bias_and_mask_and_any_batch() -> None:
    w, b, mask = torch.randn(4, 16, requires_grad=True), torch.randn(4), torch.rand(4, 16) > 0.2
    compiled = torch.compile(functional.dynamic_linear, fullgraph=True, backend="aot_eager", dynamic=True)
    for B in (8, 9):
        x = torch.randn(B, 16, requires_grad=True)
        ours, theirs = (f(x, w, b, 3, "exactly", None, mask) for f in (compiled, functional.dynamic_linear))
        assert torch.equal(ours, theirs)
        for one, other in zip(torch.autograd.grad(ours.sum(), (x, w)), torch.autograd.grad(theirs.sum(), (x, w)), strict=True):
            assert torch.equal(one, other)


@NO_KERNEL
def test_the_kernel_serves_by_default_and_only_what_it_can() -> None:
    x, w = torch.randn(2, 3), torch.randn(4, 3)
    assert registry.select(None, x, w).name == "cpu"
    before = functional.dynamic_linear(x.double(), w.double(), None, 2)
    assert before.dtype == torch.float64
    with pytest.raises(ValueError, match="does not support"):
        registry.select("cpu", x.to("meta"), w.to("meta"))


@NO_KERNEL
def test_nothing_of_the_size_of_the_routes_is_kept() -> None:
    B, O, M, K = 32, 16, 64, 16
    x, w = torch.randn(B, M, requires_grad=True), torch.randn(O, M, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        functional.dynamic_linear(x, w, None, K)
    assert sizes
    assert max(sizes) <= max(B * M, O * M, B * O)
