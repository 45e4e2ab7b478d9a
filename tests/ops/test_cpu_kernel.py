"""The CPU kernel against Algorithm 2: outputs, gradients and the routed sets, at every level that this CPU can run.

DYNAMICK_KERNEL_CASES sets how many random problems are tried (200 where it is not set).
"""

import argparse
import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional
from dynamick.cli import doctor
from dynamick.ops import chunked, cpu, reference, registry

CASES = int(os.environ.get("DYNAMICK_KERNEL_CASES", "200"))
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


@NO_KERNEL
@pytest.mark.parametrize("level", levels())
@given(problem=problems())
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems(level: str, problem: tuple) -> None:
    with forced(level):
        check(*problem)


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


@pytest.mark.skipif(cpu.kernel is None and os.environ.get("DYNAMICK_CPU_LEVEL") is not None, reason="a level is forced")
@pytest.mark.skipif(shutil.which("c++") is None, reason="no compiler here")
def test_where_there_is_a_compiler_there_is_a_kernel() -> None:
    assert cpu.kernel is not None, registry.absent()


def run_with(level: str, code: str) -> str:
    environment = {**os.environ, "DYNAMICK_CPU_LEVEL": level}
    return subprocess.run([sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True).stdout


@NO_KERNEL
def test_libraries_of_one_process_keep_to_themselves() -> None:
    """The lowest level is loaded first here: what two libraries name alike must not be taken from there by the others."""
    code = f"""
import torch
from dynamick.ops import cpu
torch.manual_seed(0)
x, w = torch.randn(40, 300), torch.randn(20, 300)
for level in {levels()[::-1]}:
    cpu.kernel = cpu.load(level)
    for k in (3, 40):
        best = (x[:, None] * w).topk(k).values.clamp(min=0).sum(-1)
        torch.testing.assert_close(cpu.sum_cpu(x, w, None, None, k, "at_most"), best)
print("all")
"""
    assert run_with(levels()[-1], code).strip() == "all"


def test_none_disables_the_kernel_and_says_so() -> None:
    said = run_with("none", "from dynamick.cli import doctor; print(*doctor.findings(), sep='\\n')")
    assert "dynamic_linear on the CPU in float32: chunked" in said
    assert "cpu: cannot run here: DYNAMICK_CPU_LEVEL=none" in said
    code = "import torch, dynamick.functional as f; x = torch.ones(1, 1)\ntry: f.dynamic_linear(x, x, implementation='cpu')\n"
    assert "cannot run here: DYNAMICK_CPU_LEVEL=none" in run_with("none", code + "except ValueError as error: print(error)")


@pytest.mark.parametrize("level", ["v9", "avx2"])
def test_a_level_that_is_none_is_refused(level: str) -> None:
    with pytest.raises(cpu.MissingKernelError, match=f"DYNAMICK_CPU_LEVEL={level}: this CPU runs"):
        cpu.load(level)


def test_a_library_that_is_missing_or_broken_is_said_in_one_line(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*cannot open shared object[^\n]*$"):
        cpu.load(None)
    (tmp_path / "build.txt").write_text("".join(f"{level}: no C++ compiler was found at install\n" for level in cpu.LEVELS))
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*no C\+\+ compiler was found at install[^\n]*$"):
        cpu.load(None)
    (tmp_path / "build.txt").write_text("".join(f"{level}: compiled by c++\n" for level in cpu.LEVELS))
    for level in cpu.LEVELS:
        (tmp_path / f"dynamic_k_{level}.so").write_text("no library")
    with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]+$"):
        cpu.load(None)


@NO_KERNEL
def test_a_library_that_is_cut_off_is_passed_over_and_doctor_says_why(tmp_path, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    runs = [
        level for level in cpu.LEVELS if level in cpu.SUPPORTED.get(torch.backends.cpu.get_cpu_capability(), cpu.LEVELS[-1:])
    ]
    for level in runs:
        whole = (cpu.FOLDER / f"dynamic_k_{level}.so").read_bytes()
        cut = len(whole) // 2 if level == runs[0] else len(whole)
        (tmp_path / f"dynamic_k_{level}.so").write_bytes(whole[:cut])
    sizes = {level: (cpu.FOLDER / f"dynamic_k_{level}.so").stat().st_size for level in runs}
    (tmp_path / "build.txt").write_text("".join(f"{level}: compiled by c++, {size} bytes\n" for level, size in sizes.items()))
    monkeypatch.setattr(cpu, "FOLDER", tmp_path)
    if len(runs) == 1:
        with pytest.raises(cpu.MissingKernelError, match=r"^[^\n]*install again[^\n]*$"):
            cpu.load(None)
        return
    kernel = cpu.load(None)
    assert kernel.level == runs[1]
    monkeypatch.setattr(cpu, "kernel", kernel)
    assert any(line.startswith(f"{runs[0]}: ") and "install again" in line for line in doctor.findings())


def test_a_level_that_cannot_run_is_warned_of() -> None:
    code = "import warnings\nwith warnings.catch_warnings(record=True) as told:\n import dynamick.ops\n"
    assert "this CPU runs" in run_with("v9", code + "print(*(each.message for each in told))")
    assert run_with("none", code + "print(*(each.message for each in told))").strip() == ""


def test_doctor_prints_what_serves(capsys: pytest.CaptureFixture[str]) -> None:
    doctor.run(argparse.Namespace())
    said = capsys.readouterr().out
    serves = f"cpu, level {cpu.kernel.level}" if cpu.kernel else "chunked"
    assert f"dynamic_linear on the CPU in float32: {serves}\n" in said
