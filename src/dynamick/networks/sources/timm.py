"""timm's networks: `timm:mobilenetv3_small_100`. timm is an optional extra."""

from typing import Any

from torch import nn

from dynamick.errors import InputError
from dynamick.networks.source import Source
from dynamick.preprocessing import Preprocessing


def _timm() -> Any:
    try:
        import timm
    except ImportError as error:
        raise InputError(f"model timm:...: timm is not installed ({error}); pip install 'dynamick[timm]'") from None
    return timm


def never(_name: str) -> bool:
    """Its names need `timm:` before them: there are too many, and others could have the same."""
    return False


def build(name: str, kept: dict[str, Any], pretrained: bool = False) -> Any:
    """A new network; nothing is downloaded unless it is to be pretrained.

    Raises:
        InputError: timm is not installed, or has no network of that name.
    """
    timm = _timm()
    if not timm.is_model(name):
        near = timm.list_models(f"*{name[:8]}*")[:3]
        raise InputError(f"model timm:{name}: unknown; give a name of timm.list_models()" + ", ".join(["", *near]))
    options = {"num_classes": kept["outputs"]} if "outputs" in kept else {}
    return timm.create_model(name, pretrained=pretrained, **options)


def published(name: str) -> tuple[nn.Module, list[str] | None]:
    """The network with timm's weights, downloaded or from its cache.

    Raises:
        InputError: as `build`, or they could not be had.
    """
    try:
        return build(name, {}, pretrained=True), None
    except InputError:
        raise
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"--weights DEFAULT: {name}'s could not be downloaded ({reason}); give a state dict's file") from error


def preprocessing(_name: str, model: Any) -> Preprocessing | None:
    """What timm says of a network's images."""
    said = getattr(model, "pretrained_cfg", None)
    if not said:
        return None
    return Preprocessing(said["input_size"][-1], tuple(said["mean"]), tuple(said["std"]))


SOURCE = Source("timm", "timm:NAME where timm is installed", build, never, published, preprocessing)
