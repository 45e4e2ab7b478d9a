"""Drop-in Dynamic-K layers, putting them into any model, and the capsules that they are compared with."""

from dynamick.nn.capsules import Capsules, RoutingCapsules
from dynamick.nn.convert import convert, find_classifier, revert
from dynamick.nn.layers import DynamicConv2d, DynamicLinear

__all__ = ["Capsules", "DynamicConv2d", "DynamicLinear", "RoutingCapsules", "convert", "find_classifier", "revert"]
