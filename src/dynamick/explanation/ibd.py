"""Interpretable Basis Decomposition (Zhou et al. 2018; docs/definitions.md has it under that name).

Concept vectors are learnt by logistic regression on a feature map's pixels. Then a class's weight vector is decomposed greedily
into them. The rest is the residual.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from dynamick.errors import InputError

STEPS = 7


@dataclass(frozen=True)
class ConceptBasis:
    """Directions in feature space, one a concept.

    Attributes:
        numbers: the concepts' label numbers (C).
        names: their names.
        vectors: shape (C, M), float64, each of length 1.
        positives: how many pixels of each concept they were learnt from.
        separation: the balanced accuracy on those pixels; 0.5 is chance.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> basis.vectors.shape == (len(basis.names), 32), basis.vectors.norm(dim=1).allclose(torch.ones(1).double())
    (True, True)
    """

    numbers: list[int]
    names: list[str]
    vectors: Tensor
    positives: list[int]
    separation: list[float]


@dataclass(frozen=True)
class Decomposition:
    """A weight vector w as sum_j gains_j * directions_j + residual.

    Attributes:
        concepts: the chosen rows of the basis, in the order chosen.
        gains: the part of w along each direction, shape (S,), all positive.
        directions: the concepts' vectors without their parts along those chosen before, shape (S, M), orthonormal.
        residual: shape (M,), orthogonal to them all.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> parts = dk.explanation.decompose(model.fc.weight[3], basis)
    >>> bool((parts.gains > 0).all())
    True
    """

    concepts: list[int]
    gains: Tensor
    directions: Tensor
    residual: Tensor

    def contributions(self, x_BM: Tensor) -> tuple[Tensor, Tensor]:
        """What each concept (B, S) and the residual (B,) add to the score w x of features (B, M): their sum is that score."""
        x = x_BM.double()
        return x @ self.directions.T * self.gains, x @ self.residual


def decompose(weight_M: Tensor, basis: ConceptBasis, steps: int = STEPS) -> Decomposition:
    """Decompose a class's weight vector. Each step takes the concept with the largest part of what is left.

    A concept counts by its part that is orthogonal to those taken before (Gram-Schmidt). Only positive gains are taken, so
    there may be fewer steps than asked for. Ties: the lower row of the basis.

    Raises:
        InputError: the basis has another number of features.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> scenes.write_broden("scenes")
    >>> basis = dk.explanation.learn_basis(model, dk.data.Broden("scenes"), minimum=1)
    >>> parts = dk.explanation.decompose(model.fc.weight[3], basis, steps=3)
    >>> whole = parts.gains @ parts.directions + parts.residual
    >>> torch.allclose(whole, model.fc.weight[3].double())
    True
    """
    if weight_M.shape != basis.vectors.shape[1:]:
        raise InputError(f"basis: learnt on {basis.vectors.shape[1]} units, but the head reads {weight_M.shape[0]}")
    residual, left = weight_M.double().cpu().clone(), basis.vectors.double().clone()
    concepts: list[int] = []
    gains: list[Tensor] = []
    directions: list[Tensor] = []
    for _ in range(min(steps, len(left))):
        length = left.norm(dim=1)
        # If a vector is in the span of those taken, only rounding is left of it, which has no direction.
        unit = torch.where(length[:, None] > 1e-9, left / length.clamp(min=1e-12)[:, None], 0.0)
        gain = unit @ residual
        gain[concepts] = 0
        best = int(gain.argmax())
        if gain[best] <= 0:
            break
        direction = unit[best]
        concepts.append(best)
        gains.append(gain[best])
        directions.append(direction)
        residual = residual - gain[best] * direction
        left = left - (left @ direction)[:, None] * direction
    empty = residual.new_zeros(0)
    return Decomposition(
        concepts,
        torch.stack(gains) if gains else empty,
        torch.stack(directions) if directions else empty.reshape(0, len(residual)),
        residual,
    )


def learn_concepts(
    batches: Iterable[tuple[Tensor, Tensor]],
    names: dict[int, str],
    per_concept: int = 200,
    pool: int = 10_000,
    minimum: int = 20,
    penalty: float = 1e-3,
    seed: int = 0,
) -> ConceptBasis:
    """Learn one direction a concept from features and label maps of the same images.

    A cell of the feature map has the labels at its centre. The pixels kept are a random sample, equal for all concepts: up to
    `pool` of any label, and also up to `per_concept` of each concept. In each concept's regression its own pixels together have
    the same weight as all the others.

    Args:
        batches: features (B, M, h, w) and label maps (B, L, H, W), integers; L maps an image, 0 is unlabelled.
        names: the concepts wanted: label number to name.
        per_concept, pool: sizes of the sample.
        minimum: a concept with fewer pixels is left out.
        penalty: of the squared length of the weights, which are those of standardised features.
        seed: of the sample.

    Raises:
        InputError: no concept has enough pixels.

    >>> features, labels = torch.rand(4, 6, 2, 2), torch.randint(3, (4, 1, 8, 8))
    >>> dk.explanation.learn_concepts([(features, labels)], {1: "wing", 2: "wheel"}, minimum=1).names
    ['wing', 'wheel']
    """
    features_PM, labels_PL = _sample_pixels(batches, names, per_concept, pool, seed)
    numbers = [n for n in sorted(names) if int((labels_PL == n).any(dim=1).sum()) >= minimum]
    if not numbers:
        raise InputError(f"concepts: none of {len(names)} has {minimum} labelled pixels; give more images")
    positive_PC = torch.stack([(labels_PL == number).any(dim=1) for number in numbers], dim=1)
    mean, std = features_PM.mean(dim=0), features_PM.std(dim=0, unbiased=False)
    # A unit that never varies says nothing. Divided by its deviation, it would be noise.
    scale = torch.where(std > 1e-8, std, torch.inf)
    weight_CM, separation = _logistic((features_PM - mean) / scale, positive_PC, penalty)
    raw_CM = weight_CM / scale
    return ConceptBasis(
        numbers,
        [names[number] for number in numbers],
        F.normalize(raw_CM.double(), dim=1),
        positive_PC.sum(dim=0).tolist(),
        separation.tolist(),
    )


def _sample_pixels(
    batches: Iterable[tuple[Tensor, Tensor]], names: dict[int, str], per_concept: int, pool: int, seed: int
) -> tuple[Tensor, Tensor]:
    """A random sample of feature pixels (P, M) and their labels (P, L), float32 and int64.

    Each pixel draws one random number. Those with the smallest numbers stay, of all pixels and of each concept's. This needs
    one pass, and the first pixels of the data are not more likely to stay.
    """
    generator = torch.Generator().manual_seed(seed)
    wanted = torch.tensor(sorted(names))
    draws, kept, labels = torch.empty(0, dtype=torch.float64), torch.empty(0), torch.empty(0, dtype=torch.int64)
    for features_BMhw, maps_BLHW in batches:
        cells_BLhw = _at_centres(maps_BLHW, features_BMhw.shape[2:])
        cells_PL = cells_BLhw.permute(0, 2, 3, 1).flatten(0, 2).long().cpu()
        pixels_PM = features_BMhw.permute(0, 2, 3, 1).flatten(0, 2).detach().float().cpu()
        cells_PL = torch.where(torch.isin(cells_PL, wanted), cells_PL, 0)
        new = torch.rand(len(cells_PL), generator=generator, dtype=torch.float64)
        if not len(draws):
            kept, labels = pixels_PM[:0], cells_PL[:0]
        width = max(labels.shape[1], cells_PL.shape[1])
        padded = [F.pad(each, (0, width - each.shape[1])) for each in (labels, cells_PL)]
        draws, kept, labels = torch.cat([draws, new]), torch.cat([kept, pixels_PM]), torch.cat(padded)
        keep = _smallest(draws, labels, per_concept, pool)
        draws, kept, labels = draws[keep], kept[keep], labels[keep]
    if not len(draws):
        raise InputError("concepts: no images to learn them from")
    return kept, labels


def _smallest(draws: Tensor, labels_PL: Tensor, per_concept: int, pool: int) -> Tensor:
    order = draws.argsort()
    keep = torch.zeros(len(draws), dtype=torch.bool)
    keep[order[:pool]] = True
    ranked = labels_PL[order]
    for number in ranked.unique().tolist():
        if number:
            keep[order[(ranked == number).any(dim=1)][:per_concept]] = True
    return keep.nonzero()[:, 0]


def _at_centres(maps_BLHW: Tensor, size: Iterable[int]) -> Tensor:
    """The labels at the centres of a grid of cells laid over the label maps, (B, L, h, w)."""
    (height, width), (h, w) = maps_BLHW.shape[2:], tuple(size)
    rows = ((torch.arange(h) + 0.5) * height / h).long()
    columns = ((torch.arange(w) + 0.5) * width / w).long()
    return maps_BLHW[:, :, rows][:, :, :, columns]


def _logistic(features_PM: Tensor, positive_PC: Tensor, penalty: float) -> tuple[Tensor, Tensor]:
    """All concepts' balanced, penalised logistic regressions at once, by L-BFGS. Weights (C, M) and balanced accuracy (C,).

    They share no parameter, so the sum of their losses is least where each loss is.
    """
    dtype = features_PM.dtype
    count = positive_PC.sum(dim=0, dtype=dtype)
    share_PC = torch.where(positive_PC, 0.5 / count, 0.5 / (len(features_PM) - count).clamp(min=1))
    target_PC = positive_PC.to(dtype)
    weight = torch.zeros(positive_PC.shape[1], features_PM.shape[1], dtype=dtype, requires_grad=True)
    bias = torch.zeros(positive_PC.shape[1], dtype=dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=200, tolerance_grad=1e-6, tolerance_change=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        score_PC = features_PM @ weight.T + bias
        loss = F.binary_cross_entropy_with_logits(score_PC, target_PC, share_PC, reduction="sum")
        loss = loss + penalty / 2 * (weight**2).sum()
        loss.backward()
        return loss.detach()

    optimizer.step(closure)
    with torch.no_grad():
        right = ((features_PM @ weight.T + bias) > 0) == positive_PC
        return weight.detach(), (right * share_PC).sum(dim=0)
