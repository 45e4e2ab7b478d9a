"""A model by its name, and the configuration that makes it again."""

from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.functional import check_rule
from dynamick.models.capsnet import CapsNet
from dynamick.models.heads import TrainedHead, head_of_layer, heads
from dynamick.models.names import ModelName, parse
from dynamick.models.resnet import ResNet
from dynamick.nn import DynamicConv2d, DynamicLinear, find_classifier, unit_layer
from dynamick.preprocessing import Preprocessing

STEMS = ("cifar", "compact", "patch", "imagenet")
Network = ResNet | CapsNet


def head_name(model: nn.Module) -> str:
    """The dotted name of a network's head: `fc` of this project's, else `dynamick.nn.find_classifier`'s.

    Raises:
        ValueError: another's network has none.

    >>> dk.models.head_name(dk.models.create("res8", num_classes=10, width=8))
    'fc'
    """
    return "fc" if isinstance(model, Network) else find_classifier(model)


def head_of(model: nn.Module) -> TrainedHead:
    """The kind of the head that a network ends in; a dense one where no kind is known.

    The name of one of this project's says how the head was trained, if its layer is still of that kind.

    >>> dk.models.head_of(dk.models.create("res8-d5a", num_classes=10, width=8)).name
    'dynamic'
    """
    likely = parse(model.config["model"]).kind if isinstance(model, Network) and hasattr(model, "config") else None
    return head_of_layer(model.get_submodule(head_name(model)), likely) or heads()["dense"]


def current_config(model: Network) -> dict[str, Any]:
    """The configuration that rebuilds a model as it is now: its classifier may have been converted, reverted or set otherwise.

    Raises:
        InputError: no configuration can say it: layers before the classifier were converted, the classifier is of another
            kind, or the number of class names is wrong.

    >>> model = dk.models.create("res8-d5a", num_classes=10, stem="patch", width=8)
    >>> dk.models.current_config(model)["model"]
    'res8-d5a'
    """
    config = {**model.config, "preprocessing": model.preprocessing.to_dict(), "classes": list(model.classes)}
    converted = [name for name, each in model.named_modules() if isinstance(each, DynamicLinear | DynamicConv2d)]
    if others := [name for name in converted if name != "fc"]:
        raise InputError(f"model: {others[0]} was converted, which no model's name says; keep the state_dict()")
    if isinstance(model, CapsNet):
        return config
    name, layer = parse(config["model"]), model.fc
    head = head_of_layer(layer, name.kind)
    units = unit_layer(model)
    features = model.num_features if units is None else units.conv.out_channels
    if head is None or getattr(layer, "in_features", None) != features or layer.bias is None:
        raise InputError(f"model: fc is {layer}, which no model's name says; keep the state_dict()")
    if layer.out_features != len(model.classes):
        raise InputError(
            f"model: fc has {layer.out_features} outputs and model.classes {len(model.classes)} names; give one each"
        )
    name = ModelName(name.depth, head.name, layer.k if head.takes_k else None)
    return config | {"model": str(name), "num_classes": layer.out_features, "rule": getattr(layer, "rule", config["rule"])}


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

    >>> model = dk.models.create("res18-d5a", num_classes=10)  # ResNet-18, Dynamic-5, activations thresholded
    >>> model.fc.k
    5
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
        model = ResNet(parsed.depth, num_classes, stem, width, lambda m, c: parsed.kind.layer(m, c, parsed.k, rule))
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
