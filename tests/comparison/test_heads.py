"""Every head: its budget is kept to the letter, and what it computes is what its name says, by brute force."""

import sys
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from dynamick.comparison import heads
from dynamick.comparison.cache import Features
from dynamick.comparison.heads import HEADS, dice, dynamic, dynamic_static, elastic_net, magnitude, tuning
from dynamick.comparison.heads.exchange import exchange, gains, objective, saliencies
from dynamick.comparison.heads.fitted import dense, keep_largest, keep_largest_per_class
from dynamick.comparison.heads.tuning import fine_tune
from dynamick.comparison.logistic import Problem, solve, solve_within, standardise
from dynamick.functional import dynamic_linear
from dynamick.nn import DynamicLinear

BUDGETS = (1, 2, 5)


def accuracy(head: torch.nn.Module, features: Features) -> float:
    return (head(features.x).argmax(1) == features.labels).double().mean().item()


TOY = """
from dynamick.comparison.heads import dense
from dynamick.comparison.heads.compared import ComparedHead
COMPARED = (ComparedHead("toy", "a toy", dense.fit, "static", 1),)
"""


def test_a_new_head_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "toy.py").write_text(TOY)
    monkeypatch.setattr(heads, "__path__", [*heads.__path__, str(tmp_path)])
    found = heads.find()
    monkeypatch.delitem(sys.modules, "dynamick.comparison.heads.toy")
    monkeypatch.delattr(heads, "toy")
    static = [name for name, head in found.items() if head.axis == "static"]
    assert static[-1] == "toy"
    assert [name for name in found if name != "toy"] == [*HEADS]


@pytest.mark.parametrize("name", HEADS)
def test_every_head_keeps_its_budget(features: Features, name: str) -> None:
    entry = HEADS[name]
    found = list(entry.fit(features.x, features.labels, 3, BUDGETS if entry.axis else (0,), 0))
    assert [each.budget for each in found] == (list(BUDGETS) if entry.axis else [0])
    for each in found:
        # A head may make units of its own before its layer.
        *before, head = each.head if isinstance(each.head, torch.nn.Sequential) else [each.head]
        weight = head.weight
        assert each.head(features.x).shape == (600, 3)
        assert before or weight.shape == (3, 12)
        assert torch.isfinite(weight).all()
        assert not weight.requires_grad
        assert each.seconds > 0
        if entry.axis == "static":
            assert (weight != 0).sum() <= 3 * each.budget
            assert type(each.head) is torch.nn.Linear
        if entry.axis == "routed":
            assert (before or [head])[0].k == each.budget


def test_heads_learn(features: Features) -> None:
    """Two units a class hold all there is to know."""
    best = accuracy(dense(features.x, features.labels, 3), features)
    assert best > 0.97
    for name in ("elastic-net-tuned", "dice-tuned", "dynamic-static", "dynamic-at-most", "dynamic-exactly"):
        head = next(HEADS[name].fit(features.x, features.labels, 3, [2], 0)).head
        assert accuracy(head, features) > 0.9, name


@pytest.mark.parametrize("alpha", [elastic_net.ALPHA, 1.0])
def test_a_weaker_penalty_than_the_paths_would_pass_the_budget(features: Features, alpha: float) -> None:
    """Nor does what else was asked change what is found."""
    problem = Problem(standardise(features.x)[0], features.labels, 3)
    asked = {each.budget: each for each in elastic_net.fit(features.x, features.labels, 3, (1, 3), alpha=alpha)}
    [alone] = elastic_net.fit(features.x, features.labels, 3, (3,), alpha=alpha)
    assert torch.equal(alone.head.weight, asked[3].head.weight)
    for budget, found in asked.items():
        strength = found.about["strength"]
        within = solve(problem, alpha * strength, (1 - alpha) * strength, tolerance=1e-6)
        beyond = solve(problem, alpha * strength * 0.97, (1 - alpha) * strength * 0.97, tolerance=1e-6)
        assert (within.weight != 0).sum() <= budget * 3 < (beyond.weight != 0).sum()


def test_dynamic_static_has_at_most_so_many_in_every_class(features: Features) -> None:
    head = next(dynamic_static.fit(features.x, features.labels, 3, [2])).head
    assert ((head.get_parameter("weight") != 0).sum(1) <= 2).all()


def test_training_depends_on_the_seed_alone(features: Features) -> None:
    heads = [dynamic.train(features.x, features.labels, 3, 2, seed, epochs=1) for seed in (0, 0, 1)]
    assert torch.equal(heads[0].weight, heads[1].weight)
    assert not torch.equal(heads[0].weight, heads[2].weight)


def test_training_draws_nothing_from_the_global_generator(features: Features) -> None:
    torch.manual_seed(0)
    a = dynamic.train(features.x, features.labels, 3, 2, 0, epochs=1)
    torch.manual_seed(1)
    assert torch.equal(dynamic.train(features.x, features.labels, 3, 2, 0, epochs=1).weight, a.weight)


def test_a_unit_that_never_fires_gets_no_weight(features: Features) -> None:
    x = features.x.clone()
    x[:, 4] = 0
    head = dynamic.train(x, features.labels, 3, 2)
    assert (head.weight[:, 4] == 0).all()


@given(st.integers(1, 40), st.integers(1, 400))
def test_k_falls_to_its_value_and_stays(k: int, units: int) -> None:
    course = [dynamic.scheduled_k(k, units, step / 100) for step in range(101)]
    assert course == sorted(course, reverse=True)
    assert set(course[50:]) == {min(k, units)}
    assert course[0] == min(4 * k, units)


def test_usage_counts_what_is_routed(features: Features) -> None:
    head = DynamicLinear(12, 3, 2)
    expected = torch.zeros(3, 12)
    for x in features.x:
        for c, row in enumerate((head.weight * x).tolist()):
            for i in sorted(range(12), key=lambda i: (-row[i], i))[:2]:
                expected[c, i] += row[i] > 0
    assert torch.equal(dynamic_static.usage(head, features.x).float(), expected)


def test_dice_keeps_the_largest_mean_contributions(features: Features) -> None:
    whole = dense(features.x, features.labels, 3)
    found = next(dice.fit(features.x, features.labels, 3, [2])).head.get_parameter("weight")
    brute = [
        (sum((whole.weight[c, i] * x[i]).item() for x in features.x) / len(features), c, i) for c in range(3) for i in range(12)
    ]
    kept = {(c, i) for _, c, i in sorted(brute, reverse=True)[:6]}
    assert {tuple(each) for each in (found != 0).nonzero().tolist()} == kept
    assert all(found[c, i] == whole.weight[c, i] for c, i in kept)


def test_magnitude_measures_features_of_one_scale(features: Features) -> None:
    """Units of another scale change nothing: the same connections stay, the same answers come."""
    scale = 10.0 ** torch.arange(-3, 9) / 100
    a, b = (next(magnitude.fit(x, features.labels, 3, [2])).head for x in (features.x, features.x * scale))
    assert torch.equal(a.get_parameter("weight") != 0, b.get_parameter("weight") != 0)
    torch.testing.assert_close(a(features.x), b(features.x * scale), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("k", [1, 3])
def test_top_k_is_algorithm_2_on_the_dense_head(features: Features, k: int) -> None:
    head = next(HEADS["top-k"].fit(features.x, features.labels, 3, [k])).head
    whole = dense(features.x, features.labels, 3)
    expected = dynamic_linear(features.x, whole.weight, whole.bias, k, implementation="reference")
    torch.testing.assert_close(head(features.x), expected)


def test_fine_tuning_forgets_where_it_began(features: Features) -> None:
    mask = keep_largest_per_class(torch.rand(3, 12, generator=torch.Generator().manual_seed(0)), 4)
    starts = [dense(features.x, features.labels, 3), DynamicLinear(12, 3)]
    a, b = (fine_tune(features.x, features.labels, start, mask) for start in starts)
    assert ((a.weight != 0) == mask).all()
    # Logits are settled up to one constant for all classes.
    torch.testing.assert_close(a(features.x).softmax(1), b(features.x).softmax(1), rtol=0, atol=0.02)


def test_fine_tuning_chooses_the_l2_that_serves_held_out_images_best(features: Features) -> None:
    """By brute force on the same split: every tenth image is held out."""
    x = standardise(features.x[:120])[0]
    problem = Problem(x, features.labels[:120], 3)
    mask, start = torch.ones(3, 12, dtype=torch.bool), (torch.zeros(3, 12), torch.zeros(3))
    held = torch.arange(120) % 10 == 0
    losses = {}
    for l2 in tuning.L2S:
        found = solve(Problem(x[~held], problem.y[~held], 3), l2=l2, mask=mask, tolerance=1e-6)
        losses[l2] = torch.nn.functional.cross_entropy(x[held] @ found.weight.T + found.bias, problem.y[held]).item()
    assert tuning.choose_l2(problem, mask, start) == min(losses, key=lambda l2: losses[l2])


@pytest.mark.parametrize("count", [1, 2])
def test_exchange_finds_the_units_that_matter_from_the_worst_beginning(features: Features, count: int) -> None:
    problem = Problem(standardise(features.x)[0], features.labels, 3)
    wrong = torch.zeros(3, 12, dtype=torch.bool)
    wrong[:, 10 : 10 + count] = True
    zeros = (torch.zeros(3, 12), torch.zeros(3))
    mask, found = exchange(problem, wrong, 1e-3, zeros)
    assert (mask.sum(1) == count).all()
    assert ((found.weight != 0) <= mask).all()
    assert all(mask[c, c] for c in range(3))
    if count == 2:
        assert all(mask[c, c + 3] for c in range(3))


@settings(max_examples=15, deadline=None)
@given(st.integers(1, 4), st.integers(0, 1000))
def test_exchange_never_makes_the_objective_worse(count: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    x = standardise(torch.randn(80, 6, generator=generator))[0]
    problem = Problem(x, torch.arange(80) % 3, 3)
    before = keep_largest_per_class(torch.rand(3, 6, generator=generator), count)
    zeros = (torch.zeros(3, 6), torch.zeros(3))

    def least(mask: torch.Tensor) -> float:
        found = solve(problem, l2=1e-2, mask=mask, tolerance=1e-6)
        loss = torch.nn.functional.cross_entropy(x @ found.weight.T + found.bias, problem.y)
        return (loss + 0.005 * found.weight.square().sum()).item()

    after, _ = exchange(problem, before, 1e-2, zeros)
    assert (after.sum(1) == count).all()
    # Fits in between are coarse.
    assert least(after) <= least(before) + 1e-4


def test_gains_and_saliencies_foretell_what_a_fit_of_one_class_does(features: Features) -> None:
    """Two classes: with the other class's weights at rest, the loss is one of a single class, and the models are close."""
    x = standardise(features.x)[0]
    problem = Problem(x, (features.labels > 0).long(), 2)
    mask = torch.zeros(2, 12, dtype=torch.bool)
    mask[1, [6, 7, 8]] = True
    l2 = 1e-2
    fitted = solve_within(problem, mask, l2, (torch.zeros(2, 12), torch.zeros(2)), 1e-6)
    value = objective(problem, fitted, l2)
    expected = gains(problem, fitted, mask, l2)
    assert (expected[mask] == -1).all()
    for unit in (9, 10, 11):
        wider = mask.clone()
        wider[1, unit] = True
        fell = value - objective(problem, solve_within(problem, wider, l2, (fitted.weight, fitted.bias), 1e-6), l2)
        assert expected[1, unit].item() == pytest.approx(fell, rel=0.2, abs=1e-5)
    expected = saliencies(problem, fitted, mask, l2)
    assert (expected[~mask] == -1).all()
    for unit in (6, 7, 8):
        narrower = mask.clone()
        narrower[1, unit] = False
        rose = objective(problem, solve_within(problem, narrower, l2, (fitted.weight, fitted.bias), 1e-6), l2) - value
        assert expected[1, unit].item() == pytest.approx(rose, rel=0.2, abs=1e-5)


@given(st.lists(st.integers(-3, 3), min_size=6, max_size=6), st.integers(0, 8))
def test_of_equal_scores_the_lower_index_stays(values: list[int], count: int) -> None:
    score = torch.tensor(values, dtype=torch.float32)
    order = sorted(range(6), key=lambda i: (-values[i], i))[:count]
    assert keep_largest(score.view(2, 3), count).flatten().nonzero().flatten().tolist() == sorted(order)
    assert keep_largest_per_class(score.view(1, 6), count)[0].nonzero().flatten().tolist() == sorted(order)
