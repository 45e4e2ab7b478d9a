"""The GPU kernel, in Triton (kernels.py): the sums and gradients without the B*O*M products, O(B*O) saved.

Nobody has measured it on a GPU yet. It was only run in Triton's interpreter and compiled for a GPU. So it is used by name
("triton") and never by default: its priority is below the chunked path's. It needs a CUDA device. Or set TRITON_INTERPRET=1 in
the environment before Triton is first imported, and it runs on the CPU, slowly. The first call imports Triton.
"""

import contextlib
import importlib.metadata
import importlib.util
import os
from typing import Any

import torch
from torch import Tensor

from dynamick.ops.chunked import route_chunked, sums_stay_finite
from dynamick.ops.linear import add_bias, keep_for_sums, routed_gradients, sum_gradients, unfilled_gradients
from dynamick.ops.registry import Implementation, add, register_absent

NOTE = "triton: serves by name only, for nobody has measured it on a GPU"
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@torch.library.custom_op("dynamick::dynamic_linear_triton", mutates_args=())
def dynamic_linear_triton(
    x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The sums of the routed products (Algorithm 2), and what finds the routed sets again.

    It first asks the device whether all numbers are finite, and waits for the answer. The backward pass does not wait again.

    Args:
        x: inputs, shape (B, M), float32 or narrower.
        weight: shape (O, M), of x's dtype.
        mask: boolean, shape (O, M), False where a connection is pruned and may not be routed; or None.
        k: how many products a class routes at most.
        rule: `at_most` or `exactly`.

    Returns:
        Outputs (B, O) in float32. tau (O, B), float32: the K-th largest product of each output; 0 (`at_most`) or -inf
        (`exactly`) where fewer are routed. last (O, B), int32: the last index that is routed among the products equal to tau;
        M where all of them are. served, a boolean on the CPU: False if the PyTorch path was taken; then tau and last have no
        meaning.
    """
    (B, M), O = x.shape, weight.shape[0]
    tau = x.new_empty(O, B, dtype=torch.float32)
    last = x.new_empty(O, B, dtype=torch.int32)
    if not (B and O and M) or not sums_stay_finite(x, weight, min(k, M)):
        products, _ = route_chunked(x, weight, mask, k, rule)
        return products.sum(-1), tau.zero_(), last.zero_(), torch.tensor(False)
    from dynamick.ops.gpu import kernels

    y_BO = x.new_empty(B, O, dtype=torch.float32)
    x_MB, w_MO = _dense(x.t()), _dense(weight.t())
    mask_MO = None if mask is None else _dense_mask(mask.t(), x.device)
    with torch.cuda.device_of(x):
        kernels.forward(x_MB, w_MO, mask_MO, y_BO, tau, last, min(k, M), rule == "exactly")
    return y_BO, tau, last, torch.tensor(True)


@dynamic_linear_triton.register_fake
def _(x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    B, O = x.shape[0], weight.shape[0]
    y, tau = x.new_empty(B, O, dtype=torch.float32), x.new_empty(O, B, dtype=torch.float32)
    return y, tau, x.new_empty(O, B, dtype=torch.int32), torch.empty((), dtype=torch.bool, device="cpu")


@torch.library.custom_op("dynamick::dynamic_linear_triton_backward", mutates_args=())
def dynamic_linear_triton_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    tau: Tensor,
    last: Tensor,
    served: Tensor,
    k: int,
    rule: str,
    want_x: bool,
    want_w: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight, in their dtypes; a tensor without elements for what is not wanted."""
    gx, gw = unfilled_gradients(gy, x, weight, want_x, want_w)
    if not served:
        _, indices = route_chunked(x, weight, mask, k, rule)
        plain_x, plain_w = routed_gradients(gy, x, weight, indices, want_x, want_w)
        return gx if plain_x is None else plain_x, gw if plain_w is None else plain_w
    from dynamick.ops.gpu import kernels

    x_BM, w_OM, gy_OB = _dense(x), _dense(weight), _dense(gy.t())
    mask_OM = None if mask is None else _dense_mask(mask, x.device)
    with torch.cuda.device_of(x):
        if want_x:
            kernels.backward_x(x_BM, w_OM, mask_OM, gy_OB, tau, last, gx, rule == "exactly")
        if want_w:
            kernels.backward_w(x_BM, w_OM, mask_OM, gy_OB, tau, last, gw, rule == "exactly")
    return gx, gw


dynamic_linear_triton_backward.register_fake(unfilled_gradients)


def _backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return sum_gradients(dynamic_linear_triton_backward, ctx, gy)


dynamic_linear_triton.register_autograd(_backward, setup_context=keep_for_sums)


def sum_triton(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> Tensor:
    """The outputs, shape (B, O), float32, differentiable."""
    return add_bias(dynamic_linear_triton(x, weight, mask, k, rule)[0], bias)


def _dense(values: Tensor) -> Tensor:
    return values.detach().resolve_neg().contiguous()


def _dense_mask(mask: Tensor, device: torch.device) -> Tensor:
    return mask.to(device).contiguous().view(torch.uint8)


def _on_gpu(x: Tensor, weight: Tensor) -> bool:
    return x.device == weight.device and x.device.type in (("cpu", "cuda") if INTERPRETED else ("cuda",))


def missing() -> str | None:
    """Why the kernel cannot run here, in one line; None if it can."""
    if importlib.util.find_spec("triton") is None:
        return "triton is not installed"
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # some builds of it go by another name
        found = importlib.metadata.version("triton")
        if tuple(int(part) for part in found.split(".")[:2]) < (3, 3):
            return f"triton {found} is too old, 3.3 or later is needed"
    if not INTERPRETED and torch.cuda.device_count() == 0:  # unlike is_available, this does not initialise CUDA
        return "there is no CUDA device, and TRITON_INTERPRET=1 is not set"
    return None


if (_why := missing()) is not None:
    register_absent("triton", _why)
else:
    add(Implementation("triton", _on_gpu, priority=-2, sum=sum_triton, notes=lambda: [NOTE]))
