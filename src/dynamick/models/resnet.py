"""Models by the paper's names: `res18`, `res18-d5a`, `res18-l1`, `res50-d25a` (He et al. 2015); CapsNets."""

import re
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.functional import check_rule
from dynamick.models.capsnet import CapsNet
from dynamick.nn import DynamicConv2d, DynamicLinear
from dynamick.nn.capsules import ROUTINGS
from dynamick.preprocessing import Preprocessing
from dynamick.torchvision_shim import torchvision

BasicBlock = torchvision.models.resnet.BasicBlock
Bottleneck = torchvision.models.resnet.Bottleneck

# depth: block and blocks in each stage; the depth counts the convolutions and the classifier
STAGES: dict[int, tuple[Any, tuple[int, ...]]] = {
    8: (BasicBlock, (1, 1, 1)),
    10: (BasicBlock, (1, 1, 1, 1)),
    14: (BasicBlock, (2, 2, 2)),
    18: (BasicBlock, (2, 2, 2, 2)),
    34: (BasicBlock, (3, 4, 6, 3)),
    50: (Bottleneck, (3, 4, 6, 3)),
    101: (Bottleneck, (3, 4, 23, 3)),
}
STEMS = ("cifar", "compact", "patch", "imagenet")


@dataclass(frozen=True)
class ModelName:
    """A model's name, taken apart.

    Attributes:
        depth: 8, 10, 14, 18, 34, 50 or 101; 0 for a CapsNet.
        head: `dense`, `l1` (a dense head trained with an L1 penalty), `dynamic` (the paper's a: thresholds activations) or
            `gradients` (g: computes as a dense head, thresholds gradients); of a CapsNet the routing of its capsules,
            `capsules-dynamic`, `capsules-em` or `capsules-simplified`.
        k: how many inputs a class routes at most; None unless the head is dynamic or gradients.
    """

    depth: int
    head: str = "dense"
    k: int | None = None

    def __str__(self) -> str:
        if self.head.startswith("capsules-"):
            return f"capsnet-{self.routing}"
        suffix = {"dense": "", "l1": "-l1", "dynamic": f"-d{self.k}a", "gradients": f"-d{self.k}g"}[self.head]
        return f"res{self.depth}{suffix}"

    @property
    def routing(self) -> str | None:
        """How a CapsNet's capsules route; None for a ResNet."""
        return self.head.removeprefix("capsules-") if self.head.startswith("capsules-") else None


def parse(name: str) -> ModelName:
    """Take a name such as `res18-d5a` apart.

    Raises:
        InputError: it is no such name, or no ResNet of this depth is known.
    """
    form = "give res18, res18-d5a (K inputs routed per class, K from 1 up), res18-d5g, res18-l1 or capsnet-em"
    if name.startswith("capsnet"):
        routing = name.removeprefix("capsnet-")
        if routing not in ROUTINGS:
            raise InputError(f"model: {name!r} is no CapsNet's name; give {', '.join(f'capsnet-{each}' for each in ROUTINGS)}")
        return ModelName(0, f"capsules-{routing}")
    match = re.fullmatch(r"res(\d+)(?:-(?:d(.*)([ag])|(l1)))?", name)
    if match is None:
        raise InputError(f"model: {name!r} is no model's name; {form}")
    depth, k, threshold, l1 = match.groups()
    if depth not in map(str, STAGES):
        raise InputError(f"model: {name!r}: no ResNet of depth {depth}; there are {', '.join(map(str, STAGES))}")
    if k is not None and (re.fullmatch(r"[0-9]{1,18}", k) is None or int(k) < 1):
        raise InputError(f"model: {name!r}: K of {k!r} is no integer from 1 up; {form}")
    head = {"a": "dynamic", "g": "gradients"}[threshold] if k else "l1" if l1 else "dense"
    return ModelName(int(depth), head, int(k) if k else None)


class ResNet(nn.Module):
    """A ResNet of any number of stages and any width; parameters are named as torchvision's.

    Args:
        depth: one of `STAGES`.
        num_classes: outputs of the head.
        stem: `cifar` (3x3, stride 1: the paper's for 32x32 inputs), `imagenet` (7x7, stride 2, and a max pooling: for 224x224),
            or, for small machines, at about a quarter of cifar's cost, `compact` (3x3, stride 1, and a 2x2 max pooling) or
            `patch` (4x4, stride 2).
        width: channels of the first stage; every later stage doubles them. 64 is the standard.
        k: None for a dense head, else K.
        rule: `at_most` or `exactly`.
        threshold: `activations` or `gradients`, as in `dynamick.DynamicLinear`.
    """

    config: dict[str, Any]
    preprocessing: Preprocessing
    classes: list[str]

    def __init__(
        self,
        depth: int,
        num_classes: int,
        stem: str = "cifar",
        width: int = 64,
        k: int | None = None,
        rule: str = "at_most",
        threshold: str = "activations",
    ) -> None:
        super().__init__()
        block, counts = STAGES[depth]
        self.stages = [f"layer{number}" for number in range(1, len(counts) + 1)]
        kernel, stride, padding = {"imagenet": (7, 2, 3), "patch": (4, 2, 1)}.get(stem, (3, 1, 1))
        self.conv1 = nn.Conv2d(3, width, kernel, stride, padding, bias=False)
        pools = {"compact": nn.MaxPool2d(2), "imagenet": nn.MaxPool2d(3, 2, 1)}
        self.maxpool = pools.get(stem, nn.Identity())
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        inplanes = width
        for number, count in enumerate(counts):
            planes = width * 2**number
            self.add_module(self.stages[number], _stage(block, inplanes, planes, count, 1 if number == 0 else 2))
            inplanes = planes * block.expansion
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.num_features = inplanes
        if k is None:
            self.fc = nn.Linear(inplanes, num_classes)
        else:
            self.fc = DynamicLinear(inplanes, num_classes, k, rule=rule, threshold=threshold)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) to what enters the head (B, features)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        return self.avgpool(x).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) to logits (B, num_classes)."""
        return self.fc(self.features(x))


def _stage(block: Any, inplanes: int, planes: int, count: int, stride: int) -> nn.Sequential:
    """Blocks of one resolution; the first one changes stride and channels, with a projection where it must."""
    out = planes * block.expansion
    projection = None
    if stride != 1 or inplanes != out:
        projection = nn.Sequential(nn.Conv2d(inplanes, out, 1, stride, bias=False), nn.BatchNorm2d(out))
    wide = {"base_width": 64} if block is BasicBlock else {}
    blocks = [block(inplanes, planes, stride, projection, **wide)]
    return nn.Sequential(*blocks, *(block(out, planes, **wide) for _ in range(1, count)))


Network = ResNet | CapsNet


def current_config(model: Network) -> dict[str, Any]:
    """The configuration that rebuilds a model as it is now: its classifier may have been converted, reverted or set otherwise.

    Raises:
        InputError: no configuration says it: layers before the classifier were converted, the classifier is of another kind, or
            its outputs have other names than there are.
    """
    config = {**model.config, "preprocessing": model.preprocessing.to_dict(), "classes": list(model.classes)}
    converted = [name for name, each in model.named_modules() if isinstance(each, DynamicLinear | DynamicConv2d)]
    if others := [name for name in converted if name != "fc"]:
        raise InputError(f"model: {others[0]} was converted, which no model's name says; keep the state_dict()")
    if isinstance(model, CapsNet):
        return config
    name, head = parse(config["model"]), model.fc
    if type(head) not in (nn.Linear, DynamicLinear) or head.in_features != model.num_features or head.bias is None:
        raise InputError(f"model: fc is {head}, which no model's name says; keep the state_dict()")
    if head.out_features != len(model.classes):
        raise InputError(
            f"model: fc has {head.out_features} outputs and model.classes {len(model.classes)} names; give one each"
        )
    if isinstance(head, DynamicLinear):
        name = ModelName(name.depth, {"activations": "dynamic", "gradients": "gradients"}[head.threshold], head.k)
        config["rule"] = head.rule
    elif name.k is not None:
        name = ModelName(name.depth)
    return config | {"model": str(name), "num_classes": head.out_features}


def create(
    name: str,
    num_classes: int = 10,
    stem: str = "cifar",
    width: int = 64,
    preprocessing: Preprocessing | None = None,
    classes: list[str] | None = None,
    rule: str = "at_most",
) -> Network:
    """A new model by its name, with all that it needs to be used later as attributes.

    Args:
        name: as in `parse`.
        num_classes: from 2 up.
        stem: `cifar`, `compact`, `patch` or `imagenet`, as in `ResNet`.
        width: channels of the first stage.
        preprocessing: what happens to images before the model; becomes `model.preprocessing`.
        classes: the classes' names; becomes `model.classes`.
        rule: `at_most` or `exactly`.

    Returns:
        A ResNet, or a CapsNet, with attributes `config` (plain values that rebuild it), `preprocessing` and `classes`.

    Raises:
        InputError: an unknown name, stem or rule, fewer than two classes, or names that do not match their number.
    """
    parsed = parse(name)
    if stem not in STEMS:
        raise InputError(f"stem: {stem!r} is unknown; give {', '.join(STEMS)}")
    if num_classes < 2:
        raise InputError(f"num_classes: {num_classes} leaves nothing to tell apart; give 2 or more")
    if width < 1:
        raise InputError(f"width: {width} is no number of channels; give 1 or more (64 is the standard)")
    if classes is not None and len(classes) != num_classes:
        raise InputError(f"classes: {len(classes)} names for {num_classes} classes; give one each")
    try:
        check_rule(rule)
    except ValueError as error:
        raise InputError(str(error)) from None
    model: Network
    if parsed.routing is not None:
        model = CapsNet(num_classes, stem, width, parsed.routing)
    else:
        threshold = "gradients" if parsed.head == "gradients" else "activations"
        model = ResNet(parsed.depth, num_classes, stem, width, parsed.k, rule, threshold)
    model.preprocessing = preprocessing or Preprocessing()
    model.classes = list(classes) if classes is not None else [str(number) for number in range(num_classes)]
    model.config = {
        "model": str(parsed),
        "num_classes": num_classes,
        "stem": stem,
        "width": width,
        "rule": rule,
        "preprocessing": model.preprocessing.to_dict(),
        "classes": model.classes,
    }
    return model
