"""Class composition against a plain loop over sorted weights."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import composition, share_covered


def dissection(labels: list[str]) -> SimpleNamespace:
    scores = [0.03 + 0.05 * (unit % 3) for unit in range(len(labels))]
    return SimpleNamespace(
        labels=labels, categories=["object"] * len(labels), scores=scores, detectors=[score >= 0.04 for score in scores]
    )


def head(weights: list[list[float]]) -> nn.Linear:
    model = nn.Linear(len(weights[0]), len(weights))
    with torch.no_grad():
        model.weight.copy_(torch.tensor(weights))
    return model


def covered_by_loop(weights: list[float], labels: list[str]) -> set[str]:
    """Distinct concepts of the fewest largest weights that reach 95 % of all that is positive (docs/definitions.md)."""
    positive = sorted(((w, -i) for i, w in enumerate(weights) if w > 0), reverse=True)
    total, held, concepts = sum(w for w, _ in positive), 0.0, set()
    for weight, minus_unit in positive:
        if held >= 0.95 * total:
            break
        held += weight
        concepts.add(labels[-minus_unit])
    return concepts


# Whole numbers, so that the 95 % is met exactly or not at all.
WEIGHTS = st.lists(st.lists(st.integers(-20, 40), min_size=6, max_size=6), min_size=1, max_size=4)


@settings(max_examples=150, deadline=None)
@given(WEIGHTS, st.lists(st.sampled_from(["sky", "tree", "wall", "dog"]), min_size=6, max_size=6))
def test_covered_is_what_a_loop_counts(weights: list[list[int]], labels: list[str]) -> None:
    rows = [[float(w) for w in row] for row in weights]
    got = composition(head(rows), dissection(labels))
    for each, row in zip(got, rows, strict=True):
        expected = covered_by_loop(row, labels)
        assert {link.label for link in each.concepts} == expected
        assert each.covered == (len(expected) or None)
        assert each.positive == sum(w > 0 for w in row)
        assert each.negative == pytest.approx(-sum(w for w in row if w < 0))
        positive = sum(w for w in row if w > 0)
        for link in each.concepts:
            assert link.weight == pytest.approx(sum(of.weight for of in link.units))
            assert link.share == pytest.approx(link.weight / positive)
            for of in link.units:
                assert of.weight == row[of.index]
                assert of.width == pytest.approx(row[of.index] / max(row))
        sizes = [link.weight for link in each.concepts]
        assert sizes == sorted(sizes, reverse=True)
    few = [each.covered is not None and each.covered <= 2 for each in got]
    assert share_covered(got, 2) == pytest.approx(sum(few) / len(few))


def test_the_part_on_detectors() -> None:
    each = composition(head([[3.0, 1.0, 2.0]]), dissection(["a", "b", "c"]))[0]
    assert each.detected == pytest.approx(3 / 6)  # units 1 and 2 have scores of 0.08 and 0.13, unit 0 has 0.03


def test_units_without_a_label_are_concepts_of_their_own() -> None:
    each = composition(head([[1.0, 1.0, 1.0]]), dissection(["", "", "sky"]))[0]
    assert {link.label for link in each.concepts} == {"unit 1", "unit 2", "sky"}


def test_pruned_weights_do_not_count() -> None:
    model = dk.convert(head([[5.0, 4.0, 1.0]]), k=2)
    model.set_mask(torch.tensor([[False, True, True]]))
    each = composition(model, dissection(["a", "b", "c"]))[0]
    assert {link.label for link in each.concepts} == {"b", "c"}
    assert each.positive == 2


def test_another_number_of_units_is_refused() -> None:
    with pytest.raises(InputError, match="2 units dissected, but the head reads 3"):
        composition(head([[1.0, 2.0, 3.0]]), dissection(["a", "b"]))


def test_classes_have_the_models_names() -> None:
    model = head([[1.0], [2.0]])
    model.classes = ["<b>", "dog"]
    got = composition(model, dissection(["a"]))
    assert [each.class_name for each in got] == ["<b>", "dog"]
    assert got[0].to_dict()["concepts"][0]["units"][0]["weight"] == 1
