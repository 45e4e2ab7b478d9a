"""Algorithm 3 as a torch optimiser: Interpretable SGD, its Lipschitz constants, its sampling."""

from dynamick.optim.gradient import interpretable_gradient
from dynamick.optim.groups import sampled_groups
from dynamick.optim.interpretable_sgd import InterpretableSGD
from dynamick.optim.lipschitz import (
    ESTIMATES,
    diagonal_ggn,
    global_lipschitz,
    lipschitz,
    local_lipschitz,
    vote_lipschitz,
)
from dynamick.optim.sampling import FORMS, PoissonSampler, check_options, overlap, probabilities

__all__ = [
    "ESTIMATES",
    "FORMS",
    "InterpretableSGD",
    "PoissonSampler",
    "check_options",
    "diagonal_ggn",
    "global_lipschitz",
    "interpretable_gradient",
    "lipschitz",
    "local_lipschitz",
    "overlap",
    "probabilities",
    "sampled_groups",
    "vote_lipschitz",
]
