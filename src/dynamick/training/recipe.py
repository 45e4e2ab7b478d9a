"""A recipe: everything that decides a training's result, as plain dataclasses filled from YAML and the command line."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from dynamick import models
from dynamick.data import sources
from dynamick.data.recipe import DataRecipe
from dynamick.errors import InputError
from dynamick.functional import check_rule
from dynamick.models.heads import TrainedHead, heads
from dynamick.ops.linear import RULES
from dynamick.optim import ESTIMATES, FORMS, check_options
from dynamick.settings import change, fill, key, read_yaml

SCHEDULES = ("step", "onecycle", "cosine")

PRECISIONS = ("auto", "32", "bf16")


@dataclass
class OptimRecipe:
    """SGD with momentum; the defaults are the paper's for CIFAR-10. `dynamick train --help` says what each key means."""

    epochs: int = key(200, "passes over the training images")
    batch_size: int = key(256, "images of a step, of all processes together")
    lr: float = key(0.1, "the highest learning rate")
    momentum: float = key(0.9, "of SGD")
    nesterov: bool = key(False, "Nesterov's momentum")
    weight_decay: float = key(5e-4, "of all parameters")
    head_weight_decay: float | None = key(None, "of the head's weight alone; null takes weight_decay")
    schedule: str = key("step", "how the learning rate changes", SCHEDULES)
    step_epochs: int = key(70, "the schedule `step` divides the rate by ten each time so many epochs are done")
    warmup: float = key(
        0.25,
        "the share of all steps in which `onecycle` raises the rate; the momentum swings too, by 0.05 to each side, lowest "
        "where the rate is highest (if it stays between 0 and 1)",
    )
    l1: float = key(0.0, "strength of the L1 penalty on the head's weight, for res...-l1 alone; zeros are exact")
    label_smoothing: float = key(0.0, "as in torch.nn.CrossEntropyLoss")
    s: float | None = key(
        None, "sparsity level of Interpretable SGD (Algorithm 3) on a dense head's weight, above 0 and at most 1; null is SGD"
    )
    block_size: int = key(5, "the K of Interpretable SGD")
    form: str = key("normalised", "how Interpretable SGD draws", FORMS)
    beta: float | None = key(None, "the block size beta of Interpretable SGD; null takes what s gives")
    estimate: str = key("local", "how Interpretable SGD estimates Lipschitz constants", ESTIMATES)


@dataclass
class Recipe:
    """One training. `dynamick train --help` says what each key means; `data` says which images, `optim` how it trains."""

    model: str = key("res18-d5a", "depth and head: res8, res18-d5a (K of 5), res18-d5g, res18-l1, capsnet-em, ...")
    stem: str = key(
        "cifar", "the first layers: cifar for 32x32, imagenet for 224x224; compact and patch are cheap", models.STEMS
    )
    width: int = key(64, "channels of the first stage")
    rule: str = key("at_most", "whether a class may route fewer than K inputs", RULES)
    seed: int = key(0, "of the weights, the order and the augmentation")
    precision: str = key("auto", "auto is bf16 where the machine has instructions for it", PRECISIONS)
    channels_last: bool = key(True, "the memory format of images and convolutions")
    prune: bool = key(True, "at the end, remove the weights that no training image routes")
    static_after: int | None = key(
        None, "after so many epochs each class keeps only the K weights that it routes most; null routes to the end"
    )
    data: DataRecipe = field(default_factory=DataRecipe)
    optim: OptimRecipe = field(default_factory=OptimRecipe)

    @classmethod
    def read(cls, path: str | Path | None, overrides: Mapping[str, Any] | None = None) -> "Recipe":
        """A recipe from a file, with some of its values changed.

        Args:
            path: a YAML file, or the name of a shipped recipe such as `cifar10-small`; None takes the defaults.
            overrides: values by key, such as {"optim.lr": 0.2}. Text is read as the key's type: "0.2" is 0.2.

        Raises:
            InputError: no such file, an unknown key, or a value of another type. `check` looks at the values.
        """
        found = cls() if path is None else cls._read_file(recipe_path(str(path)))
        changed: Recipe = change(found, overrides or {})
        return changed

    @classmethod
    def _read_file(cls, path: Path) -> "Recipe":
        return cls.from_dict(read_yaml(path, "a recipe, such as the shipped cifar10-small"), f"{path}: ")

    def to_dict(self) -> dict[str, Any]:
        """Plain values, nested as in YAML."""
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: Mapping[str, Any], where: str = "") -> "Recipe":
        """The inverse of `to_dict`; settings that are not there have their defaults.

        Args:
            kept: plain values, nested as in YAML.
            where: what an error's message begins with.

        Raises:
            InputError: an unknown key, or a value of another type.
        """
        found: Recipe = fill(cls, kept, where)
        return found

    def check(self) -> None:
        """Check that every value is allowed.

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
        """A strength of one kind of head must be given for that kind, and for no other."""
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

    Settings that the kept one lacks have their defaults. Two ways to write the same folder of data are equal.
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


def run_label(model: str, recipe: Mapping[str, Any]) -> str:
    """What trainings must share to be averaged: the model's name, and what else of a recipe changes the head."""
    rule, after, optim = recipe.get("rule", "at_most"), recipe.get("static_after"), recipe.get("optim", {})
    parts = [model, *([rule] if rule != "at_most" else []), *([f"static after {after} epochs"] if after else [])]
    parts += [f"strength {optim[each.strength]:g}" for each in heads().values() if each.strength and optim.get(each.strength)]
    if optim.get("s") is not None:
        parts += [f"s = {optim['s']:g}", f"K = {optim['block_size']}", optim["form"], optim["estimate"]]
        parts += [] if optim["beta"] is None else [f"beta = {optim['beta']:g}"]
    return ", ".join(parts)


def recipe_path(name: str) -> Path:
    """A recipe's file: a path, or the name of one of the shipped ones (`cifar10-small`).

    Raises:
        InputError: there is none.
    """
    path = Path(name)
    shipped = Path(__file__).parents[1] / "recipes"
    for candidate in (path, shipped / name, shipped / f"{name}.yaml"):
        with suppress(OSError):
            # Such as a name that is too long.
            if candidate.is_file():
                return candidate
    known = ", ".join(sorted(each.stem for each in shipped.glob("*.yaml")))
    raise InputError(f"{name}: no such recipe; give a YAML file{' or one of ' + known if known else ''}")


def _one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown; give {', '.join(allowed)}")
