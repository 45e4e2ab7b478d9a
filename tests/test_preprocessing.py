"""Preprocessing is explicit: what it does, held to torchvision's transforms, and what it refuses."""

import pytest
import torch

import dynamick as dk


def test_is_torchvisions_normalisation() -> None:
    images = torch.randint(0, 256, (3, 3, 8, 8), dtype=torch.uint8)
    from torchvision.transforms import v2

    want = v2.functional.normalize(images / 255, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    torch.testing.assert_close(dk.Preprocessing()(images), want)
    torch.testing.assert_close(dk.Preprocessing()(images / 255), want)


def test_resizes_and_turns_channels() -> None:
    from torchvision.transforms import v2

    images = torch.rand(2, 3, 10, 14)
    small = dk.Preprocessing(size=5, mean=(0, 0, 0), std=(1, 1, 1), bgr=True)(images)
    want = v2.functional.resize(images, [5, 5], antialias=True).flip(1)
    torch.testing.assert_close(small, want)


def test_a_network_of_one_channel_gets_grey() -> None:
    prepare = dk.Preprocessing(mean=(0.5,), std=(0.25,))
    red, green, blue = images = torch.rand(1, 3, 4, 4).unbind(1)
    grey = 0.299 * red + 0.587 * green + 0.114 * blue
    torch.testing.assert_close(prepare(torch.stack(images, 1)), (grey[:, None] - 0.5) / 0.25)
    torch.testing.assert_close(prepare(grey[:, None]), (grey[:, None] - 0.5) / 0.25)
    # What was saved as grey is grey.
    same = torch.full((1, 3, 2, 2), 77, dtype=torch.uint8)
    torch.testing.assert_close(prepare(same), (same[:, :1] / 255 - 0.5) / 0.25)
    assert dk.Preprocessing.from_dict(prepare.to_dict()) == prepare


def test_the_default_type_does_not_change_what_a_network_sees() -> None:
    images = torch.randint(0, 256, (1, 3, 8, 8), dtype=torch.uint8)
    want = dk.Preprocessing(size=4)(images)
    torch.set_default_dtype(torch.float64)
    try:
        got = dk.Preprocessing(size=4)(images)
    finally:
        torch.set_default_dtype(torch.float32)
    assert got.dtype == torch.float32
    assert torch.equal(got, want)


@pytest.mark.parametrize(
    "settings",
    [
        {"mean": (0.5,)},
        {"mean": (0.5, 0.5)},
        {"std": (1, 1, 0)},
        {"size": 0},
        {"mean": (123.675, 116.28, 103.53), "std": (58.395, 57.12, 57.375)},
        {"std": (1, 1, 255)},
        {"mean": (float("nan"), 0, 0)},
    ],
)
def test_bad_settings_are_refused(settings: dict) -> None:
    with pytest.raises(dk.InputError, match=rf"^{next(iter(settings))}: [^\n]+$"):
        dk.Preprocessing(**settings)


def test_survives_json() -> None:
    settings = dk.Preprocessing(size=9, mean=(0.1, 0.2, 0.3))
    assert dk.Preprocessing.from_dict(settings.to_dict()) == settings


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.bool])
def test_images_of_other_types_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(dk.InputError, match=rf"^images: {dtype} is no image type; give uint8 or floating point$"):
        dk.Preprocessing()(torch.ones(1, 3, 2, 2, dtype=dtype))
