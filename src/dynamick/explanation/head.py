"""A classifier's head: its numbers, which products it sums, and where a logit comes from in the image."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from dynamick import functional
from dynamick.errors import InputError
from dynamick.models.heads import routing_of
from dynamick.networks.running import whole
from dynamick.nn import find_classifier


@dataclass(frozen=True)
class LinearHead:
    """A linear classifier, dense or Dynamic-K.

    Attributes:
        name: its dotted name in the model.
        module: the layer itself (nn.Linear or a 1x1 nn.Conv2d on 1x1 maps).
        weight: shape (O, M), detached.
        bias: shape (O,), zeros where the layer has none.
        k: how many inputs a class routes at most; None for a dense head.
        rule: `at_most`, `exactly` or `dense`.
        mask: boolean, shape (O, M), False where a connection is pruned; or None.
    """

    name: str
    module: nn.Module
    weight: Tensor
    bias: Tensor
    k: int | None
    rule: str
    mask: Tensor | None

    @property
    def effective_weight(self) -> Tensor:
        """The weight without pruned connections, float64, shape (O, M)."""
        return self.weight.double() if self.mask is None else self.weight.double().masked_fill(~self.mask, 0)

    def scores(self, x_BM: Tensor) -> Tensor:
        """Logits (B, O) of head inputs (B, M), by the layer's own arithmetic."""
        if self.k is None:
            weight = self.weight if self.mask is None else self.weight.masked_fill(~self.mask, 0)
            return nn.functional.linear(x_BM, weight, self.bias)
        return functional.dynamic_linear(x_BM, self.weight, self.bias, self.k, self.rule, mask=self.mask)

    def route(self, x_BM: Tensor, classes_BC: Tensor) -> functional.Route:
        """Routed units and products of each input's own classes, both (B, C, n), by descending product; -1 pads.

        A dense head routes all its units. Products are float64.
        """
        if self.k is None:
            products = x_BM.double()[:, None, :] * self.effective_weight[classes_BC]
            # NaN ranks highest, as everywhere; a stable sort gives the lower of two equal products first.
            order = products.argsort(dim=2, descending=True, stable=True)
            return functional.Route(order, products.gather(2, order))
        width = min(self.k, x_BM.shape[1])
        indices = x_BM.new_full((*classes_BC.shape, width), -1, dtype=torch.int64)
        products = x_BM.new_zeros(indices.shape, dtype=torch.float64)
        for chosen in classes_BC.unique().tolist():
            rows, columns = (classes_BC == chosen).nonzero(as_tuple=True)
            route = functional.dynamic_route(x_BM[rows], self.weight, self.k, [chosen], self.rule, mask=self.mask)
            indices[rows, columns] = route.indices[:, 0]
            products[rows, columns] = route.products[:, 0].double()
        return functional.Route(indices, products)


def find_head(model: nn.Module) -> LinearHead:
    """The head that a model names (`model.head_name`), else its last linear layer or 1x1 convolution, dense or Dynamic-K.

    Raises:
        InputError: there is none.
    """
    try:
        name = getattr(model, "head_name", None) or find_classifier(model)
    except ValueError as error:
        raise InputError(f"{str(error).split(';')[0]}; only a network that ends in one can be explained") from None
    module = model.get_submodule(name)
    assert isinstance(module, nn.Linear | nn.Conv2d)
    weight = whole(module.weight)
    if weight.ndim not in (2, 4):
        raise InputError(
            f"model: the weight of {name!r} has shape {tuple(weight.shape)}, as FullyShardedDataParallel leaves it; explain "
            "the model without it, or sharded by fully_shard"
        )
    weight = weight.flatten(1)
    bias = weight.new_zeros(weight.shape[0]) if module.bias is None else whole(module.bias)
    routing = routing_of(module)
    return LinearHead(name, module, weight, bias, routing.k, routing.rule, routing.mask)
