"""What a source of networks offers: a module of `networks.sources` with a `SOURCE` is all that a new one takes."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from dynamick.preprocessing import Preprocessing


def _nothing(*_: Any) -> Any:
    return None


def _no_values(_model: nn.Module) -> dict[str, Any]:
    return {}


@dataclass(frozen=True)
class Source:
    """Where networks come from.

    Attributes:
        name: what stands before the colon: `torchvision` in `torchvision:resnet50`.
        form: what a user writes, with an example, for messages and help.
        build: from a network's name, and the values that a file keeps of it, to a new network. The values are {} for one
            without a file. `outputs`, if it is there, is how many outputs it must have. Nothing is downloaded.
        knows: whether a name without the source's name before it means a network of this source.
        published: from a name to the network with its published weights, and their classes' names (None: not known).
        preprocessing: from a name and its network to how its images are prepared; None if the source does not say.
        keeps: a network's plain values, beyond its name, that `build` needs to make the same one again.
        own_weights: the networks may come with weights, so no file is needed.
        own_files: the weights must come from a file that `dynamick.save` wrote.
        runs_code: the name is code that is called. So only the user may say it, and never a file.

    >>> dk.networks.Source("mine", "mine:NAME, such as mine:small", build=lambda name, kept: torch.nn.Linear(3, 2)).name
    'mine'
    """

    name: str
    form: str
    build: Callable[[str, dict[str, Any]], nn.Module]
    knows: Callable[[str], bool] = bool
    published: Callable[[str], tuple[nn.Module, list[str] | None]] | None = None
    preprocessing: Callable[[str, nn.Module], Preprocessing | None] = _nothing
    keeps: Callable[[nn.Module], dict[str, Any]] = _no_values
    own_weights: bool = False
    own_files: bool = False
    runs_code: bool = False
