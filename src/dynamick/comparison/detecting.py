"""What the units see that a head uses: the last maps, dissected once (docs/definitions.md, "Network Dissection")."""

from pathlib import Path

import torch
from torch import nn

from dynamick.comparison.measuring import used
from dynamick.data.concepts import ConceptDataset, some_images
from dynamick.dissection import Dissection, dissect
from dynamick.errors import InputError
from dynamick.explanation import Reader
from dynamick.files import write_atomically
from dynamick.preprocessing import Preprocessing


def dissect_features(
    model: nn.Module,
    concepts: ConceptDataset,
    folder: Path,
    preprocessing: Preprocessing,
    device: torch.device | str = "cpu",
) -> Dissection:
    """The dissection of the maps whose means enter a model's classifier; a finished one in the folder is not computed again.

    Args:
        folder: `state/`, by which it resumes, `dissection.json` and `tally.csv`.

    Raises:
        InputError: the classifier's input is no mean of maps, or as `dynamick.dissection.dissect`.
    """
    layer = features_layer(model.to(device), concepts, preprocessing)
    found = dissect(model, layer, concepts, preprocessing=preprocessing, state=folder / "state", device=device)
    write_atomically(folder / "dissection.json", found.to_json().encode())
    found.write_tally(folder / "tally.csv")
    return found


def features_layer(model: nn.Module, concepts: ConceptDataset, preprocessing: Preprocessing) -> str:
    """The name of the layer whose maps' means enter a model's classifier.

    Raises:
        InputError: the classifier's input is no mean of maps.
    """
    layers = Reader(model, preprocessing).maps(some_images(concepts)).layers
    # All of these put out what enters the head; the first one holds the others.
    names = [name for name, _ in model.named_modules() if name in layers]
    if not names:
        raise InputError("concepts: no layer's maps are averaged into the classifier's input, so its units cannot be dissected")
    return names[0]


def detectors(head: nn.Module, units: Dissection) -> dict[str, float]:
    """Of the units that a head uses (a weight that is not 0) how many detect a concept, and their mean score.

    Args:
        head: weights of shape (C, M), as in `Fitted`.
        units: the dissection of the M features.

    Returns:
        `detectors` (a score of 0.04 or more) and `iou` (the mean of the used units' best IoU; 0 of no unit). Nothing for a head
        that makes units of its own: they were not dissected.
    """
    if isinstance(head, nn.Sequential):
        return {}
    kept = used(head).any(0).cpu().numpy()
    scores = units.scores[kept]
    return {"detectors": int(units.detectors[kept].sum()), "iou": float(scores.mean()) if len(scores) else 0.0}
