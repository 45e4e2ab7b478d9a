"""The sources of networks, one file each. A file that has a `SOURCE` is found by itself."""

from dynamick.discovery import modules_in
from dynamick.errors import InputError
from dynamick.networks.source import Source


def sources() -> dict[str, Source]:
    """All sources by their names."""
    found = [module.SOURCE for module in modules_in(__name__) if hasattr(module, "SOURCE")]
    return {source.name: source for source in found}


def find(spec: str) -> tuple[Source, str]:
    """The source of a spec, and the network's name there: of `torchvision:resnet50` or `resnet50` torchvision's, `resnet50`.

    Raises:
        InputError: no source knows it.
    """
    known = sources()
    prefix, colon, name = spec.partition(":")
    if colon and name and prefix in known:
        return known[prefix], name
    for source in known.values():
        if source.knows(spec):
            return source, spec
    forms = "; ".join(source.form for source in known.values())
    raise InputError(f"model {spec}: unknown; give {forms}")
