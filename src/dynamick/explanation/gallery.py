"""The units that detect a concept best, with their top images, as markup for a section of a report's page."""

from html import escape

from torch import nn

from dynamick.data.concepts import ConceptDataset
from dynamick.dissection import Dissection
from dynamick.dissection.gallery import examples
from dynamick.preprocessing import Preprocessing
from dynamick.report.thumbnails import strips

IMAGES = 4
"""Top images a unit."""
ROOM = 500_000
"""Characters for all pictures together."""


def gallery_html(
    model: nn.Module,
    dissection: Dissection,
    dataset: ConceptDataset,
    count: int = 12,
    preprocessing: Preprocessing | None = None,
) -> str:
    """Figures of the best detectors, best first: top images with the unit's region outlined; unit, concept, IoU.

    Names are escaped, so that the markup is safe to put into a page.

    Raises:
        InputError: as `dynamick.dissection.gallery.examples`.
    """
    ranked = dissection.scores.argsort(kind="stable")[::-1].tolist()
    best = [unit for unit in ranked if dissection.detectors[unit]][:count]
    if not best:
        return "<p>No unit detects a concept (a score of 0.04 or more).</p>"
    shown = examples(model, dataset, dissection, best, IMAGES, preprocessing)
    rows = [
        [(image.permute(1, 2, 0).numpy(), mask.numpy()) for image, mask in zip(each.images, each.masks, strict=True)]
        for each in shown
    ]
    figures = []
    for each, uri in zip(shown, strips(rows, ROOM), strict=True):
        caption = escape(f"unit {each.unit}: {each.label}, IoU {each.score:.3f}")
        figures.append(
            f'<figure style="margin:0;min-width:0"><img src="{uri}" alt="Top images of {caption}" '
            f'style="display:block;width:100%;height:auto"><figcaption>{caption}</figcaption></figure>'
        )
    grid = "display:grid;grid-template-columns:repeat(auto-fill,minmax(min(100%,var(--strip,480px)),1fr));gap:1rem"
    return f'<div style="{grid}">{"".join(figures)}</div>'
