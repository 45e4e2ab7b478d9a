"""A network opened, with all that is known of it."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from torch import nn

from dynamick.data.recipe import DataRecipe, folder_recipe
from dynamick.errors import InputError
from dynamick.nn import find_classifier
from dynamick.preprocessing import Preprocessing


@dataclass(frozen=True)
class OpenNetwork:
    """A network, and what is known of it.

    Attributes:
        name: for example `res8-d5a`, or `resnet50`.
        model: in evaluation mode. `model.preprocessing`, `model.classes` and `model.head_name` say the same as this object.
        head: dotted name of the linear layer that puts out the logits; None if there is none.
        layer: dotted name of the layer whose maps are pooled into the head's input; None if nothing says.
        preprocessing: how its images are prepared; None if nothing says.
        classes: a name for each output; the outputs' numbers where nothing says.
        named: whether the user gave the classes' names.
        data: the images that it learnt from; None if its file does not say.
        source: where its weights came from: a file, or `DEFAULT`; None if the user's function made them.
        metrics: what its training measured last, by name; empty if its file does not say.
        epochs: how many epochs its training has in all; None if its file does not say.
        center_crop: whether it is evaluated on the middle 7/8 of its images, as most are, or on the whole shorter side.

    >>> network = dk.open_network(dk.models.create("res8-d5a", 2, stem="compact", width=8, classes=["cat", "dog"]))
    >>> network.classes, network.preprocessing is None
    (['cat', 'dog'], False)
    """

    name: str
    model: nn.Module
    head: str | None = None
    layer: str | None = None
    preprocessing: Preprocessing | None = None
    classes: list[str] = field(default_factory=list)
    named: bool = False
    data: DataRecipe | None = None
    source: Path | str | None = None
    metrics: dict[str, float] = field(default_factory=dict)
    epochs: int | None = None

    @property
    def center_crop(self) -> bool:
        return self.data is None or self.data.center_crop

    @property
    def size(self) -> int | None:
        """Side in pixels of the images that it takes; None if nothing says."""
        return None if self.preprocessing is None else self.preprocessing.size

    @property
    def accuracy(self) -> float | None:
        """Top-1 on held-out images, 0..1."""
        return self.metrics["top1"] / 100 if "top1" in self.metrics else None

    @property
    def state(self) -> str | None:
        """A sentence on how far the training is; None if it is done, or the file does not say."""
        epoch = int(self.metrics.get("epoch", 0))
        if self.epochs is None or not 0 < epoch < self.epochs:
            return None
        return f"These are the weights after epoch {epoch} of {self.epochs}: the training goes on, or was not finished."

    def images(self, kind: str | None = None, root: str | None = None, size: int | None = None) -> DataRecipe:
        """The images that it learnt from, or other ones of the user's, prepared as its own were.

        Args:
            kind: another source of images than its own.
            root: their folder.
            size: another side in pixels.

        Raises:
            InputError: its file does not say from which images it learnt, and the user gives no kind.
        """
        known = self.data
        if known is None and kind is None:
            raise InputError(f"{self.source}: does not say on which data it was trained; give --data and --root")
        if kind == "folder" and (known is None or known.kind != kind):
            known = folder_recipe("data", self.size if known is None else known.side, known)
        changes: dict[str, Any] = {"kind": kind, "root": root, "size": size}
        return replace(known or DataRecipe(), **{key: value for key, value in changes.items() if value is not None})

    def need_head(self) -> str:
        """The head's name.

        Raises:
            InputError: there is none.
        """
        try:
            return find_classifier(self.model) if self.head is None else self.head
        except ValueError as error:
            said = str(error).removeprefix("model: ").split(";")[0]
            raise InputError(f"model {self.name}: {said}; name the layer that puts out the logits (--layer)") from None

    def order_of(self, classes: list[str]) -> list[int] | None:
        """Which output stands for each of some classes; None where the network was not trained on these.

        Where nobody says the outputs' names, or only the publisher of the weights, they are taken in the order of the classes.
        """
        outputs = len(self.model.get_submodule(self.need_head()).get_parameter("weight"))
        if outputs != len(classes):
            return None
        published = self.source == "DEFAULT" and not self.named
        if published or (not self.named and getattr(self.model, "classes", None) is None):
            return list(range(outputs))
        return [self.classes.index(name) for name in classes] if sorted(self.classes) == sorted(classes) else None

    def need_preprocessing(self) -> Preprocessing:
        """How its images are prepared.

        Raises:
            InputError: nothing says.
        """
        if self.preprocessing is None:
            raise InputError("--mean, --std: the model does not say how its images are prepared; give both --mean and --std")
        return self.preprocessing
