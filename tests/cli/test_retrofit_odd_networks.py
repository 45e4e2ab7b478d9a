"""`dynamick retrofit` of networks that are odd in some way: served as they are, or refused in one line."""

import json
from pathlib import Path

import pytest
import safetensors
import safetensors.torch
import torch
from torch import nn

import dynamick as dk
from dynamick.cli.main import main
from dynamick.comparison.heads import stepped
from dynamick.data.class_folders import image_folder
from dynamick.retrofit import heads, probe


@pytest.fixture
def data(two_colours: Path) -> Path:
    return two_colours


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stepped, "STEPS", 60)


class Odd(nn.Module):
    """A network whose last linear layer is not its classifier, without a bias, in whatever precision."""

    def __init__(self, permuted: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 2, bias=False)
        self.embed = nn.Linear(8, 6)
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.permuted = permuted

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        y = self.fc(self.embed(self.body(x)).relu())
        return {"logits": y.flip(1) if self.permuted else y, "aux": x.mean()}


FACTORIES = """
import torch
from torch import nn
from torch.nn.utils import parametrizations
from builtins import ODD
def plain(): return ODD()
def permuted(): return ODD(True)
def half(): return ODD().bfloat16()
def one_location():
    parts = nn.Conv2d(3, 8, 16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 2)
    return nn.Sequential(*parts).half()
def double(): return ODD().double()
def half_head():
    class Half(ODD):
        def forward(self, x): return self.fc(self.embed(self.body(x)).relu().bfloat16())
    model = Half()
    model.fc.bfloat16()
    return model
def half_softmax():
    class Half(ODD):
        def forward(self, x): return super().forward(x)["logits"].softmax(1)
    return Half().bfloat16()
def normed():
    model = ODD()
    parametrizations.weight_norm(model.fc)
    return model
def lazy(): return nn.Sequential(nn.Flatten(), nn.LazyLinear(2))
def broken(): raise RuntimeError("first line\\nsecond line")
def needs(width): return ODD()
def picky(): raise ValueError("width must be even")
def nan():
    model = ODD()
    model.fc.weight.data[0, 0] = float("nan")
    return model
"""


def retrofitted(
    function: str,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    *more: str,
    out: str = "out",
    units: str = "none",
) -> dict[str, torch.Tensor]:
    (tmp_path / "oddnets.py").write_text(FACTORIES)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("builtins.ODD", Odd, raising=False)
    torch.manual_seed(0)
    given = ["--size", "16", "--mean", "0", "0", "0", "--std", "1", "1", "1", "--k", "2", "--out", out, *more]
    main(["retrofit", "--units", units, "--model", f"oddnets:{function}", "--data", str(data), *given])
    return safetensors.torch.load_file(tmp_path / out / "weights.safetensors")


@pytest.mark.parametrize("function", ["half_head", "half_softmax"])
def test_a_classifier_of_another_precision_or_its_softmax_is_served(
    function: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert retrofitted(function, data, tmp_path, monkeypatch, "--layer", "fc")["fc.weight"].dtype == torch.bfloat16


@pytest.mark.parametrize(("function", "dtype"), [("plain", torch.float32), ("half", torch.bfloat16), ("double", torch.float64)])
def test_the_layer_that_is_named_is_replaced_as_it_was(
    function: str, dtype: torch.dtype, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tensors = retrofitted(function, data, tmp_path, monkeypatch, "--layer", "fc")
    torch.manual_seed(0)
    model = Odd().to(dtype).eval()
    dk.convert(model, k=2, layers="fc")
    model.fc.set_mask(torch.ones(2, 6, dtype=torch.bool))
    model.load_state_dict(tensors)
    assert {each.dtype for each in tensors.values() if each.is_floating_point()} == {dtype}
    whole = image_folder(data, "val", 16)
    right = model((whole.images.float() / 255).to(dtype))["logits"].argmax(1) == whole.labels
    written = json.loads((tmp_path / "out" / "retrofit.json").read_text())
    assert 100 * right.double().mean().item() == pytest.approx(written["after"]["top1"])


def test_units_on_maps_of_one_location_in_half_precision(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(probe, "LEAST_STEPS", 60)
    monkeypatch.setattr(heads, "ROUTED", (2.0,))
    monkeypatch.setattr(heads, "DENSE", (1.0,))
    tensors = retrofitted("one_location", data, tmp_path, monkeypatch, units="8")
    assert {each.dtype for each in tensors.values() if each.is_floating_point()} == {torch.float16}
    assert json.loads((tmp_path / "out" / "retrofit.json").read_text())["after"]["top1"] >= 75
    main(
        ["explain", "--model", "oddnets:one_location", "--weights", "out", "--images", str(data / "val"), "--out", "page.html"]
    )
    assert "16 images explained" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("function", "more", "said"),
    [
        ("plain", [], "the output of 'embed' is not the model's; name the layer"),
        ("permuted", ["--layer", "fc"], "the output of 'fc' is not the model's"),
        ("plain", ["--layer", "body.0"], "'body.0' sees"),
        ("plain", ["--layer", "body"], "--layer body: a Sequential; name the linear layer"),
        ("plain", ["--layer", "head"], "--layer head: Odd has no attribute `head`"),
        ("normed", ["--layer", "fc"], "weight or bias of 'fc' is computed"),
        ("lazy", [], "1.weight has no size yet"),
        ("broken", [], "RuntimeError: first line second line; mend the function"),
        ("needs", [], "missing 1 required positional argument: 'width'"),
        ("picky", [], "ValueError: width must be even; mend the function"),
        ("nan", ["--layer", "fc"], "fc.weight holds NaN or infinity"),
    ],
)
def test_networks_that_cannot_be_served_are_refused_in_one_line(
    function: str,
    more: list[str],
    said: str,
    data: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(SystemExit) as stop:
        retrofitted(function, data, tmp_path, monkeypatch, *more)
    err = capsys.readouterr().err
    assert said in err
    assert (stop.value.code, len(err.strip().splitlines())) == (2, 1)
    assert not (tmp_path / "out" / "weights.safetensors").exists()


def test_an_image_that_is_gone_is_named(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (data / "train" / "red" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    with pytest.raises(SystemExit) as stop:
        retrofitted("plain", data, tmp_path, monkeypatch, "--layer", "fc")
    assert stop.value.code == 2
    assert "train/red/gone.png: cannot be read (No such file or directory)" in capsys.readouterr().err
