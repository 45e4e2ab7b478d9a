"""A recipe: everything that decides a training's result, as plain dataclasses filled from YAML and the command line."""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dynamick import models
from dynamick.data import sources
from dynamick.data.recipe import DataRecipe
from dynamick.errors import InputError
from dynamick.functional import check_rule
from dynamick.models.heads import TrainedHead, heads
from dynamick.optim import ESTIMATES, FORMS, check_options

SCHEDULES = ("step", "onecycle", "cosine")
PRECISIONS = ("auto", "32", "bf16")


@dataclass
class OptimRecipe:
    """SGD with momentum; the defaults are the paper's for CIFAR-10 (docs/definitions.md, "Models and recipes").

    Attributes:
        epochs, batch_size, lr, momentum, nesterov, weight_decay: as usual; the batch is that of all processes together.
        head_weight_decay: of the head's weight alone; None takes weight_decay.
        schedule: `step` (lr / 10 every `step_epochs` epochs), `onecycle` or `cosine`.
        warmup: the share of all steps in which `onecycle` rises; it also swings the momentum by 0.05 about `momentum`, lowest
            where the rate is highest (where that stays between 0 and 1).
        l1: strength of the L1 penalty on the head's weight, for heads of kind l1 alone; a proximal step, so zeros are exact.
        label_smoothing: as in torch.nn.CrossEntropyLoss.
        s: the sparsity level of Interpretable SGD (Algorithm 3) on a dense head's weight, above 0 and at most 1; None is SGD.
        block_size, form, beta, estimate: its other options, as in `dynamick.optim.InterpretableSGD`.
    """

    epochs: int = 200
    batch_size: int = 256
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = False
    weight_decay: float = 5e-4
    head_weight_decay: float | None = None
    schedule: str = "step"
    step_epochs: int = 70
    warmup: float = 0.25
    l1: float = 0.0
    label_smoothing: float = 0.0
    s: float | None = None
    block_size: int = 5
    form: str = "normalised"
    beta: float | None = None
    estimate: str = "local"


@dataclass
class Recipe:
    """One training.

    Attributes:
        model: a name such as `res18-d5a` (`dynamick.models.parse`).
        stem, width, rule: as in `dynamick.models.create`.
        seed: of the weights, the order and the augmentation.
        precision: `bf16`, `32`, or `auto`: bf16 where the machine has instructions for it.
        channels_last: the memory format of images and convolutions.
        prune: at the end, remove the weights that no training input routes (dynamic heads).
        static_after: after so many epochs each class keeps only the K weights that it routes most, and training goes on with
            that static head (`dynamick.training.static`); None routes to the end.
    """

    model: str = "res18-d5a"
    stem: str = "cifar"
    width: int = 64
    rule: str = "at_most"
    seed: int = 0
    precision: str = "auto"
    channels_last: bool = True
    prune: bool = True
    static_after: int | None = None
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nested as in YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> "Recipe":
        """The inverse of `to_dict`; settings that are not there have their defaults.

        Raises:
            TypeError: a setting that there is not.
            AttributeError: it, its `data` or its `optim` is no dictionary.
        """
        nested = {"data": DataRecipe(**kept.get("data", {})), "optim": OptimRecipe(**kept.get("optim", {}))}
        return cls(**(kept | nested))

    def check(self) -> None:
        """Hold every value to what is allowed.

        Raises:
            InputError: the first one that is not, named as in YAML.
        """
        head = models.parse(self.model).kind
        self.data.check()
        _one_of("optim.schedule", self.optim.schedule, SCHEDULES)
        _one_of("precision", self.precision, PRECISIONS)
        _one_of("stem", self.stem, models.STEMS)
        counts = {"optim.epochs": self.optim.epochs, "optim.batch_size": self.optim.batch_size, "width": self.width}
        counts |= {"optim.step_epochs": self.optim.step_epochs}
        for name, value in counts.items():
            if value < 1:
                raise InputError(f"{name}: {value} must be an integer from 1 up")
        decay = self.optim.head_weight_decay
        amounts = {"optim.lr": self.optim.lr, "optim.weight_decay": self.optim.weight_decay, "optim.l1": self.optim.l1}
        amounts |= {"optim.head_weight_decay": decay or 0}
        for name, amount in amounts.items():
            if not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
                raise InputError(f"{name}: {amount} must be a number from 0 up")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: {self.seed} must be an integer in 0..{2**32 - 1}")
        shares = {"optim.warmup": self.optim.warmup, "optim.label_smoothing": self.optim.label_smoothing}
        for name, share in shares.items():
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InputError(f"{name}: {share} must be a number in 0..1")
        momentum = self.optim.momentum
        if not isinstance(momentum, int | float) or not 0 <= momentum < 1 or (self.optim.nesterov and not momentum):
            raise InputError(f"optim.momentum: {momentum} must be a number from 0 to below 1, and above 0 for nesterov")
        try:
            check_rule(self.rule)
        except ValueError as error:
            raise InputError(str(error)) from None
        self._check_strengths(head)
        self._check_sampling(head)
        if self.static_after is not None:
            self._check_static(self.static_after, head)

    def _check_strengths(self, head: TrainedHead) -> None:
        """A strength that one kind of head takes is given for that kind, and for no other."""
        for each in heads().values():
            value = getattr(self.optim, each.strength) if each.strength else None
            if each == head and value == 0:
                raise InputError(
                    f"optim.{each.strength}: 0 leaves {self.model} without its penalty; give a strength, such as 0.001"
                )
            if each != head and value:
                wanted = f"name the model res...-{each.suffix}, or give 0"
                raise InputError(f"optim.{each.strength}: {value} has no effect on {self.model}; {wanted}")

    def _check_static(self, after: int, head: TrainedHead) -> None:
        if not 1 <= after < self.optim.epochs:
            raise InputError(f"static_after: {after} of {self.optim.epochs} epochs; give one from 1 to one less, or null")
        if not head.routes:
            raise InputError(f"static_after: {after} prunes a head that routes, which {self.model} has not; name a res8-d5a")

    def _check_sampling(self, head: TrainedHead) -> None:
        _one_of("optim.form", self.optim.form, FORMS)
        _one_of("optim.estimate", self.optim.estimate, ESTIMATES)
        s = 1.0 if self.optim.s is None else self.optim.s
        try:
            check_options(s, self.optim.block_size, self.optim.form, self.optim.beta)
        except InputError as error:
            raise InputError(f"optim.{error}") from None
        if self.optim.s is not None and not head.sampled:
            raise InputError(
                f"optim.s: {self.optim.s} samples the weights of a dense head, which {self.model} has not; name a res8"
            )


def differences(kept: dict[str, Any], recipe: Recipe) -> list[str]:
    """In what a recipe differs from one that was kept (plain values), as lines such as `optim.lr: 0.1 there, 0.2 here`.

    Settings that the kept one lacks have their defaults. Of the data's folder it counts which it is, not how it is written.
    """
    defaults = Recipe().to_dict()
    nested = {name: defaults[name] | kept.get(name, {}) for name in ("data", "optim")}
    return _differing(_located(defaults | kept | nested), _located(recipe.to_dict()))


def _located(settings: dict[str, Any]) -> dict[str, Any]:
    """The same with the data's folder in full, or without one where the data needs none."""
    data = settings["data"]
    needed = data["kind"] not in sources.names() or sources.find(data["kind"]).needs_root
    root = str(Path(data["root"]).resolve()) if needed else ""
    return settings | {"data": data | {"root": root}}


def _differing(there: dict[str, Any], here: dict[str, Any], prefix: str = "") -> list[str]:
    lines = []
    for name in sorted(there.keys() | here.keys()):
        old, new = there.get(name), here.get(name)
        if isinstance(old, dict) and isinstance(new, dict):
            lines += _differing(old, new, f"{prefix}{name}.")
        elif old != new:
            lines.append(f"{prefix}{name}: {old} there, {new} here")
    return lines


def recipe_path(name: str) -> Path:
    """A recipe's file: a path, or the name of one of the shipped ones (`cifar10-small`).

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    shipped = Path(__file__).parents[1] / "recipes"
    for candidate in (path, shipped / name, shipped / f"{name}.yaml"):
        if candidate.is_file():
            return candidate
    known = ", ".join(sorted(each.stem for each in shipped.glob("*.yaml")))
    raise InputError(f"{name}: no such recipe; give a YAML file{' or one of ' + known if known else ''}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown; give {', '.join(allowed)}")
