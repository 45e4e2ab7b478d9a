"""The CPU kernel (csrc/dynamic_k.cpp): plain shared libraries compiled at install, one per level of x86-64.

The environment variable DYNAMICK_CPU_LEVEL forces a level (v2, v3, v4, portable), or disables the kernel (none).
"""

import ctypes
import os
import platform
import re
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from dynamick.ops import torch_internals
from dynamick.ops.chunked import route_chunked
from dynamick.ops.linear import add_bias, keep_for_sums, routed_gradients, sum_gradients, unfilled_gradients
from dynamick.ops.registry import Implementation, add, register_absent

FOLDER = Path(__file__).parent / "_native"
LEVELS = ("v4", "v3", "v2") if platform.machine().lower() in ("x86_64", "amd64") else ("portable",)
# Which levels this CPU can run, by what PyTorch says of it. ATEN_CPU_CAPABILITY lowers PyTorch's answer and so our level.
SUPPORTED = {"AVX512": LEVELS, "AVX2": LEVELS[-2:]}
COMPILED = ": compiled by"
DONE, OUT_OF_MEMORY, NOT_SERVED = 0, 1, 2
MOST = 2**24
"""The kernel takes at most this many inputs, because it compares their indices as floats."""
PLAIN = -2
"""What `last` holds if the kernel did not compute the sums. Then the backward pass does not use it either."""
LATER = -3
"""What `last` holds if products too small to change an output were skipped. The backward pass looks at them."""


class MissingKernelError(RuntimeError):
    """No library can be used here; the message is one line that says why."""


@dataclass(frozen=True)
class Kernel:
    """A loaded library, its level, and why the levels above it do not run, a line each."""

    level: str
    library: ctypes.CDLL
    passed_over: tuple[str, ...] = ()


def load(forced: str | None) -> Kernel:
    """Load the best library that this CPU can run, or the library of a forced level.

    Raises:
        MissingKernelError: no library can be loaded, or the forced one cannot.
    """
    runs = SUPPORTED.get(torch.backends.cpu.get_cpu_capability(), LEVELS[-1:])
    if forced == "none":
        raise MissingKernelError("DYNAMICK_CPU_LEVEL=none")
    if forced and forced not in runs:
        raise MissingKernelError(f"DYNAMICK_CPU_LEVEL={forced}: this CPU runs {', '.join(runs)}, or give none")
    built = {line.split(":")[0]: line for line in _built()}
    why: list[str] = []
    for level in [forced] if forced else runs:
        try:
            return Kernel(level, _open(FOLDER / f"dynamic_k_{level}.so", built.get(level, "")), tuple(why))
        except (OSError, AttributeError) as error:
            failed = level in built and COMPILED not in built[level]
            why.append(built[level] if failed else f"{level}: {' '.join(str(error).split())}")
    raise MissingKernelError("; ".join(why))


def _built() -> list[str]:
    """What the installation wrote down about the levels, a line each."""
    try:
        return (FOLDER / "build.txt").read_text().splitlines()
    except OSError:
        return []


def _open(path: Path, built: str) -> ctypes.CDLL:
    size = re.search(r", (\d+) bytes", built)
    if size and path.exists() and path.stat().st_size != int(size[1]):
        # The system's loader would end the whole process.
        raise OSError(f"{path.name} has {path.stat().st_size} bytes, not the {size[1]} that were compiled; install again")
    library = ctypes.CDLL(str(path))
    pointer, number = ctypes.c_void_p, ctypes.c_int64
    library.dynamick_forward.argtypes = [pointer] * 3 + [number] * 4 + [ctypes.c_int, number] + [pointer] * 4
    library.dynamick_backward.argtypes = [pointer] * 3 + [number] * 4 + [ctypes.c_int, number] + [pointer] * 5
    settings = [pointer] * 4 + [ctypes.c_int, number]
    for name in ("maps", "locations"):
        getattr(library, f"dynamick_{name}_forward").argtypes = settings + [pointer] * 3
        getattr(library, f"dynamick_{name}_backward").argtypes = settings + [pointer] * 4
    library.dynamick_set_parallel.argtypes = [pointer]
    library.dynamick_set_parallel(torch_internals.openmp_start())
    return library


kernel: Kernel | None = None
"""The library in use, or None. Without one, all functions here take the PyTorch path."""


@torch.library.custom_op("dynamick::dynamic_linear_cpu", mutates_args=())
def dynamic_linear_cpu(x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    """The sums of the routed products (Algorithm 2), and what finds the routed sets again.

    Args:
        x: inputs, shape (B, M), float32 or narrower.
        weight: shape (O, M), of x's dtype.
        mask: boolean, shape (O, M), False where a connection is pruned and may not be routed; or None.
        k: how many products a class routes at most.
        rule: `at_most` or `exactly`.

    Returns:
        Outputs (B, O) in float32. tau (O, B), float32: the K-th largest product of each output; 0 (`at_most`) or -inf
        (`exactly`) where fewer are routed. last (O, B), int32: the last index that is routed among the products equal to tau;
        M where all of them are; LATER where neither is known yet.
    """
    kept = _unfilled_kept(x, weight)
    return _forward(x, weight, None, mask, k, rule, kept), *kept


def _unfilled_kept(x: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    shape = weight.shape[0], x.shape[0]
    return x.new_empty(shape, dtype=torch.float32), x.new_empty(shape, dtype=torch.int32)


def _forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    mask: Tensor | None,
    k: int,
    rule: str,
    kept: tuple[Tensor, Tensor] | tuple[None, None],
) -> Tensor:
    """The sums. Fills `kept`, tau and last, if there are such tensors."""
    (B, M), O = x.shape, weight.shape[0]
    tau, last = kept
    y = x.new_empty(B, O, dtype=torch.float32)
    outcome = NOT_SERVED
    if kernel is not None and x.device.type == "cpu" and B and O and 0 < M <= MOST:
        x_BM, w_OM, mask_OM = dense(x), dense(weight), dense_mask(mask)
        bias_O = None if bias is None else dense(bias)
        inputs = (x_BM.data_ptr(), w_OM.data_ptr(), address(mask_OM), B, O, M, min(k, M), rule == "exactly")
        outputs = (address(bias_O), y.data_ptr(), address(tau), address(last))
        outcome = kernel.library.dynamick_forward(*inputs, torch.get_num_threads(), *outputs)
    if outcome == DONE:
        return y
    check_memory(outcome)
    if tau is not None and last is not None:
        tau.zero_()
        last.fill_(PLAIN)
    products, _ = route_chunked(x, weight, mask, k, rule)
    return add_bias(products.sum(-1), bias)


@dynamic_linear_cpu.register_fake
def _(x: Tensor, weight: Tensor, mask: Tensor | None, k: int, rule: str) -> tuple[Tensor, Tensor, Tensor]:
    return x.new_empty(x.shape[0], weight.shape[0], dtype=torch.float32), *_unfilled_kept(x, weight)


@torch.library.custom_op("dynamick::dynamic_linear_cpu_backward", mutates_args=())
def dynamic_linear_cpu_backward(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    tau: Tensor,
    last: Tensor,
    k: int,
    rule: str,
    want_x: bool,
    want_w: bool,
) -> tuple[Tensor, Tensor]:
    """The gradients of x and weight, in their dtypes; a tensor without elements for what is not wanted."""
    return _gradients(gy, x, weight, mask, tau, last, k, rule, want_x, want_w)


def _gradients(
    gy: Tensor,
    x: Tensor,
    weight: Tensor,
    mask: Tensor | None,
    tau: Tensor,
    last: Tensor,
    k: int,
    rule: str,
    want_x: bool,
    want_w: bool,
) -> tuple[Tensor, Tensor]:
    (B, M), O = x.shape, weight.shape[0]
    gx = x.new_empty((B, M) if want_x else (0,), dtype=torch.float32)
    gw = x.new_empty((O, M) if want_w else (0,), dtype=torch.float32)
    outcome = NOT_SERVED
    if kernel is not None and x.device.type == "cpu" and B and O:
        x_BM, w_OM, mask_OM, gy_BO = dense(x), dense(weight), dense_mask(mask), dense(gy)
        inputs = (x_BM.data_ptr(), w_OM.data_ptr(), address(mask_OM), B, O, M, k, rule == "exactly", torch.get_num_threads())
        kept = (gy_BO.data_ptr(), tau.data_ptr(), last.data_ptr())
        outputs = (gx.data_ptr() if want_x else None, gw.data_ptr() if want_w else None)
        outcome = kernel.library.dynamick_backward(*inputs, *kept, *outputs)
    if outcome == DONE:
        return gx.to(x.dtype), gw.to(weight.dtype)
    check_memory(outcome)
    _, indices = route_chunked(x, weight, mask, k, rule)
    plain_x, plain_w = routed_gradients(gy, x, weight, indices, want_x, want_w)
    return gx.to(x.dtype) if plain_x is None else plain_x, gw.to(weight.dtype) if plain_w is None else plain_w


dynamic_linear_cpu_backward.register_fake(unfilled_gradients)


def _backward(ctx: Any, gy: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
    return sum_gradients(dynamic_linear_cpu_backward, ctx, gy)


dynamic_linear_cpu.register_autograd(_backward, setup_context=keep_for_sums)


class _Sum(torch.autograd.Function):
    """The sums of the registered operator, and the bias, without PyTorch's dispatcher, which costs 0.15 ms a step."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> Tensor:
        kept = _unfilled_kept(x, weight)
        y = _forward(x, weight, bias, mask, k, rule, kept)
        ctx.save_for_backward(x, weight, mask, *kept)
        ctx.k, ctx.rule = k, rule
        if bias is not None:
            ctx.bias_dtype = bias.dtype
        return y

    @staticmethod
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        gx, gw, *nothing = sum_gradients(_gradients, ctx, gy)
        gb = gy.sum(0).to(ctx.bias_dtype) if ctx.needs_input_grad[2] else None
        return gx, gw, gb, *nothing


def sum_cpu(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> Tensor:
    """The outputs, shape (B, O), float32, differentiable."""
    if torch_internals.is_recorded() or not _are_plain(x, weight, bias):
        return add_bias(dynamic_linear_cpu(x, weight, mask, k, rule)[0], bias)
    if not (torch.is_grad_enabled() and any(each is not None and each.requires_grad for each in (x, weight, bias))):
        return _forward(x, weight, bias, mask, k, rule, (None, None))
    return _Sum.apply(x, weight, bias, mask, k, rule)  # type: ignore[no-any-return, no-untyped-call]


def _are_plain(*tensors: Tensor | None) -> bool:
    return all(each is None or type(each) in (Tensor, torch.nn.Parameter) for each in tensors)


def dense(values: Tensor) -> Tensor:
    if values.dtype == torch.float32 and values.is_contiguous() and not values.is_neg():
        return values  # each of the calls below costs microseconds
    return values.detach().to(torch.float32).resolve_neg().contiguous()


def dense_mask(mask: Tensor | None) -> Tensor | None:
    return None if mask is None else mask.cpu().contiguous()


def address(values: Tensor | None) -> int | None:
    return None if values is None else values.data_ptr()


def _on_cpu(x: Tensor, weight: Tensor) -> bool:
    return x.device.type == weight.device.type == "cpu"


def _label() -> str:
    return f"level {kernel.level}" if kernel else ""


def _notes() -> tuple[str, ...]:
    return kernel.passed_over if kernel else ()


def check_memory(outcome: int, what: str = "dynamic_linear") -> None:
    if outcome == OUT_OF_MEMORY:
        raise MemoryError(f"{what}: the CPU kernel found no memory for its copy of the inputs")


try:
    kernel = load(os.environ.get("DYNAMICK_CPU_LEVEL"))
except MissingKernelError as missing:
    register_absent("cpu", str(missing))
    if os.environ.get("DYNAMICK_CPU_LEVEL") not in (None, "", "none"):
        warnings.warn(f"dynamick takes its slow PyTorch path: {missing}", stacklevel=2)
else:
    add(Implementation("cpu", _on_cpu, priority=1, sum=sum_cpu, label=_label, notes=_notes))
