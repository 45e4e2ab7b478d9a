"""Generated scenes, written in Broden's format and read again, dissected as docs/definitions.md defines it."""

import numpy as np
import pytest
import torch

from dynamick.data import Broden, ComposedScenes
from dynamick.data.concepts import Label
from dynamick.dissection import dissect
from dynamick.preprocessing import Preprocessing


@pytest.mark.parametrize("rule", ["netdissect", "lite"])
def test_scenes_are_dissected_by_the_definition(small, tmp_path, rule):
    scenes = ComposedScenes("val", 12, seed=3, image_size=32)
    scenes.write_broden(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 5, 3, padding=1), torch.nn.AvgPool2d(4)).eval()
    prepare = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    result = dissect(
        model, "1", Broden(tmp_path), rule, preprocessing=prepare, quantile=0.95, batch_size=12, progress=False, device="cpu"
    )
    with torch.inference_mode():
        maps = model(prepare(scenes.images)).numpy()
    # The truth comes from the scenes themselves, not from the files.
    numbered = [*scenes.parts, *scenes.classes]
    truth = [
        {
            "part": scenes.part_maps[i].numpy().astype(int)[None],
            "scene": np.full((1, 1, 1), 1 + numbered.index(scenes.classes[scenes.labels[i]])),
        }
        for i in range(12)
    ]
    labels = [Label(n, name, "part" if n <= len(scenes.parts) else "scene") for n, name in enumerate(numbered, 1)]
    oracle = small.slow(maps, small.InMemory(labels, ["part", "scene"], (32, 32), truth), rule, 0.95)
    for name in ("thresholds", "intersections", "areas", "sizes"):
        np.testing.assert_array_equal(getattr(result, name), getattr(oracle, name), err_msg=name)
    np.testing.assert_allclose(result.iou, oracle.iou, rtol=1e-12)
    assert result.labels == oracle.labels
    assert oracle.intersections.sum() > 0
