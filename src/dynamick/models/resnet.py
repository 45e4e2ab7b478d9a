"""ResNets of any depth that is listed, any number of stages and any width (He et al. 2015)."""

from collections.abc import Callable
from typing import Any

import torchvision
from torch import Tensor, nn

from dynamick.preprocessing import Preprocessing

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


class ResNet(nn.Module):
    """A ResNet of any number of stages and any width; parameters are named as torchvision's.

    Args:
        depth: one of `STAGES`.
        num_classes: outputs of the head.
        stem: `cifar` (3x3, stride 1: the paper's for 32x32 inputs), `imagenet` (7x7, stride 2, and a max pooling: for 224x224),
            or `compact` (3x3, stride 1, and a 2x2 max pooling) or `patch` (4x4, stride 2): for small machines, at about a
            quarter of cifar's cost.
        width: channels of the first stage; every later stage doubles them. 64 is the standard.
        head: makes the head from the numbers of its inputs and outputs; it becomes `fc`.

    >>> model = dk.models.ResNet(8, num_classes=10, stem="patch", width=8)
    >>> model(torch.rand(2, 3, 32, 32)).shape, model.fc.in_features
    (torch.Size([2, 10]), 32)
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
        head: Callable[[int, int], Any] = nn.Linear,
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
        self.fc = head(inplanes, num_classes)
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
