"""What is written about explained images: the page, JSON, pictures, measures, a study, the three ways to explain."""

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial
from pathlib import Path, PurePath
from typing import Any

from dynamick import report
from dynamick.data.concepts import ConceptDataset
from dynamick.data.pictures import Pictures
from dynamick.dissection import Dissection
from dynamick.explanation import basis, threeway, trust
from dynamick.explanation.dissected import OTHER_WEIGHTS
from dynamick.explanation.explained import Explanation, plain
from dynamick.explanation.instances import explanations_of
from dynamick.explanation.outputs import Outputs
from dynamick.explanation.pages import Other, page_of, summary_of, title_of
from dynamick.explanation.pictures import draw
from dynamick.explanation.reading import Reader, Seen
from dynamick.explanation.threeway import ThreeWays
from dynamick.files import write_by
from dynamick.networks import OpenNetwork
from dynamick.progress import passing
from dynamick.report.explanation import ModelSummary, Page, write_page

NO_TOP_IMAGES = "no top images are shown: only a dissection.json (--units) says which they are"


@dataclass(frozen=True)
class Subject:
    """A network that is explained, its dissection, and its reader."""

    network: OpenNetwork
    units: Dissection | None
    reader: Reader

    def summary(self) -> ModelSummary:
        """Its figures, for the page's overview."""
        return summary_of(self.network, self.units)


@dataclass(frozen=True)
class Case:
    """Everything from which outputs are made.

    Attributes:
        subject: the network.
        shown: the images.
        truth: their classes; None if one is not known.
        seen: what the network read in them.
        concepts: the data that was dissected, or None.
        twin: another network to compare with, or None.
        called: what the images are called in the page's title.
        assets: a folder for the page's pictures; None puts them into the page.
        ibd_penalty: of IBD's regressions; None takes the usual one.
        draws: whether explanations are to be drawn, and so need their split over the image.
    """

    subject: Subject
    shown: Pictures
    truth: list[int | None]
    seen: Seen
    concepts: ConceptDataset | None = None
    twin: Subject | None = None
    called: str = "images"
    assets: Path | None = None
    ibd_penalty: float | None = None
    draws: bool = False

    @cached_property
    def explanations(self) -> list[Explanation]:
        """Of the predicted class, one an image; made once."""
        return explanations_of(self.seen, units=self.subject.units, maps=self.draws)


@dataclass
class Written:
    """What was made; None if it was not asked for.

    Attributes:
        page: all that the page shows.
        explanations: of the predicted class, one an image; empty if only the page was asked for.
        measured: as `dynamick.explanation.trust.measure`.
        three_ways: the three ways to explain.
        lines: what was written where, in words, and the measures as tables.
        notes: what else a person should know: files left out, a training that goes on, a dissection of other weights.
    """

    page: Page | None = None
    explanations: list[Explanation] = field(default_factory=list)
    measured: dict[str, Any] | None = None
    three_ways: ThreeWays | None = None
    lines: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def write(case: Case, outputs: Outputs) -> Written:
    """Write what is asked for, one after the other.

    Raises:
        InputError: a study of a network with one class, or a dissection of another data set.
        OSError: a file cannot be written.
    """
    state = case.subject.network.state
    written = Written(notes=[*(f"left out: {why}" for why in case.shown.refused), *([state] if state else [])])
    for flag, path in passing("writing", list(outputs.given.items()), unit="outputs"):
        WRITERS[flag](case, path, written)
    return written


def _page(case: Case, path: Path, written: Written) -> None:
    network, units, left_out = case.subject.network, case.subject.units, len(case.shown.refused)
    notes = [network.state] if network.state else []
    if left_out:
        notes.append(f"{left_out} of the files could not be read as images and were left out.")
    if case.concepts is not None and (units is None or not units.top_images.size):
        written.notes.append(NO_TOP_IMAGES)
    other = None
    if case.twin is not None:
        other = Other(case.twin.reader.see(case.shown.images), case.twin.summary(), case.twin.units)
    written.page = page_of(
        case.seen,
        case.subject.summary(),
        title=title_of(case.called, case.seen, case.truth),
        names=case.shown.names,
        truth=case.truth,
        units=units,
        concepts=case.concepts,
        other=other,
        displayed=case.shown.displayed,
        notes=notes,
    )
    if OTHER_WEIGHTS in written.page.notes:
        written.notes.append(OTHER_WEIGHTS)
    write_page(written.page, path, case.assets)
    count = len(case.shown.files)
    written.lines.append(f"{count} image{'s' if count > 1 else ''} explained: {path}")


def _json(case: Case, path: Path, written: Written) -> None:
    written.explanations, names = case.explanations, case.shown.names
    report.save(path, json.dumps([{"file": names[each.image], **each.to_dict(maps=False)} for each in case.explanations]))
    written.lines.append(f"explanations: {path}")


def _pictures(case: Case, folder: Path, written: Written) -> None:
    """One picture an image, with its folders and name. If two names differ only in their suffix, all keep theirs."""
    written.explanations, names = case.explanations, case.shown.names
    stems = [str(PurePath(name).with_suffix("")) for name in names]
    named = stems if len(set(stems)) == len(names) else names
    paths = [folder / f"{name}.png" for name in named]
    for each in passing("drawing", case.explanations):
        path = paths[each.image]
        path.parent.mkdir(parents=True, exist_ok=True)
        write_by(path, partial(draw([each], case.shown.images).savefig, format="png", dpi=120))
    written.lines.append(f"pictures: {folder}")


def _measure(case: Case, path: Path, written: Written) -> None:
    written.explanations = case.explanations
    written.measured = trust.measure_seen(case.seen, case.explanations, case.subject.units)
    report.save(path, json.dumps(plain(written.measured), indent=1, allow_nan=False))
    written.lines.append(f"{trust.table(written.measured)}\nwritten to {path}")


def _study(case: Case, path: Path, written: Written) -> None:
    written.explanations = case.explanations
    files = trust.ask_people(case.explanations, case.shown.images, case.subject.network.classes, path)
    written.lines.append(f"study: {' '.join(map(str, files))}")


def _three_way(case: Case, path: Path, written: Written) -> None:
    # `Outputs.check` has asked for both.
    assert case.twin is not None and case.concepts is not None  # noqa: PT018
    written.explanations = case.explanations
    penalty = basis.PENALTY if case.ibd_penalty is None else case.ibd_penalty
    seen = case.twin.reader.see(case.shown.images, maps=False)
    by_units = explanations_of(seen, units=case.twin.units, maps=False)
    learnt = basis.learn_basis(case.twin.reader, case.concepts, penalty=penalty)
    written.three_ways = threeway.three_ways_of(seen, by_units, case.explanations, learnt)
    threeway.draw_some(written.three_ways, case.shown.images, path)
    written.lines.append(f"{threeway.table(written.three_ways)}\nthe figure: {path}")


WRITERS: dict[str, Callable[[Case, Path, Written], None]] = {
    "--out": _page,
    "--json": _json,
    "--pictures": _pictures,
    "--measure": _measure,
    "--study": _study,
    "--three-way": _three_way,
}
