"""Drop-in Dynamic-K layers, and putting them into any model."""

from dynamick.nn.convert import convert, find_classifier, revert
from dynamick.nn.layers import DynamicConv2d, DynamicLinear

__all__ = ["DynamicConv2d", "DynamicLinear", "convert", "find_classifier", "revert"]
