"""Drop-in Dynamic-K layers, putting them into any model, and the capsules that they are compared with."""

from dynamick.nn.capsules import Capsules, RoutingCapsules
from dynamick.nn.classifier import find_classifier
from dynamick.nn.convert import convert, revert
from dynamick.nn.layers import DynamicConv2d, DynamicLinear
from dynamick.nn.units import Place, UnitLayer, add_units, find_place, owner_of, put_units, unit_layer, unit_layer_name

__all__ = [
    "Capsules",
    "DynamicConv2d",
    "DynamicLinear",
    "Place",
    "RoutingCapsules",
    "UnitLayer",
    "add_units",
    "convert",
    "find_classifier",
    "find_place",
    "owner_of",
    "put_units",
    "revert",
    "unit_layer",
    "unit_layer_name",
]
