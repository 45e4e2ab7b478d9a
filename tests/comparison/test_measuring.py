"""A head's figures are what they say, by brute force."""

import numpy as np
import pytest
import torch

from dynamick.comparison.cache import Features
from dynamick.comparison.measuring import measure


def test_figures_by_brute_force(features: Features) -> None:
    weight = torch.zeros(3, 12)
    weight[0, 0], weight[1, 1], weight[1, 0], weight[2, 2] = 2, 2, -1, 1
    head = torch.nn.Linear(12, 3, bias=False)
    with torch.no_grad():
        head.weight.copy_(weight)
    found = measure(head, features)
    logits = features.x @ weight.T
    right = logits.argmax(1) == features.labels
    assert found["top1"] == pytest.approx(100 * right.double().mean().item())
    assert (found["nec"], found["max_per_class"], found["units"]) == (4 / 3, 2, 3)
    # Unit 0 speaks for class 0 and against class 1.
    assert found["classes_per_unit"] == 4 / 3
    assert found["shared"] == pytest.approx(100 / 3)
    assert found["routed"] == pytest.approx(4 / 3)
    confidence = logits.softmax(1).amax(1)
    expected = 0.0
    for low in np.arange(15) / 15:
        inside = (confidence > low) & (confidence <= low + 1 / 15)
        if inside.any():
            gap = confidence[inside].mean() - right[inside].double().mean()
            expected += inside.double().mean().item() * abs(gap.item())
    assert found["ece"] == pytest.approx(100 * expected, abs=1e-3)


def test_faithfulness_by_brute_force(features: Features) -> None:
    """Of a head that sums two units of one class and one of the others; 500 of the 600 inputs, evenly spaced."""
    weight = torch.zeros(3, 12)
    weight[0, 0], weight[0, 3], weight[1, 1], weight[2, 2] = 3, 1, 2, 2
    head = torch.nn.Linear(12, 3)
    with torch.no_grad():
        head.weight.copy_(weight)
        head.bias.zero_()
    found = measure(head, features)
    needed, deleted, inserted = [], [], []
    for x in features.x[torch.arange(500) * 600 // 500]:
        c = int((weight @ x).argmax())
        products = sorted(((weight[c] * x)[i].item(), -i) for i in range(12))[::-1]
        total = sum(value for value, _ in products)
        needed.append(next(n for n in range(1, 13) if abs(sum(v for v, _ in products[:n]) - total) <= 0.02 * abs(total)))
        for out, with_it in ((deleted, False), (inserted, True)):
            course = []
            for n in range(13):
                inside = torch.tensor([(i in [-j for _, j in products[:n]]) == with_it for i in range(12)])
                course.append((weight @ (x * inside)).softmax(0)[c].item())
            out.append((sum(course) - (course[0] + course[-1]) / 2) / 12)
    assert found["n98"] == np.median(needed)
    assert found["deletion"] == pytest.approx(np.mean(deleted), abs=1e-5)
    assert found["insertion"] == pytest.approx(np.mean(inserted), abs=1e-5)
