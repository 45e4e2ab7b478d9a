"""The kernel of convolutions against the definition, at every level that this CPU can run.

DYNAMICK_KERNEL_CASES sets how many random problems are tried (200 where it is not set).
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional
from dynamick.ops import conv_cpu
from dynamick.ops.chunked import largest_allowed
from dynamick.ops.conv import dynamic_conv2d
from dynamick.ops.conv_products import Settings, all_products
from tests.ops.kernel_problems import NO_KERNEL, RULES, deterministic, forced, levels, members, values

CASES = int(os.environ.get("DYNAMICK_KERNEL_CASES", "200"))
TOLERANCE = 1e-5
"""Two votes may be ranked either way if they differ by less than this part of the sum of their products' magnitudes."""


class Problem(NamedTuple):
    x: Tensor
    w: Tensor
    bias: Tensor | None
    mask: Tensor | None
    how: Settings


@st.composite
def problems(draw: st.DrawFn, exact: bool, routing: str = "map") -> Problem:
    """Of every kind of shape. The exact ones hold small integers: sums are the same in every order, and many are equal."""
    groups, I, per_group = draw(st.integers(1, 3)), draw(st.integers(1, 20)), draw(st.integers(1, 10))
    kernel, step, spread, pad = (draw(st.tuples(each, each)) for each in map(st.integers, (1, 1, 1, 0), (3, 2, 2, 2)))
    if draw(st.integers(0, 9)) == 0:
        kernel = draw(st.sampled_from([(5, 5), (7, 7), (1, 12)]))
    sizes = [max(1, spread[a] * (kernel[a] - 1) + 1 - 2 * pad[a]) + draw(st.integers(0, 20)) for a in (0, 1)]
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    shapes = (draw(st.integers(1, 3)), groups * I, *sizes), (groups * per_group, I, *kernel)
    kinds = ("signs",) if exact else ("normal", "relu", "sparse", "quantised", "constant", "zero")
    big = kinds if exact else (*kinds, "huge")
    x, w = (values(draw(st.sampled_from(each)), shape, generator) for each, shape in zip((kinds, big), shapes, strict=True))
    if not exact and draw(st.booleans()):  # most filters have decayed
        w = (
            w
            * torch.where(torch.rand(w.shape[:2], generator=generator) < 0.2, 1, draw(st.sampled_from([0, 1e-5, 1e-15])))[
                ..., None, None
            ]
        )
    masked, biased = draw(st.booleans()), draw(st.booleans())
    mask = torch.rand(w.shape[:2], generator=generator) > draw(st.sampled_from([0.1, 0.6])) if masked else None
    bias = torch.randint(-3, 4, w.shape[:1], generator=generator).float() if biased else None
    layout = draw(st.sampled_from([torch.contiguous_format, torch.channels_last]))
    k, rule = draw(st.one_of(st.integers(1, 5), st.integers(1, I + 2))), draw(st.sampled_from(RULES))
    how = Settings(list(step), list(pad), list(spread), groups, k, rule, routing)
    return Problem(x.contiguous(memory_format=layout), w.contiguous(memory_format=layout), bias, mask, how)


def check(problem: Problem, exact: bool, dtype: torch.dtype = torch.float32, at: Sequence[str] = (), threads: int = 1) -> None:
    """The routed channels are those of the largest votes; outputs and gradients are sums of the routed products."""
    problem = problem._replace(x=problem.x.to(dtype), w=problem.w.to(dtype))
    double = [each.double().requires_grad_() for each in (problem.x, problem.w)]
    p_BOIL = all_products(double[0], double[1], problem.how)
    magnitudes = all_products(double[0].detach().abs(), double[1].detach().abs(), problem.how)
    for level in at or levels():
        with forced(level, threads), deterministic():
            y, index, gy, gradients = results(problem)
        check_routes(p_BOIL.detach(), magnitudes, index, problem, exact)
        routed = torch.where(members(index, problem.w.shape[1])[..., None], p_BOIL, 0).sum(2)
        wanted = routed if problem.bias is None else routed + problem.bias.double()[:, None]
        theirs = torch.autograd.grad(routed, double, gy.double().flatten(2), retain_graph=True)
        for ours, each in zip((y, *gradients), (wanted.unflatten(2, y.shape[2:]), *theirs), strict=True):
            atol = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 2e-3}[dtype] * float(each.detach().abs().max())
            torch.testing.assert_close(ours.double(), each, rtol=0, atol=0 if exact else atol)


def results(problem: Problem) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
    """Outputs, routed channels, a gradient of the outputs, and those of inputs and weight."""
    x, w, bias, mask, how = problem
    x, w = x.detach().clone().requires_grad_(), w.detach().clone().requires_grad_()
    with torch.no_grad():
        assert conv_cpu.forward(x, w, bias, mask, how), "the kernel did not serve"
    y, index = dynamic_conv2d(x, w, None if bias is None else bias.to(x.dtype), mask, *how)
    gy = torch.randint(-2, 3, y.shape, generator=torch.Generator().manual_seed(0)).to(y.dtype)
    return y, index, gy, torch.autograd.grad(y, (x, w), gy)


def check_routes(p_BOIL: Tensor, magnitudes: Tensor, index: Tensor, problem: Problem, exact: bool) -> None:
    """No channel that is left out has a larger vote than one that is routed, and the routed ones are in order."""
    mask, how = problem.mask, problem.how
    votes = (p_BOIL if how.rule == "exactly" else p_BOIL.clamp(min=0)).sum(-1)
    if exact:
        assert torch.equal(index, largest_allowed(votes, mask, min(how.k, votes.shape[2]), how.rule)[1])
        return
    near = TOLERANCE * magnitudes.sum(-1).amax(2)
    floor = 0.0 if how.rule == "at_most" else -torch.inf
    member = members(index, votes.shape[2])
    allowed = torch.ones_like(member) if mask is None else mask.expand_as(member)
    assert bool((allowed | ~member).all())
    assert torch.equal(member.sum(2), (index >= 0).sum(2))
    chosen = votes.gather(2, index.clamp(min=0)).where(index >= 0, torch.inf)
    left_out = votes.where(allowed & ~member, -torch.inf).amax(2)
    full = (index >= 0).all(2)
    assert bool((chosen.amin(2) >= torch.where(full, left_out, floor) - near).all())
    assert bool((full | (left_out <= floor + near)).all())
    ordered = chosen.where(index >= 0, -torch.inf)
    assert bool((ordered[..., 1:] <= ordered[..., :-1] + near[..., None]).all())


@NO_KERNEL
@given(problem=problems(exact=True), threads=st.integers(1, 2))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems_with_ties(problem: Problem, threads: int) -> None:
    check(problem, exact=True, threads=threads)


@NO_KERNEL
@given(problem=problems(exact=False))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems(problem: Problem) -> None:
    check(problem, exact=False)


@NO_KERNEL
@given(problem=problems(exact=True, routing="location"), threads=st.integers(1, 2))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems_by_location_with_ties(problem: Problem, threads: int) -> None:
    check_locations(problem, True, threads)


@NO_KERNEL
@given(problem=problems(exact=False, routing="location"))
@settings(max_examples=CASES, deadline=None, suppress_health_check=list(HealthCheck))
def test_random_problems_by_location(problem: Problem) -> None:
    check_locations(problem, False, 1)


def check_locations(problem: Problem, exact: bool, threads: int) -> None:
    """Outputs are the sums of each location's largest products; where numbers are exact, gradients are those of the same."""
    if min(problem.how.k, problem.w.shape[1]) > conv_cpu.MOST_SORTED:
        return
    double = [each.double().requires_grad_() for each in (problem.x, problem.w)]
    p_BLOI = all_products(double[0], double[1], problem.how).permute(0, 3, 1, 2)
    k = min(problem.how.k, problem.w.shape[1])
    index = largest_allowed(p_BLOI.detach(), problem.mask, k, problem.how.rule)[1]
    routed = torch.where(index >= 0, p_BLOI.gather(3, index.clamp(min=0)), 0).sum(-1).movedim(1, 2)
    wanted = routed if problem.bias is None else routed + problem.bias.double()[:, None]
    for level in levels():
        with forced(level, threads), deterministic():
            y, _, gy, gradients = results(problem)
        atol = 0 if exact else 1e-5 * float(wanted.detach().abs().max())
        torch.testing.assert_close(y.double(), wanted.unflatten(2, y.shape[2:]), rtol=0, atol=atol)
        theirs = torch.autograd.grad(routed, double, gy.double().flatten(2), retain_graph=True)
        for ours, each in zip(gradients, theirs, strict=True):
            assert bool(ours.isfinite().all())
            if exact:
                torch.testing.assert_close(ours.double(), each, rtol=0, atol=0)


def example(B: int, C: int, O: int, side: int, how: Settings, kernel: int = 3) -> Problem:
    generator = torch.Generator().manual_seed(side)
    x, w = (torch.randn(shape, generator=generator) for shape in ((B, C, side, side), (O, C // how.groups, kernel, kernel)))
    return Problem(x.relu(), w, torch.randn(O, generator=generator), None, how)


@NO_KERNEL
@pytest.mark.parametrize("routing", ["map", "location"])
@pytest.mark.parametrize("k", [3, 16])
def test_the_gradients_sum_to_the_products(routing: str, k: int) -> None:
    """Euler's rule: of a sum of products it holds whichever near-equal ones are routed, but not where a pass routes others."""
    problem = example(2, 40, 24, 20, Settings([1, 1], [1, 1], [1, 1], 1, k, "at_most", routing))
    for level in levels():
        with forced(level, 2):
            y, _, gy, (gx, gw) = results(problem._replace(bias=None))
        total = (y.double() * gy).sum()
        torch.testing.assert_close((gx.double() * problem.x).sum(), total, rtol=1e-4, atol=1e-2)
        torch.testing.assert_close((gw.double() * problem.w).sum(), total, rtol=1e-4, atol=1e-2)


@NO_KERNEL
@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("level", levels())
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads(level: str, rule: str, threads: int) -> None:
    """Large enough that the kernel does use more than one thread, and takes the locations in parts."""
    for k, stride in ((3, 1), (20, 2)):
        problem = example(2, 24, 20, 31, Settings([stride] * 2, [1, 1], [1, 1], 1, k, rule, "map"))
        check(problem, exact=False, at=[level], threads=threads)
        with forced(level, threads):
            once, again = (results(problem) for _ in range(2))
        for one, other in ((once[0], again[0]), *zip(once[3], again[3], strict=True)):
            assert torch.equal(one, other)


@NO_KERNEL
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    problem = example(2, 12, 8, 9, Settings([1, 1], [1, 1], [1, 1], 2, 3, "at_most", "map"))
    check(problem, exact=False, dtype=dtype)


@NO_KERNEL
@pytest.mark.parametrize("scale", [1e-38, 1e-30, 1e-20, 1e20, 1e30])
@pytest.mark.parametrize("rule", RULES)
def test_numbers_of_every_size_have_valid_bounds(scale: float, rule: str) -> None:
    """Squares of these are no floats; scaled, the same channels are routed."""
    problem = example(1, 40, 10, 8, Settings([1, 1], [1, 1], [1, 1], 1, 4, rule, "map"))
    want = conv_cpu.forward(problem.x, problem.w, None, None, problem.how)
    power = 2.0 ** round(torch.tensor(scale).log2().item())
    for x, w in ((problem.x * power, problem.w), (problem.x, problem.w * power), (problem.x * power, problem.w / power)):
        ours = conv_cpu.forward(x, w, None, None, problem.how)
        assert ours
        assert want
        assert torch.equal(ours[1], want[1])


@NO_KERNEL
@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf"), 3e38])
@pytest.mark.parametrize("where", ["x", "w"])
def test_what_is_not_finite_takes_pytorchs_path(bad: float, where: str) -> None:
    x, w = torch.randn(2, 4, 6, 5), torch.randn(3, 4, 3, 3)
    (x if where == "x" else w)[1, 2, 1, 1] = bad
    assert conv_cpu.forward(x, w, None, None, Settings([1, 1], [1, 1], [1, 1], 1, 2, "at_most", "map")) is None
    results = []
    for level in (levels()[0], None):
        with forced(level):
            results.append(functional.dynamic_conv2d(x, w, None, padding=1, k=2, routing="map"))
    assert torch.equal(results[0].nan_to_num(7), results[1].nan_to_num(7))


@NO_KERNEL
def test_without_images() -> None:
    y = functional.dynamic_conv2d(torch.zeros(0, 4, 5, 5), torch.zeros(3, 4, 3, 3), torch.ones(3), routing="map")
    assert y.shape == (0, 3, 3, 3)


@NO_KERNEL
def test_opcheck() -> None:
    problem = example(1, 4, 3, 5, Settings([1, 1], [1, 1], [1, 1], 1, 2, "at_most", "map"))
    x, w = problem.x.requires_grad_(), problem.w.requires_grad_()
    torch.library.opcheck(torch.ops.dynamick.dynamic_conv2d.default, (x, w, problem.bias, None, *problem.how))
