"""Out-of-distribution detection against scikit-learn and against scores written out."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dynamick.comparison import ood
from dynamick.comparison.cache import Features
from dynamick.comparison.heads import HEADS


def test_detection_against_scikit_learn() -> None:
    metrics = pytest.importorskip("sklearn.metrics")
    generator = torch.Generator().manual_seed(0)
    # Large values with ties: what a sigmoid would make equal.
    inside = torch.randint(40, 80, (300, 1), generator=generator).float()
    outside = torch.randint(30, 70, (200, 1), generator=generator).float()
    found = ood.detection(lambda x: x[:, 0], inside, outside)
    target = np.r_[np.ones(300), np.zeros(200)]
    score = torch.cat([inside, outside])[:, 0].numpy()
    assert found["auroc"] == pytest.approx(100 * metrics.roc_auc_score(target, score), abs=1e-3)
    false, true, _ = metrics.roc_curve(target, score, drop_intermediate=False)
    assert found["fpr95"] == pytest.approx(100 * false[true >= 0.95].min())


def test_detectors_tell_far_features_from_near(features: Features) -> None:
    foreign = torch.rand(200, 12, generator=torch.Generator().manual_seed(5)) * 0.05
    fitted = [next(HEADS[name].fit(features.x, features.labels, 3, (2,))).head for name in ("dense", "dynamic-at-most")]
    for name, score in ood.detectors(features.x, *fitted).items():
        assert score(features.x).shape == (600,), name
        assert ood.detection(score, features.x, foreign)["auroc"] > 80, name


def test_energy_of_a_routed_head_is_that_of_its_routed_products(features: Features) -> None:
    """The largest two positive products of each class, by hand; the dense head's other products have no part in it."""
    dense, routed = (next(HEADS[name].fit(features.x, features.labels, 3, (2,))).head for name in ("dense", "dynamic-at-most"))
    found = ood.detectors(features.x, dense, routed)["energy, top-2 of the dense head"](features.x[:20])
    products = (dense.weight * features.x[:20, None]).clamp(min=0).sort(2, descending=True).values[:, :, :2]
    torch.testing.assert_close(found, (products.sum(2) + dense.bias).logsumexp(1))


@given(st.lists(st.integers(0, 5), min_size=1, max_size=40), st.lists(st.integers(0, 5), min_size=1, max_size=10))
def test_the_threshold_is_the_highest_that_95_percent_reach(good: list[int], bad: list[int]) -> None:
    thresholds = [t for t in good if sum(each >= t for each in good) * 100 >= 95 * len(good)]
    expected = sum(each >= max(thresholds) for each in bad) / len(bad)
    assert ood.fpr95(torch.tensor(good), torch.tensor(bad)) == pytest.approx(expected)
