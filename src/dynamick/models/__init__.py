"""ResNets by the paper's names, and capsule networks."""

from dynamick.models.capsnet import CapsNet
from dynamick.models.resnet import STEMS, ModelName, Network, ResNet, create, current_config, parse

__all__ = ["STEMS", "CapsNet", "ModelName", "Network", "ResNet", "create", "current_config", "parse"]
