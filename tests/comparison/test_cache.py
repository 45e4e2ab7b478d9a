"""The feature cache: what it holds, what it refuses, and what an interruption leaves."""

import errno
import io
import json
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tqdm import tqdm

from dynamick import models
from dynamick.comparison import cache
from dynamick.comparison.cache import cache_features, open_features
from dynamick.data.class_folders import FolderImages
from dynamick.data.images import ImageTensors
from dynamick.errors import InputError
from dynamick.preprocessing import Preprocessing


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cache, "CHUNK", 16)


class Watched(tqdm):  # type: ignore[type-arg]
    """A bar that calls a function with the number of images done after each chunk."""

    after: Callable[[int], None]

    def update(self, n: float | None = 1) -> bool | None:
        self.n += n or 0
        Watched.after(int(self.n))
        return None


def watch(monkeypatch: pytest.MonkeyPatch, after: Callable[[int], None]) -> None:
    monkeypatch.setattr(Watched, "after", after, raising=False)
    monkeypatch.setattr(
        cache, "bar", lambda phase, total, done, show: Watched(total=total, initial=done, disable=False, file=io.StringIO())
    )


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many images are done, after each chunk."""
    told: list[int] = []
    watch(monkeypatch, told.append)
    return told


@torch.no_grad()
def expected(model: models.ResNet, images: ImageTensors) -> torch.Tensor:
    return model.features(model.preprocessing(images.images))


@pytest.mark.parametrize("batch_size", [1, 7, 16, 300])
def test_holds_what_enters_the_classifier(model: models.ResNet, images: ImageTensors, tmp_path: Path, batch_size: int) -> None:
    found = cache_features(model, images, tmp_path / "f", batch_size=batch_size)
    torch.testing.assert_close(found.x, expected(model, images))
    assert torch.equal(found.labels, images.labels)
    assert (found.classes, found.names[69]) == (["cat", "dog", "owl"], "image 69")


def test_bfloat16_is_half_the_size_and_rounded(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    found = cache_features(model, images, tmp_path / "f", dtype="bfloat16")
    cache_features(model, images, tmp_path / "whole")
    sizes = [sum(file.stat().st_size for file in (tmp_path / name).glob("chunk-*")) for name in ("f", "whole")]
    assert sizes[1] - sizes[0] == pytest.approx(2 * found.x.numel(), rel=0.02)
    torch.testing.assert_close(found.x, expected(model, images).bfloat16().float(), rtol=1e-2, atol=1e-4)


def test_a_finished_cache_asks_the_network_for_a_few_images_only(
    model: models.ResNet, images: ImageTensors, tmp_path: Path
) -> None:
    before = cache_features(model, images, tmp_path / "f")
    asked: list[int] = []
    model.register_forward_pre_hook(lambda _, inputs: asked.append(len(inputs[0])))
    assert torch.equal(cache_features(model, images, tmp_path / "f").x, before.x)
    assert asked == [cache.ASKED]


@pytest.mark.parametrize("done", [None, 2])
def test_a_network_that_differs_by_its_code_alone_is_refused(
    images: ImageTensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, done: int | None
) -> None:
    """Its layers, their settings and their weights are the same; a finished cache and one that was cut short are refused."""

    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = torch.nn.Linear(3, 3)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(x.mean((2, 3)))  # type: ignore[no-any-return]

    net = Net()
    cache_features(net, images, tmp_path / "f", Preprocessing())
    for chunk in sorted((tmp_path / "f").glob("chunk-*"))[done:] if done else []:
        chunk.unlink()
    monkeypatch.setattr(Net, "forward", lambda self, x: self.fc(x.amax((2, 3))))
    with pytest.raises(InputError, match="made with another forward pass"):
        cache_features(net, images, tmp_path / "f", Preprocessing())


def test_a_cache_of_the_form_before_is_computed_again(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "features.npy").write_bytes(b"old")
    (tmp_path / "f" / "cache.json").write_text(json.dumps({"key": {}, "chunks": ["a"], "shape": [70, 8]}))
    found = cache_features(model, images, tmp_path / "f")
    torch.testing.assert_close(found.x, expected(model, images))
    assert not (tmp_path / "f" / "features.npy").exists()


def test_another_head_shares_the_cache(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    cache_features(model, images, tmp_path / "f")
    routed = models.create("res8-d2a", 3, "patch", 2, Preprocessing(), ["cat", "dog", "owl"])
    routed.load_state_dict(model.state_dict())
    with torch.no_grad():
        routed.fc.weight.zero_()
    assert len(cache_features(routed, images, tmp_path / "f")) == 70


def change_weights(model: models.ResNet, images: ImageTensors) -> None:
    with torch.no_grad():
        model.conv1.weight[0, 0, 0, 0] += 1e-6


def change_padding(model: models.ResNet, images: ImageTensors) -> None:
    model.layer1[0].conv1.padding = (0, 0)
    model.layer1[0].conv2.padding = (2, 2)


def change_preprocessing(model: models.ResNet, images: ImageTensors) -> None:
    model.preprocessing = Preprocessing(bgr=True)


def change_pixel(model: models.ResNet, images: ImageTensors) -> None:
    images.images[69, 0, 0, 0] ^= 1


def change_label(model: models.ResNet, images: ImageTensors) -> None:
    images.labels[0] = 1


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (change_weights, "weights"),
        (change_padding, "model"),
        (change_preprocessing, "preprocessing"),
        (change_pixel, "data"),
        (change_label, "data"),
    ],
)
def test_a_cache_of_something_else_is_refused(
    model: models.ResNet, images: ImageTensors, tmp_path: Path, change: object, said: str
) -> None:
    cache_features(model, images, tmp_path / "f")
    assert callable(change)
    change(model, images)
    with pytest.raises(InputError, match=f"made with another {said}"):
        cache_features(model, images, tmp_path / "f")


def test_an_address_in_a_layers_settings_does_not_count(images: ImageTensors, tmp_path: Path) -> None:
    class Apply(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.function = lambda x: 2 * x

        def extra_repr(self) -> str:
            return repr(self.function)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.function(x)  # type: ignore[no-any-return]

    first, second = (torch.nn.Sequential(Apply(), torch.nn.Flatten(), torch.nn.Linear(192, 3)) for _ in range(2))
    assert first[0].extra_repr() != second[0].extra_repr()
    for net in (first, second):
        assert len(cache_features(net, images, tmp_path / "f", Preprocessing())) == 70


def test_a_nan_is_located(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    with torch.no_grad():
        model.layer3[0].bn2.bias[5] = float("nan")
    with pytest.raises(InputError, match=r"features: nan at unit 5 of image 0 "):
        cache_features(model, images, tmp_path / "f")
    assert not (tmp_path / "f").exists()


def test_a_nan_names_the_file(model: models.ResNet, folder: Path, tmp_path: Path) -> None:
    class Bad(Preprocessing):
        def __call__(self, images: torch.Tensor) -> torch.Tensor:
            prepared = super().__call__(images)
            prepared[images[:, 0].float().mean((1, 2)) > 150] = float("inf")
            return prepared

    with pytest.raises(InputError, match=r"unit \d+ of .*red.0\.png"):
        cache_features(model, FolderImages(folder, "train", 8), tmp_path / "f", Bad())


def test_a_class_without_images_is_named(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    lacking = ImageTensors(images.images, images.labels % 2, images.classes)
    with pytest.raises(InputError, match="no image of owl"):
        cache_features(model, lacking, tmp_path / "f")


@pytest.mark.parametrize("label", [-1, 3])
def test_a_label_of_no_class_is_named(model: models.ResNet, images: ImageTensors, tmp_path: Path, label: int) -> None:
    images.labels[7] = label
    with pytest.raises(InputError, match=f"labels: {label} of image 7 is no class; give 0 to 2"):
        cache_features(model, images, tmp_path / "f")


def flat() -> torch.nn.Module:
    """Of 192 units: 54 kB for 70 images."""
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(192, 3))


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Makes a small disk."""
    place = tmp_path / "disk"
    place.mkdir()

    def make(size: str) -> Path:
        mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)]
        try:
            subprocess.run(mount, check=True, capture_output=True)
        except (OSError, subprocess.CalledProcessError):
            pytest.skip("no right to mount a file system")
        return place

    yield make
    if place.is_mount():
        subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_disk_too_small_is_told_at_once(images: ImageTensors, disk: Callable[[str], Path], told: list[int]) -> None:
    place = disk("32k")
    with pytest.raises(InputError, match=r"f: cannot be written \(No space left .* need 0\.1 MB in all, and 0\.0 MB are"):
        cache_features(flat(), images, place / "f", Preprocessing())
    assert told == []
    assert list(place.iterdir()) == []


def test_a_disk_that_fills_up_loses_nothing(
    images: ImageTensors, disk: Callable[[str], Path], told: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Others may take what is free now.
    monkeypatch.setattr(cache.shutil, "disk_usage", lambda path: SimpleNamespace(free=10**9))
    place = disk("128k")
    (place / "other").write_bytes(bytes(88 * 1024))
    with pytest.raises(InputError, match="No space left"):
        cache_features(flat(), images, place / "f", Preprocessing())
    assert told
    assert told[-1] < 70
    before = len(told)
    (place / "other").unlink()
    found = cache_features(flat(), images, place / "f", Preprocessing())
    assert told[before] == told[before - 1] + 16
    torch.testing.assert_close(found.x, Preprocessing()(images.images).flatten(1))


def test_a_file_that_may_not_grow_is_told(images: ImageTensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no small disk can be made: what a full one answers."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(cache, "write_atomically", full)
    with pytest.raises(InputError, match="/f: cannot be written"):
        cache_features(flat(), images, tmp_path / "f", Preprocessing())
    assert not (tmp_path / "f").exists()


def test_a_folder_that_is_being_filled_is_left_alone(
    model: models.ResNet, images: ImageTensors, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []

    def second(done: int) -> None:
        if done == len(images):
            return
        with pytest.raises(InputError) as refused:
            cache_features(model, images, tmp_path / "f")
        said.append(str(refused.value))

    watch(monkeypatch, second)
    found = cache_features(model, images, tmp_path / "f")
    assert len(said) == 4
    assert all("another process is filling this" in each for each in said)
    torch.testing.assert_close(found.x, expected(model, images))


def test_a_truncated_file_is_refused(model: models.ResNet, images: ImageTensors, tmp_path: Path) -> None:
    cache_features(model, images, tmp_path / "f")
    with (tmp_path / "f" / "chunk-00001.safetensors").open("r+b") as file:
        file.truncate(400)
    with pytest.raises(InputError, match=r"chunk-00001\.safetensors: truncated"):
        cache_features(model, images, tmp_path / "f")


@pytest.mark.parametrize("place", [-3, -500])
def test_a_changed_byte_is_found(model: models.ResNet, images: ImageTensors, tmp_path: Path, place: int) -> None:
    """Of features, and of labels."""
    cache_features(model, images, tmp_path / "f")
    path = tmp_path / "f" / "chunk-00002.safetensors"
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"checksum; take the folder away"):
        open_features(tmp_path / "f")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b'{"key"', "damaged"),
        (b"\xff\x00\x81", "damaged"),
        (b"[]", "no feature cache's state"),
        (b'{"key": [], "chunk": 16, "classes": [], "names": ["a"]}', "no feature cache's state"),
        (b'{"key": {}, "chunk": 16, "classes": [], "names": ["a"]}', "no feature cache's state"),
        (
            b'{"key": {"weights": "", "data": "", "dtype": ""}, "chunk": 0, "classes": [], "names": []}',
            "no feature cache's state",
        ),
        (
            b'{"key": {"weights": "", "data": "", "dtype": 3}, "chunk": 1, "classes": [], "names": ["a"]}',
            "no feature cache's state",
        ),
    ],
)
def test_damaged_state_is_refused(
    model: models.ResNet, images: ImageTensors, tmp_path: Path, content: bytes, said: str
) -> None:
    cache_features(model, images, tmp_path / "f")
    (tmp_path / "f" / "cache.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"f/cache\.json: {said}"):
        open_features(tmp_path / "f")
    with pytest.raises(InputError, match=rf"f/cache\.json: {said}"):
        cache_features(model, images, tmp_path / "f")


def test_a_killed_run_goes_on(model: models.ResNet, images: ImageTensors, tmp_path: Path, told: list[int]) -> None:
    """Killed after its third chunk, then finished: the same features, and only the rest is computed."""
    torch.save((model.state_dict(), images.images, images.labels), tmp_path / "given.pt")
    program = f"""
        import os, signal, torch
        from tqdm import tqdm
        from dynamick import models
        from dynamick.comparison import cache
        from dynamick.data.images import ImageTensors
        from dynamick.preprocessing import Preprocessing
        cache.CHUNK = 16
        state, pictures, labels = torch.load({str(tmp_path / "given.pt")!r})
        model = models.create("res8", 3, "patch", 2, Preprocessing(), ["cat", "dog", "owl"])
        model.load_state_dict(state)
        class Deadly(tqdm):
            def update(self, n=1):
                self.n += n
                if self.n == 48:
                    os.kill(os.getpid(), signal.SIGKILL)
        cache.bar = lambda phase, total, done, show: Deadly(total=total, initial=done)
        images = ImageTensors(pictures, labels, ["cat", "dog", "owl"])
        cache.cache_features(model, images, {str(tmp_path / "f")!r})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(program)], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert len([*(tmp_path / "f").glob("chunk-*")]) == 3
    with pytest.raises(InputError, match="48 of 70 images are done"):
        open_features(tmp_path / "f")
    found = cache_features(model, images, tmp_path / "f")
    assert told == [64, 70]
    torch.testing.assert_close(found.x, expected(model, images))
