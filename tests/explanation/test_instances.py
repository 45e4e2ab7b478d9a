"""Instance explanations against plain loops: every figure recomputed from the head's input, one product at a time."""

import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import faithfulness
from dynamick.explanation.instances import _n98
from dynamick.explanation.reading import Reader, heat
from dynamick.preprocessing import Preprocessing
from tests.explanation.networks import Small, dissection, images, small


def head_inputs(model: Small, batch: Tensor) -> Tensor:
    model.eval()
    with torch.no_grad():
        return model.body(batch).mean(dim=(2, 3))


def route_by_loop(x: list[float], w: list[float], k: int | None, rule: str) -> list[tuple[int, float]]:
    """Routed units and products, descending, as docs/definitions.md, "Dynamic-K", has it."""
    products = [(i, a * b) for i, (a, b) in enumerate(zip(x, w, strict=True))]
    if k is not None and rule == "at_most":
        products = [(i, p) for i, p in products if p > 0]
    ranked = sorted(products, key=lambda pair: (-pair[1], pair[0]))
    return ranked if k is None else ranked[:k]


HEADS = [(None, "at_most"), (1, "at_most"), (3, "at_most"), (3, "exactly"), (50, "at_most")]


@pytest.mark.parametrize(("k", "rule"), HEADS)
def test_everything_is_what_plain_loops_give(k: int | None, rule: str) -> None:
    model, batch = small(k, rule), images()
    with torch.no_grad():
        logits = model.eval()(batch)
    x_BM = head_inputs(model, batch)
    explanations = dk.explain(model, batch, classes=[2, 0], preprocess=None)
    assert [(each.image, each.class_index) for each in explanations] == [(b, c) for b in range(5) for c in (2, 0)]
    for each in explanations:
        b, c = each.image, each.class_index
        x, w = x_BM[b].tolist(), model.head.weight.tolist()
        expected = route_by_loop(x, w[c], k, rule)
        assert each.indices == [i for i, _ in expected]
        assert each.products == pytest.approx([p for _, p in expected], rel=1e-4, abs=1e-7)
        assert each.logit == pytest.approx(float(logits[b, c]), rel=1e-5)
        assert each.bias == pytest.approx(model.head.bias.tolist()[c])
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)
        routed, total = sum(p for _, p in expected), sum(a * v for a, v in zip(x, w[c], strict=True))
        assert each.shares["share_of_routed"] == pytest.approx([p / routed for _, p in expected] if routed else [], rel=1e-3)
        assert each.shares["share_of_all"] == pytest.approx([p / total for _, p in expected], rel=1e-3)
        assert each.residual == pytest.approx(1 - routed / total, abs=1e-3)
        order = logits[b].argsort(descending=True).tolist()
        assert each.predicted == order[0]
        other = next(o for o in order if o != c)
        assert each.runner_up is not None
        assert each.runner_up.class_index == other
        assert each.runner_up.logit == pytest.approx(float(logits[b, other]), rel=1e-5)
        theirs = dict(route_by_loop(x, w[other], k, rule))
        mine = dict(expected)
        apart = {i: mine.get(i, 0) - theirs.get(i, 0) for i in {*mine, *theirs}}
        got = dict(zip(each.runner_up.indices, each.runner_up.differences, strict=True))
        assert got == pytest.approx(apart, rel=1e-3, abs=1e-6)
        sizes = [abs(difference) for difference in each.runner_up.differences]
        assert sizes == sorted(sizes, reverse=True)


@pytest.mark.parametrize(("k", "rule"), HEADS)
def test_why_not_sums_to_the_difference_of_the_logits(k: int | None, rule: str) -> None:
    for each in dk.explain(small(k, rule), images(), preprocess=None):
        assert each.class_index == each.predicted
        other = each.runner_up
        assert other is not None
        assert other.logit <= each.logit
        assert sum(other.differences) == pytest.approx((each.logit - other.logit) - (each.bias - other.bias), abs=1e-5)


@pytest.mark.parametrize(("k", "rule"), HEADS)
def test_maps_split_each_product_over_the_image(k: int | None, rule: str) -> None:
    model, batch = small(k, rule), images()
    maps = model.eval().body(batch).detach()
    for each in dk.explain(model, batch, preprocess=None):
        assert each.why is None
        assert each.maps is not None
        assert each.maps.shape == (len(each.indices), 4, 4)
        torch.testing.assert_close(each.maps.sum(dim=(1, 2)), torch.tensor(each.products), rtol=1e-4, atol=1e-7)
        for unit, split in zip(each.indices, each.maps, strict=True):
            weight = model.head.weight[each.class_index, unit].item()
            torch.testing.assert_close(split, weight * maps[each.image, unit] / 16)


def test_batches_do_not_change_what_is_said() -> None:
    model, batch = small(2), images(7)
    whole = dk.explain(model, batch, preprocess=None)
    pieces = dk.explain(model, batch, preprocess=None, batch_size=3)
    assert [each.indices for each in whole] == [each.indices for each in pieces]
    assert [each.image for each in pieces] == list(range(7))


def test_it_costs_one_forward_pass_and_one_image_more() -> None:
    model, batch = small(2), images(10)
    seen: list[int] = []
    model.body.register_forward_hook(lambda _module, inputs, _output: seen.append(len(inputs[0])))
    dk.explain(model, batch, preprocess=None, batch_size=4)
    assert sum(seen) == 11


def test_the_heat_is_the_logit_without_the_bias() -> None:
    model, batch = small(2), images()
    reader = Reader(model, None)
    classes = torch.tensor([0, 1, 2, 3, 0])
    reading = reader.read(batch)
    maps = heat(reader.head, reading, classes)
    assert maps is not None
    expected = reading.logits.gather(1, classes[:, None])[:, 0] - reader.head.bias[classes]
    torch.testing.assert_close(maps.sum(dim=(1, 2)), expected, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_a_pruned_connection_is_never_explained(rule: str) -> None:
    model = small(3, rule)
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, [0, 2, 4]] = False
    model.head.set_mask(mask)
    for each in dk.explain(model, images(), classes=[0, 1, 2, 3], preprocess=None):
        assert not {0, 2, 4} & set(each.indices)
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)
        if rule == "exactly":
            # All three that are left are routed, so that nothing is left over: the pruned weights are in no denominator.
            assert sorted(each.indices) == [1, 3, 5]
            assert each.residual == pytest.approx(0, abs=1e-4)


def test_a_pruned_connection_of_a_dense_forward_pass_is_never_explained() -> None:
    model = small()
    model.head = dk.DynamicLinear(6, 4, 2, threshold="gradients")
    mask = torch.ones(4, 6, dtype=torch.bool)
    mask[:, [0, 4]] = False
    model.head.set_mask(mask)
    for each in dk.explain(model, images(), classes=[0, 3], preprocess=None):
        assert (each.rule, each.k) == ("dense", None)
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-5)
        off = [place for place, unit in enumerate(each.indices) if unit in (0, 4)]
        assert [each.products[place] for place in off] == [0, 0]
        assert each.maps is not None
        assert not each.maps[off].any()


@pytest.mark.parametrize("k", [None, 3])
def test_a_head_without_bias_has_a_bias_of_zero(k: int | None) -> None:
    model = small()
    model.head = nn.Linear(6, 4, bias=False)
    for each in dk.explain(model if k is None else dk.convert(model, k=k), images(), preprocess=None):
        assert each.bias == 0
        assert sum(each.products) == pytest.approx(each.logit, abs=1e-5)


def test_a_negative_logit_is_explained_like_any_other() -> None:
    model = small()
    with torch.no_grad():
        model.head.weight.copy_(-model.head.weight.abs())
    for each in dk.explain(model, images(), preprocess=None):
        assert each.logit - each.bias < 0
        assert sum(share for share in each.shares["share_of_routed"] if share is not None) == pytest.approx(1)
        assert all(share > 0 for share in each.shares["share_of_routed"] if share)
        assert each.n98 is not None
        assert abs(each.residual_after(each.n98)) <= 0.02 + 1e-9


def test_half_precision_networks_are_explained_by_products_in_full_precision() -> None:
    model, batch = small(3).to(torch.bfloat16), images()
    for each in dk.explain(model, batch, preprocess=None):
        assert each.bias + sum(each.products) == pytest.approx(each.logit, abs=1e-2)
        x_BM = model.body(batch.to(torch.bfloat16)).mean(dim=(2, 3)).double()
        weight = model.head.weight.double()[each.class_index]
        assert each.products == pytest.approx([(x_BM[each.image] * weight)[unit].item() for unit in each.indices], rel=2e-2)


def test_nothing_routed_gives_no_shares() -> None:
    model = small(2)
    with torch.no_grad():
        model.head.weight.fill_(-1.0)
    each = dk.explain(model, images(1), classes=1, preprocess=None)[0]
    assert (each.indices, each.products, each.n98) == ([], [], None)
    assert each.shares == {"share_of_routed": [], "share_of_all": []}
    assert each.logit == pytest.approx(each.bias)
    assert each.residual == pytest.approx(1)
    assert each.maps is not None
    assert each.maps.shape == (0, 4, 4)


def test_a_black_image_without_activation_has_no_denominator() -> None:
    model = small()
    with torch.no_grad():
        model.body[0].bias.fill_(-100)
    each = dk.explain(model, images(1), preprocess=None)[0]
    assert each.n98 is None
    assert each.residual is None
    assert set(each.shares["share_of_all"]) == {None}
    assert each.residual_after(3) is None
    assert json.loads(each.to_json())["residual"] is None


@settings(max_examples=200, deadline=None)
@given(st.lists(st.integers(-6, 6), min_size=1, max_size=8))
def test_n98_is_the_smallest_n_that_stays_within(values: list[int]) -> None:
    products = torch.tensor([[values]], dtype=torch.float64)
    got = int(_n98(products)[0, 0])
    ranked = sorted(values, key=abs, reverse=True)
    # Equal sizes of unlike sign: a stable order, as the lower unit goes first.
    total = sum(values)
    good = [all(abs(sum(ranked[:m]) - total) <= 0.02 * abs(total) for m in range(n, len(values) + 1)) for n in range(1, 9)]
    assert got == (0 if total == 0 else good.index(True) + 1)


def test_residual_after_counts_the_largest() -> None:
    model = small()
    each = dk.explain(model, images(1), classes=0, preprocess=None)[0]
    total = sum(each.products)
    largest = sorted(each.products, key=abs, reverse=True)
    for n in range(7):
        assert each.residual_after(n) == pytest.approx(1 - sum(largest[:n]) / total)
    assert each.n98 is not None
    assert len(each.largest()) == each.n98
    assert abs(each.residual_after(each.n98)) <= 0.02 + 1e-9


def test_concepts_go_with_their_units() -> None:
    each = dk.explain(small(3), images(1), units=dissection(6, "body"), preprocess=None)[0]
    assert [concept.label for concept in each.concepts if concept] == [f"thing {unit}" for unit in each.indices]
    assert [concept.score for concept in each.concepts if concept] == [(unit + 1) / 10 for unit in each.indices]
    assert each.runner_up is not None
    assert [concept.label for concept in each.runner_up.concepts if concept] == [f"thing {u}" for u in each.runner_up.indices]


def test_a_unit_that_overlaps_nothing_is_called_after_nothing() -> None:
    """A tally names the first label of all for it."""
    units = dissection(6)
    units.scores = [0.0] * 6
    each = dk.explain(small(3), images(1), units=units, preprocess=None)[0]
    assert each.indices
    assert set(each.concepts) == {None}


def test_without_a_dissection_units_stay_units() -> None:
    each = dk.explain(small(), images(1), preprocess=None)[0]
    assert each.concepts == [None] * 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"images": torch.rand(9, 9)}, r"images: \(9, 9\) is no batch"),
        ({"images": torch.zeros(1, 3, 9, 9, dtype=torch.int64)}, "images: torch.int64"),
        ({"images": torch.zeros(1, 3, 9, 9, dtype=torch.uint8)}, "no preprocessing"),
        ({"images": torch.rand(1, 4, 9, 9)}, "does not take shape"),
        ({"images": torch.rand(1, 4, 9, 9), "preprocess": Preprocessing()}, "images: 4 channels; give three"),
        ({"images": torch.rand(1, 1, 9, 9), "preprocess": Preprocessing()}, "images: 1 channels; give three"),
        ({"images": "a folder"}, "a folder: no such file"),
        ({"classes": 4}, r"classes: 4 must"),
        ({"classes": [0, -1]}, r"classes: -1 must"),
        ({"classes": []}, "at least one"),
        ({"classes": [0.5]}, r"classes: 0.5 must be an integer"),
        ({"classes": 1.5}, "classes: 1.5 must be an integer"),
        ({"units": dissection(5)}, "5 units dissected, but the head reads 6"),
        ({"units": dissection(6, "body.0")}, "'body.0', but the head reads 'body'"),
        ({"preprocess": "imagenet"}, "preprocess: 'imagenet'"),
    ],
)
def test_bad_input_is_one_line(change: dict[str, object], message: str) -> None:
    arguments = {"images": images(1), "preprocess": None, **change}
    with pytest.raises(InputError, match=message) as caught:
        dk.explain(small(2), **arguments)
    assert "\n" not in str(caught.value)


def test_classes_may_be_any_integers() -> None:
    for classes in (2, np.int64(2), torch.tensor(2), np.array([2]), torch.tensor([2]), (2,)):
        assert [each.class_index for each in dk.explain(small(2), images(1), classes, preprocess=None)] == [2]


def test_prepared_images_are_not_prepared_twice() -> None:
    model = small(2)
    model.preprocessing = Preprocessing()
    with pytest.raises(InputError, match="preprocess=None"):
        dk.explain(model, images(1) * 4 - 2)


def test_no_images_no_explanations() -> None:
    assert dk.explain(small(2), torch.zeros(0, 3, 9, 9), preprocess=None) == []


def test_one_class_has_no_runner_up() -> None:
    each = dk.explain(small(2, classes=1), images(1), preprocess=None)[0]
    assert each.runner_up is None


def test_nan_in_an_image_reaches_the_explanation_and_json() -> None:
    batch = images(1)
    batch[0, 0, 0, 0] = torch.nan
    each = dk.explain(small(2), batch, preprocess=None)[0]
    assert math.isnan(each.logit)
    assert any(math.isnan(product) for product in each.products)
    text = json.loads(each.to_json())
    assert text["logit"] is None


@pytest.mark.parametrize("k", [None, 3])
def test_infinite_activations_are_explained_as_they_are(k: int | None) -> None:
    model, batch = small(k), images(3)
    model.body[0].bias.data[1] = torch.inf
    explained = dk.explain(model, batch, preprocess=None)
    for each in explained:
        assert any(math.isinf(product) or math.isnan(product) for product in each.products)
        assert each.maps is None
        assert each.why is not None
        assert "not finite" in each.why
        json.loads(each.to_json())
    faithfulness(model, batch, preprocess=None)


def test_json_holds_everything_in_plain_values() -> None:
    each = dk.explain(small(2), images(1), units=dissection(6), preprocess=None)[0]
    text = json.loads(each.to_json())
    assert set(text) == {*each.__dataclass_fields__, "units"} - {"indices", "picture"}
    assert text["products"] == each.products
    assert text["concepts"][0] == each.concepts[0].__dict__
    assert text["runner_up"]["differences"] == each.runner_up.differences
    assert torch.allclose(torch.tensor(text["maps"]), each.maps)
    assert json.loads(each.to_json(maps=False))["maps"] is None
