"""A network dissected into a folder: the tally, all figures as JSON, and a picture of the best units."""

from contextlib import nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from dynamick import processes
from dynamick.data.checking import open_concepts
from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import gallery
from dynamick.dissection.engine import dissect
from dynamick.dissection.result import Dissection
from dynamick.errors import InputError
from dynamick.files import alone, why_no_folder, write_atomically, write_by
from dynamick.preprocessing import Preprocessing

PICTURED = 42
"""The gallery shows the top images of this many units, the best ones."""


def dissect_into(
    out: str | Path,
    model: nn.Module,
    layer: str,
    data: str | Path | ConceptDataset,
    rule: str = "netdissect",
    *,
    preprocessing: Preprocessing | None = None,
    **options: Any,
) -> Dissection | None:
    """Dissect a layer and write tally.csv, dissection.json and units.png into a folder; the same call resumes.

    Under `torchrun` the processes share the work, and the first one writes.

    Args:
        out: the folder; made when there is something to write.
        model, layer, rule, preprocessing, options: as in `dynamick.dissect`.
        data: a directory in Broden's format, or with images/ beside masks/CONCEPT/; or concepts that are open.

    Returns:
        What was found; None in every process but the first.

    Raises:
        InputError: the folder cannot be written to, or another process is filling it; `data` is not a data set; or as
            `dynamick.dissect`.

    >>> scenes = dk.data.ComposedScenes("val", 20, image_size=32)
    >>> scenes.write_broden("scenes")
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8)
    >>> found = dk.dissection.dissect_into("out", model, "layer3", "scenes", progress=False)
    >>> import os
    >>> sorted(os.listdir("out"))
    ['dissection.json', 'state', 'tally.csv', 'units.png']
    """
    out = Path(out)
    if (why := why_no_folder(out)) is not None:
        raise InputError(f"--out {out}: {why}; give a folder of your own")
    dataset = open_concepts(data) if isinstance(data, str | Path) else data
    with processes.joined():
        first = processes.first()
        with alone(out) if first else nullcontext():
            result = dissect(model, layer, dataset, rule, preprocessing=preprocessing, state=out / "state", **options)
            if first:
                _write(out, result, model, dataset, preprocessing)
    return result if first else None


def _write(
    out: Path, result: Dissection, model: nn.Module, dataset: ConceptDataset, preprocessing: Preprocessing | None
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    result.write_tally(out / "tally.csv")
    write_atomically(out / "dissection.json", result.to_json().encode())
    best = result.scores.argsort(kind="stable")[::-1][:PICTURED].tolist()
    examples = gallery.examples(model, dataset, result, best, preprocessing=preprocessing)
    write_by(out / "units.png", lambda file: gallery.sheet(examples).save(file, "PNG"))
