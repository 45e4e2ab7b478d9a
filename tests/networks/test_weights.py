"""Networks that commands open: the forms in which people keep weights, and what is said of files that hold none."""

import argparse
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from torch import Tensor, nn

from dynamick.errors import InputError
from dynamick.networks import open_network
from dynamick.networks.preparing import preprocessing_that_counts
from dynamick.networks.sources.torchvision import preprocessing as torchvision_preprocessing
from dynamick.preprocessing import Preprocessing


def resnet() -> dict[str, Tensor]:
    torch.manual_seed(0)
    return dict(torchvision.models.resnet18(num_classes=2).state_dict())


def parallel(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


FORMS = {
    "plain": lambda tensors: tensors,
    "state_dict": lambda tensors: {"state_dict": tensors, "epoch": 3},
    "model": lambda tensors: {"model": tensors, "args": argparse.Namespace(lr=0.1)},
    "parallel": parallel,
    "parallel in model": lambda tensors: {"model": parallel(tensors)},
}


@pytest.mark.parametrize("form", FORMS)
def test_weights_of_torchvision_in_every_form(tmp_path: Path, form: str) -> None:
    wanted = resnet()
    torch.save(FORMS[form](wanted), tmp_path / "w.pth")
    found = open_network("resnet18", tmp_path / "w.pth").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


def make() -> nn.Module:
    return nn.Sequential(nn.Linear(3, 2))


def make_parallel() -> nn.Module:
    return nn.ModuleDict({"module": nn.Linear(3, 2)})


@pytest.mark.parametrize("name", ["make", "make_parallel"])
@pytest.mark.parametrize("form", FORMS)
def test_weights_of_the_users_own(tmp_path: Path, form: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    wanted = dict(globals()[name]().state_dict())
    if name == "make_parallel" and form.startswith("parallel"):
        pytest.skip("its names begin so already")
    torch.save(FORMS[form](wanted), tmp_path / "w.pth")
    found = open_network(f"{Path(__file__).stem}:{name}", tmp_path / "w.pth").model.state_dict()
    assert all(torch.equal(found[key], tensor) for key, tensor in wanted.items())


def changed(**tensors: Tensor | None) -> dict[str, Tensor]:
    changes = {name.replace("_", ".", 1): tensor for name, tensor in tensors.items()}
    return {name: tensor for name, tensor in (resnet() | changes).items() if tensor is not None}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([1, 2], "holds a list, and no state dict; give a state dict"),
        ({"epoch": 3}, "holds a dict, and no state dict; give a state dict"),
        (make(), "a whole model, or no weights at all; give a state dict"),
        (changed(fc_weight=None), "no weights of a resnet18 (they lack fc.weight); give its state dict"),
        (changed(bn1_bias=None), "no weights of a resnet18 (they lack bn1.bias); give its state dict"),
        (changed(bn9_bias=torch.ones(1)), "no weights of a resnet18 (the model has no bn9.bias); give its state dict"),
        (changed(bn1_bias=torch.ones(1)), "no weights of a resnet18 (bn1.bias has the shape (1,), not (64,)); give its"),
    ],
)
def test_what_is_no_state_dict_is_told(tmp_path: Path, content: Any, said: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError) as refused:
        open_network("resnet18", tmp_path / "w.pth")
    assert str(refused.value).startswith(f"{tmp_path}/w.pth: {said}")
    assert "\x1b" not in str(refused.value)


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    torch.save(resnet(), tmp_path / "w.pth")
    (tmp_path / "w.pth").write_bytes((tmp_path / "w.pth").read_bytes()[:100_000])
    with pytest.raises(InputError, match=r"w\.pth: cannot be read, it may be truncated or damaged"):
        open_network("resnet18", tmp_path / "w.pth")


@pytest.mark.parametrize("own", [None, Preprocessing(size=96)])
def test_a_size_of_0_is_refused(own: Preprocessing | None) -> None:
    given: dict[str, Any] = {"mean": (0, 0, 0), "std": (1, 1, 1)}
    with pytest.raises(InputError, match="size: 0 is no image side"):
        preprocessing_that_counts(own, size=0, **given)
    found = preprocessing_that_counts(own, **given)
    assert found is not None
    assert found.size == (own.size if own else None)


def test_figures_beside_the_weights_do_no_harm(tmp_path: Path) -> None:
    wanted = resnet()
    torch.save({"model": wanted, "best": np.float64(3), "epoch": np.int64(2)}, tmp_path / "w.pth")
    found = open_network("resnet18", tmp_path / "w.pth").model.state_dict()
    assert all(torch.equal(found[name], tensor) for name, tensor in wanted.items())


@pytest.mark.parametrize(
    ("name", "size"), [("resnet18", 224), ("inception_v3", 299), ("swin_v2_t", 256), ("deeplabv3_resnet50", 224)]
)
def test_torchvisions_networks_see_images_as_torchvision_shows_them(name: str, size: int) -> None:
    assert torchvision_preprocessing(name) == Preprocessing(size=size)


@pytest.mark.parametrize(("name", "classes"), [("ssdlite320_mobilenet_v3_large", None), ("vit_b_32", 7)])
def test_a_file_of_any_network_of_torchvisions_is_taken(tmp_path: Path, name: str, classes: int | None) -> None:
    options = {"weights_backbone": None} if classes is None else {"num_classes": classes}
    wanted = torchvision.models.get_model(name, **options).state_dict()
    torch.save(wanted, tmp_path / "w.pth")
    found = open_network(name, tmp_path / "w.pth").model
    assert all(torch.equal(found.state_dict()[key], tensor) for key, tensor in wanted.items())


def test_a_transformer_from_a_file_takes_its_own_size() -> None:
    class Sized:
        image_size = 224

    assert torchvision_preprocessing("vit_h_14").size == 518
    assert torchvision_preprocessing("vit_h_14", Sized()).size == 224


def test_nothing_is_downloaded_for_a_file_of_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError

    monkeypatch.setattr("urllib.request.urlopen", refuse)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", refuse)
    torch.save(resnet(), tmp_path / "w.pth")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for name in ("deeplabv3_resnet50", "googlenet"):
            with pytest.raises(InputError, match=r"w\.pth: no weights of a"):
                open_network(name, tmp_path / "w.pth")
