"""ResNets by the paper's names, and capsule networks."""

from dynamick.models.capsnet import CapsNet
from dynamick.models.making import STEMS, Network, create, current_config, head_name, head_of
from dynamick.models.names import ModelName, parse, parse_head
from dynamick.models.resnet import ResNet

__all__ = [
    "STEMS",
    "CapsNet",
    "ModelName",
    "Network",
    "ResNet",
    "create",
    "current_config",
    "head_name",
    "head_of",
    "parse",
    "parse_head",
]
