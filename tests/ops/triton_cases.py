"""The Triton kernel against Algorithm 2, on a CUDA device where there is one, else in Triton's interpreter.

The interpreter is chosen by TRITON_INTERPRET=1 when Triton is imported, so `test_triton_kernel.py` runs this file in a process
of its own. DYNAMICK_TRITON_CASES sets how many random problems are tried (25 where it is not set).
"""

import contextlib
import os
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional
from dynamick.ops import gpu, reference, registry

CASES = int(os.environ.get("DYNAMICK_TRITON_CASES", "25"))
RULES = ("at_most", "exactly")
DEVICE = "cpu" if gpu.INTERPRETED else "cuda"
INSERTED = 16  # above so many products a class the kernel counts


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """In this mode what `torch.empty` returns holds NaN and the largest integer: a place that is not written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def members(indices: Tensor, M: int) -> Tensor:
    """Routed indices (B, O, K) as booleans (B, O, M)."""
    found = torch.zeros(*indices.shape[:2], M + 1, dtype=torch.bool, device=indices.device)
    return found.scatter(2, indices.where(indices >= 0, M), True)[..., :M]


def kept(x: Tensor, w: Tensor, mask: Tensor | None, tau_OB: Tensor, last_OB: Tensor, rule: str) -> Tensor:
    """The routed set that (tau, last) stand for, (B, O, M)."""
    p = x.float()[:, None] * w.float()
    tau, last = tau_OB.t()[..., None], last_OB.t()[..., None]
    routed = (p > tau) | ((p == tau) & (torch.arange(x.shape[1], device=x.device) <= last))
    if rule == "at_most":
        routed &= p > 0
    return routed if mask is None else routed & mask


def check(x: Tensor, w: Tensor, mask: Tensor | None, k: int, rule: str) -> None:
    """Outputs, routed set and both gradients are the reference's."""
    products, indices = reference.route_reference(x, w, mask, k, rule)
    x, w, products, indices = (each.to(DEVICE) for each in (x, w, products.double(), indices))
    mask = None if mask is None else mask.to(DEVICE)
    member = members(indices, x.shape[1])
    a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
    with deterministic():
        y, tau, last, served = gpu.dynamic_linear_triton(a, b, mask, k, rule)
        gy = torch.randint(-4, 5, y.shape).float().to(DEVICE)
        gx, gw = torch.autograd.grad(y, (a, b), gy)
    assert served
    assert torch.equal(kept(x, w, mask, tau, last, rule), member)
    error = 4e-7 * (products.abs().sum(-1) + 1e-37) * max(8, k)
    assert ((y.double() - products.sum(-1)).abs() <= error).all()
    want_x = torch.einsum("bo,om,bom->bm", gy.double(), w.double(), member.double())
    want_w = torch.einsum("bo,bm,bom->om", gy.double(), x.double(), member.double())
    for got, want, of in ((gx, want_x, w), (gw, want_w, x)):
        assert got.dtype == x.dtype
        tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[x.dtype]
        scale = float(of.abs().max())
        # Through the narrow type, for float16 may overflow.
        torch.testing.assert_close(got.double(), want.to(x.dtype).double(), rtol=tolerance, atol=tolerance * 10 * scale)


def values(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator)
    if kind == "signs":
        return torch.tensor([0.0, -0.0, 1.0, -1.0])[torch.randint(4, shape, generator=generator)]
    if kind == "tiny":
        return normal.sign() * torch.exp2(torch.randint(-149, -60, shape, generator=generator).double()).float()
    made = {
        "normal": normal,
        "relu": normal.clamp(min=0),
        "negative": -normal.abs(),
        "sparse": normal * (torch.rand(shape, generator=generator) < 0.1),
        "quantised": (normal * 2).round() / 2,
        "constant": torch.full(shape, 0.5),
        "huge": normal * 2.0**57,
        "zero": torch.zeros(shape),
    }
    return made[kind]


KINDS = ("normal", "relu", "negative", "sparse", "quantised", "signs", "constant", "tiny", "huge", "zero")


def representable(values: Tensor) -> Tensor:
    """The interpreter (Triton 3.9) widens bfloat16's subnormal numbers wrongly: there they are left out, on a GPU not."""
    if not gpu.INTERPRETED or values.dtype != torch.bfloat16:
        return values
    return values.where(values.abs() >= torch.finfo(torch.bfloat16).tiny, 0)


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, int, str]:
    B, O, M = draw(st.integers(1, 12)), draw(st.integers(1, 6)), draw(st.integers(1, 19))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x, w = (values(draw(st.sampled_from(KINDS)), shape, generator) for shape in ((B, M), (O, M)))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    if dtype == torch.float16:
        x, w = x.clamp(-60000, 60000), w.clamp(-60000, 60000)
    mask = torch.rand((O, M), generator=generator) > draw(st.sampled_from([0.0, 0.3, 0.9])) if draw(st.booleans()) else None
    k = draw(st.one_of(st.integers(1, INSERTED), st.integers(1, M + 3)))
    return representable(x.to(dtype)), representable(w.to(dtype)), mask, k, draw(st.sampled_from(RULES))


@given(problem=problems())
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems(problem: tuple) -> None:
    check(*problem)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("B", "O", "M"), [(1, 1, 1), (2, 2, 2), (15, 17, 15), (17, 15, 17), (1, 2, 18), (33, 1, 2), (2, 65, 1), (65, 2, 5)]
)
def test_odd_sizes_and_every_kind_of_k(B: int, O: int, M: int, rule: str) -> None:
    generator = torch.Generator().manual_seed(B * O * M)
    for k in {k for k in (1, 2, 5, INSERTED, INSERTED + 1, M - 1, M, M + 1) if 1 <= k <= M + 1}:
        kind = "quantised" if k % 2 else "normal"
        check(values(kind, (B, M), generator), values(kind, (O, M), generator), None, k, rule)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(
    ("kind", "k"), [(kind, 3) for kind in KINDS] + [(kind, INSERTED + 1) for kind in ("relu", "signs", "tiny")]
)
def test_kinds_of_numbers_under_a_mask(kind: str, k: int, rule: str) -> None:
    generator = torch.Generator().manual_seed(k)
    mask = torch.rand((4, 18), generator=generator) > 0.2
    mask[1] = False
    check(values(kind, (5, 18), generator), values("quantised", (4, 18), generator), mask, k, rule)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("k", [4, INSERTED + 1])
def test_dtypes(dtype: torch.dtype, k: int) -> None:
    generator = torch.Generator().manual_seed(1)
    x, w = (values("normal", (n, 18), generator).to(dtype) for n in (6, 5))
    check(x, w, None, k, "exactly")
    assert functional.dynamic_linear(x.to(DEVICE), w.to(DEVICE), None, 2, implementation="triton").dtype == dtype


@pytest.mark.parametrize("k", [1, 2, 5, INSERTED + 1])
@pytest.mark.parametrize("rule", RULES)
def test_ties_route_the_lower_index(rule: str, k: int) -> None:
    """All products are 4, so the first k are routed."""
    x = torch.tensor([[1.0, 2.0, 2.0, 1.0, 4.0] * 4], device=DEVICE)
    w = torch.tensor([[4.0, 2.0, 2.0, 4.0, 1.0] * 4], device=DEVICE, requires_grad=True)
    y = functional.dynamic_linear(x, w, None, k, rule, implementation="triton")
    (gw,) = torch.autograd.grad(y, w)
    assert gw[0].ne(0).tolist() == [i < k for i in range(20)]
    assert y.item() == 4 * k


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("where", ["x", "w"])
def test_what_is_not_finite_takes_the_plain_path(bad: float, rule: str, where: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x, w = values("normal", (18, 9), generator), values("normal", (4, 9), generator) * 4
    (x if where == "x" else w)[2, 3] = bad
    mask = (torch.rand((4, 9), generator=generator) > 0.2).to(DEVICE)
    results = []
    for implementation in ("triton", "chunked"):
        a, b = x.to(DEVICE).requires_grad_(), w.to(DEVICE).requires_grad_()
        y = functional.dynamic_linear(a, b, None, 3, rule, implementation, mask)
        results.append((y, *torch.autograd.grad(y.sum(), (a, b))))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


def test_layouts() -> None:
    generator = torch.Generator().manual_seed(3)
    x, w = (values("normal", (n, 19), generator).to(DEVICE) for n in (8, 7))
    mask = torch.rand((7, 19), generator=generator).to(DEVICE) > 0.2
    want = functional.dynamic_linear(x, w, None, 5, "exactly", "chunked", mask)
    for layout in (lambda t: t.t().contiguous().t(), lambda t: t.repeat_interleave(2, 0)[::2]):
        got = functional.dynamic_linear(layout(x), layout(w), None, 5, "exactly", "triton", layout(mask))
        torch.testing.assert_close(got, want)


@pytest.mark.parametrize("shape", [(0, 3, 4), (2, 0, 4)])
def test_empty(shape: tuple[int, int, int]) -> None:
    B, O, M = shape
    x, w = torch.ones(B, M, device=DEVICE, requires_grad=True), torch.ones(O, M, device=DEVICE, requires_grad=True)
    y = functional.dynamic_linear(x, w, None, 2, implementation="triton")
    assert y.shape == (B, O)
    gx, gw = torch.autograd.grad(y.sum(), (x, w))
    assert not gx.any()
    assert not gw.any()


def test_gradients_only_where_they_are_wanted() -> None:
    x, w = torch.randn(6, 8, device=DEVICE), torch.randn(3, 8, device=DEVICE)
    for want_x, want_w in ((True, False), (False, True)):
        a, b = x.clone().requires_grad_(want_x), w.clone().requires_grad_(want_w)
        functional.dynamic_linear(a, b, None, 2, implementation="triton").sum().backward()
        assert (a.grad is not None, b.grad is not None) == (want_x, want_w)


def test_second_gradients_are_those_of_the_chunked_path() -> None:
    torch.manual_seed(0)
    x, w = torch.randn(5, 9), torch.randn(4, 9)
    results = []
    for implementation in ("triton", "chunked"):
        a, b = x.to(DEVICE).requires_grad_(), w.to(DEVICE).requires_grad_()
        y = functional.dynamic_linear(a, b, None, 3, "exactly", implementation)
        first = torch.autograd.grad(y.square().sum(), (a, b), create_graph=True)
        results.append(torch.autograd.grad(sum(g.square().sum() for g in first), (a, b)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_opcheck() -> None:
    x, w = torch.randn(4, 6, device=DEVICE, requires_grad=True), torch.randn(3, 6, device=DEVICE, requires_grad=True)
    for mask in (None, torch.rand(3, 6, device=DEVICE) > 0.3):
        torch.library.opcheck(torch.ops.dynamick.dynamic_linear_triton.default, (x, w, mask, 2, "at_most"))
        with torch.no_grad():
            y, *kept = gpu.dynamic_linear_triton(x, w, mask, 2, "at_most")
            backward = (torch.randn_like(y), x.detach(), w.detach(), mask, *kept, 2, "at_most", True, mask is None)
        torch.library.opcheck(torch.ops.dynamick.dynamic_linear_triton_backward.default, backward)


def test_it_serves_by_name_only_and_only_what_it_can() -> None:
    x, w = torch.randn(2, 3, device=DEVICE), torch.randn(4, 3, device=DEVICE)
    assert registry.select(None, x, w).name != "triton"
    assert registry.select("triton", x, w).name == "triton"
    assert functional.dynamic_linear(x.double(), w.double(), None, 2, implementation="triton").dtype == torch.float64
    with pytest.raises(ValueError, match="does not support"):
        registry.select("triton", x.to("meta"), w.to("meta"))


def test_nothing_of_the_size_of_the_routes_is_kept() -> None:
    B, O, M, K = 32, 16, 40, INSERTED
    x, w = torch.randn(B, M, device=DEVICE, requires_grad=True), torch.randn(O, M, device=DEVICE, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.numel()) or t, lambda t: t):
        functional.dynamic_linear(x, w, None, K, implementation="triton")
    assert sizes
    assert max(sizes) <= max(B * M, O * M, B * O)


@pytest.mark.gpu
@pytest.mark.skipif(gpu.INTERPRETED, reason="too large for the interpreter")
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize(("B", "O", "M", "K"), [(256, 365, 2048, 5), (256, 365, 512, 100), (2_100_000, 3, 8, 2)])
def test_real_sizes_are_the_chunked_paths(B: int, O: int, M: int, K: int, rule: str) -> None:
    """The last has more rows than fit along the second axis of CUDA's grid."""
    torch.manual_seed(0)
    x, w = torch.randn(B, M, device=DEVICE).relu(), torch.randn(O, M, device=DEVICE)
    results = []
    for implementation in ("triton", "chunked"):
        a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
        y = functional.dynamic_linear(a, b, None, K, rule, implementation)
        results.append((y, *torch.autograd.grad(y, (a, b), torch.ones_like(y) / B)))
    for ours, theirs in zip(*results, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-4)
