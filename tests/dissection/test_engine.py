"""`dissect` against its definition in plain NumPy, one pass against two, shards and resumption against one run."""

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dynamick.data.concepts import Label
from dynamick.dissection import Counts, TopValues, capture, dissect, masks, read_tally, selecting
from dynamick.dissection.masks import upsampled_masks
from dynamick.dissection.survivors import Survivors
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing

QUIET = {"progress": False, "batch_size": 7}
SAME = ("thresholds", "intersections", "areas", "sizes")
FEW = settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def assert_same(one, other, names=(*SAME, "top_images", "top_values", "nan_counts")):
    for name in names:
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name), err_msg=name)
    assert one.rows == other.rows


def assert_is(result, oracle):
    for name in SAME:
        np.testing.assert_array_equal(getattr(result, name), getattr(oracle, name), err_msg=name)
    np.testing.assert_allclose(result.iou, oracle.iou, rtol=1e-12)
    np.testing.assert_allclose(result.scores, oracle.scores, rtol=1e-12)
    assert result.labels == oracle.labels


@pytest.mark.parametrize("rule", ["netdissect", "lite"])
@pytest.mark.parametrize("passes", [1, 2])
@FEW
@given(
    seed=st.integers(0, 10**6),
    images=st.integers(1, 12),
    shape=st.sampled_from([(1, 1), (2, 2), (2, 4), (4, 2), (4, 4), (8, 4)]),
    map_size=st.sampled_from([(1, 1), (4, 4), (4, 8), (8, 8), (2, 8)]),
    quantile=st.sampled_from([0.5, 0.9, 0.95, 0.995]),
    ties=st.booleans(),
)
def test_both_rules_are_those_of_the_definition(small, rule, passes, seed, images, shape, map_size, quantile, ties):
    maps, dataset = small.case(seed, images=images, units=3, shape=shape, map_size=map_size, ties=ties)
    result = dissect(small.Table(maps), "layer", dataset, rule, quantile=quantile, passes=passes, progress=False, batch_size=3)
    assert_is(result, small.slow(maps, dataset, rule, quantile))


@pytest.mark.parametrize("shape", [(3, 5), (7, 7), (1, 6), (7, 1), (12, 20), (10, 9)])
def test_sizes_that_do_not_divide_each_other(small, shape, monkeypatch):
    monkeypatch.setattr(masks, "AT_ONCE", 100)
    maps, dataset = small.case(3, images=20, units=4, shape=shape, map_size=(10, 9))
    for rule in ("netdissect", "lite"):
        result = dissect(small.Table(maps), "layer", dataset, rule, quantile=0.9, **QUIET)
        assert_is(result, small.slow(maps, dataset, rule, 0.9))


def test_the_rules_differ_where_no_label_lies_under_the_mask(small):
    """A mask in the left half, a label in the right one: `netdissect` counts the mask for its category, `lite` does not."""
    maps = np.zeros((1, 1, 2, 2), np.float32)
    maps[0, 0, 0, 0] = 8
    plane = np.zeros((1, 4, 4), int)
    plane[0, :, 3] = 1
    dataset = small.InMemory(small.LABELS, small.CATEGORIES, (4, 4), [{"object": plane}])
    areas = {
        rule: dissect(small.Table(maps), "layer", dataset, rule, quantile=0.5, **QUIET).areas[0, 0]
        for rule in ("netdissect", "lite")
    }
    assert areas["lite"] == 0
    assert areas["netdissect"] > 0


def test_filtering_again_in_between_changes_nothing_and_keeps_little(small, monkeypatch, tmp_path):
    maps, dataset = small.case(5, images=300, units=6, shape=(4, 4), map_size=(8, 8))
    two = dissect(small.Table(maps), "layer", dataset, quantile=0.97, passes=2, **QUIET)
    plain = dissect(small.Table(maps), "layer", dataset, quantile=0.97, passes=1, **QUIET)
    monkeypatch.setattr(Survivors, "LEAST", 1)
    filtered = dissect(small.Table(maps), "layer", dataset, quantile=0.97, passes=1, **QUIET)
    on_disk = dissect(small.Table(maps), "layer", dataset, quantile=0.97, memory=0, **QUIET)
    for result in (plain, filtered, on_disk):
        assert_same(two, result)
    assert 0 < filtered.measured["peak_bytes"] < plain.measured["peak_bytes"]
    assert on_disk.measured["passes"] == 1


def test_what_an_accelerator_computes_by_pytorch_is_the_same(small, monkeypatch):
    maps, dataset = small.case(16, images=70, units=6, ties=True)
    on_cpu = [dissect(small.Table(maps), "layer", dataset, rule, quantile=0.95, **QUIET) for rule in ("netdissect", "lite")]
    monkeypatch.setattr(selecting, "_on_cpu", lambda values: False)
    for rule, expected in zip(("netdissect", "lite"), on_cpu, strict=True):
        assert_same(dissect(small.Table(maps), "layer", dataset, rule, quantile=0.95, **QUIET), expected)


def test_plateaus_at_the_threshold_are_never_masked(small):
    """Rounded interpolation of equal values can exceed them: 3 * (1 - w) + 3 * w for odd sizes."""
    for value in (0.1, 3.0, 5.7):
        maps = torch.full((1, 5, 5), value)
        maps[0, 0, 0] = value + 1
        masks = upsampled_masks(maps - torch.tensor(value), (13, 11))
        oracle = torch.nn.functional.interpolate((maps > value)[None].double(), (13, 11), mode="bilinear")[0] > 0
        assert torch.equal(masks.bool(), oracle)


def test_one_pass_runs_the_model_once(small):
    maps, dataset = small.case(6, images=20)
    for passes in (1, 2):
        model = small.Table(maps)
        dissect(model, "layer", dataset, passes=passes, progress=False, batch_size=10)
        assert model.passes == 1 + 2 * passes  # one image first, to see the maps' size


def test_two_passes_where_the_disk_has_no_room(small, monkeypatch):
    maps, dataset = small.case(7)
    monkeypatch.setattr("shutil.disk_usage", lambda path: type("Usage", (), {"free": 10}))
    assert dissect(small.Table(maps), "layer", dataset, memory=0, **QUIET).measured["passes"] == 2
    assert dissect(small.Table(maps), "layer", dataset, **QUIET).measured["passes"] == 1


def test_nan_is_reported_by_unit_and_never_dropped(small):
    maps, dataset = small.case(8, images=30)
    maps[3, 1, 0, 0] = maps[9, 1, 2, 2] = maps[4, 3, 1, 1] = np.nan
    with pytest.raises(InputError, match=r"NaN in 2 of 5 units: 2 \(2 values\), 4 \(1 values\)"):
        dissect(small.Table(maps), "layer", dataset, **QUIET)
    for passes in (1, 2):
        result = dissect(small.Table(maps), "layer", dataset, quantile=0.9, passes=passes, allow_nan=True, **QUIET)
        assert result.nan_counts.tolist() == [0, 2, 0, 1, 0]
        assert_is(result, small.slow(maps, dataset, "netdissect", 0.9))


def test_infinities_leave_the_other_units_alone(small):
    maps, dataset = small.case(9)
    clean = dissect(small.Table(maps), "layer", dataset, quantile=0.9, **QUIET)
    maps[:, 0, 0, 0] = np.inf
    maps[:, 1] = -np.inf
    for passes in (1, 2):
        result = dissect(small.Table(maps), "layer", dataset, quantile=0.9, passes=passes, **QUIET)
        np.testing.assert_array_equal(result.intersections[2:], clean.intersections[2:])
        assert not result.intersections[1].any()


def test_top_images_are_those_of_highest_activation(small):
    maps, dataset = small.case(10, ties=True)
    result = dissect(small.Table(maps), "layer", dataset, top=6, **QUIET)
    highest = maps.max((2, 3))
    for u in range(maps.shape[1]):
        expected = sorted(range(len(maps)), key=lambda i: (-highest[i, u], i))[:6]
        assert result.top_images[u].tolist() == expected
        np.testing.assert_array_equal(result.top_values[u], highest[expected, u])


@pytest.mark.parametrize("processes", [2, 3])
def test_parts_merged_are_the_whole(small, processes):
    maps, dataset = small.case(11, images=50, units=4, ties=True)
    whole, parts = TopValues(4, 30), [TopValues(4, 30) for _ in range(processes)]
    for i, each in enumerate(torch.as_tensor(maps)):
        whole.update(each.flatten(1))
        parts[i % processes].update(each.flatten(1))
    for part in parts[1:]:
        parts[0].merge(part)
    assert torch.equal(parts[0].compute(), whole.compute())
    T = whole.compute()
    all_counts = [Counts(sorted(small.LABELS), small.CATEGORIES, 4) for _ in range(processes + 1)]
    for i, each in enumerate(torch.as_tensor(maps)):
        sample = ("image", dataset[i].maps)
        for counts in (all_counts[0], all_counts[1 + i % processes]):
            counts.update(torch.zeros(4).long(), torch.arange(4), each - T[:, None, None], [sample], dataset.map_size)
    for part in all_counts[2:]:
        all_counts[1].merge(part)
    assert torch.equal(all_counts[0].compute(), all_counts[1].compute())
    assert all_counts[0].labelled == all_counts[1].labelled


def real_model():
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3),
        torch.nn.BatchNorm2d(8),
        torch.nn.ReLU(inplace=True),
        torch.nn.Flatten(),
        torch.nn.LazyLinear(5),
    )


@pytest.mark.parametrize(("layer", "units", "size"), [("1", 8, [6, 6]), ("2", 8, [6, 6]), ("4", 5, [1, 1])])
def test_any_layer_of_any_module(small, layer, units, size):
    _, dataset = small.case(12)
    model = real_model()
    model(torch.zeros(1, 3, 8, 8))
    model.train()
    model[1].eval()
    result = dissect(model, layer, dataset, preprocessing=Preprocessing(size=8), **QUIET)
    assert result.intersections.shape[0] == units
    assert model.training
    assert not model[1].training
    assert not model[int(layer)]._forward_hooks
    if layer == "1":
        assert result.thresholds.shape == (8,)
        assert (result.top_values.min() < 0) or (result.thresholds != 0).any()


@pytest.mark.parametrize("form", ["bfloat16", "float64", "channels last"])
def test_a_model_of_another_form_sees_the_images(small, form):
    """Its activations as numbers, whatever their type and order in memory."""
    _, dataset = small.case(17)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.AvgPool2d(2))
    plain = {"dtype": getattr(torch, form)} if form != "channels last" else {"memory_format": torch.channels_last}
    model.to(**plain)
    result = dissect(model, "1", dataset, preprocessing=Preprocessing(size=8), quantile=0.9, **QUIET)
    images = Preprocessing(size=8)(torch.stack([dataset[i].image for i in range(len(dataset))]))
    maps = torch.cat([model(some.to(**plain)).float() for some in images.split(7)]).detach()
    again = dissect(small.Table(maps.contiguous()), "layer", dataset, quantile=0.9, **QUIET)
    assert_same(result, again)
    assert all(each.dtype == plain.get("dtype", torch.float32) for each in model.parameters())


def test_a_layer_that_is_used_twice_gives_its_last_output():
    layer = torch.nn.Linear(3, 3)
    model = torch.nn.Sequential(layer, torch.nn.ReLU(), layer)
    x = torch.randn(2, 3)
    with capture(model, "0") as taken:
        assert torch.equal(model(x), taken.take()[:, :, 0, 0])


def test_images_of_several_shapes_and_one_alone(small):
    _, dataset = small.case(18)
    sizes = [(4, 9), (9, 4), (5, 5)]
    type(dataset).image = lambda self, index: torch.full((3, *sizes[index % 3]), index, dtype=torch.uint8)
    try:
        model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3))
        assert dissect(model, "0", dataset, preprocessing=Preprocessing(size=8), **QUIET).thresholds.shape == (4,)
        with pytest.raises(InputError, match=r"image 1: .*give one size for all images \(--size\)"):
            dissect(model, "0", dataset, preprocessing=Preprocessing(), **QUIET)
        dataset.all_maps = dataset.all_maps[:1]
        alone = dissect(model, "0", dataset, preprocessing=Preprocessing(), **QUIET)
        assert alone.top_images.tolist() == [[0]] * 4
    finally:
        del type(dataset).image


def test_a_category_without_labels_stays_empty(small, tmp_path):
    maps, dataset = small.case(19)
    dataset.categories = ["colour", *dataset.categories]
    result = dissect(small.Table(maps), "layer", dataset, quantile=0.9, **QUIET)
    assert_is(result, small.slow(maps, dataset, "netdissect", 0.9))
    assert {row.matches[0].label for row in result.rows} == {""}
    result.write_tally(tmp_path / "tally.csv")
    assert read_tally(tmp_path / "tally.csv").rows == result.rows


def test_what_a_layer_puts_out_is_seen_before_a_later_in_place_module():
    model = real_model().eval()
    x = torch.randn(2, 3, 8, 8)
    with capture(model, "1") as taken:
        model(x)
        assert torch.equal(taken.take(), model[1](model[0](x)))
        assert taken.take is not None


def test_the_hook_goes_also_when_the_body_raises():
    model = real_model()
    with pytest.raises(RuntimeError, match="body"), capture(model, "2"):
        raise RuntimeError("body")
    assert not model[2]._forward_hooks
    assert model.training


class Odd(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.used, self.unused, self.pair, self.tokens, self.mean, self.none = (torch.nn.Identity() for _ in range(6))
        self.alias = self.used
        self.pair.forward = lambda x: (x, x)
        self.tokens.forward = lambda x: x.flatten(2)

    def forward(self, x):
        self.pair(x)
        self.tokens(x)
        self.mean(x.mean(0, keepdim=True))
        self.none(x[:, :0])
        return self.used(x)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"layer": "nowhere"}, "'nowhere' is not in the model; it has used, unused, pair, tokens, mean, none, alias"),
        ({"layer": "unused"}, "'unused' is never used"),
        ({"layer": "pair"}, "puts out a tuple; choose"),
        ({"layer": "tokens"}, r"puts out a tensor of shape \(1, 3, 4\); choose"),
        ({"layer": "mean"}, r"'mean' puts out 1 maps of each unit for 7 images; choose"),
        ({"layer": "none"}, r"puts out a tensor of shape \(1, 0, 2, 2\); choose"),
        ({"rule": "light"}, "rule: 'light' is unknown; give netdissect or lite"),
        ({"quantile": 1.0}, "quantile: 1.0 must lie"),
        ({"preprocessing": None}, "preprocessing: the model does not name its own"),
        ({"batch_size": 0}, "^batch_size: 0 must be an integer from 1 up$"),
        ({"top": 0}, "^top: 0 must be an integer from 1 up$"),
        ({"passes": 3}, "^passes: 3 must be 1, 2 or None$"),
    ],
)
def test_bad_arguments_are_named(small, change, message):
    _, dataset = small.case(13)
    arguments = {"layer": "used", "preprocessing": Preprocessing(), **QUIET, **change}
    with pytest.raises(InputError, match=message) as caught:
        dissect(Odd(), dataset=dataset, **arguments)
    assert "\n" not in str(caught.value)


def test_a_module_of_two_names_is_found_by_either(small):
    _, dataset = small.case(13)
    one, other = (dissect(Odd(), layer, dataset, preprocessing=Preprocessing(), **QUIET) for layer in ("used", "alias"))
    assert_same(one, other)


def test_random_numbers_drawn_next_are_what_they_would_be(small):
    """A training must go on as if its network had not been dissected in between."""
    maps, dataset = small.case(20)
    before = torch.random.get_rng_state()
    dissect(small.Table(maps), "layer", dataset, **QUIET)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_what_is_wrong_in_a_loading_process_is_one_line(small):
    maps, dataset = small.case(21)
    dataset.__class__ = type("Broken", (small.InMemory,), {"maps": broken_from_20})
    for workers in (0, 2):
        with pytest.raises(InputError, match=r"^image-20: cannot be read$"):
            dissect(small.Table(maps), "layer", dataset, workers=workers, **QUIET)


def broken_from_20(self, index):
    if index >= 20:
        raise InputError(f"image-{index}: cannot be read")
    return self[index].maps


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.uint16, torch.int64])
def test_label_maps_of_any_integers(small, dtype):
    maps, dataset = small.case(22)
    expected = dissect(small.Table(maps), "layer", dataset, quantile=0.9, **QUIET)
    dataset.all_maps = [
        {category: torch.as_tensor(each).to(dtype) for category, each in all_maps.items()} for all_maps in dataset.all_maps
    ]
    dataset.map_size = list(dataset.map_size)
    assert_same(dissect(small.Table(maps), "layer", dataset, quantile=0.9, **QUIET), expected)


def test_bad_data_is_named(small):
    maps, dataset = small.case(14)
    model = small.Table(maps)

    def problem(labels=None, categories=None, map_size=(8, 12), everything=None):
        each = dataset.all_maps if everything is None else everything
        bad = small.InMemory(dataset.labels if labels is None else labels, categories or dataset.categories, map_size, each)
        with pytest.raises(InputError) as caught:
            dissect(model, "layer", bad, **QUIET)
        return str(caught.value)

    assert "no labels" in problem(labels=[])
    assert "no images" in problem(everything=[])
    assert "none of the images has a label" in problem(everything=[{}] * 5)
    assert "category is given twice in object, part, object" in problem(categories=["object", "part", "object"])
    for number in (0, -1, 2**40):
        assert f"label x has number {number}, not from 1 to" in problem(labels=[*dataset.labels, Label(number, "x", "part")])
    assert "label x has number 7, twice" in problem(labels=[*dataset.labels, Label(7, "x", "part")])
    assert "category 'scene'" in problem(categories=["object", "part", "texture"])
    assert "image-1: label 9 is not one of" in problem(everything=[{}, {"scene": np.full((1, 1, 1), 9)}])
    assert "label 3 is not one of" in problem(everything=[{"scene": np.full((1, 1, 1), 3)}])
    assert "label 4294967297 is not one of" in problem(everything=[{"object": torch.full((1, 8, 12), 2**32 + 1)}])
    assert "float32 of shape (1, 8, 12); they must be int" in problem(everything=[{"object": torch.ones(1, 8, 12)}])
    assert "int32 of shape (8, 12); they must be int" in problem(everything=[{"object": np.ones((8, 12), int)}])
    assert "map is 8x12 pixels; it must be 8x8" in problem(map_size=(8, 8))


def test_label_order_and_ties(small):
    """Equal IoU: the lowest number wins, whatever the order in which the data set lists its labels."""
    labels = [Label(9, "nine", "object"), Label(3, "three", "object")]
    plane = np.full((1, 1, 1), 3)
    maps = np.arange(4, dtype=np.float32).reshape(1, 1, 2, 2)
    dataset = small.InMemory(labels, ["object"], (2, 2), [{"object": np.concatenate([plane, plane + 6])}])
    result = dissect(small.Table(maps), "layer", dataset, quantile=0.5, **QUIET)
    assert result.iou[0, 0] == result.iou[0, 1] > 0
    assert result.labels == ["three"]
