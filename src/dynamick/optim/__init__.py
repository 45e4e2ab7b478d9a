"""Algorithm 3 as a torch optimiser: Interpretable SGD, its Lipschitz constants, its sampling."""

from dynamick.optim.gradient import interpretable_gradient
from dynamick.optim.groups import parameter_groups, sampled_groups
from dynamick.optim.interpretable_sgd import InterpretableSGD
from dynamick.optim.k_schedule import KSchedule
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
    "KSchedule",
    "PoissonSampler",
    "check_options",
    "diagonal_ggn",
    "global_lipschitz",
    "interpretable_gradient",
    "lipschitz",
    "local_lipschitz",
    "overlap",
    "parameter_groups",
    "probabilities",
    "sampled_groups",
    "vote_lipschitz",
]
