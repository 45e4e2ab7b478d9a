"""Pure functions: the Dynamic-K linear map, the Dynamic-K convolution, and the routes that explain them."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from dynamick.ops import conv, linear
from dynamick.ops.registry import autocasts, without_autocast

LISTS = (Sequence, np.ndarray)  # torch.compile of PyTorch 2.6 follows no union of types


class Route(NamedTuple):
    """What a class routes: the explanation that is the computation.

    Attributes:
        indices: routed inputs, int64, shape (..., C, min(K, M)), by descending product; -1 where nothing is routed.
        products: their products W_ci * x_i, same shape; 0 where nothing is routed. Their sum is the logit minus the bias.

    >>> route = dk.functional.dynamic_route(torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -1.0, 2.0]]), k=2)
    >>> route.indices.tolist(), route.products.tolist()  # (B, O, K): the third input gives 6, the first gives 1
    ([[[2, 0]]], [[[6.0, 1.0]]])
    """

    indices: Tensor
    products: Tensor


def check_k(k: int) -> int:
    """K itself, if it is an integer of 1 or more (and not larger than PyTorch's integers).

    Raises:
        ValueError: it is not.
    """
    number = _integer(k)
    if number is None or not 1 <= number < 2**63:
        raise ValueError(f"k: {k!r} is no number of routed inputs; give an integer from 1 up")
    return number


def check_rule(rule: str) -> str:
    """The rule itself, if there is one of this name.

    Raises:
        ValueError: there is none.
    """
    if rule not in linear.RULES:
        raise ValueError(f"rule: {rule!r} is unknown; the rules are {' and '.join(linear.RULES)}")
    return rule


def check_routing(routing: str) -> str:
    """The routing itself, if there is one of this name.

    Raises:
        ValueError: there is none.
    """
    if routing not in conv.ROUTINGS:
        raise ValueError(f"routing: {routing!r} is unknown; give {' or '.join(conv.ROUTINGS)}")
    return routing


def dynamic_linear(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    k: int = 5,
    rule: str = "at_most",
    implementation: str | None = None,
    mask: Tensor | None = None,
) -> Tensor:
    """The Dynamic-K linear map: every output sums the at most K inputs that speak most for it (Algorithm 2).

    Under autocast narrower inputs are computed in float32: rounding should not decide which products are the largest.

    Args:
        x: inputs, shape (..., M).
        weight: shape (O, M).
        bias: shape (O,), or None.
        k: how many products an output routes at most.
        rule: `at_most` routes the K largest positive products, `exactly` the K largest of any sign. Of equal products the
            lower index is routed. NaN ranks highest.
        implementation: a name of `dynamick.ops.implementations()`; None takes the fastest that fits.
        mask: boolean, shape (O, M), False where a connection is pruned and may not be routed; None allows all.

    Returns:
        Outputs, shape (..., O).

    Raises:
        ValueError: k is not an integer of 1 or more, the rule or implementation is unknown, or shapes, dtypes, devices or
            layouts do not match.
        TypeError: x, weight, bias or mask is not a tensor.

    >>> x, weight = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[1.0, -1.0, 2.0]])
    >>> dk.functional.dynamic_linear(x, weight, k=1)  # the largest positive product alone: 3 * 2
    tensor([[6.]])
    """
    if has_torch_function((x, weight, bias)):  # torch.fx's proxies, for example, which keep the call as one node
        arguments = (x, weight, bias, k, rule, implementation, mask)
        return handle_torch_function(dynamic_linear, (x, weight, bias), *arguments)
    x, weight, bias = _check_tensors(x, weight, bias, mask)
    k = _check_linear(x, weight, bias, mask, k, rule)
    with without_autocast(x):
        y, _ = linear.dynamic_linear(_rows(x), weight, bias, mask, k, rule, implementation)
    return y if x.ndim == 2 else y.reshape(*x.shape[:-1], weight.shape[0])


def thresholded_linear(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, k: int = 5, rule: str = "at_most", mask: Tensor | None = None
) -> Tensor:
    """torch.nn.functional.linear, but each input gives a gradient only to the weights of its routed products.

    It is the twin of Algorithm 3 without coins (docs/definitions.md, "Interpretable SGD"). Inputs and bias get their
    gradients in full. If a routed sum is not finite, its weights get none.

    Args:
        x, weight, bias, k, rule, mask: as in `dynamic_linear`; what the mask forbids adds nothing to the outputs either.

    Returns:
        Outputs, shape (..., O).

    Raises:
        ValueError, TypeError: as `dynamic_linear`.
    """
    if has_torch_function((x, weight, bias)):
        return handle_torch_function(thresholded_linear, (x, weight, bias), x, weight, bias, k, rule, mask)
    _check_linear(*_check_tensors(x, weight, bias, mask), mask, k, rule)
    allowed = weight if mask is None else weight.masked_fill(~mask, 0)
    y = F.linear(x, allowed.detach(), bias)
    followed = (torch.is_grad_enabled() and weight.requires_grad) or linear.is_differentiated(weight)
    # A traced model may be trained later.
    if not followed and not torch.jit.is_tracing():
        return y
    # 0 is added, but with a gradient: that of the routed products, for the weight.
    routed = dynamic_linear(_at_least_float32(x.detach()), _at_least_float32(weight), None, k, rule, mask=mask)
    zero = routed - routed.detach()
    return y + torch.where(zero == 0, zero, 0).to(y.dtype)


def dynamic_route(
    x: Tensor,
    weight: Tensor,
    k: int,
    classes: Sequence[int] | Tensor | None = None,
    rule: str = "at_most",
    implementation: str | None = None,
    mask: Tensor | None = None,
) -> Route:
    """Which inputs the chosen classes route, and what each contributes.

    Args:
        x: inputs, shape (..., M).
        weight: shape (O, M).
        k: how many products a class routes at most.
        classes: which classes, C integers in 0..O-1; None takes all O in order.
        rule, implementation, mask: as in `dynamic_linear`.

    Returns:
        A `Route` of shape (..., C, min(K, M)). Products are in float32 (float64 where x is) and differentiable.

    Raises:
        ValueError: as `dynamic_linear`; or there is no such class.

    >>> x, weight = torch.tensor([[1.0, 2.0, 3.0]]), torch.eye(3)
    >>> dk.functional.dynamic_route(x, weight, k=1, classes=[2]).products
    tensor([[[3.]]])
    """
    if has_torch_function((x, weight)):
        return handle_torch_function(dynamic_route, (x, weight), x, weight, k, classes, rule, implementation, mask)
    x, weight, _ = _check_tensors(x, weight, None, mask)
    k = _check_linear(x, weight, None, mask, k, rule)
    chosen = _check_classes(classes, weight.shape[0]).to(weight.device)
    w_CM = weight[chosen]
    mask_CM = None if mask is None else mask[chosen]
    rows = _rows(x)
    _, indices = linear.dynamic_linear_routed(rows.detach(), w_CM.detach(), None, mask_CM, k, rule, implementation)
    products = linear.routed_products(rows, w_CM, indices)
    shape = (*x.shape[:-1], *indices.shape[1:])
    return Route(indices.reshape(shape), products.reshape(shape))


def dynamic_conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int | Sequence[int] = 1,
    padding: int | Sequence[int] | str = 0,
    dilation: int | Sequence[int] = 1,
    groups: int = 1,
    k: int = 5,
    rule: str = "at_most",
    routing: str = "location",
    mask: Tensor | None = None,
) -> Tensor:
    """The Dynamic-K convolution: every output sums the at most K input channels that speak most for it.

    Products are formed a part at a time. All B * O * C * H' * W' products of a kernel larger than 1x1 are held only if
    torch.func or forward mode differentiates it, or if gradients are differentiated again.

    Args:
        x: inputs, shape (B, C, H, W) or (C, H, W).
        weight: shape (O, C / groups, kh, kw).
        bias, stride, padding, dilation, groups: as in `torch.nn.functional.conv2d`. K counts per group.
        k, rule: as in `dynamic_linear`.
        routing: `location` routes each location by itself; `map` routes whole maps (docs/definitions.md, "Dynamic-K").
        mask: boolean, shape (O, C / groups), False where a connection is pruned; None allows all.

    Returns:
        Outputs, shape (B, O, H', W') or (O, H', W').

    Raises:
        ValueError: k, rule or routing is not one of those allowed, or shapes, dtypes, devices or layouts do not match.
        TypeError: x, weight, bias or mask is not a tensor.

    >>> x, weight = torch.ones(1, 3, 4, 4), torch.tensor([1.0, -1.0, 2.0]).view(1, 3, 1, 1)
    >>> dk.functional.dynamic_conv2d(x, weight, k=2)[0, 0, 0].tolist()  # at each location the two largest: 2 + 1
    [3.0, 3.0, 3.0, 3.0]
    """
    if has_torch_function((x, weight, bias)):
        arguments = (x, weight, bias, stride, padding, dilation, groups, k, rule, routing, mask)
        return handle_torch_function(dynamic_conv2d, (x, weight, bias), *arguments)
    x, weight, bias = _check_tensors(x, weight, bias, mask)
    k = check_k(k)
    check_rule(rule), check_routing(routing)
    if x.ndim == 3:
        return dynamic_conv2d(x[None], weight, bias, stride, padding, dilation, groups, k, rule, routing, mask)[0]
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        raise ValueError(f"x: shape {tuple(x.shape)} does not match a weight of shape {tuple(weight.shape)} in {groups} groups")
    _check_bias_and_mask(bias, mask, weight)
    x, how = _check_settings(x, weight, stride, padding, dilation, (groups, k, rule, routing))
    if weight.shape[2:] == (1, 1) and routing == "location" and groups == 1:
        return _by_linear_map(x, weight, bias, mask, how)
    if linear.is_differentiated(x, weight, bias):
        return conv.from_all_products(x, weight, bias, mask, how)
    y, _ = conv.dynamic_conv2d(x, weight, bias, mask, *how)
    return y


def _by_linear_map(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, how: conv.Settings) -> Tensor:
    """A 1x1 convolution routed by location: the linear map at every location."""
    step, (pad_h, pad_w) = how.stride, how.padding
    cells = (F.pad(x, (pad_w, pad_w, pad_h, pad_h)) if pad_h or pad_w else x)[:, :, :: step[0], :: step[1]]
    y = dynamic_linear(cells.permute(0, 2, 3, 1), weight[:, :, 0, 0], bias, how.k, how.rule, mask=mask)
    return y.permute(0, 3, 1, 2).contiguous(memory_format=conv.memory_format(x))


def _rows(x: Tensor) -> Tensor:
    """All leading dimensions as one."""
    return x.flatten(0, -2) if x.ndim > 1 else x[None]


def _check_tensors(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The tensors that are computed with: float32 where autocast is on and they are narrower.

    Raises:
        ValueError: they are not of one device and one floating point type, or not dense.
        TypeError: one is not a tensor.
    """
    for name, each in (("x", x), ("weight", weight), ("bias", bias), ("mask", mask)):
        if each is None and name in ("bias", "mask"):
            continue
        if not isinstance(each, Tensor):
            raise TypeError(f"{name}: a {type(each).__name__} is no tensor; give a torch.Tensor")
        if each.layout != torch.strided or each.is_nested:
            raise ValueError(f"{name}: a tensor of layout {each.layout}; give a dense one")
        if each.device != x.device:
            raise ValueError(f"{name}: on {each.device}, but x is on {x.device}; move one to the other")
        if name != "mask" and not each.is_floating_point():
            raise ValueError(f"{name}: {each.dtype} is no floating point type")
    if autocasts(x):
        x, weight, bias = _at_least_float32(x), _at_least_float32(weight), None if bias is None else _at_least_float32(bias)
    if x.dtype != weight.dtype:
        raise ValueError(f"x: {x.dtype} and the weight's {weight.dtype} must be one floating point type")
    return x, weight, bias


def _at_least_float32(values: Tensor) -> Tensor:
    return values if values.dtype == torch.float64 else values.float()


def _integer(value: object) -> int | None:
    """Python's int of an integer of any kind, such as NumPy's; None for anything else."""
    try:
        return None if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        return None


def _check_classes(classes: Sequence[int] | Tensor | None, O: int) -> Tensor:
    """The chosen classes, int64, shape (C,), on the CPU."""
    if classes is None:
        return torch.arange(O)
    listed = classes.tolist() if isinstance(classes, Tensor) else classes
    chosen = [_integer(each) for each in listed] if isinstance(listed, LISTS) else [None]
    if not all(each is not None and 0 <= each < O for each in chosen):
        raise ValueError(f"classes: {listed} must be a list of integers in 0..{O - 1}")
    return torch.tensor(chosen, dtype=torch.int64)


def _check_linear(x: Tensor, weight: Tensor, bias: Tensor | None, mask: Tensor | None, k: int, rule: str) -> int:
    """K, if everything fits together."""
    check_rule(rule)
    if x.ndim < 1 or weight.ndim != 2 or x.shape[-1] != weight.shape[1]:
        raise ValueError(f"x: shape {tuple(x.shape)} does not match a weight of shape {tuple(weight.shape)}")
    _check_bias_and_mask(bias, mask, weight)
    return check_k(k)


def _check_bias_and_mask(bias: Tensor | None, mask: Tensor | None, weight: Tensor) -> None:
    if bias is not None and bias.shape != weight.shape[:1]:
        raise ValueError(f"bias: shape {tuple(bias.shape)} does not match {weight.shape[0]} outputs")
    if mask is not None and (mask.shape != weight.shape[:2] or mask.dtype != torch.bool):
        wanted = tuple(weight.shape[:2])
        raise ValueError(f"mask: {mask.dtype} of shape {tuple(mask.shape)} must be boolean, of shape {wanted}")


def _pair(name: str, value: int | Sequence[int], least: int) -> list[int]:
    given = value if isinstance(value, (list, tuple)) else [value]
    whole = [_integer(each) for each in given]
    numbers = [each for each in whole if each is not None and each >= least]
    if len(numbers) != len(given) or len(numbers) not in (1, 2):
        raise ValueError(f"{name}: {value!r} must be one or two integers from {least} up")
    return numbers if len(numbers) == 2 else 2 * numbers


def _check_settings(
    x: Tensor,
    weight: Tensor,
    stride: int | Sequence[int],
    padding: int | Sequence[int] | str,
    dilation: int | Sequence[int],
    others: tuple[int, int, str, str],
) -> tuple[Tensor, conv.Settings]:
    """The inputs, padded where the padding has a name, and the settings with two numbers each."""
    step, spread = _pair("stride", stride, 1), _pair("dilation", dilation, 1)
    if isinstance(padding, str):
        x, pad = _pad_by_name(x, weight, padding, step, spread), [0, 0]
    else:
        pad = _pair("padding", padding, 0)
    for axis in (0, 1):
        size, spans = x.shape[2 + axis] + 2 * pad[axis], spread[axis] * (weight.shape[2 + axis] - 1) + 1
        if size < spans:
            raise ValueError(
                f"x: shape {tuple(x.shape)}, {size} with its padding, is smaller than the kernel, which spans {spans}"
            )
    return x, conv.Settings(step, pad, spread, *others)


def _pad_by_name(x: Tensor, weight: Tensor, padding: str, stride: list[int], dilation: list[int]) -> Tensor:
    """Pad as torch.nn.functional.conv2d does for 'same' and 'valid': an odd cell goes to the right and the bottom."""
    if padding == "valid":
        return x
    if padding != "same" or stride != [1, 1]:
        raise ValueError(f"padding: {padding!r} with stride {stride}; give 'valid', numbers, or 'same' with stride 1")
    total_h, total_w = (dilation[a] * (weight.shape[2 + a] - 1) for a in (0, 1))
    return F.pad(x, (total_w // 2, total_w - total_w // 2, total_h // 2, total_h - total_h // 2))
