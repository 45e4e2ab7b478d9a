"""The one format of all weights files: safetensors, with JSON in the metadata that says how to rebuild the network."""

import json
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
import torch
from torch import Tensor, nn

from dynamick import models
from dynamick.errors import InputError
from dynamick.files import parse_json, write_atomically
from dynamick.networks.classes import names_of
from dynamick.networks.fitting import put_weights, take_precision
from dynamick.networks.layers import head_of, put_layers, put_unit_layer, routed_layers, units_of
from dynamick.networks.published import with_published, without_published
from dynamick.networks.source import Source
from dynamick.networks.sources import find, sources
from dynamick.networks.vouching import is_vouched, signature
from dynamick.preprocessing import Preprocessing

KEY = "dynamick"
OURS = "dynamick"
KINDS: dict[str, Any] = {
    "source": str,
    "model": str,
    "head": str | None,
    "routed": dict,
    "units": dict | None,
    "classes": list | None,
    "preprocessing": dict | None,
    "published": dict | None,
    "extra": dict,
}
"""The types of a configuration's parts, if they are there."""


@dataclass(frozen=True)
class Saved:
    """What a file of this format holds.

    Attributes:
        path: the file.
        config: what rebuilds the network: `source`, `model` (its name there), `head` (a dotted name), `routed` (the Dynamic-K
            layers by their names), `units` (where the unit layer is, if there is one), `preprocessing`, `classes`, `published`
            (which weights are left out), `extra` (plain values), and what the source keeps.
        tensors: the state dict.
    """

    path: Path
    config: dict[str, Any]
    tensors: dict[str, Tensor]


def save(
    model: nn.Module,
    path: str | Path,
    extra: dict[str, Any] | None = None,
    spec: str | None = None,
    vouch: bool = False,
    published: bool = True,
) -> None:
    """Write a network's weights, and what rebuilds it, to one safetensors file, whole or not at all.

    Args:
        model: made by `dynamick.models.create`, or opened by `dynamick.open_network`; its layers may have been converted or
            reverted since, and its head replaced by one of another number of outputs.
        path: the file; a file that is there stays until the new one is complete.
        extra: plain values kept beside the configuration, under "extra" (how it was trained, what it reached).
        spec: which network it is, as for `open_network` (`resnet50`, `package.module:function`), where neither made it.
        vouch: where a function makes the network, sign that this user named it, so that the file opens for the same user on the
            same machine without naming it again (`networks.vouching`). Commands do so.
        published: also write weights that are those that the network's source publishes (`DEFAULT`). False leaves them out: the
            file is small, and who opens it needs them (`networks.published`).

    Raises:
        InputError: nothing says which network it is, or it was changed so that no configuration rebuilds it.
        OSError: the file cannot be written.

    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> dk.save(model, "weights.safetensors")
    >>> dk.load("weights.safetensors").fc.k
    5
    """
    config = {**_config(model, spec), "extra": extra or {}}
    if vouch and sources()[config["source"]].runs_code:
        config["signature"] = signature(config["model"])
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in model.state_dict().items()}
    if not published:
        tensors, config["published"] = without_published(sources()[config["source"]], config["model"], tensors)
    write_atomically(Path(path), safetensors.torch.save(tensors, {KEY: json.dumps(config)}))


def load(path: str | Path, model: str | None = None) -> nn.Module:
    """The network in a file that `save` wrote, in evaluation mode on the CPU.

    Args:
        path: the file.
        model: `package.module:function`, where a user's function makes the network: no file says which code is run. What a
            command of this user's wrote on this machine needs it only where the function's code has changed since.

    Raises:
        InputError: the file is missing, damaged, or holds weights of another architecture than it says; or a function makes
            its network, and `model` does not name it.

    >>> dk.save(dk.models.create("res8-d5a", 2, stem="compact", width=8, classes=["cat", "dog"]), "weights.safetensors")
    >>> dk.load("weights.safetensors").classes
    ['cat', 'dog']
    """
    return rebuilt(read(path), model)


def read(path: str | Path, tensors: bool = True) -> Saved:
    """What a file that `save` wrote holds; with `tensors=False` its configuration alone.

    Raises:
        InputError: the file is missing or damaged, or dynamick did not write it.
    """
    metadata, held = _open(path, tensors)
    config = _config_in(path, metadata)
    if config is None:
        raise InputError(f"{path}: no dynamick configuration inside; give a file that dynamick saved")
    return Saved(Path(path), config, held)


def read_if_saved(path: str | Path, tensors: bool = True) -> Saved | None:
    """The same; None for what another program wrote.

    Raises:
        InputError: it is missing, or a damaged safetensors file.
    """
    try:
        metadata, held = _open(path, tensors)
    except InputError:
        if Path(path).suffix == ".safetensors" or not Path(path).is_file():
            raise
        return None
    config = _config_in(path, metadata)
    return None if config is None else Saved(Path(path), config, held)


def read_config(path: str | Path) -> dict[str, Any]:
    """The configuration inside a file: `Saved.config`.

    Raises:
        InputError: the file is missing or damaged, or dynamick did not write it.

    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> dk.save(model, "small.safetensors")
    >>> dk.networks.read_config("small.safetensors")["model"]
    'res8-d5a'
    """
    return read(path, tensors=False).config


def rebuilt(saved: Saved, spec: str | None = None) -> nn.Module:
    """The network that a file holds, in evaluation mode.

    Args:
        saved: the file's content.
        spec: what the user says that it is.

    Raises:
        InputError: its source is unknown, its weights do not fit, or it is not what the user says; or a function makes it, and
            the user does not name that.
    """
    source, name = _source_of(saved, spec)
    if (about := saved.config.get("published")) is not None:
        saved = replace(saved, tensors=with_published(saved.path, source, name, saved.tensors, about))
    # A function that fails says so itself. In all other cases the file is wrong.
    new = source.build(name, {}) if source.runs_code else None
    # Ours take all that they hold from the file: sizes that a damaged file makes up take no memory.
    with torch.device("meta") if source.own_files else nullcontext():
        model = _completed(new, source, name, saved)
    take_precision(model, saved.tensors)
    if (reason := put_weights(model, saved.tensors, assign=source.own_files)) is not None:
        raise InputError(f"{saved.path}: its weights do not fit the {name} that it says it is ({reason})")
    return model.eval()


def _source_of(saved: Saved, spec: str | None) -> tuple[Source, str]:
    path, said = saved.path, saved.config.get("source", OURS)
    name = str(saved.config.get("model"))
    source = sources().get(said)
    if source is None:
        raise InputError(f"{path}: its network comes from {said!r}, which is unknown here; there are {', '.join(sources())}")
    if spec is None and source.runs_code and not is_vouched(name, saved.config.get("signature")):
        raise InputError(
            f"{path}: a function of somebody's makes its network, and no file may say which code is run; "
            f"name the function yourself with --model (the file calls it {name})"
        )
    if spec is None:
        return source, name
    given = find(spec)
    if given != (source, name) and not (source.runs_code and given[0].runs_code):
        raise InputError(f"{path}: holds a {name}, not a {spec}; give --model {name}")
    return given


def _completed(new: nn.Module | None, source: Source, name: str, saved: Saved) -> nn.Module:
    """A new network with everything that its file says, except the weights."""
    config = saved.config
    try:
        model: Any = source.build(name, config) if new is None else new
        put_layers(model, config.get("head"), config.get("routed", {}), saved.tensors)
        if config.get("units") is not None:
            put_unit_layer(model, config["units"], saved.tensors)
        if config.get("preprocessing") is not None:
            model.preprocessing = Preprocessing.from_dict(config["preprocessing"])
    except (KeyError, TypeError, AttributeError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{saved.path}: its configuration builds no model ({reason}); it may be damaged") from None
    if config.get("classes") is not None:
        model.classes = [str(each) for each in config["classes"]]
    remember(model, source, name, config.get("head"))
    return model


def remember(model: Any, source: Source, name: str, head: str | None) -> None:
    """Note on a network where it comes from (for `save`) and which layer is its head (for `find_classifier`)."""
    model.origin = {"source": source.name, "model": name}
    if head is not None:
        model.head_name = head


def _config(model: Any, spec: str | None) -> dict[str, Any]:
    source, name = _origin(model, spec)
    own = getattr(model, "preprocessing", None)
    return {
        "source": source.name,
        "model": name,
        "head": head_of(model, name),
        "routed": routed_layers(model),
        "units": units_of(model),
        "preprocessing": own.to_dict() if isinstance(own, Preprocessing) else None,
        "classes": names_of(getattr(model, "classes", None)),
        **source.keeps(model),
    }


def _origin(model: Any, spec: str | None) -> tuple[Source, str]:
    if spec is not None:
        return find(spec)
    if isinstance(model, models.Network) and hasattr(model, "config"):
        return sources()[OURS], model.config["model"]
    origin = getattr(model, "origin", None)
    if origin is None:
        raise InputError(
            f"save: a {type(model).__name__} has no config, and dynamick.open_network did not open it; "
            "say which network it is: spec='resnet50', or spec='package.module:function'"
        )
    return sources()[origin["source"]], origin["model"]


def _open(path: str | Path, tensors: bool) -> tuple[dict[str, str], dict[str, Tensor]]:
    """The metadata and the tensors of a safetensors file; of one moment, for a training may replace the file."""
    if Path(path).is_dir():
        raise InputError(f"{path}: a folder; give the file of weights in it, such as {Path(path) / 'last.safetensors'}")
    try:
        with safetensors.safe_open(path, "pt") as file:
            # Copied, because tensors that are read still point into the file.
            held = {name: file.get_tensor(name).clone() for name in file.keys()} if tensors else {}  # noqa: SIM118
            return file.metadata() or {}, held
    except FileNotFoundError:
        raise InputError(f"{path}: no such file; give the safetensors file of a trained model") from None
    except (safetensors.SafetensorError, OSError) as error:
        raise InputError(f"{path}: no readable safetensors file ({error}); it may be truncated or damaged") from None


def _config_in(path: str | Path, metadata: dict[str, str]) -> dict[str, Any] | None:
    """What the metadata says; None if dynamick did not write it."""
    try:
        if KEY in metadata:
            config: dict[str, Any] = {"extra": {}, **parse_json(metadata[KEY])}
        elif {"classifier", "model"} <= metadata.keys():
            config = _first_format(metadata)
        else:
            return None
        for name, kind in KINDS.items():
            if name in config and not isinstance(config[name], kind):
                raise TypeError(f"{name} is a {type(config[name]).__name__}")
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path}: its configuration cannot be read ({error}); it may be damaged") from None
    return config


def _first_format(said: dict[str, str]) -> dict[str, Any]:
    """The first form of files of `dynamick retrofit`, in today's form."""
    name, head = said["model"], said["classifier"]
    source = "function" if ":" in name else "torchvision"
    routed = {head: {"k": int(said["k"]), "rule": said["rule"]}}
    config = {"source": source, "model": name, "head": head, "routed": routed, "classes": said["classes"].split("\n")}
    about = parse_json(said["preprocessing"]) if "preprocessing" in said else None
    return {**config, "preprocessing": about, "transform_input": "transform_input" in said, "extra": {}}
