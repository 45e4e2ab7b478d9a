"""The explanation page's numbers as JSON values. What its arithmetic needs is exact. The rest is reduced to fit."""

import base64
import math
from typing import Any

import numpy as np

from dynamick.report.explanation_parts import Array, Beside, ClassComposition, HeadNumbers, Instance, Page

_HEAD_BYTES = 1_200_000
_MAPS_BYTES = 800_000
_MAP_SIDE = 16


def page_scale(page: Page) -> float:
    """The page's budget, as a multiple of that of 50 images."""
    return max(1.0, len(page.instances) / 50)


def kept_classes(page: Page) -> list[int]:
    """All classes; if the head is too large, those that rank best in any image."""
    weight = page.head.weight
    stored = np.count_nonzero(weight) if page.head.mask is None else int(page.head.mask.sum())
    each = min(weight.shape[1] * 4, stored / len(weight) * 8)
    room = max(int(_HEAD_BYTES / each), 2) if each else len(weight)
    if room >= len(weight):
        return list(range(len(weight)))
    ranks = np.stack([np.argsort(np.argsort(-instance.logits, kind="stable")) for instance in page.instances]).min(axis=0)
    return sorted(np.argsort(ranks, kind="stable")[:room].tolist())


def page_data(page: Page, kept: list[int]) -> dict[str, Any]:
    """Everything but the pictures, as JSON values; arrays are base64 of little-endian numbers."""
    place = {c: position for position, c in enumerate(kept)}
    limit = _maps_per_image(page)
    made_of = page.compositions or [ClassComposition(name, []) for name in page.classes]
    return {
        "classes": [page.classes[c] for c in kept],
        "raw": dict(page.raw),
        "rule": page.head.rule,
        "k": page.head.k,
        "digits": page.digits,
        "head": _head(page.head, kept),
        "units": [[unit.label, unit.category, _finite(unit.score), unit.detector] for unit in page.units],
        "compositions": [
            {
                "units": [pair for concept in made_of[c].concepts for pair in concept.units],
                "positive": _positive(made_of[c]),
                "negative": made_of[c].negative,
            }
            for c in kept
        ],
        "instances": [
            {
                "name": instance.name,
                "x": _packed(instance.x, "<f4"),
                "logits": _packed(instance.logits[kept], "<f4"),
                "truth": None if instance.true_class is None else page.classes[instance.true_class],
                "true": place.get(instance.true_class, -1) if instance.true_class is not None else -1,
                "maps": _maps(instance, page.head, limit),
            }
            for instance in page.instances
        ],
        "beside": None if page.beside is None else _beside(page.beside, page.model.name),
    }


def _positive(made_of: ClassComposition) -> float:
    """All of a class's positive weight, of which its concepts hold most."""
    return float(made_of.concepts[0].weight / made_of.concepts[0].share) if made_of.concepts else 0.0


def _beside(beside: Beside, this: str) -> dict[str, Any]:
    name = beside.model.name
    return {
        "name": name if name != this else f"the other {name}",
        "rule": beside.rule,
        "decisions": [
            {
                "sentence": each.sentence,
                "ranking": [[name, float(logit), float(chance)] for name, logit, chance in each.ranking],
                "concepts": [[of.name, float(of.evidence), list(of.units)] for of in each.concepts],
                "rest": float(each.rest),
                "bias": float(each.bias),
                "heat": None if each.heat is None else _levels(_pooled(np.nan_to_num(each.heat.astype(np.float32))[None])),
            }
            for each in beside.decisions
        ],
    }


def _head(head: HeadNumbers, kept: list[int]) -> dict[str, Any]:
    """The kept classes' weights, losslessly: all of them, or only those that are there.

    Without a mask, weights that are left out are zero. With a mask they are pruned, and the rule `exactly` differs.
    """
    weight = head.weight[kept].astype("<f4")
    there = weight != 0 if head.mask is None else head.mask[kept]
    packed: dict[str, Any] = {
        "units": weight.shape[1],
        "bias": _packed(head.bias[kept], "<f4"),
        "masked": head.mask is not None,
    }
    if head.mask is None and there.sum() * 8 >= weight.size * 4:
        return packed | {"dense": _packed(weight, "<f4")}
    return packed | {
        "counts": _packed(there.sum(axis=1), "<u4"),
        "indices": _packed(np.nonzero(there)[1], "<u4"),
        "values": _packed(weight[there], "<f4"),
    }


def _maps_per_image(page: Page) -> int:
    shapes = [instance.maps.shape for instance in page.instances if instance.maps is not None]
    cells = sum(min(h, _MAP_SIDE) * min(w, _MAP_SIDE) for _, h, w in shapes)
    return int(_MAPS_BYTES * page_scale(page)) // cells if cells else 0


def _maps(instance: Instance, head: HeadNumbers, limit: int) -> dict[str, Any] | None:
    """The maps of the units that matter most to this image's five best classes, as signed bytes with a scale each."""
    if instance.maps is None:
        return None
    best = np.argsort(-instance.logits, kind="stable")[:5]
    weight = head.weight[best] if head.mask is None else head.weight[best] * head.mask[best]
    importance = np.abs(weight * np.nan_to_num(instance.x, posinf=0, neginf=0)).max(axis=0)
    units = np.sort(np.argsort(-importance, kind="stable")[:limit])
    return {"units": _packed(units, "<u4"), **_levels(_pooled(np.nan_to_num(instance.maps[units].astype(np.float32))))}


def _levels(maps: Array) -> dict[str, Any]:
    """Maps (n, h, w) as signed bytes, with a scale each."""
    scale = np.abs(maps).max(axis=(1, 2), initial=0)
    levels = np.round(maps / np.where(scale > 0, scale, 1)[:, None, None] * 127).astype(np.int8)
    return {"scale": _packed(scale, "<f4"), "size": list(maps.shape[1:]), "levels": _packed(levels, "i1")}


def _pooled(maps: Array) -> Array:
    """Maps (n, h, w) averaged down to at most 16 cells a side, so that their mean stays."""
    for axis in (1, 2):
        side = maps.shape[axis]
        if side > _MAP_SIDE:
            edges = np.linspace(0, side, _MAP_SIDE + 1).astype(int)
            sums = np.add.reduceat(maps, edges[:-1], axis=axis)
            maps = sums / np.expand_dims(np.diff(edges), tuple({0, 1, 2} - {axis}))
    return maps


def _packed(array: Array, dtype: str) -> str:
    return base64.b64encode(np.ascontiguousarray(array, dtype=dtype).tobytes()).decode()


def _finite(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else value
