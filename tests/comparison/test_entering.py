"""What enters a classifier, of networks of many kinds."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from dynamick.comparison.cache import cache_features
from dynamick.data.images import ImageTensors
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing


def flat() -> torch.nn.Module:
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))


def test_a_classifier_of_maps_is_refused(images: ImageTensors, tmp_path: Path) -> None:
    net = torch.nn.Sequential(torch.nn.Conv2d(3, 3, 1))
    with pytest.raises(InputError, match="must see a vector"):
        cache_features(net, images, tmp_path / "f", Preprocessing())


@pytest.mark.parametrize("form", [lambda y: y.squeeze(1), lambda y: y.squeeze(), lambda y: torch.sigmoid(y.squeeze(1))])
@pytest.mark.parametrize("batch_size", [7, 23])
def test_a_network_of_one_logit_may_leave_its_axis_out(
    images: ImageTensors, tmp_path: Path, form: Callable[[torch.Tensor], torch.Tensor], batch_size: int
) -> None:
    """The last batch is of one image alone, with some sizes."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 1)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return form(self.fc(x.mean((2, 3))))

    found = cache_features(Net(), images, tmp_path / "f", Preprocessing(), batch_size=batch_size)
    torch.testing.assert_close(found.x, Preprocessing()(images.images).mean((2, 3)))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_network_of_another_precision(images: ImageTensors, tmp_path: Path, dtype: torch.dtype) -> None:
    found = cache_features(flat().to(dtype), images, tmp_path / "f", Preprocessing())
    assert found.x.dtype == torch.float32
    torch.testing.assert_close(found.x, Preprocessing()(images.images).to(dtype).float().flatten(1))


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning")
@pytest.mark.parametrize(
    ("net", "said"),
    [
        (lambda: torch.jit.script(flat()), "TorchScript"),
        (lambda: torch.nn.Sequential(torch.nn.Flatten()), "no linear layer"),
    ],
)
def test_a_network_whose_classifier_nobody_sees_is_refused(
    images: ImageTensors, tmp_path: Path, net: Callable[[], torch.nn.Module], said: str
) -> None:
    with pytest.raises(InputError, match=said):
        cache_features(net(), images, tmp_path / "f", Preprocessing())
