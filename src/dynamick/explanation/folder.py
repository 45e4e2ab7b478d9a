"""Explain a folder of images in one call and write the results: what `dynamick explain` does."""

from collections.abc import Mapping
from pathlib import Path

from dynamick.data import open_concepts
from dynamick.data.pictures import Pictures, class_of, read_pictures
from dynamick.errors import InputError
from dynamick.explanation.dissected import check_fits, read_units
from dynamick.explanation.outputs import Outputs, check_penalty
from dynamick.explanation.reading import Reader
from dynamick.explanation.writing import Case, Subject, Written, write
from dynamick.networks import OpenNetwork

FEWEST_MEASURED = 2
"""A proxy reader learns from some images and answers others."""


def explain_folder(
    network: OpenNetwork,
    images: str | Path,
    outputs: Outputs,
    *,
    units: str | Path | None = None,
    concepts: str | Path | None = None,
    twin: OpenNetwork | None = None,
    twin_units: str | Path | None = None,
    ibd_penalty: float | None = None,
    limit: int = 50,
    never_over: Mapping[str, Path | None] | None = None,
) -> Written:
    """Explain a network's answers on a folder of images, and write what is asked for.

    The network is shown each image once, and each answer is explained once, whatever is written.

    Args:
        network: as `dynamick.open_network` opens it.
        images: a folder of images, or of one folder for each class; or one image; or DIR/val of a DIR that has none.
        outputs: what is written, and where.
        units: dissection.json or tally.csv of the layer that enters the head: the units' names.
        concepts: the data that was dissected: the units' top images.
        twin: another network to compare with: a dense twin, another K, the same before an edit.
        twin_units: its dissection.json or tally.csv.
        ibd_penalty: of IBD's regressions; None takes `dynamick.explanation.basis.PENALTY`.
        limit: how many images at most, spread evenly.
        never_over: more files that are not written over, by what they are called in messages.

    Raises:
        InputError: nothing is asked for; an impossible path; no readable image; a dissection that does not fit.
        OSError: a file cannot be written.

    >>> import os
    >>> from PIL import Image
    >>> scenes = dk.data.ComposedScenes("val", 4, image_size=32)
    >>> model = dk.models.create("res8-d5a", 10, stem="compact", width=8, classes=scenes.classes)
    >>> for number, image in enumerate(dk.data.ComposedScenes("val", 8, image_size=32).images):
    ...     _ = os.makedirs(f"photos/{'ab'[number % 2]}", exist_ok=True)
    ...     Image.fromarray(image.permute(1, 2, 0).numpy()).save(f"photos/{'ab'[number % 2]}/{number}.png")
    >>> outputs = dk.explanation.Outputs(out="page.html")
    >>> written = dk.explanation.explain_folder(dk.open_network(model), "photos", outputs)
    >>> os.path.exists("page.html")
    True
    """
    paths = {"--images": images, "--units": units, "--twin-units": twin_units, "--concepts": concepts}
    weights = {"--weights": _file_of(network), "--twin": None if twin is None else _file_of(twin)}
    read = {flag: None if path is None else Path(path) for flag, path in paths.items()}
    outputs.check({**(never_over or {}), **weights, **read})
    check_penalty(ibd_penalty)
    if twin is None and twin_units is not None:
        raise InputError(f"--twin-units {twin_units}: of which twin? give --twin too")
    shown = read_pictures(images, limit, network.size, network.center_crop, progress=True)
    if outputs.measure is not None:
        _check_enough(shown)
    subject = _fitting(network, read["--units"], shown)
    case = Case(
        subject=subject,
        shown=shown,
        truth=[class_of(file, shown.root, network.classes) for file in shown.files],
        seen=subject.reader.see(shown.images, maps=outputs.out is not None or outputs.pictures is not None, progress=True),
        concepts=None if concepts is None else open_concepts(concepts),
        twin=None if twin is None else _fitting(twin, read["--twin-units"], shown),
        called=_called(network, Path(images)),
        assets=None if outputs.assets is None else Path(outputs.assets),
        ibd_penalty=ibd_penalty,
        draws=outputs.pictures is not None,
    )
    return write(case, outputs)


def _called(network: OpenNetwork, images: Path) -> str:
    """What the images are called: as the network's own data where it learnt from a known set, else by their folder."""
    source = None if network.data is None else network.data.source
    if source is not None and not source.named_by_root:
        return source.title
    folder = images.absolute() if images.is_dir() else images.absolute().parent
    # "val" and the like say nothing of the images.
    return folder.parent.name if folder.name in ("train", "val", "test", "images") and folder.parent.name else folder.name


def _file_of(network: OpenNetwork) -> Path | None:
    return network.source if isinstance(network.source, Path) else None


def _fitting(network: OpenNetwork, units: Path | None, shown: Pictures) -> Subject:
    """A network with its dissection, which is of the layer that enters its head."""
    subject = Subject(network, read_units(units), Reader(network.model))
    check_fits(units, subject.units, subject.reader, shown.images)
    return subject


def _check_enough(shown: Pictures) -> None:
    count = len(shown.files)
    if count < FEWEST_MEASURED:
        raise InputError(
            f"--measure: {count} image; a reader learns from some and answers others, give {FEWEST_MEASURED} or more"
        )
