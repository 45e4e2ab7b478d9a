"""ResNets by the paper's names."""

from dynamick.models.resnet import STEMS, ModelName, ResNet, create, parse

__all__ = ["STEMS", "ModelName", "ResNet", "create", "parse"]
