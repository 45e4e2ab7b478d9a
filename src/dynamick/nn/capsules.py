"""Algorithm 1: capsules that route by agreement, the baseline (docs/definitions.md, "Routing by agreement")."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dynamick.errors import InputError

ROUTINGS = ("dynamic", "em", "simplified")

# Keeps logarithms, roots and quotients of sums that may be 0 finite.
_TINY = 1e-8


class Capsules(NamedTuple):
    """The outputs of a layer of capsules.

    Attributes:
        poses: shape (B, out_capsules, out_dim).
        log_odds: of each capsule's presence, shape (B, out_capsules). They can be the logits of cross entropy.
        coupling: R, how much of each input each output takes, shape (B, out_capsules, in_capsules), from 0 to 1: over outputs
            it sums to 1 (`dynamic`, `em`), or over inputs (`simplified`).

    >>> seen = dk.nn.RoutingCapsules(6, 4, 3, 5)(torch.rand(2, 6, 4))
    >>> seen.poses.shape, seen.log_odds.shape, seen.coupling.shape
    (torch.Size([2, 3, 5]), torch.Size([2, 3]), torch.Size([2, 3, 6]))
    """

    poses: Tensor
    log_odds: Tensor
    coupling: Tensor

    @property
    def activations(self) -> Tensor:
        """The probabilities that the capsules are present, shape (B, out_capsules); of `dynamic`, the poses' lengths."""
        return self.log_odds.sigmoid()


class RoutingCapsules(nn.Module):
    """A fully connected layer of capsules: every input votes for every output's pose, and R says which votes count.

    The votes are V_ci = W_ci x_i; B * in_capsules * out_capsules * out_dim numbers are in memory at once, and the gradient,
    which flows through all iterations, keeps as many for each of them.

    Args:
        in_capsules, in_dim: how many capsules come in, and the length of each one's pose.
        out_capsules, out_dim: the same of what goes out.
        routing:
            `dynamic` is routing by agreement (Sabour et al. 2017): coupling is a softmax over the outputs, a pose is squashed
            to a length in 0..1, agreement is a dot product.
            `em` is Hinton et al. 2018 with vectors for poses: an output is a Gaussian with a diagonal covariance, fitted to the
            votes weighted by R and by the inputs' activations. The narrower it is, the likelier.
            `simplified` is Algorithm 1 of the paper: an output is the mean of its votes weighted by R, and R, which sums to 1
            over the inputs, falls with the squared distance to it. The paper leaves the distance open; here it is the
            Gaussian kernel as wide as the votes are spread.
        iterations: how often outputs and R are computed in turn; the paper's 3.
        inverse_temperature: only of `em`, in the last iteration. It rises to this in equal steps (the source does not say how).
        device, dtype: as in nn.Linear.

    Attributes:
        weight: shape (out_capsules * out_dim, in_capsules * in_dim), W_ci its blocks; votes are linear in each input capsule.
        beta_u, beta_a: of `em` alone, shape (out_capsules,): the cost of describing a vote, and the gain of being present.

    Raises:
        InputError: an unknown routing, a size or a number of iterations that is not an integer of 1 or more, or an inverse
            temperature that is not above 0.

    >>> capsules = dk.nn.RoutingCapsules(in_capsules=6, in_dim=4, out_capsules=3, out_dim=5, routing="em")
    >>> capsules(torch.rand(2, 6, 4)).log_odds.shape
    torch.Size([2, 3])
    """

    def __init__(
        self,
        in_capsules: int,
        in_dim: int,
        out_capsules: int,
        out_dim: int,
        routing: str = "dynamic",
        iterations: int = 3,
        inverse_temperature: float = 0.01,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        super().__init__()
        sizes = {"in_capsules": in_capsules, "in_dim": in_dim, "out_capsules": out_capsules, "out_dim": out_dim}
        for name, value in {**sizes, "iterations": iterations}.items():
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise InputError(f"{name}: {value!r} is no number of them; give an integer from 1 up")
        if routing not in ROUTINGS:
            raise InputError(f"routing: {routing!r} is unknown; give {', '.join(ROUTINGS)}")
        if not isinstance(inverse_temperature, int | float) or not 0 < inverse_temperature < math.inf:
            raise InputError(f"inverse_temperature: {inverse_temperature!r} must be a number above 0")
        self.in_capsules, self.in_dim, self.out_capsules, self.out_dim = in_capsules, in_dim, out_capsules, out_dim
        self.routing, self.iterations, self.inverse_temperature = routing, iterations, inverse_temperature
        where = {"device": device, "dtype": dtype}
        self.weight = nn.Parameter(torch.empty(out_capsules * out_dim, in_capsules * in_dim, **where))
        if routing == "em":
            self.beta_u = nn.Parameter(torch.empty(out_capsules, **where))
            self.beta_a = nn.Parameter(torch.empty(out_capsules, **where))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Votes as large as the poses that cast them; both betas 0."""
        nn.init.normal_(self.weight, std=self.in_dim**-0.5)
        if self.routing == "em":
            nn.init.zeros_(self.beta_u)
            nn.init.zeros_(self.beta_a)

    def forward(self, x: Tensor, activations: Tensor | None = None) -> Capsules:
        """Route input capsules to output capsules.

        Args:
            x: poses, shape (B, in_capsules, in_dim).
            activations: of `em` alone, how present each input is, in 0..1, shape (B, in_capsules); None takes 1 for all. With
                the other routings a pose's length says it.

        Raises:
            InputError: shapes that do not fit, or activations that the routing does not take.
        """
        wanted = (self.in_capsules, self.in_dim)
        if x.ndim != 3 or x.shape[1:] != wanted:
            raise InputError(f"x: shape {tuple(x.shape)}; give poses of shape (batch, {wanted[0]}, {wanted[1]})")
        if activations is not None and self.routing != "em":
            raise InputError(f"activations: {self.routing} routing takes none; a pose's length says how present it is")
        if activations is not None and activations.shape != x.shape[:2]:
            raise InputError(f"activations: shape {tuple(activations.shape)}; give one a pose, shape {tuple(x.shape[:2])}")
        if torch.is_autocast_enabled(x.device.type):
            wide = torch.promote_types(torch.promote_types(x.dtype, self.weight.dtype), torch.float32)
            with torch.autocast(x.device.type, enabled=False):
                return self._route(x.to(wide), None if activations is None else activations.to(wide))
        return self._route(x, activations)

    def _route(self, x: Tensor, activations: Tensor | None) -> Capsules:
        votes = self.votes(x)
        # Half precision is not enough for differences of votes.
        v_BCIE = votes.to(torch.promote_types(votes.dtype, torch.float32))
        if self.routing == "dynamic":
            found = dynamic_routing(v_BCIE, self.iterations)
        elif self.routing == "simplified":
            found = simplified_routing(v_BCIE, self.iterations)
        else:
            a_BI = v_BCIE.new_ones(x.shape[:2]) if activations is None else activations
            found = em_routing(v_BCIE, a_BI, self.beta_u, self.beta_a, self.iterations, self.inverse_temperature)
        return Capsules(*(each.to(votes.dtype) for each in found))

    def votes(self, x: Tensor) -> Tensor:
        """Poses (B, in_capsules, in_dim) to votes (B, out_capsules, in_capsules, out_dim)."""
        weight = self.weight.to(torch.promote_types(self.weight.dtype, x.dtype))
        w_CEID = weight.view(self.out_capsules, self.out_dim, self.in_capsules, self.in_dim)
        return torch.einsum("bid,ceid->bcie", x, w_CEID)

    def extra_repr(self) -> str:
        sizes = f"{self.in_capsules}x{self.in_dim}, {self.out_capsules}x{self.out_dim}"
        return f"{sizes}, routing={self.routing}, iterations={self.iterations}"


def squash(s: Tensor) -> Tensor:
    """A vector's length n, along the last axis, becomes n^2 / (1 + n^2); its direction stays (Sabour 2017, equation 1)."""
    square = s.square().sum(-1, keepdim=True)
    return s * (square + _TINY).sqrt() / (1 + square)


def dynamic_routing(v: Tensor, iterations: int) -> Capsules:
    """Routing by agreement (Sabour et al. 2017, procedure 1) of votes, shape (B, C, I, E)."""
    agreement = v.new_zeros(v.shape[:3])
    for turn in range(iterations):
        coupling = agreement.softmax(1)
        s_BCE = torch.einsum("bci,bcie->bce", coupling, v)
        pose = squash(s_BCE)
        if turn < iterations - 1:
            agreement = agreement + torch.einsum("bcie,bce->bci", v, pose)
    return Capsules(pose, _log_square(s_BCE), coupling)


def simplified_routing(v: Tensor, iterations: int) -> Capsules:
    """Algorithm 1 of votes W_i^c X_i, shape (B, C, I, E): line 3 is the mean, lines 4 and 5 the Gaussian kernel."""
    R = v.new_full(v.shape[:3], 1 / v.shape[2])
    for turn in range(iterations):
        Y = torch.einsum("bci,bcie->bce", R, v)
        if turn < iterations - 1:
            distance = (v - Y[:, :, None]).square().sum(-1)
            spread = (R * distance).sum(-1, keepdim=True)
            R = (-distance / (2 * spread + _TINY)).softmax(-1)
    return Capsules(Y, _log_square(Y), R)


def em_routing(
    v: Tensor, activations: Tensor, beta_u: Tensor, beta_a: Tensor, iterations: int, inverse_temperature: float
) -> Capsules:
    """EM routing (Hinton et al. 2018, procedure 1) of votes, shape (B, C, I, E).

    Args:
        v: votes.
        activations: of the inputs, shape (B, I).
        beta_u, beta_a: shape (C,).
        iterations, inverse_temperature: as in `RoutingCapsules`.
    """
    coupling = v.new_full(v.shape[:3], 1 / v.shape[1])
    for turn in range(1, iterations + 1):
        # M step: fit each output's Gaussian to the votes it holds.
        r_BCI = coupling * activations[:, None]
        held = r_BCI.sum(-1)
        share = r_BCI / (held[..., None] + _TINY)
        mean = torch.einsum("bci,bcie->bce", share, v)
        square = (v - mean[:, :, None]).square()
        variance = torch.einsum("bci,bcie->bce", share, square) + _TINY
        cost = held * (v.shape[-1] * beta_u + 0.5 * variance.log().sum(-1))
        log_odds = inverse_temperature * turn / iterations * (beta_a - cost)
        if turn < iterations:
            # E step: how well each output explains each vote.
            log_density = -0.5 * ((square / variance[:, :, None]).sum(-1) + (2 * math.pi * variance).log().sum(-1)[..., None])
            coupling = (F.logsigmoid(log_odds)[..., None] + log_density).softmax(1)
    return Capsules(mean, log_odds, coupling)


def _log_square(s: Tensor) -> Tensor:
    """The log-odds of a length squashed to n^2 / (1 + n^2): log n^2."""
    return (s.square().sum(-1) + _TINY).log()
