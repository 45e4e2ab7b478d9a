"""The gallery of units for a page."""

from dataclasses import replace
from html.parser import HTMLParser

import torch

from dynamick.data import Broden, ComposedScenes
from dynamick.dissection import dissect
from dynamick.explanation.gallery import gallery_html
from dynamick.preprocessing import Preprocessing


class Seen(HTMLParser):
    def __init__(self, markup):
        super().__init__()
        self.images, self.tags, self.text = [], [], ""
        self.feed(markup)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.images += [dict(attrs)] if tag == "img" else []

    def handle_data(self, data):
        self.text += data


def made(tmp_path):
    ComposedScenes("val", 12, seed=3, image_size=32).write_broden(tmp_path)
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3, padding=1), torch.nn.AvgPool2d(4)).eval()
    model.preprocessing = Preprocessing(mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    data = Broden(tmp_path)
    return model, dissect(model, "1", data, quantile=0.9, progress=False, device="cpu"), data


def test_the_best_detectors_are_shown_and_named_safely(tmp_path):
    model, dissection, data = made(tmp_path)
    rows = [row._replace(label="<script>&\"'") for row in dissection.rows]
    hostile = replace(dissection, rows=rows)
    found = int(dissection.detectors.sum())
    assert found > 2
    seen = Seen(gallery_html(model, hostile, data, count=2))
    assert seen.tags == ["div", "figure", "img", "figcaption", "figure", "img", "figcaption"]
    best = int(dissection.scores.argmax())
    assert f"unit {best + 1}: <script>&\"', IoU {dissection.scores[best]:.3f}" in seen.text
    assert all(image["src"].startswith("data:image/jpeg;base64,") for image in seen.images)
    assert len(Seen(gallery_html(model, dissection, data)).images) == min(found, 12)


def test_it_is_said_where_no_unit_is_a_detector(tmp_path):
    model, dissection, data = made(tmp_path)
    nothing = replace(dissection, rows=[row._replace(score=0.0) for row in dissection.rows])
    assert "No unit detects" in Seen(gallery_html(model, nothing, data)).text
