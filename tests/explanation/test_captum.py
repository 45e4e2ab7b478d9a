"""Captum's and Quantus's own methods on converted models, without tricks. Both are optional extras."""

import importlib.util

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import dynamick as dk
from dynamick.explanation import faithfulness
from dynamick.explanation.attribution import quantus_heatmap, unit_attributions
from dynamick.explanation.reading import Reader

needs_captum = pytest.mark.skipif(importlib.util.find_spec("captum") is None, reason="the extra captum is not installed")


def small(k: int | None = 3, rule: str = "at_most") -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)
    ).eval()
    return model if k is None else dk.convert(model, k=k, rule=rule)


def images(count: int = 3) -> Tensor:
    return torch.rand(count, 3, 10, 10, generator=torch.Generator().manual_seed(1))


@needs_captum
@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_integrated_gradients_from_zero_are_the_routed_products(rule: str) -> None:
    # On the way from 0 to x all products grow alike, so the routing stays: the integral is the product itself.
    from captum.attr import LayerIntegratedGradients

    model, batch = small(rule=rule), images()
    explanations = dk.explain(model, batch, preprocess=None)
    target = torch.tensor([each.predicted for each in explanations])
    x_BM = Reader(model, None).read(batch).x
    method = LayerIntegratedGradients(model[4], model[4])
    got = method.attribute(x_BM, torch.zeros_like(x_BM), target=target, attribute_to_layer_input=True)
    expected = torch.zeros(3, 8)
    for b, each in enumerate(explanations):
        expected[b, each.indices] = torch.tensor(each.products)
    torch.testing.assert_close(got[0] if isinstance(got, tuple) else got, expected, rtol=1e-3, atol=1e-6, check_dtype=False)


@needs_captum
def test_grad_cam_ranks_the_routed_units_as_their_products_do() -> None:
    model, batch = small(), images()
    explanations = dk.explain(model, batch, preprocess=None)
    classes = torch.tensor([each.predicted for each in explanations])
    got = unit_attributions(Reader(model, None), batch, classes, "grad-cam")
    for b, each in enumerate(explanations):
        order = got[b].argsort(descending=True, stable=True).tolist()
        assert order[: len(each.indices)] == each.indices
        torch.testing.assert_close(got[b, each.indices], torch.tensor(each.products), rtol=1e-3, atol=1e-6)


@needs_captum
def test_integrated_gradients_from_black_add_up_to_the_change_of_the_logit() -> None:
    model, batch = small(None), images()
    classes = torch.tensor([0, 1, 2])
    got = unit_attributions(Reader(model, None), batch, classes, "integrated gradients")
    with torch.no_grad():
        change = (model(batch) - model(torch.zeros(1, 3, 10, 10))).gather(1, classes[:, None])[:, 0]
    torch.testing.assert_close(got.sum(dim=1), change, rtol=1e-3, atol=1e-5, check_dtype=False)


@needs_captum
@pytest.mark.parametrize(
    "name", ["Saliency", "InputXGradient", "IntegratedGradients", "GuidedBackprop", "Occlusion", "DeepLift"]
)
def test_captums_own_methods_take_a_converted_model(name: str) -> None:
    import captum.attr

    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4)).eval()
    dk.convert(model, k=3)
    rule = model[4].rule
    more = {"sliding_window_shapes": (3, 5, 5)} if name == "Occlusion" else {}
    got = getattr(captum.attr, name)(model).attribute(images().requires_grad_(), target=1, **more)
    assert got.shape == (3, 3, 10, 10)
    assert torch.isfinite(got).all()
    assert got.abs().sum() > 0
    assert model[4].rule == rule


@needs_captum
def test_the_curves_compare_with_captums_orders() -> None:
    orders = ["contribution", "random", "grad-cam", "integrated gradients"]
    batch = (images(9) * 255).to(torch.uint8)
    model = small()
    result = faithfulness(model, batch, orders, batch_size=4, preprocess=dk.Preprocessing())
    assert [curve.order for curve in result.curves] == orders
    by_name = {curve.order: curve for curve in result.curves}
    # Grad-CAM on pooled maps is the products again, as far as they are routed.
    assert by_name["grad-cam"].deletion[:2] == pytest.approx(by_name["contribution"].deletion[:2], abs=1e-9)
    assert by_name["contribution"].insertion_area >= by_name["random"].insertion_area


def test_the_heatmap_for_quantus_is_the_sum_of_the_maps() -> None:
    model, batch = small(), images()
    maps = quantus_heatmap(model=model, inputs=batch.numpy(), targets=np.array([0, 1, 2]), device="cpu")
    assert maps.shape == (3, 1, 10, 10)
    explanations = dk.explain(model, batch, classes=[0, 1, 2], preprocess=None)
    for b, each in enumerate([explanations[0], explanations[4], explanations[8]]):
        assert each.maps is not None
        large = torch.nn.functional.interpolate(each.maps.sum(0)[None, None], (10, 10), mode="bilinear")[0, 0]
        np.testing.assert_allclose(maps[b, 0], large.numpy(), rtol=1e-4, atol=1e-7)


def test_quantus_scores_a_converted_model() -> None:
    # Its OpenCV needs system libraries that not every machine has.
    quantus = pytest.importorskip("quantus", exc_type=ImportError)

    model, batch = small(), images()
    with torch.no_grad():
        targets = model(batch).argmax(dim=1).numpy()
    metric = quantus.FaithfulnessCorrelation(nr_runs=5, subset_size=20, disable_warnings=True, return_aggregate=False)
    scores = metric(
        model=model, x_batch=batch.numpy(), y_batch=targets, a_batch=None, explain_func=quantus_heatmap, device="cpu"
    )
    assert len(scores) == 3
    assert np.isfinite(scores).all()
