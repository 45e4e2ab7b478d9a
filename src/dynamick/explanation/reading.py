"""What an explanation reads in one forward pass: the logits, the head's inputs, and the maps pooled into them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.explanation.head import LinearHead, find_head
from dynamick.explanation.maps import NOT_FINITE, Maps, Sight, Watching, as_maps, find_maps, tells, watch
from dynamick.networks.running import check_hooks, like_input, puts_out, right_channels, unwrapped
from dynamick.ops import torch_internals
from dynamick.preprocessing import Preprocessing, check_range, check_type
from dynamick.progress import bar

Preprocess = str | Callable[[Tensor], Tensor] | None
"""`model` for the model's own, None for images that are prepared, or any callable."""


@dataclass(frozen=True)
class Reading:
    """One batch's forward pass: logits (B, O), head inputs (B, M), maps (B, M, H, W) or None, all detached.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> reading = dk.explanation.Reader(model).read(scenes.images)
    >>> torch.allclose(reading.maps.mean((2, 3)), reading.x, atol=1e-6)
    True
    """

    logits: Tensor
    x: Tensor
    maps: Tensor | None


@dataclass(frozen=True)
class Seen:
    """Images that a network was shown once. Explanations, measures and pages are made from it without another pass.

    Attributes:
        reader: of the network.
        images: as they were given, (N, C, H, W).
        batches: what it read in them, batch by batch.
        where: where its maps are.
    """

    reader: "Reader"
    images: Tensor
    batches: Sequence[Reading]
    where: Maps


class Reader:
    """Runs a model and reads its head's inputs by hooks. The first image that excites it shows where its maps are.

    A compiled model runs uncompiled here, because its hooks would not be called.

    Args:
        model: any classifier that ends in a linear layer.
        preprocess: `model` takes the model's own `preprocessing` (floating point images of a model without one go in as they
            are); None says that the images are prepared already; or any callable on image batches.

    Raises:
        InputError: no linear classifier, TorchScript, or a `preprocessing` that cannot be called.

    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> reading = dk.explanation.Reader(model).read(scenes.images)
    >>> reading.logits.shape, reading.maps.shape
    (torch.Size([4, 10]), torch.Size([4, 32, 4, 4]))
    """

    def __init__(self, model: nn.Module, preprocess: Preprocess = "model") -> None:
        check_hooks(model)
        self.model = unwrapped(model)
        self.head = find_head(self.model)
        self.preprocess = _preprocess(self.model, preprocess)
        self._maps: Maps | None = None

    def maps(self, images: Tensor) -> Maps:
        """Where this model's maps are, found out with the first of these images that excites a unit, and kept."""
        if self._maps is not None:
            return self._maps
        found, told = self._probe(images[:1])
        if not told and (telling := self._first_telling(images)) is not None:
            found, told = self._probe(telling)
        if told:
            self._maps = found
        return found

    def read(self, images: Tensor) -> Reading:
        """Forward pass of a batch of images (B, C, H, W); see `Reader` for what they may be.

        Raises:
            InputError: the images have another shape or type, or the model cannot take them.
        """
        return self.read_prepared(self.prepare(images), self.maps(images))

    def see(self, images: Tensor, batch_size: int = 64, maps: bool = True, progress: bool = False) -> Seen:
        """Show the model some images, batch by batch, and keep what is read. `maps=False` drops the maps, the largest part.

        `progress` shows how many the network has seen, and how long the rest takes.

        Raises:
            InputError: as `read`, or there is no image.
        """
        check_images(images)
        if not len(images):
            raise InputError("images: none were given; give one or more")
        where = self.maps(images)
        batches = list[Reading]()
        with bar("showing images", len(images), show=progress) as shown:
            for batch in images.split(batch_size):
                reading = self.read_prepared(self.prepare(batch), where)
                batches.append(reading if maps else replace(reading, maps=None))
                shown.update(len(batch))
        return Seen(self, images, batches, where)

    def prepare(self, images: Tensor) -> Tensor:
        """Network input on the model's device.

        Raises:
            InputError: no batch of images, or values that do not fit the preprocessing.
        """
        check_images(images)
        if images.dtype == torch.uint8 and self.preprocess is None:
            raise InputError("images: uint8, and the model has no preprocessing; pass preprocess=Preprocessing(...)")
        if isinstance(self.preprocess, Preprocessing):
            self.preprocess.check_channels(images)
            check_range(images, also=", or prepared images with preprocess=None")
        like = like_input(self.model, self.head.name)
        images = images.to(like.device)
        prepared = images if self.preprocess is None else self.preprocess(images)
        return prepared.to(like.dtype)

    def read_prepared(self, prepared: Tensor, where: Maps) -> Reading:
        """Forward pass of network input, with maps from where they were found.

        Raises:
            InputError: the model cannot take it.
        """
        seen: dict[str, Tensor] = {}

        def see_maps(_module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            seen["maps"] = inputs[0] if where.side == "input" else output

        hooks = [] if where.module is None else [self.model.get_submodule(where.module).register_forward_hook(see_maps)]
        watching = Watching(self.head.weight.shape[1]) if where.side == "function" else None
        _, logits, given = self._run(prepared, hooks, watching)
        x_BM = given.flatten(1)
        # Each batch is checked, because in the first image a map may equal the input by chance.
        if watching is not None:
            return Reading(logits.flatten(1), x_BM, watching.maps(x_BM))
        return Reading(logits.flatten(1), x_BM, as_maps(seen["maps"], x_BM) if "maps" in seen else None)

    def logits(self, prepared: Tensor) -> Tensor:
        """What the model's head puts out, (B, O), whatever is made of it; gradients flow if they are enabled."""
        seen: list[Tensor] = []
        hook = self.head.module.register_forward_hook(lambda _module, _inputs, output: seen.append(output))
        try:
            with torch_internals.uncompiled():
                self.model(prepared)
        finally:
            hook.remove()
        return seen[-1].flatten(1)

    def _probe(self, image: Tensor) -> tuple[Maps, bool]:
        """Where the maps are, by one image, and whether that image can tell."""
        prepared, seen = self.prepare(image), list[Sight]()
        hooks = [module.register_forward_hook(watch(name, seen)) for name, module in self.model.named_modules() if name]
        output, logits, given = self._run(prepared, hooks)
        self._check(output, logits, given)
        x_BM = given.flatten(1)
        if not x_BM.isfinite().all():
            return Maps(None, "output", frozenset(), NOT_FINITE), False
        found, told = find_maps(self.head.name, x_BM, seen), tells(x_BM)
        return self._find_in_functions(prepared, found) if told and found.why is not None else found, told

    def _first_telling(self, images: Tensor) -> Tensor | None:
        """The first finite image that excites a unit. In a blank image any map of zeros would look right."""
        for batch in images.split(64):
            x_BM = self._run(self.prepare(batch), [])[2].flatten(1)
            if good := [place for place in range(len(batch)) if tells(x_BM[place])]:
                return batch[good[0] : good[0] + 1]
        return None

    def _find_in_functions(self, prepared: Tensor, found: Maps) -> Maps:
        """If no module sees the maps, a function may put them out: `F.relu` before a functional mean."""
        watching = Watching(self.head.weight.shape[1])
        given = self._run(prepared, [], watching)[2]
        return found if watching.maps(given.flatten(1)) is None else Maps(None, "function", found.layers, None)

    def _check(self, output: Any, logits: Tensor, given: Tensor) -> None:
        if given.ndim not in (2, 4) or (given.ndim == 4 and given.shape[2:] != (1, 1)):
            raise InputError(
                f"model: its classifier {self.head.name!r} works on maps of shape {tuple(given.shape[1:])} and is pooled "
                "later; only a linear classifier after the pooling can be explained"
            )
        # What is changed in place behind the head is seen here.
        same = _close(logits.flatten(1), self.head.scores(given.flatten(1)))
        # Where somebody named the head, the rest of the network may make probabilities of the logits, or a dictionary.
        if same and getattr(self.model, "head_name", None) is not None and puts_out(output, logits):
            return
        if not isinstance(output, Tensor):
            raise InputError(f"model: its output is a {type(output).__name__}; give a model that returns logits")
        # A network of one logit often leaves out that dimension.
        squeezed = output.ndim < 2 and output.numel() == logits.numel()
        if not same or not _close(output.reshape(len(logits), -1) if squeezed else output.flatten(1), logits.flatten(1)):
            raise InputError(f"model: its output is not that of its last linear layer {self.head.name!r}; give the logits")

    def _run(self, prepared: Tensor, hooks: list[Any], watching: Watching | None = None) -> tuple[Any, Tensor, Tensor]:
        """The model's output, and the head's output and input in one pass; takes all hooks away again."""
        seen: dict[str, Tensor] = {}

        def see_head(_module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
            seen["x"], seen["logits"] = inputs[0].detach(), output.detach()

        hooks.append(self.head.module.register_forward_hook(see_head))
        try:
            ours = isinstance(self.preprocess, Preprocessing)
            channels = right_channels(self.model, prepared.shape[1]) if ours else nullcontext()
            with channels, evaluating(self.model), torch.no_grad(), torch_internals.uncompiled(), watching or nullcontext():
                output = self.model(prepared)
        except torch.OutOfMemoryError:
            raise
        except RuntimeError as error:
            first = str(error).splitlines()[0]
            raise InputError(f"images: the model does not take shape {tuple(prepared.shape)} ({first})") from error
        finally:
            for hook in hooks:
                hook.remove()
        if "x" not in seen:
            raise InputError(f"model: its last linear layer {self.head.name!r} was not called by the forward pass")
        return output, seen["logits"], seen["x"]


def heat(head: LinearHead, reading: Reading, classes_B: Tensor) -> Tensor | None:
    """Where each image's own class gets its logit from: the sum of its routed units' maps, (B, H, W); None without maps.

    Summed over the image it is the logit minus the bias (docs/definitions.md, "Dynamic-K").
    """
    if reading.maps is None:
        return None
    indices_BK = head.route(reading.x, classes_B[:, None]).indices[:, 0]
    weight_BM = head.effective_weight[classes_B].to(reading.maps.dtype)
    routed_BM = torch.zeros_like(weight_BM).scatter_add(1, indices_BK.clamp(min=0), (indices_BK >= 0).to(weight_BM.dtype))
    cells = reading.maps[0, 0].numel()
    return torch.einsum("bm,bmhw->bhw", weight_BM * routed_BM, reading.maps) / cells


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for the body; every module's own mode is put back, also when the body raises."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def _close(one: Tensor, other: Tensor) -> bool:
    rough = other.dtype in (torch.float16, torch.bfloat16)
    rtol, atol = (2e-2, 2e-2) if rough else (1e-3, 1e-4)
    return one.shape == other.shape and torch.allclose(one.float(), other.float(), rtol=rtol, atol=atol, equal_nan=True)


def check_images(images: Tensor) -> None:
    """Raise InputError unless this is a batch of images, (B, C, H, W), uint8 or floating point."""
    if not isinstance(images, Tensor) or images.ndim != 4:
        shape = tuple(images.shape) if isinstance(images, Tensor) else type(images).__name__
        raise InputError(f"images: {shape} is no batch; give a tensor of shape (B, 3, H, W), uint8 or 0..1")
    check_type(images)


def _preprocess(model: nn.Module, given: Preprocess) -> Callable[[Tensor], Tensor] | None:
    if isinstance(given, str) and given != "model":
        raise InputError(f"preprocess: {given!r} is unknown; give 'model', None or a Preprocessing")
    found = getattr(model, "preprocessing", None) if isinstance(given, str) else given
    if found is not None and not callable(found):
        kind = type(found).__name__
        raise InputError(f"model: its preprocessing is a {kind}, no function; pass preprocess=Preprocessing(...)")
    return found
