"""Problems for the CPU kernel, and the check of what it does with them, at every level that this CPU can run."""

import contextlib
from collections.abc import Iterator

import pytest
import torch
from hypothesis import strategies as st
from torch import Tensor

from dynamick.ops import cpu, reference, registry

RULES = ("at_most", "exactly")

NO_KERNEL = pytest.mark.skipif(cpu.kernel is None, reason=f"no kernel: {registry.absent().get('cpu')}")


def levels() -> list[str]:
    found = []
    for level in cpu.LEVELS:
        with contextlib.suppress(cpu.MissingKernelError):
            found.append(cpu.load(level).level)
    return found


@contextlib.contextmanager
def forced(level: str | None, threads: int = 1) -> Iterator[None]:
    """Run with the library of a level (None: without one) and so many threads."""
    before, threads_before = cpu.kernel, torch.get_num_threads()
    cpu.kernel = None if level is None else cpu.load(level)
    torch.set_num_threads(threads)
    try:
        yield
    finally:
        cpu.kernel = before
        torch.set_num_threads(threads_before)


def members(indices: Tensor, M: int) -> Tensor:
    """Routed indices (B, O, K) as booleans (B, O, M)."""
    found = torch.zeros(*indices.shape[:2], M + 1, dtype=torch.bool)
    return found.scatter(2, indices.where(indices >= 0, M), True)[..., :M]


def kept(x: Tensor, w: Tensor, mask: Tensor | None, tau_OB: Tensor, last_OB: Tensor, rule: str) -> Tensor:
    """The routed set that (tau, last) stand for, (B, O, M)."""
    p = x.float()[:, None] * w.float()
    tau, last = tau_OB.t()[..., None], last_OB.t()[..., None]
    routed = (p > tau) | ((p == tau) & (torch.arange(x.shape[1]) <= last))
    if rule == "at_most":
        routed &= p > 0
    return routed if mask is None else routed & mask


def gradients(x: Tensor, w: Tensor, member: Tensor, gy: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients (docs/definitions.md, "Dynamic-K") from a routed set, in float64."""
    x, w, gy, member = x.double(), w.double(), gy.double(), member.double()
    return torch.einsum("bo,om,bom->bm", gy, w, member), torch.einsum("bo,bm,bom->om", gy, x, member)


def check(x: Tensor, w: Tensor, mask: Tensor | None, k: int, rule: str, oracle=reference.route_reference) -> None:  # type: ignore[no-untyped-def]
    """Outputs, routed set and both gradients are the oracle's."""
    M = x.shape[1]
    x, w = x.clone().requires_grad_(), w.clone().requires_grad_()
    products, indices = oracle(x, w, mask, k, rule)
    member = members(indices, M)
    y, tau, last = cpu.dynamic_linear_cpu(x, w, mask, k, rule)
    assert not (last == cpu.PLAIN).any(), "the kernel did not serve"
    sought = (last != cpu.LATER).t()  # the gradients of the weights tell of the others
    assert torch.equal(kept(x.detach(), w.detach(), mask, tau, last, rule)[sought], member[sought])
    terms = products.double()
    error = 4e-7 * (terms.abs().sum(-1) + 1e-37) * max(8, k)
    assert ((y.double() - terms.sum(-1)).abs() <= error).all()
    gy = torch.randint(-4, 5, y.shape).float()
    with deterministic():
        gx, gw = torch.autograd.grad(y, (x, w), gy)
    for ours, theirs, of in zip((gx, gw), gradients(x.detach(), w.detach(), member, gy), (w, x), strict=True):
        scale = float(of.detach().abs().max()) if of.numel() else 0
        tolerance = {torch.float32: 1e-5, torch.float16: 1e-3, torch.bfloat16: 1e-2}[x.dtype]
        theirs = theirs.to(x.dtype).double()  # float16 may overflow
        torch.testing.assert_close(ours.double(), theirs, rtol=tolerance, atol=tolerance * 10 * scale)


@contextlib.contextmanager
def deterministic() -> Iterator[None]:
    """In this mode what `torch.empty` returns holds NaN and the largest integer: a place that is not written shows."""
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)


def values(kind: str, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    normal = torch.randn(shape, generator=generator)
    if kind == "normal":
        return normal
    if kind == "relu":
        return normal.clamp(min=0)
    if kind == "sparse":
        return normal * (torch.rand(shape, generator=generator) < 0.1)
    if kind == "quantised":
        return (normal * 2).round() / 2
    if kind == "signs":
        return torch.tensor([0.0, -0.0, 1.0, -1.0])[torch.randint(4, shape, generator=generator)]
    if kind == "constant":
        return torch.full(shape, 0.5)
    if kind == "tiny":
        return normal.sign() * torch.exp2(torch.randint(-149, -60, shape, generator=generator).double()).float()
    if kind == "huge":
        return normal * 2.0**57
    assert kind == "zero"
    return torch.zeros(shape)


KINDS = ("normal", "relu", "sparse", "quantised", "signs", "constant", "tiny", "huge", "zero")


@st.composite
def problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, int, str]:
    small, M = st.integers(1, 20), draw(st.integers(1, 70))
    B, O = draw(st.one_of(small, st.integers(31, 34))), draw(st.integers(1, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    x, w = (values(draw(st.sampled_from(KINDS)), shape, generator) for shape in ((B, M), (O, M)))
    dtype = draw(st.sampled_from([torch.float32, torch.float32, torch.bfloat16, torch.float16]))
    if dtype == torch.float16:
        x, w = x.clamp(-60000, 60000), w.clamp(-60000, 60000)
    mask = torch.rand((O, M), generator=generator) > draw(st.sampled_from([0.0, 0.3, 0.9])) if draw(st.booleans()) else None
    return (
        x.to(dtype),
        w.to(dtype),
        mask,
        draw(st.one_of(st.integers(1, 8), st.integers(1, M + 3))),
        draw(st.sampled_from(RULES)),
    )


UNITS = ("normal", "relu", "sparse", "quantised", "constant", "near")


def decayed(
    generator: torch.Generator, sizes: tuple[int, int, int], keeps: int, decay: float, kinds: tuple[str, str], zeros: float
) -> tuple[Tensor, Tensor]:
    """Inputs of at least 0, some of them 0, and classes that keep a few weights; the others are smaller by a factor."""
    B, O, M = sizes

    def positive(kind: str, shape: tuple[int, ...]) -> Tensor:
        if kind == "near":  # a few bits of a float apart
            return 1 + torch.randint(-40, 40, shape, generator=generator) * 2.0**-23
        return values(kind, shape, generator).abs()

    x, w = positive(kinds[0], (B, M)), positive(kinds[1], (O, M)) * decay
    x[torch.rand(B, M, generator=generator) < zeros] = 0
    w[torch.rand(O, M, generator=generator) < 0.3] *= -1
    kept = torch.rand(O, M, generator=generator).topk(min(keeps, M)).indices
    return x, w.scatter(1, kept, 0.2 + 0.4 * torch.rand(kept.shape, generator=generator))


@st.composite
def decayed_problems(draw: st.DrawFn) -> tuple[Tensor, Tensor, Tensor | None, int, str]:
    sizes = draw(st.integers(1, 70)), draw(st.integers(1, 4)), draw(st.one_of(st.integers(1, 70), st.integers(250, 600)))
    k = draw(st.one_of(st.integers(1, 8), st.integers(9, 40)))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    decay = 2.0 ** -draw(st.sampled_from([19, 20, 21, 24, 25, 26, 27, 30, 50, 100, 140, 147]))
    kinds = draw(st.sampled_from(UNITS)), draw(st.sampled_from(UNITS))
    keeps, zeros = draw(st.one_of(st.just(k), st.integers(0, k + 1))), draw(st.sampled_from([0.0, 0.01, 0.1, 0.5, 0.95]))
    x, w = decayed(generator, sizes, keeps, decay, kinds, zeros)
    mask = torch.rand(w.shape, generator=generator) > 0.1 if draw(st.booleans()) else None
    return x, w, mask, k, draw(st.sampled_from([*RULES, "at_most"]))
