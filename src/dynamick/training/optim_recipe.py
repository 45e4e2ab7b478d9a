"""A recipe's `optim`: how a training goes, as plain values."""

from dataclasses import dataclass

from dynamick.errors import InputError
from dynamick.optim import ESTIMATES, FORMS, check_options
from dynamick.settings import key

OPTIMIZERS = ("sgd", "adamw")
SCHEDULES = ("step", "onecycle", "cosine")
CLASS_WEIGHTS = ("none", "balanced")
STOP_METRICS = {"top1": "max", "top5": "max", "map": "max", "val_loss": "min"}
"""What early stopping may look at, and whether more or less of it is better."""


@dataclass
class OptimRecipe:
    """How a training goes; the defaults are the paper's for CIFAR-10. `dynamick train --help` says what each key means.

    >>> dk.training.OptimRecipe(epochs=9, lr=0.2).batch_size
    256
    """

    epochs: int = key(200, "passes over the training images")
    batch_size: int = key(256, "images of a step, of all processes together")
    optimizer: str = key("sgd", "sgd or adamw; adamw multiplies decays by the rate, so the head's needs 1 to 10", OPTIMIZERS)
    lr: float = key(0.1, "the highest learning rate")
    backbone_lr: float | None = key(None, "the same for all before the units and the head; null takes lr")
    momentum: float = key(0.9, "of SGD; of AdamW the first beta")
    nesterov: bool = key(False, "Nesterov's momentum, of SGD")
    weight_decay: float = key(5e-4, "of all parameters")
    head_weight_decay: float | None = key(None, "of the head's weight alone; null takes weight_decay")
    schedule: str = key("step", "how the learning rate changes", SCHEDULES)
    step_epochs: int = key(70, "the schedule `step` divides the rate by ten each time so many epochs are done")
    warmup: float = key(
        0.25,
        "the share of all steps in which `onecycle` raises the rate; the momentum swings too, by 0.05 to each side, lowest "
        "where the rate is highest (if it stays between 0 and 1)",
    )
    clip: float | None = key(None, "the gradient's largest norm; null does not clip")
    ema: float | None = key(
        None, "decay of averaged weights, such as 0.999: these are measured and written; null takes the weights as they are"
    )
    stop_after: int | None = key(None, "end after so many epochs in which stop_metric was not better; null goes on to the end")
    stop_metric: str = key("val_loss", "what stop_after looks at", tuple(STOP_METRICS))
    l1: float = key(0.0, "strength of the L1 penalty on the head's weight, for the head l1 alone; zeros are exact")
    label_smoothing: float = key(0.0, "as in torch.nn.CrossEntropyLoss")
    class_weights: str = key("none", "balanced weighs each class's images by how few they are", CLASS_WEIGHTS)
    s: float | None = key(
        None, "sparsity level of Interpretable SGD (Algorithm 3) on a dense head's weight, above 0 and at most 1; null is SGD"
    )
    block_size: int = key(5, "the K of Interpretable SGD")
    form: str = key("normalised", "how Interpretable SGD draws", FORMS)
    beta: float | None = key(None, "the block size beta of Interpretable SGD; null takes what s gives")
    estimate: str = key("local", "how Interpretable SGD estimates Lipschitz constants", ESTIMATES)

    @property
    def head_decay(self) -> float:
        """Decay of the head's weight."""
        return self.weight_decay if self.head_weight_decay is None else self.head_weight_decay

    def check(self) -> None:
        """Check that every value is allowed.

        Raises:
            InputError: the first one that is not, named as in YAML.
        """
        one_of("optim.optimizer", self.optimizer, OPTIMIZERS)
        one_of("optim.schedule", self.schedule, SCHEDULES)
        one_of("optim.class_weights", self.class_weights, CLASS_WEIGHTS)
        one_of("optim.stop_metric", self.stop_metric, tuple(STOP_METRICS))
        for name in ("epochs", "batch_size", "step_epochs", "stop_after"):
            count = getattr(self, name)
            if count is not None and count < 1:
                raise InputError(f"optim.{name}: {count} must be an integer from 1 up")
        for name in ("lr", "weight_decay", "l1", "head_weight_decay", "backbone_lr"):
            amount = getattr(self, name)
            if amount is not None and (not isinstance(amount, int | float) or not 0 <= amount < float("inf")):
                raise InputError(f"optim.{name}: {amount} must be a number from 0 up")
        for name in ("warmup", "label_smoothing"):
            share = getattr(self, name)
            if not isinstance(share, int | float) or not 0 <= share <= 1:
                raise InputError(f"optim.{name}: {share} must be a number in 0..1")
        if self.clip is not None and self.clip <= 0:
            raise InputError(f"optim.clip: {self.clip} must be a number above 0, or null")
        if self.ema is not None and not 0 < self.ema < 1:
            raise InputError(f"optim.ema: {self.ema} must be a number between 0 and 1, such as 0.999, or null")
        momentum = self.momentum
        if not isinstance(momentum, int | float) or not 0 <= momentum < 1 or (self.nesterov and not momentum):
            raise InputError(f"optim.momentum: {momentum} must be a number from 0 to below 1, and above 0 for nesterov")
        self._check_sampling()

    def _check_sampling(self) -> None:
        one_of("optim.form", self.form, FORMS)
        one_of("optim.estimate", self.estimate, ESTIMATES)
        try:
            check_options(1.0 if self.s is None else self.s, self.block_size, self.form, self.beta)
        except InputError as error:
            raise InputError(f"optim.{error}") from None
        if self.s is not None and self.optimizer != "sgd":
            raise InputError(f"optim.s: {self.s} is Interpretable SGD; give optim.optimizer sgd")


def one_of(name: str, value: str, allowed: tuple[str, ...]) -> None:
    """Raise InputError unless a setting has one of the values that there are."""
    if value not in allowed:
        raise InputError(f"{name}: {value!r} is unknown; give {', '.join(allowed)}")
