"""Units learnt on maps: the same arithmetic as the layer in a network, and decays chosen on images of their own."""

from typing import Any

import hypothesis.strategies as st
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor

from dynamick.comparison.heads.gradual_pruning import GradualPruning
from dynamick.comparison.heads.l1_proximal import Proximal
from dynamick.comparison.heads.static_top_k import StaticTopK
from dynamick.comparison.heads.stepped import Stepped
from dynamick.nn import DynamicLinear
from dynamick.retrofit import heads, learning, probe, tuning
from dynamick.retrofit.learning import Settings, UnitHead, learn, pooled
from dynamick.retrofit.maps import StoredMaps

CLASSES = 3


def blobs(count: int = 60, seed: int = 0) -> tuple[StoredMaps, Tensor]:
    """Maps of 4 locations and 6 channels: class c lights channel c at one place, among noise."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(count) % CLASSES
    maps = 0.2 * torch.rand(count, 4, 6, generator=generator)
    maps[torch.arange(count), torch.randint(4, (count,), generator=generator), labels] += 2
    return StoredMaps(maps.bfloat16().split(16)), labels


def few(**changes: Any) -> Settings:
    return Settings(**{"units": 8, "k": 2, "epochs": 15, "batch": 12, "decay": 1.0} | changes)


def test_what_the_layer_in_a_network_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(learning, "compute_type", lambda: torch.float32)
    net = UnitHead(6, 5, DynamicLinear(5, CLASSES, 2)).eval()
    with torch.no_grad():
        for value in (net.units.norm.weight, net.units.norm.bias, net.units.norm.running_mean):
            value.normal_()
    maps = torch.randn(3, 4, 6)
    in_a_network = net.units(maps.transpose(1, 2).reshape(3, 6, 2, 2)).mean((2, 3))
    torch.testing.assert_close(net.pooled(maps), in_a_network)
    torch.testing.assert_close(net(maps), net.head(in_a_network))
    torch.testing.assert_close(pooled(net, StoredMaps([maps[:2], maps[2:]])), in_a_network)


def test_it_learns_and_a_seed_decides_all() -> None:
    (maps, labels), (other, _) = blobs(), blobs(seed=1)
    one, again, another = (learn(maps, labels, CLASSES, few(seed=seed)) for seed in (0, 0, 1))
    assert tuning.accuracy(one.head(pooled(one, other)), labels) > 90
    assert torch.equal(one.units.conv.weight, again.units.conv.weight)
    assert not torch.equal(one.units.conv.weight, another.units.conv.weight)
    assert not one.training
    assert not any(parameter.requires_grad for parameter in one.parameters())


def test_it_learns_from_the_rows_and_the_teacher_that_it_is_given() -> None:
    maps, labels = blobs()
    wrong = (labels + 1) % CLASSES
    rows = torch.arange(30)
    mixed = torch.cat([labels[:30], wrong[30:]])
    net = learn(maps, mixed, CLASSES, few(), rows=rows)
    assert tuning.accuracy(net.head(pooled(net, maps)), labels) > 90
    teacher = 20.0 * torch.nn.functional.one_hot(wrong, CLASSES)
    taught = learn(maps, labels, CLASSES, few(teacher=1.0), teacher)
    assert tuning.accuracy(taught.head(pooled(taught, maps)), wrong) > 90


@pytest.mark.parametrize("head", [StaticTopK(3), GradualPruning(3)])
def test_units_are_learnt_together_with_a_head_of_another_kind(head: Stepped) -> None:
    maps, labels = blobs()
    net: Any = learn(maps, labels, CLASSES, few(head=head))
    assert type(net.head) is torch.nn.Linear
    assert (net.head.weight != 0).sum(1).tolist() == [3] * CLASSES
    assert tuning.accuracy(net.head(pooled(net, maps)), labels) > 90
    # The units learn from what the sparse head needs, and so differ from those of a dense one.
    assert not torch.equal(net.units.conv.weight, learn(maps, labels, CLASSES, few(k=None)).units.conv.weight)


def work_of(maps: StoredMaps, labels: Tensor) -> heads.Work:
    images = heads.Images.of(maps, labels)
    return heads.Work(images, images, CLASSES)


def test_the_decay_of_such_a_head_is_chosen_too() -> None:
    """Of equally good decays the largest; but one that is a little worse is not taken: its head would be no sparser."""
    work = work_of(*blobs())
    net, choice, _ = heads.tuned_units(work, few(head=StaticTopK(2), epochs=5), (0.5, 3.0))
    assert set(choice.tried) == {0.5, 3.0}
    again: Any = learn(work.train.maps, work.train.labels, CLASSES, few(head=StaticTopK(2), epochs=5, decay=choice.value))
    assert torch.equal(net.head.get_parameter("weight"), again.head.weight)


def test_a_penalty_is_found_that_leaves_so_many_weights() -> None:
    work = work_of(*blobs())
    net, strength, seconds = heads.units_within(work, few(epochs=5), 4.0)
    left = (net.head.get_parameter("weight") != 0).sum().item() / CLASSES
    assert 2 <= left <= 4
    assert strength > 0 < seconds
    again = learn(work.train.maps, work.train.labels, CLASSES, few(epochs=5, decay=0.0, head=Proximal(strength)))
    assert torch.equal(net.head.get_parameter("weight"), again.head.get_parameter("weight"))


def test_pruning_changes_no_training_logit() -> None:
    maps, labels = blobs()
    net = learn(maps, labels, CLASSES, few(units=20, epochs=3, decay=20.0))
    before = net.head(pooled(net, maps))
    assert heads.prune_units(net, maps) == 0
    head: Any = net.head
    kept = head.in_features
    assert kept == net.units.conv.out_channels == head.weight.shape[1] == head.mask.shape[1] < 20
    assert head.mask.any(0).all()
    torch.testing.assert_close(head(pooled(net, maps)), before)


def test_a_probe_is_tuned_on_images_that_it_has_not_seen() -> None:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(100, 40, generator=generator)
    labels = (x[:, 0] > 0).long()
    work = heads.Work(heads.Images(StoredMaps([x[:, None]]), x, labels), heads.Images(StoredMaps([x[:, None]]), x, labels), 2)
    found = heads.tuned_probe(work)
    assert {*found.choice.tried} <= {*probe.DECAYS}
    assert found.row.decay == found.choice.value
    assert found.choice.tried[found.choice.value] == max(found.choice.tried.values())
    learnt, held = tuning.split(labels)
    again = probe.fit_probe(x[learnt], labels[learnt], 2, found.choice.value).logits(x)
    torch.testing.assert_close(found.unseen, again)
    assert tuning.accuracy(again[held], labels[held]) == found.choice.tried[found.choice.value]


def test_two_images_a_class_are_enough_to_choose_by() -> None:
    x, labels = torch.randn(4, 5, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1] * 2)
    images = heads.Images(StoredMaps([x[:, None]]), x, labels)
    found = heads.tuned_probe(heads.Work(images, images, 2))
    assert {*found.choice.tried} <= {*probe.DECAYS}


def test_a_probe_does_not_depend_on_the_features_scale() -> None:
    x = torch.randn(60, 5, generator=torch.Generator().manual_seed(0))
    labels = (x[:, 2] > 0).long()
    plain = probe.fit_probe(x, labels, 2, 0.1).logits(x)
    scaled = probe.fit_probe(moved := x * torch.tensor([1, 2, 10, 100, 1000]) + 7, labels, 2, 0.1).logits(moved)
    torch.testing.assert_close(scaled, plain, atol=0.02, rtol=0.02)
    still = torch.cat([x, torch.full((60, 1), 3.0)], 1)
    assert probe.fit_probe(still, labels, 2, 0.1).logits(still).isfinite().all()


@given(st.lists(st.integers(0, 4), min_size=1, max_size=80))
def test_a_fifth_of_each_class_is_held_out(labels: list[int]) -> None:
    y = torch.tensor(labels)
    learnt, held = tuning.split(y)
    assert sorted([*learnt.tolist(), *held.tolist()]) == list(range(len(labels)))
    for label in set(labels):
        count = labels.count(label)
        assert (y[held] == label).sum() == (count // 5 if count >= 5 else min(1, count - 1))


@settings(max_examples=50)
@given(st.lists(st.floats(0, 100), min_size=1, max_size=6, unique=True), st.integers(0, 5))
def test_the_best_decay(scores: list[float], top: int) -> None:
    """Of scores that rise and then fall it finds what trying all finds, and of any it takes the best that it tried."""
    risen = sorted(scores)[: top % len(scores)]
    hill = dict(enumerate([*risen, *sorted(set(scores) - {*risen}, reverse=True)]))
    for asked in (hill, dict(enumerate(scores))):
        found = tuning.choose(list(asked), lambda decay, asked=asked: tuning.Trial(asked[decay]))
        best = max(found.tried.values())
        assert found.tried[found.value] == best
        assert all(found.tried[decay] == asked[decay] for decay in found.tried)
        if asked is hill:
            assert best == max(hill.values())


@pytest.mark.parametrize(
    ("weights", "chosen"),
    # The middle one has the best accuracy. Of those that are sparse enough the best, else the sparsest.
    [((9, 5, 5), 2), ((9, 9, 5), 3), ((9, 8, 7), 3), ((5, 5, 5), 2)],
)
def test_a_decay_must_leave_few_weights(weights: tuple[int, ...], chosen: int) -> None:
    trials = {decay: tuning.Trial(top1, left) for decay, top1, left in zip((1, 2, 3), (50, 60, 40), weights, strict=True)}
    assert tuning.choose((1, 2, 3), trials.__getitem__, most=5.5).value == chosen


@given(st.lists(st.integers(0, 22), min_size=1, max_size=40, unique=True), st.integers(1, 9))
def test_maps_are_read_where_they_lie(rows: list[int], size: int) -> None:
    whole = torch.arange(23 * 4.0).view(23, 2, 2)
    maps = StoredMaps(whole.split(size))
    assert maps.shape == (23, 2, 2)
    places = torch.tensor(sorted(rows))
    assert torch.equal(maps[places], whole[places])
