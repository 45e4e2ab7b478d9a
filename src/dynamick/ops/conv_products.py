"""The products of a convolution, a part of them at a time: never the B * O * C * H * W of all."""

import itertools
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.ops import chunked
from dynamick.ops.registry import compute_dtype


class Settings(NamedTuple):
    """How a convolution is computed: all but its tensors. The registered operators take these one after the other.

    Attributes:
        stride, padding, dilation: as in torch.nn.functional.conv2d, two numbers each.
        groups: as there; k counts per group.
        k: how many input channels an output routes at most.
        rule: `at_most` or `exactly`.
        routing: `location` routes each output location by itself. `map` routes whole maps: the vote of a channel is the sum
            over locations of its positive products (`at_most`) or of all of them (`exactly`).
    """

    stride: list[int]
    padding: list[int]
    dilation: list[int]
    groups: int
    k: int
    rule: str
    routing: str

    @property
    def geometry(self) -> tuple[list[int], list[int], list[int]]:
        """Stride, padding and dilation, in the order in which PyTorch's operators take them."""
        return self.stride, self.padding, self.dilation

    def output_size(self, size: Sequence[int], kernel: Sequence[int]) -> tuple[int, int]:
        """The height and width of the outputs."""
        spans = [self.dilation[a] * (kernel[a] - 1) + 1 for a in (0, 1)]
        H, W = ((size[a] + 2 * self.padding[a] - spans[a]) // self.stride[a] + 1 for a in (0, 1))
        return H, W


SCHEMA = "SymInt[] stride, SymInt[] padding, SymInt[] dilation, SymInt groups, SymInt k, str rule, str routing"
"""The same in the language of PyTorch's schemas."""


def all_products(x: Tensor, weight: Tensor, how: Settings) -> Tensor:
    """All products at once, differentiable, (B, O, I, L): input channels I of a group, locations L = H' * W'."""
    dtype, (O, I, *kernel) = compute_dtype(x.dtype), weight.shape
    geometry = map(tuple, (kernel, how.dilation, how.padding, how.stride))
    patches = F.unfold(x.to(dtype), *geometry).unflatten(1, (how.groups, I, -1))
    filters = weight.to(dtype).reshape(how.groups, O // how.groups, I, -1)
    return torch.einsum("bgitl,goit->bgoil", patches, filters).flatten(1, 2)


class Block(NamedTuple):
    """A part of the work: some images, some groups, and some outputs of each of those groups."""

    images: slice
    groups: slice
    outputs: slice


class Products:
    """One call's tensors and numbers, and the products of a part of it.

    The products of a block are laid out as P_IN: input channels I of the group by columns N, which are (images, groups,
    outputs, locations) as the outputs lie in memory. There are G groups of o outputs, L locations H' * W', T taps kh * kw.
    """

    def __init__(self, x: Tensor, weight: Tensor, mask: Tensor | None, settings: Settings) -> None:
        self.dtype, self.settings, groups = compute_dtype(x.dtype), settings, settings.groups
        self.x, self.weight, self.mask = x.detach(), weight.detach().to(self.dtype), mask
        self.k = min(settings.k, weight.shape[1])
        self.size = settings.output_size(x.shape[2:], weight.shape[2:])
        self.B, self.O, self.I = x.shape[0], weight.shape[0], weight.shape[1]
        self.L, self.T = self.size[0] * self.size[1], weight.shape[2] * weight.shape[3]
        self.w_GoIT = self.weight.reshape(groups, self.O // groups, self.I, self.T)
        self.mask_GoI = None if mask is None else mask.reshape(groups, self.O // groups, self.I)
        sizes = zip(("stride", "padding", "dilation"), settings.geometry, strict=True)
        self.geometry: dict[str, Any] = {"kernel_size": weight.shape[2:], **dict(sizes)}

    def blocks(self) -> Iterator[Block]:
        """Blocks whose products fit into `chunked.chunk_bytes`; a block has at least one output of one image."""
        outputs = self.O // self.settings.groups
        fit = max(1, chunked.chunk_bytes // max(1, self.I * self.L * torch.finfo(self.dtype).bits // 8))
        per_group = max(outputs, self.T)  # the patches need memory, too
        steps = (
            max(1, fit // (self.settings.groups * per_group)),
            min(self.settings.groups, max(1, fit // per_group)),
            max(1, min(outputs, fit)),
        )
        ends = (self.B, self.settings.groups, outputs)
        for starts in itertools.product(*(range(0, end, step) for end, step in zip(ends, steps, strict=True))):
            yield Block(*(slice(s, min(s + step, end)) for s, step, end in zip(starts, steps, ends, strict=True)))

    def patches(self, block: Block) -> Tensor:
        """What the filters of a block see, (I * images * groups, T, L)."""
        first, last = block.groups.start * self.I, block.groups.stop * self.I
        p = F.unfold(self.x[block.images, first:last].to(self.dtype), **self.geometry)
        return p.reshape(p.shape[0], -1, self.I, self.T, self.L).permute(2, 0, 1, 3, 4).reshape(-1, self.T, self.L)

    def filters(self, block: Block) -> Tensor:
        """The filters of a block, (I * images * groups, outputs, T)."""
        w_GoIT = self.w_GoIT[block.groups, block.outputs]
        images = block.images.stop - block.images.start
        return w_GoIT.permute(2, 0, 1, 3)[:, None].expand(-1, images, -1, -1, -1).reshape(-1, w_GoIT.shape[1], self.T)

    def of(self, block: Block, patches: Tensor) -> Tensor:
        """P_IN. The same block always gives the same bits."""
        return torch.bmm(self.filters(block), patches).reshape(self.I, -1)

    def allowed(self, block: Block) -> Tensor | None:
        """The mask for P_IN, of its shape."""
        if self.mask_GoI is None:
            return None
        mask_IGo = self.mask_GoI[block.groups, block.outputs].permute(2, 0, 1)
        images = block.images.stop - block.images.start
        return mask_IGo[:, None, :, :, None].expand(-1, images, -1, -1, self.L).reshape(self.I, -1)

    def part(self, values: Tensor, block: Block) -> Tensor:
        """A view of outputs (B, O, ...) that a block covers: (images, groups, outputs, ...)."""
        return values.unflatten(1, (self.settings.groups, -1))[block.images, block.groups, block.outputs]

    def add_to_inputs(self, gx: Tensor, block: Block, gradient: Tensor) -> None:
        """Add the gradient of a block's patches, (I * images * groups, T, L), to that of the inputs."""
        first, last = block.groups.start * self.I, block.groups.stop * self.I
        images = block.images.stop - block.images.start
        ordered = gradient.reshape(self.I, images, -1, self.T, self.L).permute(1, 2, 0, 3, 4)
        gx[block.images, first:last] += F.fold(ordered.reshape(images, -1, self.L), gx.shape[2:], **self.geometry)

    def add_to_filters(self, gw: Tensor, block: Block, gradient: Tensor) -> None:
        """Add the gradient of a block's filters, (I * images * groups, outputs, T), to that of the weight."""
        images = block.images.stop - block.images.start
        gw_IGoT = gradient.reshape(self.I, images, -1, gradient.shape[1], self.T).sum(1)
        gw.view(self.w_GoIT.shape)[block.groups, block.outputs] += gw_IGoT.permute(1, 2, 0, 3)
