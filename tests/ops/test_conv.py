"""The routed convolution against the definition: one product at a time, in plain loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional
from dynamick.ops import chunked
from dynamick.ops.conv_products import Products, Settings


def oracle(
    x: Tensor, weight: Tensor, stride: int, padding: int, dilation: int, groups: int, k: int, rule: str, routing: str
) -> tuple[Tensor, Tensor]:
    """Outputs in float64, and the smallest gap between the last routed vote and the first one left out."""
    x = torch.nn.functional.pad(x.double(), (padding,) * 4)
    (B, _, H, W), (O, I, kh, kw) = x.shape, weight.shape
    h = (H - dilation * (kh - 1) - 1) // stride + 1
    w = (W - dilation * (kw - 1) - 1) // stride + 1
    p = torch.zeros(B, O, I, h, w, dtype=torch.float64)
    for b, o, i, y, z in itertools.product(range(B), range(O), range(I), range(h), range(w)):
        channel = o // (O // groups) * I + i
        for u, v in itertools.product(range(kh), range(kw)):
            p[b, o, i, y, z] += (
                weight[o, i, u, v].double() * x[b, channel, y * stride + u * dilation, z * stride + v * dilation]
            )
    votes = p
    if routing == "map":
        votes = (p.clamp(min=0) if rule == "at_most" else p).sum((3, 4), keepdim=True).expand_as(p)
    out, gap = torch.zeros(B, O, h, w, dtype=torch.float64), float("inf")
    for b, o, y, z in itertools.product(range(B), range(O), range(h), range(w)):
        vote = votes[b, o, :, y, z].tolist()
        order = sorted(range(I), key=lambda i: (-vote[i], i))
        routed = [i for i in order[:k] if rule == "exactly" or vote[i] > 0]
        if k < I:
            gap = min(gap, abs(vote[order[k - 1]] - vote[order[k]]))
        out[b, o, y, z] = sum(float(p[b, o, i, y, z]) for i in routed)
    return out, torch.tensor(gap)


@st.composite
def problems(draw: st.DrawFn) -> dict:
    groups, per_group = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    kernel, dilation = draw(st.integers(1, 3)), draw(st.integers(1, 2))
    size = draw(st.integers(1 + dilation * (kernel - 1), 6))
    seed = draw(st.integers(0, 2**16))
    generator = torch.Generator().manual_seed(seed)
    # Small integers: exact in float32, so that ties are ties in every order of summation.
    x = torch.randint(-2, 3, (draw(st.integers(1, 2)), groups * per_group, size, size + 1), generator=generator)
    w = torch.randint(-2, 3, (groups * draw(st.integers(1, 2)), per_group, kernel, kernel), generator=generator)
    return {
        "x": x.float(),
        "weight": w.float(),
        "stride": draw(st.integers(1, 2)),
        "padding": draw(st.integers(0, 2)),
        "dilation": dilation,
        "groups": groups,
        "k": draw(st.integers(1, per_group + 1)),
        "rule": draw(st.sampled_from(["at_most", "exactly"])),
        "routing": draw(st.sampled_from(["location", "map"])),
    }


@given(problem=problems(), chunk=st.integers(1, 2000))
@settings(max_examples=60, deadline=None)
def test_is_the_definition(problem: dict, chunk: int) -> None:
    before, chunked.chunk_bytes = chunked.chunk_bytes, chunk
    try:
        ours = functional.dynamic_conv2d(**problem)
    finally:
        chunked.chunk_bytes = before
    want, _ = oracle(**problem)
    torch.testing.assert_close(ours.double(), want, rtol=0, atol=0)


@pytest.mark.parametrize("routing", ["location", "map"])
@pytest.mark.parametrize("rule", ["at_most", "exactly"])
@pytest.mark.parametrize("groups", [1, 2])
def test_gradients(routing: str, rule: str, groups: int) -> None:
    torch.manual_seed(3)
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    w = torch.randn(2, 4 // groups, 2, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(2, dtype=torch.float64, requires_grad=True)

    def routed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.dynamic_conv2d(x, w, b, (2, 1), (1, 0), (1, 2), groups, 1, rule, routing)

    assert torch.autograd.gradcheck(routed, (x, w, b))


def naive(problem: dict, x: Tensor, weight: Tensor, mask: Tensor | None) -> Tensor:
    """The same in differentiable PyTorch that holds all products: every channel convolved alone, then a stable sort."""
    groups, k = problem["groups"], problem["k"]
    O, I = weight.shape[:2]
    arguments = [problem[name] for name in ("stride", "padding", "dilation")]
    outputs = []
    for o in range(O):
        first = o // (O // groups) * I
        alone = [
            torch.nn.functional.conv2d(x[:, first + i, None], weight[o, i, None, None], None, *arguments) for i in range(I)
        ]
        p = torch.cat(alone, 1)
        vote = p if problem["routing"] == "location" else (p.clamp(min=0) if problem["rule"] == "at_most" else p)
        if problem["routing"] == "map":
            vote = vote.sum((2, 3), keepdim=True).expand_as(p)
        allowed = torch.ones(I, dtype=torch.bool) if mask is None else mask[o]
        ranked = vote.detach().masked_fill(~allowed[:, None, None], -torch.inf).sort(dim=1, descending=True, stable=True)
        routed = torch.zeros_like(p, dtype=torch.bool).scatter(1, ranked.indices[:, :k], True) & allowed[:, None, None]
        if problem["rule"] == "at_most":
            routed &= vote > 0
        outputs.append((p * routed).sum(1))
    return torch.stack(outputs, 1)


@given(problem=problems(), chunk=st.integers(1, 2000), last=st.booleans(), masked=st.booleans(), seed=st.integers(0, 2**16))
@settings(max_examples=120, deadline=None)
def test_outputs_and_gradients_with_ties_and_masks(problem: dict, chunk: int, last: bool, masked: bool, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x, w = problem.pop("x"), problem.pop("weight")
    mask = torch.rand(w.shape[:2], generator=generator) > 0.4 if masked else None
    layout = torch.channels_last if last else torch.contiguous_format
    a, b = x.contiguous(memory_format=layout).requires_grad_(), w.clone().requires_grad_()
    before, chunked.chunk_bytes = chunked.chunk_bytes, chunk
    try:
        y = functional.dynamic_conv2d(a, b, **problem, mask=mask)
        gy = torch.randint(-2, 3, y.shape, generator=generator).float()
        gx, gw = torch.autograd.grad(y, (a, b), gy)
    finally:
        chunked.chunk_bytes = before
    c, d = x.double().requires_grad_(), w.double().requires_grad_()
    want = naive(problem, c, d, mask)
    for ours, theirs in zip((y, gx, gw), (want, *torch.autograd.grad(want, (c, d), gy.double())), strict=True):
        torch.testing.assert_close(ours.double(), theirs, rtol=0, atol=0)
    dense = torch.nn.functional.conv2d(a, b, None, *[problem[name] for name in ("stride", "padding", "dilation", "groups")])
    assert y.is_contiguous() or dense.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
@pytest.mark.parametrize(("k", "channels"), [(1, 40), (5, 40), (17, 40), (40, 40), (64, 40), (3, 1)])
def test_many_channels_and_every_kind_of_k(rule: str, k: int, channels: int) -> None:
    torch.manual_seed(k)
    problem = {"stride": 2, "padding": 1, "dilation": 1, "groups": 1, "k": k, "rule": rule, "routing": "location"}
    x = torch.randn(3, channels, 9, 7, requires_grad=True)
    w = torch.randn(6, channels, 3, 3, requires_grad=True)
    c, d = (each.detach().double().requires_grad_() for each in (x, w))
    ours, theirs = functional.dynamic_conv2d(x, w, **problem), naive(problem, c, d, None)
    gy = torch.randn(ours.shape)
    pairs = zip(
        (ours, *torch.autograd.grad(ours, (x, w), gy)), (theirs, *torch.autograd.grad(theirs, (c, d), gy.double())), strict=True
    )
    for one, other in pairs:
        torch.testing.assert_close(one.double(), other, rtol=1e-4, atol=1e-4)


def test_the_backward_pass_routes_what_the_forward_pass_did_under_other_threads() -> None:
    """It forms the products again: a single one that rounded otherwise would be lost or won."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 24, 20, 20), torch.randn(32, 24, 3, 3)
    threads = torch.get_num_threads()
    gradients = []
    try:
        for backward_threads in (2, 1):
            a, b = x.clone().requires_grad_(), w.clone().requires_grad_()
            torch.set_num_threads(2)
            y = functional.dynamic_conv2d(a, b, padding=1, k=3)
            torch.set_num_threads(backward_threads)
            gradients.append((*torch.autograd.grad(y.sum(), (a, b)), y))
    finally:
        torch.set_num_threads(threads)
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-5)
    # The sums of products come back from the gradients (Euler's rule), from the weights' and from the inputs'.
    for gx, gw, y in gradients:
        torch.testing.assert_close((gx * x).sum().double(), y.double().sum(), rtol=1e-4, atol=0)
        torch.testing.assert_close((gw * w).sum().double(), y.double().sum(), rtol=1e-4, atol=0)


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_one_by_one_in_groups_is_the_linear_map_of_each(rule: str) -> None:
    """docs/definitions.md, "Dynamic-K": the same routed set as the linear map, so the same gradients."""
    torch.manual_seed(0)
    x, w = torch.randn(2, 12, 4, 5, requires_grad=True), torch.randn(6, 6, 1, 1, requires_grad=True)
    parts = zip(x.chunk(2, 1), w.chunk(2), strict=True)
    linear = [
        functional.dynamic_linear(a.permute(0, 2, 3, 1), b[:, :, 0, 0], None, 2, rule).permute(0, 3, 1, 2) for a, b in parts
    ]
    ours = functional.dynamic_conv2d(x, w, groups=2, k=2, rule=rule)
    theirs = torch.cat(linear, 1)
    torch.testing.assert_close(ours, theirs)
    for one, other in zip(*(torch.autograd.grad(y.square().sum(), (x, w)) for y in (ours, theirs)), strict=True):
        torch.testing.assert_close(one, other)


@given(
    sizes=st.tuples(*[st.integers(1, 5)] * 4), groups=st.integers(1, 3), kernel=st.integers(1, 3), chunk=st.integers(1, 20_000)
)
@settings(max_examples=100, deadline=None)
def test_blocks_cover_everything_once_and_stay_within_the_setting(
    sizes: tuple[int, int, int, int], groups: int, kernel: int, chunk: int
) -> None:
    B, outputs, I, size = sizes
    x, w = torch.zeros(B, groups * I, size + 2, size + 2), torch.zeros(groups * outputs, I, kernel, kernel)
    conv = Products(x, w, None, Settings([1, 1], [0, 0], [1, 1], groups, 1, "at_most", "location"))
    seen = torch.zeros(B, groups * outputs, dtype=torch.int64)
    one_map = I * conv.L * 4
    before, chunked.chunk_bytes = chunked.chunk_bytes, chunk
    try:
        for block in conv.blocks():
            conv.part(seen, block).add_(1)
            assert conv.of(block, conv.patches(block)).nbytes <= max(chunk, one_map)
    finally:
        chunked.chunk_bytes = before
    assert bool((seen == 1).all())


@pytest.mark.parametrize("routing", ["location", "map"])
def test_what_is_kept_for_the_backward_pass_is_no_larger_than_the_outputs(routing: str) -> None:
    x, w = torch.randn(2, 32, 12, 12, requires_grad=True), torch.randn(16, 32, 3, 3, requires_grad=True)
    sizes: list[int] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: sizes.append(t.nbytes) or t, lambda t: t):
        y = functional.dynamic_conv2d(x, w, padding=1, k=5, routing=routing)
    assert sizes
    assert max(sizes) <= max(x.nbytes, w.nbytes, y.nbytes)


@pytest.mark.parametrize("routing", ["location", "map"])
@pytest.mark.parametrize("kernel", [1, 3])
def test_layouts_are_the_dense_layers(routing: str, kernel: int) -> None:
    x, w = torch.randn(2, 6, 8, 7, requires_grad=True), torch.randn(4, 6, kernel, kernel)
    for layout in (torch.contiguous_format, torch.channels_last):
        a = x.detach().contiguous(memory_format=layout).requires_grad_()
        y = functional.dynamic_conv2d(a, w, padding=1, k=2, routing=routing)
        assert y.is_contiguous(memory_format=layout)
        assert torch.autograd.grad(y.sum(), a)[0].shape == x.shape
    strided = functional.dynamic_conv2d(x.transpose(2, 3), w, padding=1, k=2, routing=routing)
    torch.testing.assert_close(
        strided, functional.dynamic_conv2d(x.transpose(2, 3).contiguous(), w, padding=1, k=2, routing=routing)
    )


@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize(("want_x", "want_w", "want_b"), [(True, False, False), (False, True, False), (False, False, True)])
@pytest.mark.parametrize("routing", ["location", "map"])
def test_gradients_only_where_they_are_wanted(kernel: int, want_x: bool, want_w: bool, want_b: bool, routing: str) -> None:
    x, w = torch.randn(2, 4, 6, 6, requires_grad=want_x), torch.randn(3, 4, kernel, kernel, requires_grad=want_w)
    b = torch.randn(3, requires_grad=want_b)
    functional.dynamic_conv2d(x, w, b, k=2, routing=routing).sum().backward()
    assert [each.grad is not None for each in (x, w, b)] == [want_x, want_w, want_b]


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
@pytest.mark.parametrize("routing", ["location", "map"])
@pytest.mark.parametrize("masked", [False, True])
def test_gradients_that_can_be_differentiated_are_the_others(routing: str, rule: str, masked: bool) -> None:
    """With ties, strides, groups and pruned connections: by way of all products, as by blocks of them."""
    x = (torch.randn(2, 6, 7, 6) * 2).round().requires_grad_()
    w, b = (torch.randn(4, 3, 3, 2) * 2).round().requires_grad_(), torch.randn(4, requires_grad=True)
    mask = torch.rand(4, 3) > 0.4 if masked else None

    def output(x: torch.Tensor, w: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        return functional.dynamic_conv2d(x, w, b, (2, 1), (1, 2), (1, 2), 2, 2, rule, routing, mask)

    y = output(x, w, b)
    outward = torch.randn_like(y)
    plain = torch.autograd.grad(y, (x, w, b), outward, retain_graph=True)
    with torch.autocast("cpu", torch.bfloat16):  # must not reach what is differentiated again
        again = torch.autograd.grad(y, (x, w, b), outward, create_graph=True)
    by_functions = torch.func.vjp(output, x.detach(), w.detach(), b.detach())[1](outward)
    for one, two, three in zip(plain, again, by_functions, strict=True):
        torch.testing.assert_close(two, one)
        torch.testing.assert_close(three, one)


@pytest.mark.parametrize("routing", ["location", "map"])
def test_all_channels_routed_exactly_is_the_plain_convolution(routing: str) -> None:
    x, w, b = torch.randn(2, 6, 9, 8), torch.randn(4, 3, 3, 3), torch.randn(4)
    arguments = {"stride": (2, 1), "padding": (2, 1), "dilation": (1, 2), "groups": 2}
    ours = functional.dynamic_conv2d(x, w, b, **arguments, k=3, rule="exactly", routing=routing)
    torch.testing.assert_close(ours, torch.nn.functional.conv2d(x, w, b, **arguments), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("padding", ["same", "valid"])
@pytest.mark.parametrize("kernel", [1, 2, 3])
def test_padding_by_name(padding: str, kernel: int) -> None:
    x, w = torch.randn(2, 3, 7, 6), torch.randn(4, 3, kernel, kernel)
    ours = functional.dynamic_conv2d(x, w, padding=padding, dilation=2, k=3, rule="exactly")
    torch.testing.assert_close(ours, torch.nn.functional.conv2d(x, w, padding=padding, dilation=2), rtol=1e-4, atol=1e-4)


def test_one_by_one_by_location_is_the_linear_map() -> None:
    x, w, b = torch.randn(2, 6, 4, 5), torch.randn(3, 6, 1, 1), torch.randn(3)
    ours = functional.dynamic_conv2d(x, w, b, stride=2, padding=1, k=2)
    padded = torch.nn.functional.pad(x, (1, 1, 1, 1))[:, :, ::2, ::2].permute(0, 2, 3, 1)
    linear = functional.dynamic_linear(padded, w[:, :, 0, 0], b, 2).permute(0, 3, 1, 2)
    assert torch.equal(ours, linear)


def test_unbatched_and_empty() -> None:
    x, w = torch.randn(3, 5, 5), torch.randn(2, 3, 3, 3)
    assert torch.equal(functional.dynamic_conv2d(x, w, k=1), functional.dynamic_conv2d(x[None], w, k=1)[0])
    assert functional.dynamic_conv2d(torch.randn(0, 3, 5, 5), w, k=1).shape == (0, 2, 3, 3)


@pytest.mark.parametrize("routing", ["location", "map"])
def test_a_nan_channel_is_never_dropped(routing: str) -> None:
    x, w = torch.randn(1, 3, 4, 4).abs(), torch.ones(2, 3, 3, 3)
    x[0, 2, 0, 0] = float("nan")
    y = functional.dynamic_conv2d(x, w, k=1, routing=routing)
    assert bool(y[0, :, 0, 0].isnan().all())


@pytest.mark.parametrize("routing", ["location", "map"])
def test_an_infinite_product_that_is_not_routed_leaves_the_others_alone(routing: str) -> None:
    x, w = torch.rand(1, 3, 4, 4), torch.ones(2, 3, 2, 2)
    x[0, 1, 1, 1], w[:, 1] = torch.inf, -1
    y = functional.dynamic_conv2d(x, w, k=2, routing=routing)
    without = torch.ones_like(w, dtype=torch.bool)[:, :, 0, 0]
    without[:, 1] = False
    finite = x.where(x.isfinite(), 0)
    torch.testing.assert_close(y, functional.dynamic_conv2d(finite, w, k=2, routing=routing, mask=without))
    huge = functional.dynamic_conv2d(finite * 1e38, w * 10, k=2, routing=routing)
    assert bool((huge == torch.inf).any())
    assert not bool(huge.isnan().any())


def test_votes_of_infinite_products_are_summed_as_products_are() -> None:
    x = torch.zeros(1, 2, 1, 6)
    x[0, 0], x[0, 1] = 1, torch.tensor([-torch.inf, -1, 2, -1, -1, -1])
    w = torch.tensor([1, torch.inf]).reshape(1, 2, 1, 1)
    # inf * x is inf at one location and -inf at another: a vote of NaN, which ranks highest.
    want = torch.tensor([-torch.inf, -torch.inf, torch.inf, -torch.inf, -torch.inf, -torch.inf])
    assert torch.equal(functional.dynamic_conv2d(x, w, k=1, rule="exactly", routing="map")[0, 0, 0], want)


def test_compiles_as_one_graph_and_runs_in_half_precision() -> None:
    x, w = torch.randn(2, 4, 6, 6), torch.randn(3, 4, 3, 3)
    compiled = torch.compile(functional.dynamic_conv2d, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x, w, k=2), functional.dynamic_conv2d(x, w, k=2))
    half = functional.dynamic_conv2d(x.bfloat16(), w.bfloat16(), k=2)
    assert half.dtype == torch.bfloat16
    with torch.autocast("cpu", torch.bfloat16):
        assert functional.dynamic_conv2d(x.bfloat16(), w, k=2).dtype == torch.float32


def test_what_does_not_fit_is_said_in_one_line() -> None:
    x, w = torch.randn(1, 4, 5, 5), torch.randn(2, 4, 3, 3)
    for wrong in (
        lambda: functional.dynamic_conv2d(x, w[:, :3]),
        lambda: functional.dynamic_conv2d(x, w, k=0),
        lambda: functional.dynamic_conv2d(x, w, routing="pixel"),
        lambda: functional.dynamic_conv2d(x, w, padding="same", stride=2),
        lambda: functional.dynamic_conv2d(x, w, padding="full"),
        lambda: functional.dynamic_conv2d(x[:, :, :2], w),
        lambda: functional.dynamic_conv2d(x[0, 0], w),
        lambda: functional.dynamic_conv2d(x, w, stride=0),
        lambda: functional.dynamic_conv2d(x, w, padding=(1, 1, 1)),
        lambda: functional.dynamic_conv2d(x, w, padding=-1),
        lambda: functional.dynamic_conv2d(x, w, torch.randn(3)),
        lambda: functional.dynamic_conv2d(x, w, mask=torch.ones(2, 4)),
        lambda: functional.dynamic_conv2d(x.long(), w),
        lambda: functional.dynamic_conv2d(x.double(), w),
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            wrong()
