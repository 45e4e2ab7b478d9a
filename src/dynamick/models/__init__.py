"""ResNets by the paper's names."""

from dynamick.models.resnet import ModelName, ResNet, create, parse

__all__ = ["ModelName", "ResNet", "create", "parse"]
