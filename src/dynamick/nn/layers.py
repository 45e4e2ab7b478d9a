"""Drop-in layers: nn.Linear and nn.Conv2d with Dynamic-K routing, and the same parameters under the same names."""

from typing import Any, Literal, cast

import torch
from torch import Tensor, nn

from dynamick import functional
from dynamick.errors import InputError

PaddingMode = Literal["zeros", "reflect", "replicate", "circular"]
THRESHOLDS = ("activations", "gradients")


class _Routed(nn.Module):
    """What the routed layers share: K, the rule, and the optional mask of connections that are not pruned."""

    k: int
    rule: str
    mask: Tensor | None
    weight: Tensor

    def _init_routing(self, k: int, rule: str) -> None:
        self.k = functional.check_k(k)
        self.rule = functional.check_rule(rule)
        # Absent from the state_dict while it is None, which keeps that of the layer replaced.
        self.register_buffer("mask", None)

    def set_mask(self, mask: Tensor | None) -> None:
        """Forbid pruned connections: boolean, shape (outputs, inputs), False where pruned. None allows all again.

        A mask is a new buffer. Make a copy that follows the model (torch.optim.swa_utils.AveragedModel) only afterwards.

        Raises:
            ValueError: the mask has another shape.
        """
        wanted = self.weight.shape[:2]
        if mask is not None and mask.shape != wanted:
            raise InputError(f"mask: shape {tuple(mask.shape)} does not match the weight; give {tuple(wanted)}")
        self.mask = None if mask is None else mask.detach().to(self._device(), torch.bool)

    def _device(self) -> torch.device:
        return next(self.parameters()).device

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        key = prefix + "mask"
        if key in state_dict:
            # A tensor of its own. PyTorch copies into it, and the one that set_mask kept may be the caller's.
            old = self.mask
            shape = self.weight.shape[:2]
            self.mask = torch.ones(shape, dtype=torch.bool, device=self._device()) if old is None else old.clone()
            dtype = getattr(state_dict[key], "dtype", torch.bool)
            if dtype != torch.bool:
                error_msgs.append(f"{key}: dtype {dtype}; a mask is torch.bool")
                state_dict[key] = self.mask
        elif prefix + "weight" in state_dict:
            self.mask = None
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, unexpected_keys, error_msgs)


class DynamicLinear(_Routed, nn.Linear):
    """nn.Linear in which every output sums only the at most K inputs that speak most for it (Algorithm 2).

    Shapes, parameters, initialisation and state_dict are nn.Linear's, so weights move both ways. A pruned layer's state_dict
    holds its `mask` too.

    Args:
        in_features, out_features, bias, device, dtype: as in nn.Linear.
        k: how many inputs an output routes at most.
        rule: `at_most` (the K largest positive products) or `exactly` (the K largest of any sign).
        threshold: `activations` sums only the routed products. `gradients` sums all products, as nn.Linear does, but an
            input gives a gradient only to the weights of its routed products (the deterministic twin of Algorithm 3).
            Inputs and bias get theirs in full. `route` then says which weights an input updates.

    Raises:
        ValueError: k is not an integer of 1 or more, or the rule or threshold is unknown.

    >>> layer = dk.DynamicLinear(64, 10, k=5)
    >>> layer(torch.rand(2, 64)).shape
    torch.Size([2, 10])
    >>> layer.load_state_dict(torch.nn.Linear(64, 10).state_dict())  # the names and shapes of nn.Linear
    <All keys matched successfully>
    """

    def __init__(
        self,
        in_features: int,
        out_features: int,
        k: int = 5,
        bias: bool = True,
        rule: str = "at_most",
        device: Any = None,
        dtype: Any = None,
        threshold: str = "activations",
    ) -> None:
        super().__init__(in_features, out_features, bias=bias, device=device, dtype=dtype)
        self._init_routing(k, rule)
        if threshold not in THRESHOLDS:
            raise InputError(f"threshold: {threshold!r} is unknown; give {' or '.join(THRESHOLDS)}")
        self.threshold = threshold

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (..., in_features) to outputs (..., out_features)."""
        if self.threshold == "gradients":
            return functional.thresholded_linear(x, self.weight, self.bias, self.k, self.rule, self.mask)
        return functional.dynamic_linear(x, self.weight, self.bias, self.k, self.rule, mask=self.mask)

    def route(self, x: Tensor, classes: Any = None) -> functional.Route:
        """The routed indices and products of the chosen classes; see `dynamick.functional.dynamic_route`."""
        return functional.dynamic_route(x, self.weight, self.k, classes, self.rule, mask=self.mask)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}, rule={self.rule}, threshold={self.threshold}"


class DynamicConv2d(_Routed, nn.Conv2d):
    """nn.Conv2d in which every output sums only the at most K input channels that speak most for it.

    Args:
        in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype: as in
            nn.Conv2d. K counts per group.
        k, rule: as in `DynamicLinear`.
        routing: `location` routes each location by itself, `map` routes whole maps.

    Raises:
        ValueError: k is not an integer of 1 or more, or the rule or routing is unknown.

    >>> layer = dk.DynamicConv2d(16, 8, kernel_size=3, padding=1, k=4)
    >>> layer(torch.rand(2, 16, 12, 12)).shape
    torch.Size([2, 8, 12, 12])
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        k: int = 5,
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: PaddingMode = "zeros",
        rule: str = "at_most",
        routing: str = "location",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, padding_mode, device, dtype
        )
        self._init_routing(k, rule)
        self.routing = functional.check_routing(routing)

    def _conv_forward(self, input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        x, padding = input, cast("int | tuple[int, int] | str", self.padding)
        if self.padding_mode != "zeros":
            x = nn.functional.pad(x, self._reversed_padding_repeated_twice, mode=self.padding_mode)
            padding = 0
        return functional.dynamic_conv2d(
            x,
            weight,
            bias,
            self.stride,
            padding,
            self.dilation,
            self.groups,
            self.k,
            self.rule,
            self.routing,
            self.mask,
        )

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, k={self.k}, rule={self.rule}, routing={self.routing}"
