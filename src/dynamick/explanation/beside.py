"""Another network's decisions on the same images: a dense twin, another K, the same one before an edit."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dynamick.dissection import Dissection
from dynamick.explanation.explained import Explanation, exact_sum
from dynamick.explanation.instances import class_names, explanations_of
from dynamick.explanation.reading import Seen, heat
from dynamick.explanation.sentence import grouped, spoken
from dynamick.report.explanation import Beside, ModelSummary, OtherConcept, OtherDecision

RANKED, CONCEPTS = 3, 5


def beside(
    seen: Seen, units: Dissection | None, summary: ModelSummary, truth: Sequence[int | None], digits: int | None = None
) -> Beside:
    """What the page shows of another network.

    Args:
        seen: the images as this network was shown them.
        units: its dissection, or None.
        summary: its figures.
        truth: the images' true classes; None if one is not known.
        digits: decimals of the page's logits; None takes as many as each lead needs.

    Raises:
        InputError: the dissection is of another layer or number of units.
    """
    reader = seen.reader
    names = [spoken(name) for name in class_names(reader.model, reader.head)]
    explained = explanations_of(seen, units=units, maps=False, truth=truth)
    decisions = list[OtherDecision]()
    for reading in seen.batches:
        logits = reading.logits.float().cpu()
        chances = logits.softmax(1) if logits.shape[1] > 1 else logits.sigmoid()
        best = logits.argsort(dim=1, descending=True, stable=True)[:, :RANKED]
        spots = heat(reader.head, reading, best[:, 0].to(reading.logits.device))
        for row, order in enumerate(best.tolist()):
            ranking = [(names[c], float(logits[row, c]), float(chances[row, c])) for c in order]
            where = None if spots is None else spots[row].float().cpu().numpy()
            decisions.append(_decision(explained[len(decisions)], ranking, where, digits))
    how = "sums the evidence of all its units" if reader.head.k is None else f"sums at most {reader.head.k} units a class"
    if reader.head.rule == "exactly":
        how = f"sums exactly {reader.head.k} units a class"
    return Beside(summary, how, decisions)


def _decision(
    why: Explanation, ranking: list[tuple[str, float, float]], where: NDArray[np.float32] | None, digits: int | None
) -> OtherDecision:
    concepts = [
        OtherConcept(name, value, [unit for unit, its in zip(why.indices, why.names, strict=True) if its == name])
        for name, value in list(grouped(list(zip(why.names, why.products, strict=True))).items())[:CONCEPTS]
    ]
    rest = exact_sum(why.products) - exact_sum([each.evidence for each in concepts])
    return OtherDecision(why.said(digits), ranking, concepts, rest, why.bias, where)
