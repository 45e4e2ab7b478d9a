"""Out-of-distribution detection from features: energy on routed products, against MSP, energy and DICE.

A score is high if an input looks like the training images. MSP: Hendrycks and Gimpel 2017; energy: Liu et al. 2020; DICE: Sun
and Li 2022.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torchmetrics.functional.classification import binary_auroc

from dynamick.comparison.heads import dice, top_k
from dynamick.comparison.heads.fitted import keep_largest, linear
from dynamick.nn import DynamicLinear

DICE_KEPT = 0.1
"""The share of the dense head's weights that DICE keeps, as its authors do on CIFAR-10 (p = 90 %)."""

Score = Callable[[Tensor], Tensor]


def msp(head: nn.Module) -> Score:
    """The largest probability of the softmax, features (N, M) to scores (N,)."""
    return lambda x: head(x).softmax(1).amax(1)


def energy(head: nn.Module) -> Score:
    """The negative free energy, log of the sum of exp of the logits; of a head that routes, on its routed products alone."""
    return lambda x: head(x).logsumexp(1)


def detectors(x: Tensor, dense: nn.Linear, routed: DynamicLinear) -> dict[str, Score]:
    """The scores to compare; foreign inputs have no part in any of them.

    Args:
        x: features of the training images, shape (N, M).
        dense: the dense head fitted on them.
        routed: a head trained on them to route K.

    Returns:
        By name: MSP and energy of the dense head, energy under DICE's mask, energy of the dense head's K largest positive
        products, and energy and MSP of the routed head.
    """
    kept = keep_largest(dice.mean_contribution(dense.weight, x), round(DICE_KEPT * dense.weight.numel()))
    return {
        "MSP": msp(dense),
        "energy": energy(dense),
        "DICE": energy(linear(dense.weight * kept, dense.bias)),
        f"energy, top-{routed.k} of the dense head": energy(top_k.routed(dense, routed.k, "at_most")),
        f"energy on routed products, Dynamic-{routed.k}": energy(routed),
        f"MSP, Dynamic-{routed.k}": msp(routed),
    }


@torch.no_grad()
def detection(score: Score, inside: Tensor, outside: Tensor) -> dict[str, float]:
    """AUROC and FPR95 of a score, %, features inside (N, M) being the positives and outside (O, M) the negatives."""
    good, bad = score(inside), score(outside)
    target = torch.cat([torch.ones(len(good)), torch.zeros(len(bad))]).long()
    # Ranks and not values: the metric would apply a sigmoid, in which large logits become equal.
    ranks = torch.cat([good, bad]).double().unique(return_inverse=True)[1].double()
    auroc = binary_auroc(ranks / max(1.0, ranks.max().item()), target).item()
    return {"auroc": 100 * auroc, "fpr95": 100 * fpr95(good, bad)}


def fpr95(good: Tensor, bad: Tensor) -> float:
    """The share of `bad` scores at or above the threshold that 95 % of `good` scores reach, 0..1."""
    # The ceil(0.95 n)-th largest: the highest threshold that at least 95 % reach.
    count = -(-len(good) * 95 // 100)
    threshold = good.sort(descending=True).values[count - 1]
    return (bad >= threshold).double().mean().item()
