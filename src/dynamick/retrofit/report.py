"""What a retrofit reached: the routed head on learnt units beside the dense heads that were tuned the same way."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Row:
    """A head's figures on images that nothing was learnt from or chosen on.

    Attributes:
        name: what it is.
        top1, top5: in %.
        weights: static weights a class (|w| >= 1e-3), the mean; `max_per_class` is the largest number.
        units: how many inputs some class has a weight for.
        decay: of its weight, as it was chosen; None where nothing was chosen.
        seconds: of the final training.
    """

    name: str
    top1: float
    top5: float
    weights: float | None = None
    max_per_class: int | None = None
    units: int | None = None
    decay: float | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Report:
    """All rows, and how they came about.

    Attributes:
        rows: the last one is the head that is kept.
        held_out: how many training images the decays were chosen on.
        tried: for each head's name each decay's top-1 on these, in %.
        images, validation: how many images were learnt from, and how many the figures are from.
        changed: logits of training images that pruning changed; 0 proves it.
        seconds: from the maps to the end.
        why: why the units have no maps, in words; None where they have.
    """

    rows: list[Row]
    held_out: int
    tried: dict[str, dict[float, float]]
    images: int
    validation: int
    changed: int
    seconds: float
    why: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def table(self) -> str:
        """The rows for people."""
        width = max(len(row.name) for row in self.rows)
        lines = [f"{'':{width}}  top-1, %  top-5, %  weights/class  most  units  decay  seconds"]
        for row in self.rows:
            cells = [
                f"{row.top1:8.2f}",
                f"{row.top5:8.2f}",
                _cell(row.weights, 13, ".1f"),
                _cell(row.max_per_class, 4, "d"),
                _cell(row.units, 5, "d"),
                _cell(row.decay, 5, "g"),
                _cell(row.seconds, 7, ".0f"),
            ]
            lines.append(f"{row.name:{width}}  {'  '.join(cells)}")
        lines.append(
            f"Learnt from {self.images:,} images; decays chosen on {self.held_out:,} of them that were held out; "
            f"figures from {self.validation:,} others."
        )
        return "\n".join(lines)


def _cell(value: float | None, width: int, form: str) -> str:
    return f"{'–':>{width}}" if value is None else f"{value:{width}{form}}"


@dataclass(frozen=True)
class Retrofitted:
    """What came of a retrofit.

    Attributes:
        before: the old head's figures (`dynamick.comparison.measure`); None where the network was not trained on these classes.
        after: the new head's.
        outputs: how many outputs the old head has.
        classes: the folder's classes.
        report: the new head beside dense ones; None without units.
    """

    before: dict[str, Any] | None
    after: dict[str, Any]
    outputs: int
    classes: list[str]
    report: Report | None = None
