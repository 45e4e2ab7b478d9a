"""Explanations that are the computation: instances, class composition, IBD, and how far all of it can be trusted."""

from dynamick.explanation.attribution import quantus_heatmap
from dynamick.explanation.basis import learn_basis
from dynamick.explanation.composition import Composition, composition, share_covered
from dynamick.explanation.faithfulness import Faithfulness, faithfulness
from dynamick.explanation.folder import explain_folder
from dynamick.explanation.ibd import ConceptBasis, Decomposition, decompose, learn_concepts
from dynamick.explanation.instances import Concept, Explanation, RunnerUp, explain
from dynamick.explanation.outputs import Outputs
from dynamick.explanation.pages import page, summarise
from dynamick.explanation.pictures import draw, heatmap
from dynamick.explanation.reading import Reader, Reading
from dynamick.explanation.simulability import Simulability, simulability, study_questions
from dynamick.explanation.threeway import ThreeWays, three_ways
from dynamick.explanation.truth import CompositionTruth, HeatmapTruth, composition_truth, heatmap_truth

__all__ = [
    "Composition",
    "CompositionTruth",
    "Concept",
    "ConceptBasis",
    "Decomposition",
    "Explanation",
    "Faithfulness",
    "HeatmapTruth",
    "Outputs",
    "Reader",
    "Reading",
    "RunnerUp",
    "Simulability",
    "ThreeWays",
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
    "study_questions",
    "summarise",
    "three_ways",
]
