"""A decision followed down the layers: logit, units, their channels, the channels' channels (docs/definitions.md, "Traces").

Between two activations a network is affine, once it is known which values an activation lets pass. So what a unit puts into a
logit is a sum over the channels that the layer below lets pass, the shortcut, and a constant. The sums are followed by
PyTorch's own record of the forward pass, which is walked back from activation to activation.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from dynamick.discovery import home_of
from dynamick.errors import InputError
from dynamick.explanation.instances import Class, check_units, class_names, index_of, opened
from dynamick.explanation.reading import Preprocess, Reader, evaluating
from dynamick.explanation.sentence import spoken
from dynamick.networks.network import OpenNetwork
from dynamick.ops import torch_internals

if TYPE_CHECKING:
    from dynamick.dissection import Dissection

_DRAWN = {"figure": "dynamick.explanation.trace_plot"}
"""What draws loads matplotlib, so it is imported when it is first used."""
ACTIVATIONS = ("Relu", "Hardtanh", "LeakyRelu", "PreluKernel", "Threshold", "Clamp", "ClampMin", "ClampMax")
"""Of PyTorch's record: the steps that let some values pass, at which a level ends."""
AFFINE = (
    *("Convolution", "MkldnnConvolution", "CudnnConvolution", "NativeBatchNorm", "CudnnBatchNorm", "Addmm", "Mm", "_Sum"),
    *("Add", "Sub", "Mul", "Div", "Mean", "Sum", "AvgPool2D", "AdaptiveAvgPool2D", "MaxPool2DWithIndices", "ConstantPadNd"),
    *("T", "Transpose", "Permute", "View", "UnsafeView", "ReshapeAlias", "Squeeze", "Unsqueeze", "Select", "Slice", "Cat"),
    *("Expand", "Clone", "ToCopy", "Alias"),
)
"""The steps between them; what a maximum or this project's layers chose counts as given."""
FACTORS = ("Mul", "Div")
"""Affine while only one of the two comes from the image."""
OURS = "GeneratedBackwardFor_dynamick"
"""So begin this project's own operators."""


@dataclass(frozen=True, repr=False)
class Trace:
    """A number in the sum above it, and the sum that it is itself.

    Attributes:
        kind: `class`, `unit` (read by the head), `channel`, `shortcut` (what passes a block by), `bias` (of the class),
            `constant` (biases and shifts below), `rest` (the smaller channels together) or `image` (a colour of the image).
        layer: the module whose output it is a channel of, behind the activation that follows; None where there is none.
        index: of the channel, from 0; of the class. None for sums of several.
        value: what it puts into the logit.
        name: a class's or a concept's; None without.
        count: how many channels it is.
        heat: its split over the image, (H, W), which sums to the value; None where it has no place.
        parts: what it is the sum of; empty below the asked depth.
        ended: the step that cannot be split exactly, where the trace ends; None if it does not.
        picture: of the class, the image as it was given, (C, H, W).

    >>> scenes = dk.data.ComposedScenes("val", 1, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> found = dk.trace(model, scenes.images[0])
    >>> found.kind, found.parts[-1].kind
    ('class', 'bias')
    >>> found.as_dict()["value"] == found.value
    True
    """

    kind: str
    layer: str | None
    index: int | None
    value: float
    name: str | None = None
    count: int = 1
    heat: Tensor | None = None
    parts: "tuple[Trace, ...]" = ()
    ended: str | None = None
    picture: Tensor | None = None

    @property
    def label(self) -> str:
        """What it is, in words; units and channels count from 1."""
        if self.kind == "class":
            return f"class {spoken(str(self.name))}"
        if self.kind == "image":
            return f"the image's colour {(self.index or 0) + 1}"
        if self.index is None:
            return f"{self.count} smaller ones" if self.kind == "rest" else f"{self.kind} {self.layer or ''}".strip()
        where = f"{self.kind} {self.index + 1}" + (f" of {self.layer}" if self.kind == "channel" else "")
        return f"{where}: {spoken(self.name)}" if self.name else where

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without heatmaps."""
        return {
            "kind": self.kind,
            "layer": self.layer,
            "index": self.index,
            "value": self.value,
            "name": self.name,
            "count": self.count,
            "ended": self.ended,
            "parts": [part.as_dict() for part in self.parts],
        }

    def lines(self, indent: int = 0) -> list[str]:
        """The tree as text, a part a line."""
        end = f"   (ends here: {self.ended} does not split exactly)" if self.ended else ""
        own = f"{'  ' * indent}{self.value:+.3g}  {self.label}{end}"
        return [own, *(line for part in self.parts for line in part.lines(indent + 1))]

    def plot(self, most: int = 3) -> Any:
        """The tree in matplotlib, with heatmaps: of each level the `most` largest parts, the others as one.

        >>> scenes = dk.data.ComposedScenes("val", 1, image_size=32)
        >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
        >>> dk.trace(model, scenes.images[0]).plot().savefig("trace.png")
        """
        return home_of(__name__, _DRAWN, "figure")(self, most)

    def __repr__(self) -> str:
        return "\n".join(self.lines())


def trace(
    model: nn.Module | OpenNetwork,
    image: Any,
    cls: Class | None = None,
    depth: int = 2,
    units: "Dissection | None" = None,
    *,
    most: int = 8,
    preprocess: Preprocess = "model",
) -> Trace:
    """Follow one decision down the layers: each level sums exactly to the one above.

    The logit is the bias and the units' products. What a unit puts in is what channels of the layer below put in, the shortcut
    and a constant; and so on down, through convolutions (plain and Dynamic-K), batch normalisation, ReLU, pooling, residual
    sums and unit layers. Where a step does not split exactly (GELU, a squeeze-and-excitation's gate, attention), the trace
    ends with its name.

    Args:
        model: a classifier that ends in a linear layer, or what `open_network` gives; its modes are left as they were.
        image: one image: a path, an image of Pillow's, or a tensor (3, H, W), uint8 or floating point in 0..1.
        cls: the class, by index or name; None is the predicted one.
        depth: how many levels below the logit: 1 is the units, 2 their channels.
        units: the dissection of the layer that enters the head, which names the units.
        most: of a level's channels so many are listed, the largest first; the others are one part, the rest.
        preprocess: as in `dynamick.explain`.

    Returns:
        The class, with its parts; printing it shows the tree.

    Raises:
        InputError: not one image, a class that is not there, a depth or `most` below 1, or a model without a linear
            classifier at its end.

    >>> scenes = dk.data.ComposedScenes("val", 1, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> decision = dk.trace(model, scenes.images[0])
    >>> [unit, *_] = [part for part in decision.parts if part.kind == "unit"]
    >>> abs(sum(part.value for part in unit.parts) - unit.value) < 1e-5
    True
    """
    for name, number in (("depth", depth), ("most", most)):
        if number < 1:
            raise InputError(f"{name}: {number} must be an integer from 1 up")
    reader, batch = opened(model, image, preprocess)
    if len(batch) != 1:
        raise InputError(f"image: {len(batch)} images; a trace is of one")
    names = class_names(reader.model, reader.head)
    concepts = check_units(units, reader.head, reader.maps(batch)) or []
    walk = _Walk(reader, batch, most, [each.label if each and each.detector else None for each in concepts])
    place = int(walk.logits.argmax()) if cls is None else index_of("cls", cls, names)
    seed = torch.zeros_like(walk.logits)
    seed[0, place] = 1
    value = float(walk.logits[0, place])
    parts = walk.parts({walk.start: seed.reshape(walk.shape)}, value, depth, "unit")
    return Trace("class", None, place, value, names[place], parts=parts, picture=batch[0])


class _Recording(TorchFunctionMode):
    """Keeps what every step of a forward pass puts out."""

    def __init__(self) -> None:
        super().__init__()
        self.values: dict[Any, Tensor] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        output = func(*args, **(kwargs or {}))
        for each in output if isinstance(output, tuple | list) else (output,):
            if isinstance(each, Tensor) and each.grad_fn is not None:
                # Cloned, because a later step may change it in place.
                self.values.setdefault(each.grad_fn, each.detach().clone())
        return output


_Channel = tuple[Trace, Any, Tensor]
"""A channel's part, the step whose output it is a channel of, and the gradient there of the number that is split."""


class _Walk:
    """One forward pass, and the way back through it."""

    def __init__(self, reader: Reader, image: Tensor, most: int, names: Sequence[str | None]) -> None:
        self.most, self.names = most, names
        x, modules = reader.prepare(image).detach().clone().requires_grad_(), list[tuple[Any, str]]()
        logits, recording = list[Tensor](), _Recording()

        def named(name: str) -> Any:
            def hook(module: nn.Module, inputs: Any, output: Any) -> None:
                if isinstance(output, Tensor) and output.grad_fn is not None and not _passed(inputs, output):
                    modules.append((output.grad_fn, name))
                if module is reader.head.module:
                    logits.append(output)

            return hook

        hooks = [each.register_forward_hook(named(name)) for name, each in reader.model.named_modules() if name]
        try:
            with evaluating(reader.model), _frozen(reader.model), torch_internals.uncompiled(), torch.enable_grad(), recording:
                reader.model(x)
        finally:
            for hook in hooks:
                hook.remove()
        # A module that is called twice names no step.
        calls = Counter(name for _, name in modules)
        self.values, self.modules = recording.values, [(node, name) for node, name in modules if calls[name] == 1]
        self.start, self.shape = logits[-1].grad_fn, logits[-1].shape
        self.logits = logits[-1].detach().flatten(1)
        self.order = _order(self.start)
        leaf = next(node for node in self.order if not node.next_functions and node.name().endswith("AccumulateGrad"))
        self.values[leaf] = x.detach()
        self.image = leaf
        self.above: dict[Any, set[Any]] = {}
        self.passing: dict[Any, bool] = {}

    def parts(self, seeds: dict[Any, Tensor], value: float, depth: int, kind: str) -> tuple[Trace, ...]:
        """What a number is the sum of: the channels that the next activations let pass, and a constant."""
        reached = {node: grad for node, grad in self._reached(seeds).items() if (grad * self.values[node]).any()}
        below = {node for node in reached for other in reached if node is not other and node in self._ancestors(other)}
        made = self._listed(self._channels({node: grad for node, grad in reached.items() if node not in below}, kind), depth)
        if below:
            made.append(self._shortcut({node: reached[node] for node in self.order if node in below}, depth))
        made.append(Trace("bias" if kind == "unit" else "constant", None, None, value - math.fsum(part.value for part in made)))
        return tuple(made)

    def _shortcut(self, grads: dict[Any, Tensor], depth: int) -> Trace:
        """What passes a block by, itself a sum of channels."""
        found = self._channels(grads, "channel")
        layer = ", ".join(dict.fromkeys(self._layer(node) for node in grads))
        total = math.fsum(part.value for part, *_ in found)
        parts = self._listed(found, depth - 1) if depth > 1 else []
        return Trace("shortcut", layer, None, total, count=len(found), parts=tuple(parts))

    def _listed(self, channels: list[_Channel], depth: int) -> list[Trace]:
        """The largest of some channels, opened; the others as one."""
        channels = sorted(channels, key=lambda each: -abs(each[0].value))
        made = [self._opened(*each, depth) for each in channels[: self.most]]
        return made + sum_of_rest([part for part, *_ in channels[self.most :]])

    def _opened(self, part: Trace, node: Any, grad: Tensor, depth: int) -> Trace:
        if depth == 1 or part.ended or part.kind == "image" or part.index is None:
            return part
        axis, alone = _channel_axis(grad), torch.zeros_like(grad)
        alone.select(axis, part.index).copy_(grad.select(axis, part.index))
        return replace(part, parts=self.parts({node: alone}, part.value, depth - 1, "channel"))

    def _channels(self, grads: dict[Any, Tensor], kind: str) -> list[_Channel]:
        """A part for each channel of some steps' outputs that is not 0."""
        found = list[_Channel]()
        for node, grad in grads.items():
            products, layer = grad * self.values[node], self._layer(node)
            sums = products.double().sum([each for each in range(products.ndim) if each != _channel_axis(grad)])
            ended = None if node is self.image or _is(node, ACTIVATIONS) else self._end(node)
            what = "image" if node is self.image else kind
            for index in sums.nonzero().flatten().tolist():
                heat = products[0, index] if products.ndim == 4 else None
                name = self.names[index] if kind == "unit" and self.names else None
                found.append((Trace(what, layer, index, float(sums[index]), name, 1, heat, (), ended), node, grad))
        return found

    def _reached(self, seeds: dict[Any, Tensor]) -> dict[Any, Tensor]:
        """Walk back to the next activations: each one's gradient of the number that is split."""
        waiting: dict[Any, dict[int, Tensor]] = {node: {0: grad} for node, grad in seeds.items()}
        reached: dict[Any, Tensor] = {}
        for node in self.order:
            if node not in waiting:
                continue
            given = waiting.pop(node)
            if node not in seeds and (node is self.image or not self._passes(node)):
                reached[node] = given[0]
                continue
            count = torch_internals.outputs_of_step(node)
            with torch.no_grad():
                # A step in Python has its way back as a method.
                back = node if callable(node) else node.apply
                found = back(*(given.get(place) for place in range(count)))
            for (before, place), grad in zip(node.next_functions, _several(found), strict=False):
                if before in self.order and grad is not None:
                    have = waiting.setdefault(before, {})
                    have[place] = grad if place not in have else have[place] + grad
        return reached

    def _passes(self, node: Any) -> bool:
        """Whether a level goes on below a step: it is affine, and what it sums is known, or splits itself."""
        if node not in self.passing:
            befores = self._befores(node)
            affine = (_is(node, AFFINE) or node.name().startswith(OURS)) and not torch_internals.normalises_by_batch(node)
            if _is(node, FACTORS) and len(befores) > 1:
                affine = False
            self.passing[node] = affine and all(each in self.values or self._passes(each) for each in befores)
        return self.passing[node]

    def _end(self, node: Any) -> str:
        """The step that does not split: this one, or one before it whose output nobody sees."""
        hidden = [each for each in self._befores(node) if each not in self.values and not self._passes(each)]
        return self._end(hidden[0]) if hidden else _step(node)

    def _befores(self, node: Any) -> list[Any]:
        return [before for before, _ in node.next_functions if before in self.order]

    def _ancestors(self, node: Any) -> set[Any]:
        if node not in self.above:
            self.above[node] = set(_order(node))
        return self.above[node]

    def _layer(self, node: Any) -> str:
        """The module that a step belongs to: the outermost of those whose output it is; or that of the step before."""
        if node is self.image:
            return "the image"
        names = [name for step, name in self.modules if step is node]
        if names:
            return min(names, key=len)
        return next((self._layer(each) for each in self._befores(node)), _step(node))


def _passed(inputs: Any, output: Tensor) -> bool:
    """Whether a module puts out what came in, as dropout does in evaluation."""
    return any(isinstance(each, Tensor) and each.grad_fn is output.grad_fn for each in inputs)


def _channel_axis(values: Tensor) -> int:
    """Of tokens (1, N, C) the last axis, of maps (1, C, H, W) and vectors (1, C) the second."""
    return 2 if values.ndim == 3 else 1


def _order(start: Any) -> dict[Any, None]:
    """The steps that lead to one and depend on the image, each one before those that it used."""
    done: dict[Any, None] = {}
    stack = [(start, False)]
    while stack:
        node, left = stack.pop()
        if left:
            done[node] = None
        elif node not in done:
            stack.append((node, True))
            stack += [(before, False) for before, _ in node.next_functions if before is not None and before not in done]
    return dict.fromkeys(reversed(done))


def sum_of_rest(parts: Sequence[Trace]) -> list[Trace]:
    """Some parts as one; none of none."""
    if not parts:
        return []
    return [Trace("rest", None, None, math.fsum(part.value for part in parts), count=sum(part.count for part in parts))]


def _several(found: Any) -> Sequence[Tensor | None]:
    return found if isinstance(found, tuple) else (found,)


def _step(node: Any) -> str:
    """`HardswishBackward0` is PyTorch's name of the step Hardswish."""
    return str(node.name()).rsplit("::", 1)[-1].split("Backward")[0]


def _is(node: Any, steps: Sequence[str]) -> bool:
    return _step(node) in steps


@contextmanager
def _frozen(model: nn.Module) -> Iterator[None]:
    """Parameters are constants in the body, so that the record holds only what comes from the image."""
    learning = [each for each in model.parameters() if each.requires_grad]
    try:
        for each in learning:
            each.requires_grad_(False)
        yield
    finally:
        for each in learning:
            each.requires_grad_(True)
