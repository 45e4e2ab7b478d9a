"""The three ways of Fig. 7, each share recomputed from the head's input."""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import dynamick as dk
from dynamick.errors import InputError
from dynamick.explanation import ConceptBasis, three_ways
from dynamick.explanation.threeway import WAYS, ThreeWays, Way, draw


def small(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4)).eval()


def images(count: int = 5) -> Tensor:
    return torch.rand(count, 3, 8, 8, generator=torch.Generator().manual_seed(1))


def basis() -> ConceptBasis:
    return ConceptBasis([1, 2, 3], ["sky", "$tree", "<wall>"], torch.eye(6, dtype=torch.float64)[:3], [9] * 3, [1.0] * 3)


def test_each_way_is_what_the_features_say() -> None:
    dense, dynamic, batch = small(0), dk.convert(small(1), k=2), images()
    named = SimpleNamespace(labels=list("abcdef"), categories=["x"] * 6, scores=[0.1] * 6, detectors=[True] * 6)
    got = three_ways(dense, dynamic, batch, basis(), named, None, units=3, preprocess=None, batch_size=2)
    with torch.no_grad():
        features = [model[:4](batch).double() for model in (dense, dynamic)]
        classes = [model(batch).argmax(dim=1).tolist() for model in (dense, dynamic)]
    for b, ways in enumerate(got.images):
        products = features[0][b] * dense[4].weight[classes[0][b]].detach().double()
        largest = products.abs().argsort(descending=True)[:3]
        assert ways["dense units"].names == [f"unit {unit + 1}: {'abcdef'[unit]}" for unit in largest.tolist()]
        assert ways["dense units"].shares == pytest.approx((products[largest] / products.sum()).tolist(), rel=1e-4)
        assert ways["dense units"].residual == pytest.approx(float(1 - products[largest].sum() / products.sum()), rel=1e-3)
        # The basis is the first three units, so that the decomposition takes those of positive weight as they are.
        taken = [unit for unit in range(3) if dense[4].weight[classes[0][b], unit] > 0]
        assert sorted(ways["dense + IBD"].names) == sorted(basis().names[unit] for unit in taken)
        assert sum(ways["dense + IBD"].shares) == pytest.approx(float(products[taken].sum() / products.sum()), rel=1e-4)
        routed = features[1][b] * dynamic[4].weight[classes[1][b]].detach().double()
        expected = 1 - routed.sort(descending=True).values[:2].clamp(min=0).sum() / routed.sum()
        assert ways["dynamic"].residual == pytest.approx(float(expected), rel=1e-3)
        for way in ways.values():
            assert way.residual == pytest.approx(1 - sum(way.shares))
    assert len(got.images) == 5


def test_the_median_leaves_out_what_is_unknown() -> None:
    def way(residual: float | None) -> dict[str, Way]:
        return dict.fromkeys(WAYS, Way("dog", [], [], residual))

    ways = ThreeWays([way(0.1), way(None), way(0.5), way(0.2)], 100)
    assert set(ways.residuals().values()) == {0.2}
    assert ThreeWays([way(None)], 100).residuals()["dynamic"] is None
    assert ways.to_dict()["median_residual"]["dynamic"] == 0.2


@pytest.mark.parametrize("suffix", ["png", "svg"])
def test_the_figure_is_written(tmp_path: Path, suffix: str) -> None:
    dense, dynamic = small(0), dk.convert(small(1), k=2)
    draw(three_ways(dense, dynamic, images(), basis(), units=3, preprocess=None), tmp_path / f"three.{suffix}", images=2)
    content = (tmp_path / f"three.{suffix}").read_bytes()
    assert content.startswith(b"\x89PNG" if suffix == "png" else b"<?xml")
    assert len(content) > 5000
    with pytest.raises(InputError, match="no image was explained"):
        draw(ThreeWays([], 100), tmp_path / "none.png")


def test_a_basis_of_another_model_is_refused() -> None:
    other = ConceptBasis([1], ["sky"], torch.eye(5, dtype=torch.float64)[:1], [9], [1.0])
    with pytest.raises(InputError, match="learnt on 5 units, but the head reads 6"):
        three_ways(small(0), small(1), images(), other, preprocess=None)
