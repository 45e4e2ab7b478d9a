"""The page of a network of one logit: its arithmetic is that of the logistic function. Run by Node, without a browser."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from dynamick import report
from dynamick.report.explanation import HeadNumbers, Instance, ModelSummary, Page, render

ARITHMETIC = Path(report.__file__).parent / "assets" / "arithmetic.js"
AROUND = """const document = {getElementById: () => ({textContent: %s})};
%s
console.log(JSON.stringify(instances.map(instance => answer(instance.x))));
"""


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_its_probability_is_the_logistic_functions() -> None:
    rng = np.random.default_rng(0)
    weight, bias, x = rng.normal(size=(1, 6)).astype("f4"), np.array([0.3], "f4"), rng.normal(size=(3, 6)).astype("f4")
    logits = x @ weight.T + bias
    pixels = np.zeros((4, 4, 3), np.uint8)
    page = Page(
        title="one",
        model=ModelSummary("one"),
        head=HeadNumbers(weight, bias, "dense"),
        classes=["yes"],
        instances=[Instance(f"{i}", pixels, x[i], logits[i]) for i in range(3)],
    )
    found = re.search(r'<script type="application/json" id="data">(.*?)</script>', render(page), re.DOTALL)
    assert found
    code = AROUND % (json.dumps(found[1]), ARITHMETIC.read_text(encoding="utf-8"))
    said = json.loads(subprocess.run(["node", "-e", code], capture_output=True, text=True, check=True).stdout)
    np.testing.assert_allclose([each["logits"] for each in said], logits, rtol=1e-5)
    np.testing.assert_allclose([each["probabilities"] for each in said], 1 / (1 + np.exp(-logits)), rtol=1e-5)
