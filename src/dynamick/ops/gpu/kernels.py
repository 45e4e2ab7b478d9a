"""The Triton code of the Dynamic-K sum and its gradients (docs/definitions.md, "Dynamic-K"). Imported only when it is used.

A program of the forward pass owns a tile of outputs (b, o) and goes through the inputs m one by one: nothing of B*O*M exists
outside registers. Up to `INSERTED` products a class it keeps the largest ones sorted; above it searches the K-th largest by
counting: the bits of a float order like an integer, so 32 halvings find it exactly, and fewer where a trial splits off K.
A program of the backward pass owns a tile of a gradient and goes through the other side's rows in order: no atomics, and
the same bits for every block size. All numbers must be finite and no sum may overflow. The callers make sure of it.
"""

import functools
import os
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

INSERTED = tl.constexpr(16)
INFINITY_BITS = tl.constexpr(0x7F800000)


@triton.jit
def _products(x_MB, w_MO, mask_MO, m, b, o, B, O):  # type: ignore[no-untyped-def]
    """The products of input m for a tile of (b, o); -inf where the mask forbids."""
    m = tl.cast(m, tl.int64)
    x = tl.load(x_MB + m * B + b, mask=b < B, other=0.0).to(tl.float32)
    w = tl.load(w_MO + m * O + o, mask=o < O, other=0.0).to(tl.float32)
    p = x * w
    if mask_MO is not None:
        p = tl.where(tl.load(mask_MO + m * O + o, mask=o < O, other=0) != 0, p, float("-inf"))
    return p


@triton.jit
def _number(key):  # type: ignore[no-untyped-def]
    """The float of an integer key: the bits of its magnitude, with the key's sign. Keys order as floats do."""
    magnitude = tl.abs(key).to(tl.float32, bitcast=True)
    return tl.where(key < 0, -magnitude, magnitude)


@triton.jit
def _by_insertion(x_MB, w_MO, mask_MO, b, o, B, O, M, floor, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """The sums, the K-th products, whether more are equal to it than may be routed, and how many of those are routed."""
    none = tl.full([b.shape[0], o.shape[1]], 0.0, tl.float32) + floor
    top = (none,) * (K + 1)
    for m in range(0, M):
        p = _products(x_MB, w_MO, mask_MO, m, b, o, B, O)
        below = ()
        for place in tl.static_range(K + 1):
            # Triton compiles no starred tuple.
            below = below + (tl.maximum(top[place], p),)  # type: ignore[assignment]  # noqa: RUF005
            p = tl.minimum(top[place], p)
        top = below
    tau = top[K - 1]
    y = tl.zeros_like(tau)
    routed = tl.zeros(tau.shape, tl.int32)
    for place in tl.static_range(K):
        y += tl.where(top[place] > floor, top[place], 0.0)
        routed += (top[place] == tau).to(tl.int32)
    return y, tau, (tau > floor) & (top[K] == tau), routed


@triton.jit
def _by_counting(x_MB, w_MO, mask_MO, b, o, B, O, M, K, floor, FLOOR_KEY: tl.constexpr):  # type: ignore[no-untyped-def]
    """The same by halving an interval of keys: `low` is reached by at least K products (or is the floor), `high` by fewer."""
    low = tl.full([b.shape[0], o.shape[1]], FLOOR_KEY, tl.int32)
    high = tl.full([b.shape[0], o.shape[1]], INFINITY_BITS, tl.int32)
    # First the smallest positive number: if no more than K products are positive, `at_most` is done at once.
    middle = tl.full(low.shape, 1, tl.int32)
    while tl.max((low + 1 < high).to(tl.int32)) > 0:
        trial = _number(middle)
        count = tl.zeros(low.shape, tl.int32)
        for m in range(0, M):
            count += (_products(x_MB, w_MO, mask_MO, m, b, o, B, O) >= trial).to(tl.int32)
        low = tl.where(count >= K, middle, low)
        # If exactly K products reach a trial value, the search is over: the smallest of them is the K-th.
        high = tl.where(count == K, middle + 1, tl.where(count > K, high, middle))
        middle = (low >> 1) + (high >> 1) + (low & high & 1)
    bound = _number(low)
    y = tl.zeros(low.shape, tl.float32)
    smallest = tl.full(low.shape, float("inf"), tl.float32)
    above = tl.zeros(low.shape, tl.int32)
    reached = tl.zeros(low.shape, tl.int32)
    for m in range(0, M):
        p = _products(x_MB, w_MO, mask_MO, m, b, o, B, O)
        y += tl.where(p > bound, p, 0.0)
        smallest = tl.where(p >= bound, tl.minimum(smallest, p), smallest)
        above += (p > bound).to(tl.int32)
        reached += (p >= bound).to(tl.int32)
    found = low > FLOOR_KEY
    routed = tl.minimum(reached, K) - above
    y += tl.where(found, routed.to(tl.float32) * bound, 0.0)
    return y, tl.where(found, smallest, floor), found & (reached > K), routed


@triton.jit
def forward_kernel(  # type: ignore[no-untyped-def]
    x_MB,
    w_MO,
    mask_MO,
    y_BO,
    tau_OB,
    last_OB,
    B,
    O,
    M,
    K: tl.constexpr,
    EXACTLY: tl.constexpr,
    BLOCK_B: tl.constexpr,
    BLOCK_O: tl.constexpr,
):
    """Fill y, tau and last for a tile of (b, o), as `dynamic_linear_triton` describes them."""
    b = (tl.program_id(0) * BLOCK_B + tl.arange(0, BLOCK_B))[:, None]
    o = (tl.program_id(1) * BLOCK_O + tl.arange(0, BLOCK_O))[None, :]
    floor = float("-inf") if EXACTLY else 0.0
    if K <= INSERTED:
        y, tau, tied, routed = _by_insertion(x_MB, w_MO, mask_MO, b, o, B, O, M, floor, K)
    else:
        floor_key: tl.constexpr = -INFINITY_BITS if EXACTLY else 0
        y, tau, tied, routed = _by_counting(x_MB, w_MO, mask_MO, b, o, B, O, M, K, floor, floor_key)
    last = tl.zeros(tau.shape, tl.int32) + M
    inside = (b < B) & (o < O)
    if tl.max((tied & inside).to(tl.int32)) > 0:
        seen = tl.zeros(tau.shape, tl.int32)
        for m in range(0, M):
            equal = _products(x_MB, w_MO, mask_MO, m, b, o, B, O) == tau
            seen += equal.to(tl.int32)
            last = tl.where(tied & equal & (seen == routed), m, last)
    tl.store(y_BO + b.to(tl.int64) * O + o, y, mask=inside)
    tl.store(tau_OB + o.to(tl.int64) * B + b, tau, mask=inside)
    tl.store(last_OB + o.to(tl.int64) * B + b, last, mask=inside)


@triton.jit
def backward_kernel(  # type: ignore[no-untyped-def]
    own_RM,
    other_LM,
    mask,
    gy,
    tau,
    last,
    gradient_RM,
    R,
    L,
    M,
    row_stride,
    step_stride,
    mask_row_stride,
    mask_step_stride,
    EXACTLY: tl.constexpr,
    BLOCK_R: tl.constexpr,
    BLOCK_M: tl.constexpr,
):
    """A tile (r, m) of one side's gradient, the sum over the other side's rows l in order. x and w change places for gw.

    `gy`, `tau` and `last` lie at r * row_stride + l * step_stride, the mask at m plus the same of its own strides.
    """
    r = (tl.program_id(0) * BLOCK_R + tl.arange(0, BLOCK_R))[:, None].to(tl.int64)
    m = (tl.program_id(1) * BLOCK_M + tl.arange(0, BLOCK_M))[None, :]
    inside = (r < R) & (m < M)
    own = tl.load(own_RM + r * M + m, mask=inside, other=0.0).to(tl.float32)
    total = tl.zeros([BLOCK_R, BLOCK_M], tl.float32)
    for step in range(0, L):
        l = tl.cast(step, tl.int64)
        other = tl.load(other_LM + l * M + m, mask=m < M, other=0.0).to(tl.float32)
        at = r * row_stride + l * step_stride
        edge = tl.load(tau + at, mask=r < R, other=0.0)
        p = own * other
        routed = (p > edge) | ((p == edge) & (m <= tl.load(last + at, mask=r < R, other=0)))
        if not EXACTLY:
            routed = routed & (p > 0)
        if mask is not None:
            allowed = tl.load(mask + r * mask_row_stride + l * mask_step_stride + m, mask=inside, other=0)
            routed = routed & (allowed != 0)
        total += tl.where(routed, tl.load(gy + at, mask=r < R, other=0.0) * other, 0.0)
    tl.store(gradient_RM + r * M + m, total.to(gradient_RM.dtype.element_ty), mask=inside)


@functools.cache
def _launcher(kernel: Any, rows: str, columns: str, *key: str) -> Any:
    """The kernel, with blocks timed on the GPU once for each value of `key`, or fixed ones in the interpreter.

    Which blocks are chosen changes no bit of the result.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        return functools.partial(_interpret, kernel, {rows: 32, columns: 32})
    sizes = ((16, 32, 4), (16, 64, 4), (32, 32, 4), (32, 64, 4), (32, 64, 8), (64, 64, 8))
    configs = [triton.Config({rows: row, columns: column}, num_warps=warps) for row, column, warps in sizes]
    tuned = triton.autotune(configs=configs, key=list(key))(kernel)
    # Products must round before they are compared: multiplication and addition stay apart.
    return lambda grid, *arguments: tuned[grid](*arguments, enable_fp_fusion=False)


def _interpret(kernel: Any, blocks: dict[str, int], grid: Any, *arguments: Any) -> None:
    kernel[grid](*arguments, **blocks)


def _grid(rows: int, columns: int, row_block: str, column_block: str) -> Any:
    # Rows come first: there CUDA allows 2**31 - 1 programs, along the second axis 65,535, and a 1x1 convolution has many.
    return lambda meta: (triton.cdiv(rows, meta[row_block]), triton.cdiv(columns, meta[column_block]))


def forward(
    x_MB: Tensor, w_MO: Tensor, mask_MO: Tensor | None, y_BO: Tensor, tau_OB: Tensor, last_OB: Tensor, k: int, exactly: bool
) -> None:
    """Fill y, tau and last. All are contiguous, the mask uint8; k is at most M."""
    (M, B), O = x_MB.shape, w_MO.shape[1]
    launch = _launcher(forward_kernel, "BLOCK_B", "BLOCK_O", "O", "M", "K")
    launch(_grid(B, O, "BLOCK_B", "BLOCK_O"), x_MB, w_MO, mask_MO, y_BO, tau_OB, last_OB, B, O, M, k, exactly)


def backward_x(
    x_BM: Tensor, w_OM: Tensor, mask_OM: Tensor | None, gy_OB: Tensor, tau: Tensor, last: Tensor, gx_BM: Tensor, exactly: bool
) -> None:
    """Fill the gradient of x. All are contiguous, the mask uint8; tau and last as the forward pass left them."""
    (B, M), O = x_BM.shape, w_OM.shape[0]
    grid = _grid(B, M, "BLOCK_R", "BLOCK_M")
    # As below, another batch size does not tune again.
    launch = _launcher(backward_kernel, "BLOCK_R", "BLOCK_M", "L", "M")
    launch(grid, x_BM, w_OM, mask_OM, gy_OB, tau, last, gx_BM, B, O, M, 1, B, 0, M, exactly)


def backward_w(
    x_BM: Tensor, w_OM: Tensor, mask_OM: Tensor | None, gy_OB: Tensor, tau: Tensor, last: Tensor, gw_OM: Tensor, exactly: bool
) -> None:
    """Fill the gradient of the weights, likewise."""
    (B, M), O = x_BM.shape, w_OM.shape[0]
    grid = _grid(O, M, "BLOCK_R", "BLOCK_M")
    launch = _launcher(backward_kernel, "BLOCK_R", "BLOCK_M", "R", "M")
    launch(grid, w_OM, x_BM, mask_OM, gy_OB, tau, last, gw_OM, O, B, M, B, 1, M, 0, exactly)
