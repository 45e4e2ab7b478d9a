"""torch.onnx.export of Dynamic-K layers: ONNX Runtime computes what PyTorch does."""

import io
import warnings

import numpy as np
import pytest
import torch
from torch import nn

import dynamick as dk

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def ran(model: nn.Module, x: torch.Tensor, dynamo: bool) -> np.ndarray:
    file = io.BytesIO()
    axes = {"dynamic_shapes": ({0: torch.export.Dim.DYNAMIC},)} if dynamo else {"dynamic_axes": {"x": {0: "B"}}}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(model.eval(), (x[:2],), file, dynamo=dynamo, input_names=["x"], **axes)
    session = onnxruntime.InferenceSession(file.getvalue(), providers=["CPUExecutionProvider"])
    [y] = session.run(None, {"x": x.numpy()})
    return y


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("rule", ["at_most", "exactly"])
def test_a_head_with_a_mask(rule: str, dynamo: bool) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Flatten(), dk.DynamicLinear(12, 4, 3, rule=rule))
    mask = torch.rand(4, 12) < 0.5
    mask[0] = False
    model[1].set_mask(mask)
    x = torch.randn(5, 12)
    np.testing.assert_allclose(ran(model, x, dynamo), model(x).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("dynamo", [False, True])
def test_a_network_with_units(dynamo: bool) -> None:
    torch.manual_seed(0)
    model = dk.convert(dk.models.create("res8", 4, "patch", 8), k=3, units=16, example=torch.rand(2, 3, 32, 32))
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        np.testing.assert_allclose(ran(model, x, dynamo), model.eval()(x).numpy(), atol=1e-4)
