"""Every registered operator passes PyTorch's own check of its schema, its fake, its autograd and its compilation."""

from collections.abc import Callable

import pytest
import torch

import dynamick.functional  # noqa: F401 (registers the operators)

X, W, B = torch.randn(4, 6), torch.randn(3, 6), torch.randn(3)
MASK = torch.tensor([[True, False, True, True, False, True]] * 3)
IMAGES, FILTERS = torch.randn(2, 4, 5, 6), torch.randn(4, 2, 3, 3)
GEOMETRY = ([2, 1], [1, 0], [1, 1], 2)


def leaf(values: torch.Tensor) -> torch.Tensor:
    return values.clone().requires_grad_()


def linear_backward(mask: torch.Tensor | None, rule: str) -> tuple:
    y, *kept = torch.ops.dynamick.dynamic_linear_cpu(X, W, mask, 2, rule)
    return (torch.randn_like(y), X, W, mask, *kept, 2, rule)


def conv_backward(mask: torch.Tensor | None, rule: str, routing: str) -> tuple:
    y, kept = torch.ops.dynamick.dynamic_conv2d(IMAGES, FILTERS, B.new_zeros(4), mask, *GEOMETRY, 1, rule, routing)
    return (torch.randn_like(y), IMAGES, FILTERS, mask, kept, *GEOMETRY, 1, rule, routing)


LAST = IMAGES.contiguous(memory_format=torch.channels_last)
SMALL_MASK = MASK[:1, :2].expand(4, 2).contiguous()
EXAMPLES: dict[str, Callable[[], list[tuple]]] = {
    "dynamic_linear": lambda: [
        (leaf(X), leaf(W), leaf(B), MASK, 2, "at_most", None),
        (leaf(X), leaf(W), None, None, 9, "exactly", "chunked"),
    ],
    "dynamic_linear_cpu": lambda: [(leaf(X), leaf(W), MASK, 2, "at_most"), (leaf(X), leaf(W), None, 9, "exactly")],
    "dynamic_linear_cpu_backward": lambda: [
        (*linear_backward(MASK, "at_most"), True, True),
        (*linear_backward(None, "exactly"), True, False),
        (*linear_backward(None, "exactly"), False, True),
    ],
    "dynamic_conv2d": lambda: [
        (leaf(IMAGES), leaf(FILTERS), leaf(B.new_zeros(4)), SMALL_MASK, *GEOMETRY, 1, "at_most", "location"),
        (leaf(LAST), leaf(FILTERS), None, None, *GEOMETRY, 1, "exactly", "map"),
    ],
    "dynamic_conv2d_backward": lambda: [
        (*conv_backward(SMALL_MASK, "at_most", "location"), True, True),
        (*conv_backward(None, "exactly", "map"), True, False),
        (*conv_backward(None, "exactly", "location"), False, True),
    ],
    "route_products": lambda: [(torch.randn(2, 5, 4, 2), SMALL_MASK, 1, "at_most"), (torch.randn(2, 4, 2), None, 2, "exactly")],
}
ELSEWHERE = {"dynamic_linear_triton", "dynamic_linear_triton_backward"}  # in triton_cases.py, which has the interpreter


def test_all_are_here() -> None:
    registered = {name for name in torch._C._dispatch_get_all_op_names() if name.startswith("dynamick::")}
    assert registered == {f"dynamick::{name}" for name in EXAMPLES.keys() | ELSEWHERE}


@pytest.mark.parametrize("name", EXAMPLES)
def test_opcheck(name: str) -> None:
    for arguments in EXAMPLES[name]():
        torch.library.opcheck(getattr(torch.ops.dynamick, name).default, arguments)
