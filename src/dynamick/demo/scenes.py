"""What the demo adds for generated scenes: units, compositions and heatmaps, compared with the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamick import networks
from dynamick.data import ComposedScenes
from dynamick.data.broden import Broden
from dynamick.data.sources.scenes import SEED as SCENES_SEED
from dynamick.dissection import Dissection, dissect
from dynamick.explanation import composition_truth, heatmap_truth, page, summarise
from dynamick.explanation.gallery import gallery_html
from dynamick.report.explanation import ModelSummary
from dynamick.report.training import Comparison, Section

LAYER = "layer3"
SCENES = 1000
"""How many validation scenes are dissected."""
EXPLAINED_ON_PAGE = 50
"""How many are explained on the page explanations.html."""
EXPLAINED = 500
"""How many heatmaps are compared with the masks."""
DISSECTED = {"Dense": "dense", "Dynamic-5": "dynamic-5"}


def with_truth(comparison: Comparison, out: Path) -> Comparison:
    """Dissect the dense and the Dynamic-5 network, name their units, and add the figures to the table.

    Writes OUT/explanations.html, where Dynamic-5's decisions on some scenes can be read; the dissected scenes in Broden's
    format to OUT/scenes; and each head's tally.csv into its folder.
    """
    scenes = ComposedScenes("val", SCENES, SCENES_SEED)
    if not (out / "scenes" / "index.csv").exists():
        scenes.write_broden(out / "scenes")
    concepts = Broden(out / "scenes")
    runs, names, sections = [], {}, []
    twin: OpenNetwork | None = None
    for run in comparison.runs:
        if run.title not in DISSECTED:
            runs.append(run)
            continue
        print(f"dissecting {run.title}", flush=True)
        model: Any = networks.load(out / DISSECTED[run.title] / "last.safetensors")
        units = dissect(model, LAYER, concepts)
        units.write_tally(out / DISSECTED[run.title] / "tally.csv")
        names[run.name] = [label if found else "" for label, found in zip(units.labels, units.detectors, strict=True)]
        about = f"The detectors of {run.title} that score highest: the scenes that excite them most, and where."
        sections.append(Section(f"Units of {run.title}", gallery_html(model, units, concepts), about))
        opened = replace(open_network(model), name=run.title, metrics={"top1": run.accuracy})
        if run.title == "Dynamic-5":
            explained = _explain(opened, scenes, units, concepts, twin, out / EXPLANATIONS)
        twin = (opened, units)
        runs.append(replace(run, extra={**run.extra, **_figures(model, units, scenes)}))
    table = {"parts": scenes.parts, "part_table": scenes.table, "unit_names": names}
    link = '<p><a href="explanations.html">Open the explanations</a></p>'
    about = f"{EXPLAINED_ON_PAGE} scenes, each decided by a handful of named units that can be switched off one by one."
    sections.append(Section("Decisions of Dynamic-5", link, about))
    return replace(comparison, runs=runs, sections=[*comparison.sections, *reversed(sections)], **table)


def _explain(
    model: Any, scenes: ComposedScenes, units: Dissection, concepts: Broden, summaries: dict[str, ModelSummary], out: Path
) -> None:
    """Write the explanation page of the first scenes."""
    page(
        model,
        scenes.images[:EXPLAINED_ON_PAGE],
        out,
        units,
        concepts=concepts,
        truth=scenes.labels[:EXPLAINED_ON_PAGE],
        twin=summaries.get("Dense"),
        summary=summaries["Dynamic-5"],
        names=[f"scene {i}" for i in range(min(EXPLAINED_ON_PAGE, len(scenes)))],
        title="Dynamic-5 on generated scenes",
    )


def _figures(model: Any, units: Dissection, scenes: ComposedScenes) -> dict[str, float | str]:
    summary = units.summary()
    found = {name for name, is_one in zip(units.labels, units.detectors, strict=True) if is_one} & set(scenes.parts)
    composed = composition_truth(model, units, scenes.table, scenes.parts)
    heat = heatmap_truth(model, scenes, EXPLAINED)
    return {
        "mean IoU": f"{summary.mean_score:.3f}",
        "detectors": f"{summary.detectors}/{summary.units}",
        "parts found": f"{len(found)}/{len(scenes.parts)}",
        "parts: precision": f"{composed.precision:.3f}",
        "parts: recall": f"{composed.recall:.3f}",
        "heat: precision": f"{heat.precision:.3f}",
        "heat: recall": f"{heat.recall:.3f}",
        "heat on parts": f"{heat.energy:.3f}",
    }
