"""Explanations that are the computation: instances, class composition, IBD, and how far they can be trusted.

The code that draws is loaded when it is first used.
"""

from typing import Any

from dynamick.discovery import home_of
from dynamick.explanation.composition import Composition, Compositions, composition, share_covered
from dynamick.explanation.faithfulness import Faithfulness, faithfulness
from dynamick.explanation.simulability import Simulability, simulability, study_questions

_HOME = {
    "CompositionTruth": "dynamick.explanation.truth",
    "Concept": "dynamick.explanation.explained",
    "ConceptBasis": "dynamick.explanation.ibd",
    "Decomposition": "dynamick.explanation.ibd",
    "Explanation": "dynamick.explanation.explained",
    "Explanations": "dynamick.explanation.explained",
    "HeatmapTruth": "dynamick.explanation.truth",
    "Outputs": "dynamick.explanation.outputs",
    "Reader": "dynamick.explanation.reading",
    "Reading": "dynamick.explanation.reading",
    "RunnerUp": "dynamick.explanation.explained",
    "ThreeWays": "dynamick.explanation.threeway",
    "Trace": "dynamick.explanation.tracing",
    "composition_truth": "dynamick.explanation.truth",
    "decompose": "dynamick.explanation.ibd",
    "draw": "dynamick.explanation.pictures",
    "explain": "dynamick.explanation.instances",
    "explain_folder": "dynamick.explanation.folder",
    "heatmap": "dynamick.explanation.pictures",
    "heatmap_truth": "dynamick.explanation.truth",
    "learn_basis": "dynamick.explanation.basis",
    "learn_concepts": "dynamick.explanation.ibd",
    "page": "dynamick.explanation.pages",
    "spoken": "dynamick.explanation.sentence",
    "quantus_heatmap": "dynamick.explanation.attribution",
    "summarise": "dynamick.explanation.pages",
    "three_ways": "dynamick.explanation.threeway",
    "trace": "dynamick.explanation.tracing",
}

__all__ = [
    "Composition",
    "CompositionTruth",
    "Compositions",
    "Concept",
    "ConceptBasis",
    "Decomposition",
    "Explanation",
    "Explanations",
    "Faithfulness",
    "HeatmapTruth",
    "Outputs",
    "Reader",
    "Reading",
    "RunnerUp",
    "Simulability",
    "ThreeWays",
    "Trace",
    "composition",
    "composition_truth",
    "decompose",
    "draw",
    "explain",
    "explain_folder",
    "faithfulness",
    "heatmap",
    "heatmap_truth",
    "learn_basis",
    "learn_concepts",
    "page",
    "quantus_heatmap",
    "share_covered",
    "simulability",
    "spoken",
    "study_questions",
    "summarise",
    "three_ways",
    "trace",
]


def __getattr__(name: str) -> Any:
    return home_of(__name__, _HOME, name)


def __dir__() -> list[str]:
    return sorted(__all__)
