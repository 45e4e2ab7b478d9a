"""Whether a dissection is of the network that is explained, and the dissection that a file holds."""

from pathlib import Path

import torch
from torch import Tensor

from dynamick.data.concepts import ConceptDataset, image_of
from dynamick.dissection import Dissection
from dynamick.dissection.activations import capture
from dynamick.errors import InputError
from dynamick.explanation.instances import check_units
from dynamick.explanation.reading import Reader, evaluating
from dynamick.files import read_text

PROBED = 8
"""How many units are compared to tell whether a dissection is of these weights."""
OTHER_WEIGHTS = (
    "The units' names come from a dissection of other weights than these, or of images prepared otherwise (their size, mean or "
    "deviation), so they may be wrong. Dissect these weights, as they are shown here."
)


def read_units(path: Path | None) -> Dissection | None:
    """A dissection, from its JSON or its tally. If a tally's JSON is beside it, the JSON is read: it names the layer.

    Raises:
        InputError: it cannot be read, or is neither.
    """
    if path is None:
        return None
    if path.suffix.lower() == ".json":
        try:
            return Dissection.from_json(read_text(path))
        except (OSError, UnicodeDecodeError, InputError) as error:
            raise InputError(f"{path}: cannot be read ({error}); give the dissection.json of dynamick dissect") from None
    tally = Dissection.read_tally(path)
    try:
        whole = read_units(path.with_name("dissection.json")) if path.name == "tally.csv" else None
    except InputError:
        return tally
    return whole if whole is not None and whole.rows == tally.rows else tally


def check_fits(path: Path | None, units: Dissection | None, reader: Reader, images: Tensor) -> None:
    """Check a dissection against the network whose units it should name.

    Raises:
        InputError: it is of another layer or number of units; the message names the file.
    """
    where = reader.maps(images)
    try:
        check_units(units, reader.head, where)
    except InputError as error:
        raise InputError(f"{path}: {str(error).removeprefix('units: ')}") from None


def check_data(units: Dissection, concepts: ConceptDataset) -> None:
    """Raise InputError unless the data may be the dissected data: the same labels, and enough images."""
    if sorted(concepts.labels) != sorted(units.concepts) or units.top_images.max() >= len(concepts):
        raise InputError(
            f"concepts: {len(concepts)} images of {len(concepts.labels)} labels; give the data that was dissected, "
            f"with {len(units.concepts)} labels and {units.top_images.max() + 1} images or more"
        )


def dissected_itself(reader: Reader, units: Dissection, concepts: ConceptDataset) -> bool:
    """Whether a dissection is of these weights: some units' top images still excite them as much as it says."""
    held = 0
    # A unit that nothing excites is the same in any network.
    alive = [unit for unit, value in enumerate(units.top_values[:, 0]) if value != 0]
    probed = alive[:: max(1, -(-len(alive) // PROBED))]
    with torch.no_grad(), evaluating(reader.model), capture(reader.model, units.layer) as taken:
        for unit in probed:
            reader.model(reader.prepare(image_of(concepts, int(units.top_images[unit, 0]))[1][None]))
            peak, said = float(taken.take()[0, unit].max()), float(units.top_values[unit, 0])
            held += abs(peak - said) <= 1e-2 * max(abs(said), 1e-6)
    return 2 * held > len(probed) or not probed
