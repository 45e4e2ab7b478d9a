"""Step 3 of Algorithm 3: how fast the gradient may change along each weight (Lemma 2; docs/theory.md derives all of it)."""

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.nn import DynamicLinear
from dynamick.optim.sampling import is_count

ESTIMATES = ("local", "global", "votes")


def local_lipschitz(x_BM: Tensor, logits_BO: Tensor) -> Tensor:
    """P_c (1 - P_c) x_j^2: the diagonal of the Hessian of softmax cross entropy, for the weights of the final layer.

    Args:
        x_BM: the layer's inputs.
        logits_BO: its outputs, the arguments of the softmax.

    Returns:
        L_ij of each sample i and coordinate j = (class, input), shape (B, O, M).

    >>> dk.optim.local_lipschitz(torch.tensor([[1.0, 2.0]]), torch.tensor([[0.0, 0.0]])).tolist()  # P = 0.5
    [[[0.25, 1.0], [0.25, 1.0]]]
    """
    p_BO = logits_BO.softmax(-1)
    return (p_BO * (1 - p_BO))[:, :, None] * x_BM.square()[:, None, :]


def global_lipschitz(x_BM: Tensor, outputs: int) -> Tensor:
    """x_j^2 / 4, the bound of P_c (1 - P_c) x_j^2 for all weights; shape (B, O, M), the same for all classes.

    >>> dk.optim.global_lipschitz(torch.tensor([[1.0, 2.0]]), outputs=2).tolist()
    [[[0.25, 1.0], [0.25, 1.0]]]
    """
    return (x_BM.square() / 4)[:, None, :].expand(-1, outputs, -1)


def vote_lipschitz(x_BM: Tensor, weight_OM: Tensor) -> Tensor:
    """max(W_cj x_j, 0), shape (B, O, M): the products by which Algorithm 2 ranks a row.

    Up to a power (and so up to the choice of s) it is the curvature along log W_cj: there P (1 - P) (W_cj x_j)^2 is the
    Gauss-Newton term. It does not bound the curvature along W_cj itself.

    >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
    >>> dk.optim.vote_lipschitz(x, weight).tolist()
    [[[1.0, 2.0], [0.0, 1.0]]]
    """
    return (weight_OM * x_BM[:, None, :]).clamp(min=0)


def lipschitz(estimate: str, x_BM: Tensor, weight_OM: Tensor, logits_BO: Tensor) -> Tensor:
    """The estimate of this name, shape (B, O, M).

    Raises:
        InputError: there is none of this name.

    >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
    >>> dk.optim.lipschitz("votes", x, weight, x @ weight.T).tolist()
    [[[1.0, 2.0], [0.0, 1.0]]]
    """
    check_estimate(estimate)
    if estimate == "local":
        return local_lipschitz(x_BM, logits_BO)
    if estimate == "global":
        return global_lipschitz(x_BM, weight_OM.shape[0])
    return vote_lipschitz(x_BM, weight_OM)


def check_estimate(estimate: str) -> None:
    """Raise InputError if there is no estimate of this name."""
    if estimate not in ESTIMATES:
        raise InputError(f"estimate: {estimate!r} is unknown; the estimates are {', '.join(ESTIMATES)}")


def diagonal_ggn(
    model: nn.Module, layer: nn.Linear, inputs: Tensor, draws: int | None = None, generator: torch.Generator | None = None
) -> Tensor:
    """The diagonal of the generalised Gauss-Newton matrix of softmax cross entropy, for the weights of any linear layer.

    At the logits the Hessian is sum_c P_c (e_c - P)(e_c - P)^T. So it is exact to backpropagate sqrt(P_c) (e_c - P) for every
    class and to add the squares. An unbiased estimate draws classes c ~ P and averages the squares of e_c - P. If the logits
    are piecewise linear in the layer's weights, as in ReLU networks, this is the Hessian's own diagonal.

    Args:
        model: yields logits (B, C) from `inputs`, each sample by itself (no batch normalisation in training mode).
        layer: a linear layer of it that sees one row a sample, and sums all products.
        inputs: the model's inputs, B of them.
        draws: classes to draw for each sample; None takes all of them and is exact.
        generator: where the draws come from.

    Returns:
        Shape (B, O, M) for the layer's O x M weights, never negative.

    Raises:
        InputError: draws is not an integer of 1 or more, or the layer is not of this kind.

    >>> model = torch.nn.Linear(2, 3)
    >>> dk.optim.diagonal_ggn(model, model, torch.rand(4, 2)).shape
    torch.Size([4, 3, 2])
    """
    if draws is not None and not is_count(draws):
        raise InputError(f"draws: {draws!r} is no number of classes; give 1 or more, or None for the exact diagonal")
    if not isinstance(layer, nn.Linear) or (isinstance(layer, DynamicLinear) and layer.threshold == "activations"):
        raise InputError(f"layer: a {type(layer).__name__} is no layer that sums all products; give an nn.Linear")
    seen: list[tuple[Tensor, Tensor]] = []

    def hook(_: nn.Module, args: tuple[Tensor, ...], output: Tensor) -> Tensor:
        y = output if output.requires_grad else output.detach().requires_grad_()
        seen.append((args[0].detach(), y))
        # A copy goes on, since the next layer may work in place.
        return y.clone()

    handle = layer.register_forward_hook(hook)
    try:
        with torch.enable_grad():
            logits_BC = model(inputs)
    finally:
        handle.remove()
    if len(seen) != 1 or seen[0][0].ndim != 2 or len(seen[0][0]) != len(logits_BC):
        raise InputError("layer: it must see one row a sample, once; give a linear layer behind the pooling")
    x_BM, y_BO = seen[0]
    p_BC = logits_BC.detach().softmax(-1)
    eye = torch.eye(p_BC.shape[1], dtype=p_BC.dtype, device=p_BC.device)
    if draws is None:
        factors = [p_BC[:, c, None].sqrt() * (eye[c] - p_BC) for c in range(len(eye))]
    else:
        classes_BD = torch.multinomial(p_BC, draws, replacement=True, generator=generator)
        factors = [(eye[classes_B] - p_BC) / draws**0.5 for classes_B in classes_BD.unbind(1)]
    d_BO = torch.zeros_like(y_BO)
    for factor_BC in factors:
        d_BO += torch.autograd.grad(logits_BC, y_BO, factor_BC, retain_graph=True)[0].square()
    return d_BO.detach()[:, :, None] * x_BM.square()[:, None, :]
