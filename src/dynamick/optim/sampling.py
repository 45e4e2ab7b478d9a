"""Step 5 of Algorithm 3: the Bernoulli variables q_j (which weights) and p_i (which samples)."""

import math
from collections.abc import Iterator
from numbers import Real

import torch
from torch import Tensor
from torch.utils.data import Sampler

from dynamick.errors import InputError
from dynamick.seeding import seed_of

FORMS = ("literal", "normalised")


def probabilities(
    lipschitz_BOM: Tensor, s: float, block_size: int = 5, form: str = "normalised", beta: float | None = None
) -> Tensor:
    """q_ij, the probability that sample i updates coordinate j (docs/definitions.md, "Interpretable SGD").

    Args:
        lipschitz_BOM: L_ij of each sample, at least 0, shape (B, O, M).
        s: in (0, 1]; the larger, the sparser the updates.
        block_size: K, how many coordinates of a row are always updated in the normalised form.
        form: `literal` is the paper's min(1, beta (L_ij / L_i)^(1/(1-s))), L_i the sum over the O x M block. It goes to 0 as s
            goes to 1. `normalised` is min(1, (L_ij / L_i(K))^(1/(1-s))), L_i(K) the K-th largest of the row. If that is 0,
            q = 1 only for L > 0. At s = 1 it takes the K largest, of equals the lower index.
        beta: the literal form's block size: at small s about beta coordinates of the O x M block are updated. None takes
            `block_size` for each of the O rows.

    Returns:
        Probabilities, shape (B, O, M). A coordinate with L = 0 is never updated.

    Raises:
        InputError: s, block_size, form or beta is not one of those allowed.

    >>> dk.optim.probabilities(torch.tensor([[[4.0, 2.0, 1.0]]]), s=0.5, block_size=1).tolist()
    [[[1.0, 0.25, 0.0625]]]
    """
    check_options(s, block_size, form, beta)
    O, M = lipschitz_BOM.shape[1:]
    if form == "normalised":
        scale, factor = lipschitz_BOM.topk(min(block_size, M)).values[..., -1:], 1.0
        if s == 1:
            return _largest(lipschitz_BOM, scale, block_size).to(lipschitz_BOM.dtype)
    else:
        scale, factor = lipschitz_BOM.sum((1, 2), keepdim=True), float(block_size * O if beta is None else beta)
    # A product with a zero may be -0, and dividing by that would give -inf.
    ratio = torch.where(lipschitz_BOM == 0, 0, lipschitz_BOM / scale.abs())
    power = ratio ** (1 / (1 - s)) if s < 1 else (ratio >= 1).to(ratio.dtype)
    return (factor * power).clamp(max=1)


def _largest(lipschitz_BOM: Tensor, kth_BO1: Tensor, k: int) -> Tensor:
    """The k largest of each row that are not 0; of those that equal the k-th, the lower indices."""
    above = lipschitz_BOM > kth_BO1
    equal = (lipschitz_BOM == kth_BO1) & (lipschitz_BOM > 0)
    return above | (equal & (equal.cumsum(-1) <= k - above.sum(-1, keepdim=True)))


def check_options(s: float, block_size: int, form: str = "normalised", beta: float | None = None) -> None:
    """Raise InputError if one of the options of `probabilities` is not allowed.

    >>> dk.optim.check_options(s=1.5, block_size=5)
    Traceback (most recent call last):
    dynamick.errors.InputError: ...
    """
    if not _is_number(s) or not 0 < s <= 1:
        raise InputError(f"s: {s!r} is no sparsity level; give a number above 0 and at most 1")
    if not is_count(block_size):
        raise InputError(f"block_size: {block_size!r} is no number of coordinates; give an integer from 1 up")
    if form not in FORMS:
        raise InputError(f"form: {form!r} is unknown; the forms are {' and '.join(FORMS)}")
    if beta is not None and not (_is_number(beta) and 0 < beta < math.inf):
        raise InputError(f"beta: {beta!r} is no block size; give a positive number")


def is_count(value: object) -> bool:
    """Whether it is an integer from 1 up."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _is_number(value: object) -> bool:
    return isinstance(value, Real | Tensor) and not isinstance(value, bool)


def overlap(q_BOM: Tensor, routed_BOM: Tensor) -> float:
    """The overlap of the coordinates that Algorithm 3 updates and Dynamic-K routes: expected intersection over union.

    Args:
        q_BOM: the probabilities that a coordinate is updated.
        routed_BOM: boolean, whether Dynamic-K routes it.

    Returns:
        From 0 to 1; 1 exactly where q is 1 on the routed coordinates and 0 elsewhere.

    >>> dk.optim.overlap(torch.tensor([[[1.0, 1.0]]]), torch.tensor([[[True, False]]]))
    0.5
    """
    both = q_BOM[routed_BOM].double().sum()
    either = routed_BOM.sum() + q_BOM[~routed_BOM].double().sum()
    return 1.0 if either == 0 else float(both / either)


class PoissonSampler(Sampler[list[int]]):
    """Batches in which every sample is drawn by its own coin, p_i ~ Bernoulli(B/n): a `batch_sampler` for a DataLoader.

    A batch holds B samples on average. An empty one is left out, since it would change nothing. Divide gradients by the
    nominal B, and not by the number drawn: use `InterpretableSGD(batch_size=B)`, or a summed loss divided by B.

    Args:
        length: n, the number of samples of the set.
        batch_size: B, from 1 to n.
        seed: of the draws, which depend only on it and on the epoch.

    Attributes:
        epoch: passes over the sampler so far; set it to go on where a run was interrupted.

    Raises:
        InputError: batch_size is no integer in 1..n.

    >>> data = torch.utils.data.TensorDataset(torch.arange(100))
    >>> loader = torch.utils.data.DataLoader(data, batch_sampler=dk.optim.PoissonSampler(100, batch_size=20))
    >>> sizes = [len(batch) for batch, in loader]  # 20 on average
    """

    def __init__(self, length: int, batch_size: int, seed: int = 0) -> None:
        if not is_count(batch_size) or batch_size > length:
            raise InputError(f"batch_size: {batch_size!r} is not from 1 to the {length} samples of the set")
        self.length, self.batch_size, self.seed, self.epoch = length, batch_size, seed, 0

    def __len__(self) -> int:
        """Draws a pass, ceil(n / B); a pass yields fewer batches where some are empty."""
        return -(-self.length // self.batch_size)

    def __iter__(self) -> Iterator[list[int]]:
        generator = torch.Generator().manual_seed(seed_of((self.seed << 20) + self.epoch))
        self.epoch += 1
        for _ in range(len(self)):
            coins = torch.rand(self.length, generator=generator)
            batch = (coins < self.batch_size / self.length).nonzero()[:, 0].tolist()
            if batch:
                yield batch
