"""Every implementation of the linear operator against Algorithm 2: the same routed set, not only the same sum."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional, ops
from dynamick.nn import DynamicLinear
from dynamick.ops import chunked

FAST = [name for name in ops.implementations() if name != "reference"]
ODD = [0.0, -0.0, 1.0, -1.0, 2.0, 0.5, math.nan, math.inf, -math.inf]


def oracle(x: Tensor, weight: Tensor, k: int, rule: str) -> list[list[list[int]]]:
    """R^c by trying the definition: count who outranks whom. Independent of sorting and of the reference's code."""
    routed = []
    for row in x.tolist():
        routed.append([])
        for w in weight.tolist():
            p = [float(torch.tensor(a) * torch.tensor(b)) for a, b in zip(row, w, strict=True)]

            def outranks(i: int, j: int, p: list[float] = p) -> bool:
                if math.isnan(p[i]) or math.isnan(p[j]):
                    return math.isnan(p[i]) and (not math.isnan(p[j]) or i < j)
                return p[i] > p[j] or (p[i] == p[j] and i < j)

            rank = {j: sum(outranks(i, j) for i in range(len(p)) if i != j) for j in range(len(p))}
            chosen = [j for j in sorted(rank, key=rank.__getitem__) if rank[j] < k]
            routed[-1].append([j for j in chosen if rule == "exactly" or p[j] > 0 or math.isnan(p[j])])
    return routed


@st.composite
def problems(draw: st.DrawFn, values: list[float]) -> tuple[Tensor, Tensor, Tensor, int, str]:
    B, M, O = draw(st.integers(0, 4)), draw(st.integers(1, 9)), draw(st.integers(1, 4))
    numbers = st.sampled_from(values)
    x = torch.tensor(draw(st.lists(numbers, min_size=B * M, max_size=B * M))).reshape(B, M)
    w = torch.tensor(draw(st.lists(numbers, min_size=O * M, max_size=O * M))).reshape(O, M)
    mask = torch.tensor(draw(st.lists(st.booleans(), min_size=O * M, max_size=O * M))).reshape(O, M)
    return x, w, mask, draw(st.integers(1, M + 2)), draw(st.sampled_from(["at_most", "exactly"]))


@pytest.mark.parametrize("implementation", ops.implementations())
@given(problem=problems(ODD))
@settings(max_examples=150, deadline=None)
def test_routes_the_same_set_as_the_definition(implementation: str, problem: tuple) -> None:
    x, w, _, k, rule = problem
    route = functional.dynamic_route(x, w, k, rule=rule, implementation=implementation)
    found = [[[i for i in row if i >= 0] for row in image] for image in route.indices.tolist()]
    assert found == oracle(x, w, k, rule)
    assert route.indices.shape[-1] == min(k, x.shape[1])


@pytest.mark.parametrize("implementation", FAST)
@given(problem=problems([0.0, 1.0, -1.0, 2.0]), chunk=st.integers(1, 400))
@settings(max_examples=150, deadline=None)
def test_agrees_with_the_reference_under_masks_ties_and_any_chunk(implementation: str, problem: tuple, chunk: int) -> None:
    x, w, mask, k, rule = problem
    before, chunked.chunk_bytes = chunked.chunk_bytes, chunk
    try:
        ours = functional.dynamic_route(x, w, k, rule=rule, implementation=implementation, mask=mask)
        y = functional.dynamic_linear(x, w, None, k, rule, implementation, mask)
    finally:
        chunked.chunk_bytes = before
    theirs = functional.dynamic_route(x, w, k, rule=rule, implementation="reference", mask=mask)
    assert torch.equal(ours.indices, theirs.indices)
    assert torch.equal(ours.products, theirs.products)
    assert torch.equal(y, functional.dynamic_linear(x, w, None, k, rule, "reference", mask))


@pytest.mark.parametrize("implementation", ops.implementations())
def test_an_allowed_product_of_minus_infinity_outranks_a_pruned_one(implementation: str) -> None:
    x, w = torch.tensor([[1.0, 1.0, -math.inf]]), torch.ones(1, 3)
    mask = torch.tensor([[False, True, True]])
    route = functional.dynamic_route(x, w, 3, rule="exactly", implementation=implementation, mask=mask)
    assert route.indices.tolist() == [[[1, 2, -1]]]
    assert route.products.tolist() == [[[1.0, -math.inf, 0.0]]]


@pytest.mark.parametrize("implementation", ops.implementations())
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_poisoned_buffers_leave_no_trace(implementation: str, dtype: torch.dtype, rule: str) -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randint(-3, 4, (17, 33), generator=generator).to(dtype)
    w = torch.randint(-3, 4, (7, 33), generator=generator).to(dtype)
    # Deterministic mode fills what torch.empty returns with NaN and the largest integer.
    torch.use_deterministic_algorithms(True)
    try:
        route = functional.dynamic_route(x, w, 5, rule=rule, implementation=implementation)
        y = functional.dynamic_linear(x, w, None, 5, rule, implementation)
    finally:
        torch.use_deterministic_algorithms(False)
    want = functional.dynamic_route(x, w, 5, rule=rule, implementation="reference")
    assert torch.equal(route.indices, want.indices)
    assert y.dtype == dtype
    torch.testing.assert_close(y.double(), want.products.double().sum(-1), rtol=1e-2, atol=0)


@given(
    x=st.lists(st.floats(-8, 8, width=16), min_size=6, max_size=6),
    w=st.lists(st.floats(-8, 8, width=16), min_size=6, max_size=6),
)
@settings(max_examples=100, deadline=None)
def test_half_precision_compares_products_in_float32(x: list[float], w: list[float]) -> None:
    half_x, half_w = torch.tensor([x], dtype=torch.float16), torch.tensor([w], dtype=torch.float16)
    ours = functional.dynamic_route(half_x, half_w, 3)
    assert torch.equal(ours.indices, functional.dynamic_route(half_x.float(), half_w.float(), 3).indices)


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
@pytest.mark.parametrize("implementation", ops.implementations())
def test_gradients_and_second_gradients(rule: str, implementation: str) -> None:
    torch.manual_seed(1)
    x, w, b = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((4, 7), (3, 7), (3,)))

    def routed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.dynamic_linear(x, w, b, 3, rule, implementation)

    assert torch.autograd.gradcheck(routed, (x, w, b))
    assert torch.autograd.gradgradcheck(routed, (x, w, b))


def test_gradient_is_zero_where_nothing_is_routed() -> None:
    x = torch.tensor([[1.0, 2.0, 3.0, -1.0]], requires_grad=True)
    w = torch.tensor([[1.0, 1.0, -1.0, -4.0]], requires_grad=True)
    functional.dynamic_linear(x, w, None, 2).sum().backward()
    assert w.grad.tolist() == [[0.0, 2.0, 0.0, -1.0]]
    assert x.grad.tolist() == [[0.0, 1.0, 0.0, -4.0]]


@pytest.mark.parametrize("mask", [None, torch.rand(3, 6, generator=torch.Generator().manual_seed(0)) > 0.3])
@pytest.mark.parametrize("bias", [True, False])
def test_opcheck(mask: Tensor | None, bias: bool) -> None:
    x, w = torch.randn(4, 6, requires_grad=True), torch.randn(3, 6, requires_grad=True)
    b = torch.randn(3, requires_grad=True) if bias else None
    for implementation in [None, *ops.implementations()]:
        torch.library.opcheck(torch.ops.dynamick.dynamic_linear.default, (x, w, b, mask, 2, "exactly", implementation))


def test_nan_reaches_every_output_that_could_have_selected_it() -> None:
    x = torch.tensor([[1.0, math.nan, 1.0], [1.0, 1.0, 1.0]])
    w = torch.tensor([[1.0, -1.0, 1.0], [1.0, math.nan, 1.0]])
    y = functional.dynamic_linear(x, w, None, 1)
    assert y.isnan().tolist() == [[True, True], [False, True]]


def test_all_inputs_routed() -> None:
    x, w, b = torch.randn(5, 6), torch.randn(4, 6), torch.randn(4)
    dense = torch.nn.functional.linear(x, w, b)
    torch.testing.assert_close(functional.dynamic_linear(x, w, b, 99, "exactly"), dense)
    positive = (x[:, None] * w).clamp(min=0).sum(-1) + b
    torch.testing.assert_close(functional.dynamic_linear(x, w, b, 6, "at_most"), positive)


@pytest.mark.parametrize("shape", [(6,), (0, 6), (2, 0, 6), (2, 3, 6)])
def test_leading_dimensions_and_empty_batches(shape: tuple[int, ...]) -> None:
    x, w, b = torch.randn(*shape, requires_grad=True), torch.randn(4, 6, requires_grad=True), torch.randn(4)
    y = functional.dynamic_linear(x, w, b, 2)
    assert y.shape == (*shape[:-1], 4)
    one_by_one = [functional.dynamic_linear(row, w, b, 2) for row in x.reshape(-1, 6)]
    if one_by_one:
        assert torch.equal(y.reshape(-1, 4), torch.stack(one_by_one))
    y.sum().backward()
    assert x.grad.shape == x.shape
    assert w.grad.shape == w.shape
    assert functional.dynamic_route(x, w, 2).indices.shape == (*shape[:-1], 4, 2)


@given(problem=problems([0.0, 1.0, -1.0, 0.25, 3.0]))
@settings(max_examples=60, deadline=None)
def test_routed_products_are_the_logit(problem: tuple) -> None:
    x, w, _, k, rule = problem
    b = torch.arange(w.shape[0]).float()
    classes = list(range(w.shape[0]))[::-1]
    route = functional.dynamic_route(x, w, k, classes, rule)
    logits = functional.dynamic_linear(x, w, b, k, rule)
    torch.testing.assert_close(route.products.sum(-1), (logits - b)[:, classes])
    assert bool((route.products.diff(dim=-1) <= 0).all()) or rule == "exactly"
    padding = route.indices < 0
    assert bool((route.products[padding] == 0).all())


@pytest.mark.parametrize("k", [0, -1, 2.5, "five", True, None])
def test_k_must_be_an_integer_from_one_up(k: object) -> None:
    with pytest.raises(ValueError, match="integer from 1 up"):
        functional.dynamic_linear(torch.randn(2, 3), torch.randn(2, 3), None, k)  # type: ignore[arg-type]


def test_what_does_not_fit_is_said_in_one_line() -> None:
    x, w = torch.randn(2, 3), torch.randn(4, 3)
    for wrong in (
        lambda: functional.dynamic_linear(x, w[:, :2]),
        lambda: functional.dynamic_linear(x, w, torch.randn(3)),
        lambda: functional.dynamic_linear(x.double(), w),
        lambda: functional.dynamic_linear(x, w, rule="top"),
        lambda: functional.dynamic_linear(x, w, implementation="cuda-magic"),
        lambda: functional.dynamic_linear(x, w, mask=torch.ones(4, 3)),
        lambda: functional.dynamic_route(x, w, 2, [4]),
        lambda: functional.dynamic_route(x, w, 2, [-1]),
        lambda: functional.dynamic_route(x, w, 2, [1.7]),  # type: ignore[list-item]
        lambda: functional.dynamic_route(x, w, 2, torch.tensor([True, False])),
        lambda: functional.dynamic_linear(x, w, torch.ones(4, dtype=torch.int64)),
        lambda: functional.dynamic_linear(x, w.to_sparse()),
        lambda: functional.dynamic_linear(x, w.to("meta")),
        lambda: functional.dynamic_linear(x, w, mask=torch.ones(4, 3, dtype=torch.bool, device="meta")),
        lambda: functional.dynamic_linear(x, w, None, 2**63),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            wrong()
    for no_tensor in (
        lambda: functional.dynamic_linear(x, None),  # type: ignore[arg-type]
        lambda: functional.dynamic_linear(x, w, [1.0] * 4),  # type: ignore[arg-type]
        lambda: functional.dynamic_linear(x, w, mask=[True]),  # type: ignore[arg-type]
    ):
        with pytest.raises(TypeError, match=r"^(weight|bias|mask): [^\n]+ is no tensor"):
            no_tensor()


def test_an_integer_of_another_kind_is_an_integer() -> None:
    x, w = torch.randn(2, 3), torch.randn(4, 3)
    assert torch.equal(functional.dynamic_linear(x, w, None, np.int64(2)), functional.dynamic_linear(x, w, None, 2))  # type: ignore[arg-type]
    assert functional.dynamic_linear(x.double(), w.double(), None, 2**63 - 1).shape == (2, 4)


def test_autocast_computes_in_float32() -> None:
    x, w = torch.randn(8, 16).bfloat16(), torch.randn(4, 16)
    with torch.autocast("cpu", torch.bfloat16):
        y, route = functional.dynamic_linear(x, w, None, 3), functional.dynamic_route(x, w, 3)
        assert functional.dynamic_linear(x.double(), w.double()).dtype == torch.float64
        with pytest.raises(ValueError, match="int64"):
            functional.dynamic_linear(x.to(torch.int64), w)
    assert torch.equal(y, functional.dynamic_linear(x.float(), w, None, 3))
    assert torch.equal(route.indices, functional.dynamic_route(x.float(), w, 3).indices)


def test_many_gradients_at_once() -> None:
    x, w = torch.rand(3, 7), torch.randn(4, 7)
    function = lambda x: functional.dynamic_linear(x, w, None, 2).pow(2)  # noqa: E731
    for derivative in (torch.autograd.functional.jacobian, torch.autograd.functional.hessian):
        of = function if derivative is torch.autograd.functional.jacobian else lambda x: function(x).sum()
        torch.testing.assert_close(derivative(of, x, vectorize=True), derivative(of, x))


def test_routes_under_vmap_and_on_meta() -> None:
    x, w = torch.rand(5, 3, 7), torch.randn(4, 7)
    together = torch.func.vmap(lambda q: functional.dynamic_route(q, w, 2))(x)
    assert torch.equal(together.indices, functional.dynamic_route(x, w, 2).indices)
    assert functional.dynamic_route(x.to("meta"), w.to("meta"), 2).products.shape == (5, 3, 4, 2)
    assert torch.func.vmap(lambda q: functional.dynamic_linear(x[0], q))(torch.rand(0, 4, 7)).shape == (0, 3, 4)


def test_a_traced_layer_is_saved_and_loaded(tmp_path: Path) -> None:
    x, layer = torch.rand(3, 7), DynamicLinear(7, 4, 2)
    torch.jit.save(torch.jit.trace(layer, x), tmp_path / "traced.pt")
    assert torch.equal(torch.jit.load(tmp_path / "traced.pt")(x), layer(x))


def test_compiles_as_one_graph() -> None:
    x, w, b = torch.randn(8, 16, requires_grad=True), torch.randn(4, 16, requires_grad=True), torch.randn(4)
    compiled = torch.compile(functional.dynamic_linear, fullgraph=True, backend="aot_eager")
    y = compiled(x, w, b, 3)
    grads = torch.autograd.grad(y.sum(), (x, w))
    plain = functional.dynamic_linear(x, w, b, 3)
    assert torch.equal(y, plain)
    for ours, theirs in zip(grads, torch.autograd.grad(plain.sum(), (x, w)), strict=True):
        assert torch.equal(ours, theirs)


class Largest(torch.utils._python_dispatch.TorchDispatchMode):
    """Notes the bytes of the largest tensor that any operation yields."""

    bytes = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = func(*args, **(kwargs or {}))
        for each in out if isinstance(out, tuple) else (out,):
            if isinstance(each, Tensor):
                self.bytes = max(self.bytes, each.untyped_storage().nbytes())
        return out


def test_memory_is_bounded_by_the_setting() -> None:
    """The largest tensor that the chunked path makes stays under the setting, whatever B is."""
    B, M, O = 512, 64, 32
    before, chunked.chunk_bytes = chunked.chunk_bytes, 4 * 8 * O * M
    try:
        with Largest() as largest:
            chunked.route_chunked(torch.randn(B, M), torch.randn(O, M), None, 3, "exactly")
    finally:
        chunked.chunk_bytes = before
    kept = B * O * 3 * 8
    assert largest.bytes <= max(4 * 8 * O * M, kept, B * M * 4)
    assert largest.bytes < 4 * B * O * M / 4


def test_no_derivative_holds_all_products() -> None:
    B, M, O, K = 32, 512, 64, 2
    x, w = torch.randn(B, M, requires_grad=True), torch.randn(O, M, requires_grad=True)
    before, chunked.chunk_bytes = chunked.chunk_bytes, 4 * O * M
    try:
        with Largest() as largest:
            gradients = torch.autograd.grad(functional.dynamic_linear(x, w, None, K).pow(2).sum(), (x, w), create_graph=True)
            sum(each.pow(2).sum() for each in gradients).backward()  # type: ignore[union-attr]
            functional.dynamic_route(x, w, K).products.sum().backward()
    finally:
        chunked.chunk_bytes = before
    assert 0 < largest.bytes <= 4 * max(O * M, B * M, 2 * B * O * K)


def test_what_is_not_routed_gets_no_gradient_though_its_product_is_infinite() -> None:
    x, w = torch.tensor([[-1.0, 2.0, 3.0]]), torch.tensor([[math.inf, 1.0, -1.0]])

    def by_routes(x: Tensor, w: Tensor) -> Tensor:
        return functional.dynamic_route(x, w, 2).products.sum()

    def by_sums(x: Tensor, w: Tensor) -> Tensor:
        return functional.dynamic_linear(x, w, k=2).sum()

    for function in (by_routes, by_sums):
        gx, gw = torch.func.grad(function, argnums=(0, 1))(x, w)
        assert (gx.tolist(), gw.tolist()) == ([[0, 1, 0]], [[0, 2, 0]])
    leaf, weight = x.clone().requires_grad_(), w.clone().requires_grad_()
    [gx] = torch.autograd.grad(by_sums(leaf, weight), leaf, create_graph=True)
    assert gx.tolist() == [[0, 1, 0]]
    assert torch.autograd.grad(gx.sum(), weight)[0].tolist() == [[0, 1, 0]]


@pytest.mark.slow
@pytest.mark.parametrize("k", [1, 2])
def test_more_inputs_than_a_float_can_count(k: int) -> None:
    M = 2**24 + 8
    x, w = torch.ones(1, M), torch.zeros(1, M)
    w[0, [2**24, 2**24 + 1]] = 1
    w.requires_grad_()
    y = functional.dynamic_linear(x, w, k=k)
    y.sum().backward()
    assert (y.item(), w.grad.nonzero()[:, 1].tolist()) == (k, [2**24, 2**24 + 1][:k])
