"""IBD: learnt directions, the greedy decomposition against plain arithmetic, and what is left over."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from dynamick.errors import InputError
from dynamick.explanation.ibd import ConceptBasis, _at_centres, _logistic, decompose, learn_concepts


def basis(vectors: Tensor) -> ConceptBasis:
    count = len(vectors)
    unit = torch.nn.functional.normalize(vectors.double(), dim=1)
    return ConceptBasis(list(range(1, count + 1)), [f"c{n}" for n in range(count)], unit, [1] * count, [1.0] * count)


def decompose_by_projection(weight: Tensor, vectors: Tensor, steps: int) -> tuple[list[int], Tensor]:
    """The same by least squares: a gain is how much the part explained grows when a concept joins the span."""
    chosen: list[int] = []
    residual = weight
    for _ in range(steps):
        best, best_gain = None, 1e-9
        for row in range(len(vectors)):
            if row in chosen:
                continue
            span = vectors[chosen].T
            inside = span @ torch.linalg.lstsq(span, vectors[row][:, None]).solution[:, 0] if chosen else 0 * vectors[row]
            left = vectors[row] - inside
            if left.norm() < 1e-8:
                continue
            gain = float(residual @ left / left.norm())
            if gain > best_gain:
                best, best_gain = row, gain
        if best is None:
            break
        chosen.append(best)
        span = vectors[chosen].T
        residual = weight - span @ torch.linalg.lstsq(span, weight[:, None]).solution[:, 0]
    return chosen, residual


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(2, 12), st.integers(1, 8))
def test_the_decomposition_is_what_projections_give(seed: int, concepts: int, units: int, steps: int) -> None:
    # With one direction left to add, all concepts would add the same, and rounding would choose.
    steps = min(steps, units - 1)
    generator = torch.Generator().manual_seed(seed)
    learnt = basis(torch.randn(concepts, units, generator=generator))
    weight = torch.randn(units, generator=generator, dtype=torch.float64)
    got = decompose(weight, learnt, steps)
    chosen, residual = decompose_by_projection(weight, learnt.vectors, steps)
    assert got.concepts == chosen
    torch.testing.assert_close(got.residual, residual, rtol=1e-6, atol=1e-8)
    assert (got.gains > 0).all()
    torch.testing.assert_close(
        got.directions @ got.directions.T, torch.eye(len(chosen), dtype=torch.float64), atol=1e-8, rtol=0
    )
    torch.testing.assert_close(got.gains @ got.directions + got.residual, weight, rtol=1e-9, atol=1e-9)


def test_contributions_sum_to_the_score() -> None:
    generator = torch.Generator().manual_seed(3)
    weight, x = torch.randn(6, generator=generator), torch.rand(4, 6, generator=generator)
    concepts, rest = decompose(weight, basis(torch.randn(5, 6, generator=generator))).contributions(x)
    assert concepts.shape[0] == 4
    torch.testing.assert_close(concepts.sum(dim=1) + rest, x.double() @ weight.double())


def test_a_weight_along_one_concept_leaves_nothing() -> None:
    vectors = torch.eye(4)[:3]
    got = decompose(torch.tensor([0.0, 2.5, 0.0, 0.0]), basis(vectors))
    assert got.concepts == [1]
    assert got.gains.tolist() == [2.5]
    assert got.residual.norm() == 0


def test_a_weight_against_every_concept_is_all_residual() -> None:
    got = decompose(torch.tensor([-1.0, -2.0]), basis(torch.eye(2)))
    assert got.concepts == []
    assert got.directions.shape == (0, 2)
    concepts, rest = got.contributions(torch.ones(3, 2))
    assert concepts.shape == (3, 0)
    assert rest.tolist() == [-3, -3, -3]


def test_a_basis_of_other_units_is_refused() -> None:
    with pytest.raises(InputError, match="learnt on 2 units, but the head reads 3"):
        decompose(torch.ones(3), basis(torch.eye(2)))


def scenes(count: int, seed: int = 0) -> tuple[Tensor, Tensor, Tensor]:
    """Features in which concept 1 and concept 2 each add a direction of their own where their labels lie."""
    generator = torch.Generator().manual_seed(seed)
    directions = torch.nn.functional.normalize(torch.randn(2, 8, generator=generator), dim=1)
    labels = torch.randint(0, 3, (count, 1, 4, 4), generator=generator)
    features = 0.3 * torch.randn(count, 8, 4, 4, generator=generator)
    for number in (1, 2):
        features += 2 * (labels == number) * directions[number - 1][None, :, None, None]
    large = labels.repeat_interleave(5, 2).repeat_interleave(5, 3)
    return features, large, directions


def test_planted_directions_are_found() -> None:
    features, labels, directions = scenes(60)
    batches = [(features[:30], labels[:30]), (features[30:], labels[30:])]
    learnt = learn_concepts(batches, {1: "one", 2: "two", 9: "never seen"})
    assert learnt.names == ["one", "two"]
    assert learnt.numbers == [1, 2]
    torch.testing.assert_close(learnt.vectors.norm(dim=1), torch.ones(2, dtype=torch.float64))
    assert min(learnt.separation) > 0.97
    # What tells a concept from the rest is its direction less some of the other's.
    closeness = learnt.vectors @ directions.double().T
    assert closeness.argmax(dim=1).tolist() == [0, 1]
    assert closeness.diagonal().min() > 0.7


def test_the_regressions_reach_their_minimum() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(200, 5, generator=generator, dtype=torch.float64)
    positive = torch.stack([features[:, 0] + torch.randn(200, generator=generator) > 0.5, features[:, 1] > 1], dim=1)
    weight, _ = _logistic(features, positive, penalty=0.01)
    for c in range(2):
        own = int(positive[:, c].sum())
        share = torch.where(positive[:, c], 0.5 / own, 0.5 / (200 - own))

        def loss(w: Tensor, b: Tensor, c: int = c, share: Tensor = share) -> Tensor:
            sign = torch.where(positive[:, c], 1.0, -1.0)
            return (share * torch.log1p(torch.exp(-sign * (features @ w + b)))).sum() + 0.005 * (w @ w)

        # Newton's method on this concept alone, from far away.
        point = torch.zeros(6, dtype=torch.float64)
        for _ in range(30):
            gradient = torch.func.grad(lambda p, loss=loss: loss(p[:5], p[5]))(point)
            hessian = torch.func.hessian(lambda p, loss=loss: loss(p[:5], p[5]))(point)
            point = point - torch.linalg.solve(hessian, gradient)
        torch.testing.assert_close(weight[c], point[:5], rtol=1e-3, atol=1e-4)


def test_a_silent_unit_gets_no_weight() -> None:
    features, labels, _ = scenes(40)
    features[:, 3] = 0.7
    learnt = learn_concepts([(features, labels)], {1: "one", 2: "two"})
    assert learnt.vectors[:, 3].abs().max() == 0


def test_the_same_seed_learns_the_same() -> None:
    features, labels, _ = scenes(40)
    first, second = (learn_concepts([(features, labels)], {1: "one"}, per_concept=30, pool=50) for _ in range(2))
    assert torch.equal(first.vectors, second.vectors)
    assert first.positives[0] >= 30


def test_labels_are_read_at_the_centres() -> None:
    maps = torch.arange(36).reshape(1, 1, 6, 6)
    assert _at_centres(maps, (2, 3))[0, 0].tolist() == [[1 * 6 + 1, 1 * 6 + 3, 1 * 6 + 5], [4 * 6 + 1, 4 * 6 + 3, 4 * 6 + 5]]
    assert _at_centres(maps, (6, 6))[0, 0].tolist() == maps[0, 0].tolist()


def test_too_few_pixels_is_bad_input() -> None:
    features, labels, _ = scenes(1)
    with pytest.raises(InputError, match="none of 1 has 20 labelled pixels"):
        learn_concepts([(features, labels)], {7: "absent"})
    with pytest.raises(InputError, match="no images"):
        learn_concepts([], {7: "absent"})
