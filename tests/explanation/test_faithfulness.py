"""Faithfulness: deletion and insertion against a plain loop over units, with routing done again each time."""

import itertools

import pytest
import torch
from torch import Tensor, nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import explain, faithfulness
from dynamick.explanation import faithfulness as measure
from dynamick.explanation.faithfulness import deletion_insertion, sum_error
from dynamick.explanation.head import find_head


def small(k: int | None, rule: str = "at_most", units: int = 8) -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, units, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Dropout(0.3), nn.Linear(units, 4)
    ).eval()
    return model if k is None else dk.convert(model, k=k, rule=rule)


def images(count: int = 6) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


@pytest.mark.parametrize(("k", "rule"), [(None, ""), (2, "at_most"), (2, "exactly")])
def test_removing_a_unit_is_setting_it_to_zero_and_routing_again(k: int | None, rule: str) -> None:
    model, counts = small(k, rule), [0, 1, 3, 8]
    x_BM = torch.rand(5, 8, generator=torch.Generator().manual_seed(2))
    classes = torch.tensor([0, 1, 2, 3, 1])
    importance = torch.randint(0, 3, (5, 8), generator=torch.Generator().manual_seed(3)).double()
    got = deletion_insertion(find_head(model), x_BM, classes, importance, counts)
    for b in range(5):
        order = sorted(range(8), key=lambda unit, b=b: (-float(importance[b, unit]), unit))
        for place, count in enumerate(counts):
            for side in (0, 1):
                x = [0.0 if (unit in order[:count]) == (side == 0) else float(x_BM[b, unit]) for unit in range(8)]
                with torch.no_grad():
                    expected = model[5](torch.tensor([x])).softmax(dim=1)[0, classes[b]]
                assert float(got[side, b, place]) == pytest.approx(float(expected), abs=1e-6)


@pytest.mark.parametrize("k", [None, 2])
def test_curves_begin_and_end_at_the_network_and_at_nothing(k: int | None) -> None:
    model, batch = small(k), images()
    result = faithfulness(model, batch, preprocess=None)
    with torch.no_grad():
        full = model(batch).softmax(dim=1).amax(dim=1).mean()
        chosen = model(batch).argmax(dim=1)
        empty = model[5].bias.softmax(dim=0)[chosen].mean()
    for curve in result.curves:
        assert curve.counts == list(range(9))
        assert (curve.deletion[0], curve.insertion[-1]) == pytest.approx((float(full), float(full)), abs=1e-6)
        assert (curve.deletion[-1], curve.insertion[0]) == pytest.approx((float(empty), float(empty)), abs=1e-6)
        for side, area in ((curve.deletion, curve.deletion_area), (curve.insertion, curve.insertion_area)):
            assert area == pytest.approx(sum((a + b) / 2 for a, b in itertools.pairwise(side)) / 8)
    assert result.images == 6
    assert result.units == 8


def test_the_contributions_order_beats_chance_where_few_units_matter() -> None:
    model = small(2)
    contribution, chance = faithfulness(model, images(40), preprocess=None).curves
    assert (contribution.order, chance.order) == ("contribution", "random")
    assert contribution.deletion_area < chance.deletion_area
    assert contribution.insertion_area > chance.insertion_area


def test_the_summary_is_of_the_explanations() -> None:
    model, batch = small(2), images()
    result = faithfulness(model, batch, preprocess=None, batch_size=4)
    explanations = explain(model, batch, preprocess=None)
    known = sorted(each.n98 for each in explanations if each.n98)
    assert result.median_n98 == (known[len(known) // 2] + known[(len(known) - 1) // 2]) / 2
    assert result.share_98 == pytest.approx(sum(known) / len(known) / 8)
    assert result.error == sum_error(explanations) < 1e-6
    assert result.to_dict()["curves"][0]["order"] == "contribution"


def test_a_wrong_explanation_is_noticed() -> None:
    explanation = explain(small(2), images(1), preprocess=None)[0]
    explanation.products[0] += 0.5
    assert sum_error([explanation]) == pytest.approx(0.5, abs=1e-5)


def test_the_same_seed_draws_the_same_orders() -> None:
    first, second, other = (faithfulness(small(2), images(), ["random"], seed=seed, preprocess=None) for seed in (1, 1, 2))
    assert first == second != other


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"orders": ["saliency"]}, "orders: 'saliency' is unknown"),
        ({"counts": [0, 9]}, r"counts: \[0, 9\]"),
        ({"counts": [3]}, "two or more"),
        ({"images": torch.zeros(0, 3, 8, 8)}, "none were given"),
    ],
)
def test_bad_input(change: dict[str, object], message: str) -> None:
    arguments = {"images": images(1), "preprocess": None, **change}
    with pytest.raises(InputError, match=message):
        measure(small(2), **arguments)


def test_captum_missing_is_said_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "captum.attr", None)
    monkeypatch.setitem(sys.modules, "captum", None)
    with pytest.raises(InputError, match=r"captum is not installed.*dynamick\[captum\]"):
        faithfulness(small(2), images(1), ["grad-cam"], preprocess=None)
