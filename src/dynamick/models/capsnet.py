"""A small capsule network, to compare Algorithm 1's routing with Dynamic-K (Sabour et al. 2017; Hinton et al. 2018)."""

from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from dynamick.models.heads import dense
from dynamick.nn import RoutingCapsules
from dynamick.nn.capsules import squash
from dynamick.preprocessing import Preprocessing

GRID = 2
"""Primary capsules are on a grid with this many places a side, for any image size. Parts can be anywhere in a scene, and every
place has weights of its own. So a finer grid learns less from as many images."""
POSE = 8
"""Every capsule's pose has this many numbers."""
INVERSE_TEMPERATURE = 0.1
"""Of EM routing. With 0.01, the default, the logits of so few capsules hardly differ and learn too slowly; 1 diverges."""


class ClassCapsules(RoutingCapsules):
    """The head: a capsule a class, whose log-odds of being present are the logits.

    Args:
        in_capsules: how many primary capsules come in.
        num_classes: capsules that go out.
        routing: as in `RoutingCapsules`.
    """

    def __init__(self, in_capsules: int, num_classes: int, routing: str) -> None:
        super().__init__(in_capsules, POSE, num_classes, POSE, routing, inverse_temperature=INVERSE_TEMPERATURE)
        self.in_features, self.out_features = in_capsules * POSE, num_classes

    def forward(self, x: Tensor) -> Tensor:  # type: ignore[override]
        """Features (B, in_capsules * POSE) to logits (B, num_classes)."""
        return self.capsules(x).log_odds

    def capsules(self, x: Tensor) -> Any:
        """The same features to all that the routing gives, a `dynamick.nn.Capsules`."""
        poses = x.unflatten(1, (self.in_capsules, POSE))
        lengths = (poses.square().sum(-1) + 1e-8).sqrt() if self.routing == "em" else None
        return super().forward(poses, lengths)


def _is_capsules(layer: nn.Module) -> bool:
    return isinstance(layer, ClassCapsules)


HEAD = replace(dense.HEAD, name="capsules", label="capsules", holds=_is_capsules, sampled=False)
"""Capsules train as a dense head does."""


class CapsNet(nn.Module):
    """Three convolutions, primary capsules on a grid, and a capsule a class; about as many parameters as a res8 of its width.

    Args:
        num_classes: capsules of the head.
        stem: `cifar` (3x3, stride 1), `compact` (and a 2x2 max pooling), `patch` (4x4, stride 2) or `imagenet` (7x7,
            stride 2, and a max pooling).
        width: channels of the first convolution; each of the two others doubles them.
        routing: `dynamic`, `em` or `simplified`.

    >>> model = dk.models.CapsNet(num_classes=10, stem="patch", width=8)
    >>> model(torch.rand(2, 3, 32, 32)).shape
    torch.Size([2, 10])
    """

    config: dict[str, Any]
    preprocessing: Preprocessing
    classes: list[str]

    def __init__(self, num_classes: int, stem: str = "cifar", width: int = 64, routing: str = "dynamic") -> None:
        super().__init__()
        kernel, stride, padding = {"imagenet": (7, 2, 3), "patch": (4, 2, 1)}.get(stem, (3, 1, 1))
        pools = {"compact": nn.MaxPool2d(2), "imagenet": nn.MaxPool2d(3, 2, 1)}
        types = max(1, width // 2)
        self.body = nn.Sequential(
            *_conv(3, width, kernel, stride, padding),
            pools.get(stem, nn.Identity()),
            *_conv(width, 2 * width, 3, 2, 1),
            *_conv(2 * width, 4 * width, 3, 2, 1),
        )
        self.primary = nn.Sequential(
            nn.Conv2d(4 * width, types * POSE, 3, padding=1, bias=False),
            nn.BatchNorm2d(types * POSE),
            nn.AdaptiveAvgPool2d(GRID),
        )
        self.fc = ClassCapsules(types * GRID**2, num_classes, routing)
        for module in self.modules():
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")

    def features(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) to the squashed poses of the primary capsules, (B, types * GRID * GRID * POSE).

        Capsule t * GRID**2 + h * GRID + w is the one of type t at row h and column w.
        """
        maps = self.primary(self.body(x)).unflatten(1, (-1, POSE))
        return squash(maps.permute(0, 1, 3, 4, 2)).flatten(1)

    def forward(self, x: Tensor) -> Tensor:
        """Prepared images (B, 3, H, W) to logits (B, num_classes)."""
        return self.fc(self.features(x))


def _conv(inputs: int, outputs: int, kernel: int, stride: int, padding: int) -> list[nn.Module]:
    convolution = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False)
    return [convolution, nn.BatchNorm2d(outputs), nn.ReLU(inplace=True)]
