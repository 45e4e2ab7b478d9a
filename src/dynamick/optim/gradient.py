"""Steps 3 to 5 of Algorithm 3 for a linear layer: every sample's gradient, masked by its own coins, and their sum."""

import torch
from torch import Tensor

from dynamick.optim.lipschitz import check_estimate, global_lipschitz, lipschitz
from dynamick.optim.sampling import probabilities

# Numbers held at once for a chunk of samples. One sample's O x M always fit, since the weight itself does. On a CPU few,
# which stay in its cache. Other devices hold more, because every operation costs a launch.
CHUNK, CHUNK_OFF_CPU = 2**18, 2**22


def interpretable_gradient(
    gy_BO: Tensor,
    x_BM: Tensor,
    weight_OM: Tensor,
    logits_BO: Tensor,
    s: float,
    block_size: int = 5,
    form: str = "normalised",
    beta: float | None = None,
    estimate: str = "local",
    generator: torch.Generator | None = None,
) -> Tensor:
    """sum_i g~_ij = sum_i q_ij g_ij over the samples of a minibatch (Algorithm 3, steps 3 to 5), for a linear layer.

    A sample's gradient is the outer product of gy and x. Samples are processed in chunks of about 2^18 numbers (at least one
    sample), so B x O x M numbers are never held. Everything is computed at least in float32.

    Args:
        gy_BO: the loss's gradient at the layer's outputs; it carries the loss's factor 1/B.
        x_BM, weight_OM, logits_BO: the layer's inputs, weight and outputs.
        s, block_size, form, beta: as in `probabilities`.
        estimate: `local`, `global` or `votes`, as in `lipschitz`. In the normalised form `local` and `global` are one,
            since P (1 - P) is common to a row.
        generator: where the q_ij come from: uniform numbers of shape (B, O, M), sample after sample.

    Returns:
        Shape (O, M), in the weight's dtype. Numbers that are not finite stay so, drawn or not.

    Raises:
        InputError: an option is not one of those allowed.

    >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 1.0], [-1.0, 0.5]])
    >>> gradient = dk.optim.interpretable_gradient(torch.tensor([[0.5, -0.5]]), x, weight, x @ weight.T, s=1.0, block_size=1)
    >>> gradient.tolist()  # of each class only the input of the largest estimate
    [[0.0, 1.0], [0.0, -1.0]]
    """
    check_estimate(estimate)
    alike = form == "normalised" and estimate != "votes"
    dtype = torch.promote_types(weight_OM.dtype, torch.float32)
    w_OM = weight_OM.to(dtype)
    total_OM = torch.zeros_like(w_OM)
    chunk = CHUNK if weight_OM.device.type == "cpu" else CHUNK_OFF_CPU
    size = max(1, chunk // max(1, w_OM.numel()))
    with torch.autocast(weight_OM.device.type, enabled=False):
        for part in zip(gy_BO.split(size), x_BM.split(size), logits_BO.split(size), strict=True):
            gy, x, logits = (each.to(dtype) for each in part)
            # If a row is ordered as x^2 is, one row is enough for all classes.
            L_ij = global_lipschitz(x, 1) if alike else lipschitz(estimate, x, w_OM, logits)
            q_ij = probabilities(L_ij, s, block_size, form, beta)
            drawn = torch.rand((len(x), *w_OM.shape), generator=generator, dtype=dtype, device=x.device) < q_ij
            g_ij = gy[:, :, None] * x[:, None, :]
            total_OM += (g_ij * drawn).sum(0)
    return total_OM.to(weight_OM.dtype)
