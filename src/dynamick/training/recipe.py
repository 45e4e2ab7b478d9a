"""A recipe: everything that decides a training's result, as plain dataclasses filled from YAML and the command line."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from dynamick import models
from dynamick.data import sources
from dynamick.data.recipe import DataRecipe
from dynamick.errors import InputError
from dynamick.functional import check_rule
from dynamick.models.heads import TrainedHead, heads
from dynamick.networks.opening import is_place
from dynamick.networks.sources import find, ours
from dynamick.ops.linear import RULES
from dynamick.settings import change, fill, key, read_yaml
from dynamick.training.optim_recipe import OptimRecipe, one_of

PRECISIONS = ("auto", "32", "bf16")


@dataclass
class Recipe:
    """One training. `dynamick train --help` says what each key means; `data` says which images, `optim` how it trains.

    >>> few = {"width": 8, "data.train_images": 64, "data.val_images": 20, "optim.epochs": 1}
    >>> recipe = dk.training.Recipe.read("scenes-small", few)
    >>> recipe.model, recipe.optim.epochs
    ('res8-d5a', 1)
    """

    model: str = key(
        "res18-d5a",
        "the network: res8, res18-d5a (K of 5), capsnet-em, ...; a torchvision name, timm:NAME, package.module:function; or a "
        "file or folder that was written here",
    )
    stem: str = key(
        "cifar", "first layers of a res...: cifar for 32x32, imagenet for 224x224; compact and patch are cheap", models.STEMS
    )
    width: int = key(64, "channels of the first stage of a res...")
    weights: str | None = key(
        None, "what it starts from: a file, a run's folder, or DEFAULT, which is published; null is from scratch"
    )
    head: str | None = key(
        None, "in place of its classifier: d5a (K of 5), d5g, l1, or none for a dense one; null keeps it where the classes fit"
    )
    units: int | None = key(None, "so many units are learnt on the network's last maps, and the head reads them; null is none")
    freeze: int = key(0, "for so many epochs, only units and head learn")
    k_start: int | None = key(None, "K of the first step; it falls, and from half of the steps on it is the head's K")
    teacher: str | None = key(None, "a network to learn from too: its probabilities are a part of the loss; as `model`")
    teacher_weights: str | None = key(None, "the teacher's weights, where its name needs them; as `weights`")
    teacher_share: float = key(0.5, "the teacher's part of the loss, 0..1")
    rule: str = key("at_most", "whether a class may route fewer than K inputs", RULES)
    seed: int = key(0, "of the weights, the order and the augmentation")
    precision: str = key("auto", "auto is bf16 where the machine has instructions for it", PRECISIONS)
    channels_last: bool = key(True, "the memory format of images and convolutions")
    prune: bool = key(True, "at the end, remove the weights (and units) that no training image routes")
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
        return changed.with_heads_name()

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

    def with_heads_name(self) -> "Recipe":
        """The same, where one of this project's names says the head: `res8` and d5a are `res8-d5a`.

        Raises:
            InputError: the name says another head already.
        """
        if self.head is None or not self.is_new_of_ours:
            return self
        models.parse_head(self.head)
        body, _, said = self.model.partition("-")
        suffix = self.head.removeprefix(models.names.DENSE)
        if said not in ("", suffix) or body == "capsnet":
            raise InputError(f"head: {self.head}, but {self.model} says another one; give one of them")
        return replace(self, model=f"{body}-{suffix}".removesuffix("-"), head=None)

    @property
    def is_new_of_ours(self) -> bool:
        """Whether it trains a network of this project's from scratch, whose name says its head.

        Raises:
            InputError: its name begins as theirs do, and is none.
        """
        return self.weights is None and ours.knows(self.model)

    def _is_place(self) -> bool:
        """Whether its model is a file or a folder."""
        return not self.is_new_of_ours and self.weights is None and is_place(self.model)

    def _check_freeze(self) -> None:
        if not 0 < self.freeze < self.optim.epochs:
            raise InputError(f"freeze: {self.freeze} of {self.optim.epochs} epochs; give fewer, or 0")
        if self.weights is None and not self._is_place() and not find(self.model)[0].own_weights:
            raise InputError(f"freeze: {self.freeze} epochs of a network with random weights; give weights, or 0")

    def kind(self) -> TrainedHead | None:
        """The head that it asks for; None if the network's own is kept.

        Raises:
            InputError: there is no such head.
        """
        if self.is_new_of_ours:
            return models.parse(self.model).kind
        return None if self.head is None else models.parse_head(self.head)[0]

    def check(self) -> None:
        """Check that every value is allowed.

        Raises:
            InputError: the first one that is not, named as in YAML.
        """
        kind = self.kind()
        if not self._is_place():
            find(self.model)
        self.data.check()
        self.optim.check()
        one_of("precision", self.precision, PRECISIONS)
        one_of("stem", self.stem, models.STEMS)
        if self.width < 1:
            raise InputError(f"width: {self.width} must be an integer from 1 up")
        if not 0 <= self.seed < 2**32:
            raise InputError(f"seed: {self.seed} must be an integer in 0..{2**32 - 1}")
        try:
            check_rule(self.rule)
        except ValueError as error:
            raise InputError(str(error)) from None
        if self.freeze:
            self._check_freeze()
        if not 0 <= self.teacher_share <= 1:
            raise InputError(f"teacher_share: {self.teacher_share} must be a number in 0..1")
        if kind is not None:
            check_head(self, kind)


def check_head(recipe: Recipe, kind: TrainedHead) -> None:
    """Check what a recipe asks of its head against the kind that it is.

    Raises:
        InputError: a key needs a head of another kind.
    """
    optim, named = recipe.optim, recipe.model if recipe.head is None else f"the head {recipe.head}"
    for each in heads().values():
        # A strength of one kind of head must be given for that kind, and for no other.
        value = getattr(optim, each.strength) if each.strength else None
        if each == kind and value == 0:
            raise InputError(f"optim.{each.strength}: 0 leaves {named} without its penalty; give a strength, such as 0.001")
        if each != kind and value:
            wanted = f"name the model res...-{each.suffix}, or the head {each.suffix}, or give 0"
            raise InputError(f"optim.{each.strength}: {value} has no effect on {named}; {wanted}")
    if optim.s is not None and not kind.sampled:
        raise InputError(f"optim.s: {optim.s} samples the weights of a dense head, which {named} has not; name a res8")
    after = recipe.static_after
    if after is not None:
        if not 1 <= after < optim.epochs:
            raise InputError(f"static_after: {after} of {optim.epochs} epochs; give one from 1 to one less, or null")
        if optim.ema is not None:
            raise InputError(
                f"static_after: {after} with optim.ema {optim.ema}: an average does not stay static; give one of them"
            )
        if recipe.k_start is not None and 2 * after < optim.epochs:
            raise InputError(f"static_after: {after}, but K falls from k_start until half of {optim.epochs} epochs; give more")
        if not kind.routes:
            raise InputError(f"static_after: {after} prunes a head that routes, which {named} has not; name a res8-d5a")


def differences(kept: dict[str, Any], recipe: Recipe) -> list[str]:
    """In what a recipe differs from one that was kept (plain values), as lines such as `optim.lr: 0.1 there, 0.2 here`.

    Settings that the kept one lacks have their defaults. Two ways to write the same folder of data are equal.
    """
    defaults = Recipe().to_dict()
    nested = {name: defaults[name] | kept.get(name, {}) for name in ("data", "optim")}
    return _differing(_located(defaults | kept | nested), _located(recipe.to_dict()))


def _located(settings: dict[str, Any]) -> dict[str, Any]:
    """The same with the data's folder in full, or without one where the data needs none; and with a side, as once was usual."""
    data = settings["data"]
    needed = data["kind"] not in sources.names() or sources.find(data["kind"]).needs_root
    root = str(Path(data["root"]).resolve()) if needed else ""
    return settings | {"data": data | {"root": root, "size": data["size"] or sources.USUAL_SIDE}}


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
