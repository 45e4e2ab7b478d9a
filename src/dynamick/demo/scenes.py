"""What the demo adds for generated scenes: units, compositions and heatmaps, compared with the truth."""

from dataclasses import replace
from pathlib import Path
from typing import Any

from dynamick import networks
from dynamick.data import ComposedScenes
from dynamick.data.broden import Broden
from dynamick.data.sources.scenes import SEED as SCENES_SEED
from dynamick.dissection import Dissection, dissect
from dynamick.explanation import Explanation, composition_truth, explain, heatmap, heatmap_truth, page
from dynamick.explanation.gallery import gallery_html
from dynamick.explanation.head import find_head
from dynamick.explanation.sentence import evidence, grouped
from dynamick.metrics.sparsity import THRESHOLD
from dynamick.networks import OpenNetwork, open_network
from dynamick.report.training import Comparison, Decision, Section

LAYER = "layer3"
SCENES = 1000
"""How many validation scenes are dissected."""
EXPLAINED_ON_PAGE = 50
"""How many are explained on the page explanations.html."""
EXPLAINED = 500
"""How many heatmaps are compared with the masks."""
PREVIEWED = 6
"""How many of them the report previews."""
EXPLANATIONS = "explanations.html"
MEANINGS = {
    "mean IoU": "how well a unit's activation matches its best concept's place in images, over all units; at most 1",
    "detectors": "units whose IoU is 0.04 or more, of all",
    "parts found": "parts that some detector is named after, of all parts of the scenes",
    "parts: precision": "of the parts that the classes' heaviest units are named after, how many the classes really have",
    "parts: recall": "of the parts that the classes really have, how many their heaviest units are named after",
    "heat: precision": "of the area where the heat is strong, how much lies on the class's parts",
    "heat: recall": "of the area of the class's parts, how much the strong heat covers",
    "heat on parts": "how much of all heat lies on the class's parts",
}
NOT_DISSECTED = "L1 has dashes where units are named or compared with the true parts: only Dense and Dynamic-5 are dissected."
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
    opened: dict[str, tuple[OpenNetwork, Dissection]] = {}
    decision: Decision | None = None
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
        opened[run.title] = replace(open_network(model), name=run.title, metrics={"top1": run.accuracy}), units
        if run.title == "Dynamic-5":
            decision = _explain(opened, scenes, concepts, out / EXPLANATIONS)
        runs.append(replace(run, extra={**run.extra, **_figures(model, units, scenes)}))
    table = {"parts": scenes.parts, "part_table": scenes.table, "unit_names": names}
    return replace(
        comparison,
        runs=runs,
        sections=[*comparison.sections, *reversed(sections)],
        decision=decision,
        meanings=MEANINGS,
        remarks=[*_denser(opened), NOT_DISSECTED],
        **table,
    )


def _explain(
    opened: dict[str, tuple[OpenNetwork, Dissection]], scenes: ComposedScenes, concepts: Broden, out: Path
) -> Decision:
    """Write the explanation page of the first scenes, and give one of their decisions."""
    (network, units), (dense, its_units) = opened["Dynamic-5"], opened.get("Dense", (None, None))
    count = min(EXPLAINED_ON_PAGE, len(scenes))
    images, truth = scenes.images[:count], scenes.labels[:count].tolist()
    shown = page(
        network,
        images,
        out,
        units,
        concepts=concepts,
        truth=truth,
        twin=dense,
        twin_units=its_units,
        names=[f"scene {i}" for i in range(1, count + 1)],
        title=f"Generated scenes: {network.metrics['top1']:.1f}\N{NO-BREAK SPACE}% right",
    )
    explained = explain(network.model, images, units=units, truth=truth)
    chosen = max(explained, key=lambda each: (each.class_index == truth[each.image], _told(each), -each.image))
    said = evidence(list(zip(chosen.names, chosen.products, strict=True))) if sum(chosen.products) > 0 else []
    heat = None if chosen.maps is None else chosen.maps.sum(0)
    image = images[chosen.image]
    return Decision(
        sentence=chosen.said(shown.digits),
        image=image.permute(1, 2, 0).numpy(),
        heat=None if heat is None else heatmap(image, heat, against=True),
        concepts=[(each.name, each.text, each.value / sum(chosen.products)) for each in said],
        link=f"{out.name}#image={chosen.image + 1}",
        page=out.name,
        count=count,
        preview=[each.permute(1, 2, 0).numpy() for each in images[:PREVIEWED]],
    )


def _told(each: Explanation) -> float:
    """How much of the evidence a person can follow: the part on concepts that count, of which none counts above two thirds."""
    total = sum(each.products)
    named = grouped([(of.label, p) for p, of in zip(each.products, each.concepts, strict=True) if of and of.detector])
    return sum(min(value / total, 2 / 3) for value in named.values()) if total > 0 else 0.0


def _denser(opened: dict[str, tuple[OpenNetwork, Dissection]]) -> list[str]:
    """A sentence where the dense head has the better mean score or more detectors, with the means over the units in use."""
    if not {"Dense", "Dynamic-5"} <= opened.keys():
        return []
    (dense, dense_units), (sparse, units) = opened["Dense"], opened["Dynamic-5"]
    ours, theirs = units.summary(), dense_units.summary()
    better = [
        *(["the higher mean IoU over all units"] if theirs.mean_score > ours.mean_score else []),
        *(["more detectors"] if theirs.detectors > ours.detectors else []),
    ]
    if not better:
        return []
    used = [(find_head(each.model).effective_weight.abs() >= THRESHOLD).any(0).cpu().numpy() for each in (dense, sparse)]
    means = [of.scores[which].mean() for of, which in zip((dense_units, units), used, strict=True)]
    return [
        f"Dense has {' and '.join(better)}. All units count there, also those that a head does not use: Dense uses "
        f"{used[0].sum()} of {len(used[0])}, Dynamic-5 {used[1].sum()}. Over the units in use, the mean IoU is {means[0]:.3f} "
        f"for Dense and {means[1]:.3f} for Dynamic-5."
    ]


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
