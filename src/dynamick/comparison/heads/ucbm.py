"""UCBM's way (Schrodi, Schur, Argus and Brox 2025): directions found without labels, the k largest a picture, an elastic net.

Their steps: non-negative factorisation of features gives the directions. A picture's concepts are its cosines with these,
standardised over the training pictures. The k largest stay, if they are positive. A linear head under the elastic net reads
them. Here the directions come of whole pictures' features, not of patches. The head is the penalty's exact minimum, without
their dropout and their learnt offset, which begins at almost 0.
"""

from collections.abc import Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.elastic_net import ALPHA, Point, first, follow
from dynamick.comparison.heads.factorising import factorise
from dynamick.comparison.heads.fitted import Clock, Fitted, linear
from dynamick.comparison.heads.tuning import parted
from dynamick.comparison.logistic import Problem, Solution, standardise

A_CLASS = 5
"""Concepts for each class, as theirs for Places365; never more than features."""
IMAGES = 5000
"""Of more images, so many, evenly spaced, give the directions."""
STRENGTHS = (1e-2, 3e-3, 8e-4, 4e-4, 1e-4)
"""Of the elastic net, to choose from; the last three are theirs."""


class Concepts(nn.Module):
    """From features (B, M) to concepts (B, n), of which at most k of a picture are not 0.

    Args:
        directions: shape (n, M), of any length.
        mean, std: of the cosines over the training pictures, shape (n,).
        k: concepts of a picture.
    """

    directions: Tensor
    mean: Tensor
    std: Tensor

    def __init__(self, directions: Tensor, mean: Tensor, std: Tensor, k: int) -> None:
        super().__init__()
        self.k = k
        for name, value in (("directions", directions), ("mean", mean), ("std", std)):
            self.register_buffer(name, value)

    @classmethod
    def of(cls, directions: Tensor, x: Tensor, k: int) -> "Concepts":
        """With mean and deviation of training features x (N, M)."""
        _, mean, std = standardise(cosines(directions, x))
        return cls(directions, mean, std, k)

    def forward(self, x: Tensor) -> Tensor:
        scores = (cosines(self.directions, x) - self.mean) / self.std
        largest = scores.topk(min(self.k, scores.shape[1]), 1)
        return torch.zeros_like(scores).scatter_(1, largest.indices, largest.values.relu())


def cosines(directions: Tensor, x: Tensor) -> Tensor:
    """Of features (N, M) with directions (n, M): shape (N, n); 0 for a vector of zeros."""
    return F.normalize(x, dim=1) @ F.normalize(directions, dim=1).T


def fit(x: Tensor, labels: Tensor, classes: int, budgets: Sequence[int], seed: int = 0) -> Iterator[Fitted]:
    """For each k concepts and a head of them; features below 0 count as 0 for the directions.

    The strength of the elastic net is that of `STRENGTHS` of least cross entropy on every tenth image, fitted on the others.

    Args:
        x, labels, classes: as in `elastic_net.fit`.
        budgets: k, concepts that a picture keeps.
        seed: of the factorisation.
    """
    clock = Clock()
    found = find_directions(x, min(A_CLASS * classes, x.shape[1]), seed)
    shared = clock()
    for k in sorted(budgets):
        clock = Clock()
        head, strength = fit_concepts(found, x, labels, classes, k)
        yield Fitted(k, head, shared + clock(), {"strength": strength})


def find_directions(x: Tensor, count: int, seed: int = 0) -> Tensor:
    """Directions (count, M) that features or cells of maps (N, M) are sums of."""
    rows = torch.arange(min(len(x), IMAGES), device=x.device) * len(x) // min(len(x), IMAGES)
    return factorise(x[rows].clamp(min=0), count, seed)[1]


def fit_concepts(found: Tensor, x: Tensor, labels: Tensor, classes: int, k: int) -> tuple[nn.Sequential, float]:
    """Concepts of given directions (n, M) and a head of them, and the strength that was chosen.

    Args:
        found: the directions.
        x, labels, classes, k: as in `fit`.
    """
    concepts = Concepts.of(found, x, k)
    problem = Problem(concepts(x), labels, classes)
    part, asked = parted(problem)
    begin = first(problem, ALPHA)
    # A class may have no image in the part: its bias is then looked for from that of all images.
    apart = first(part, ALPHA, (begin.solution.weight, begin.solution.bias))
    losses = [asked.gradient(asked.logits(each.weight, each.bias))[0] for each in path(part, apart, STRENGTHS)]
    chosen = losses.index(min(losses))
    solution = path(problem, begin, STRENGTHS[: chosen + 1])[-1]
    return nn.Sequential(concepts, linear(solution.weight, solution.bias)), STRENGTHS[chosen]


def path(problem: Problem, point: Point, strengths: Sequence[float]) -> list[Solution]:
    """The elastic net's minimum for each strength, from the strongest down, each found from the one before."""
    found = []
    for strength in strengths:
        point = follow(problem, point, strength, ALPHA)
        found.append(point.solution)
    return found


def empty(tensors: dict[str, Tensor], k: int) -> nn.Sequential:
    """A head of the shapes of a state dict, to read it into."""
    directions, mean, std = (tensors[f"0.{name}"].clone() for name in ("directions", "mean", "std"))
    return nn.Sequential(Concepts(directions, mean, std, k), linear(tensors["1.weight"], tensors["1.bias"]))


TITLE = "UCBM's way: k concepts a picture"
COMPARED = (ComparedHead("ucbm", TITLE, fit, "routed", 150, True, place=3, colour=3, marker="P", empty=empty),)
