"""The routed convolution against the definition: one product at a time, in plain loops."""

import itertools

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick import functional
from dynamick.ops import chunked


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
@settings(max_examples=120, deadline=None)
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
    x = torch.randn(2, 4, 5, 4, dtype=torch.float64, requires_grad=True)
    w = torch.randn(6, 4 // groups, 3, 2, dtype=torch.float64, requires_grad=True)
    b = torch.randn(6, dtype=torch.float64, requires_grad=True)

    def routed(x: Tensor, w: Tensor, b: Tensor) -> Tensor:
        return functional.dynamic_conv2d(x, w, b, (2, 1), (1, 0), (1, 2), groups, 1, rule, routing)

    assert torch.autograd.gradcheck(routed, (x, w, b))


def test_second_backward_says_clearly_that_it_does_not_work() -> None:
    x, w = torch.randn(1, 2, 4, 4, requires_grad=True), torch.randn(2, 2, 3, 3, requires_grad=True)
    y = functional.dynamic_conv2d(x, w, k=1)
    (g,) = torch.autograd.grad(y.square().sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="cannot be differentiated again"):
        g.sum().backward()


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
def test_opcheck(routing: str) -> None:
    x, w, b = torch.randn(2, 4, 5, 5, requires_grad=True), torch.randn(4, 2, 3, 3, requires_grad=True), torch.randn(4)
    mask = torch.tensor([[True, False], [True, True], [False, True], [True, True]])
    arguments = (x, w, b.requires_grad_(), mask, [2, 1], [1, 0], [1, 1], 2, 1, "at_most", routing)
    torch.library.opcheck(torch.ops.dynamick.dynamic_conv2d.default, arguments)


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
    ):
        with pytest.raises(ValueError, match=r"^[^\n]+$"):
            wrong()
