"""Image files as cameras, programs and damaged disks leave them: turned by EXIF or XMP, malformed, or of one line."""

import resource
import struct
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo

from dynamick.data.decode import open_image, read_size
from dynamick.data.photographs import read_image
from dynamick.errors import InputError

XMP = '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" {}</rdf:Description>'
ATTRIBUTE, QUOTED, ELEMENT = 'tiff:Orientation="6">', "tiff:Orientation = '6'>", "><tiff:Orientation>6</tiff:Orientation>"


@pytest.fixture
def upright() -> Image.Image:
    """Four rows, six columns; a red corner at the top left."""
    pixels = np.zeros((32, 48, 3), np.uint8)
    pixels[:16, :16] = [255, 0, 0]
    return Image.fromarray(pixels)


def lying(upright: Image.Image) -> Image.Image:
    """As a camera on its side takes it: number 6 says how to turn it back."""
    return upright.transpose(Image.Transpose.ROTATE_90)


def is_upright(path: Path, size: tuple[int, int] = (32, 48)) -> bool:
    red = np.asarray(open_image(path))[..., 0] > 128
    return red.shape == read_size(path) == size and bool(red[4, 4]) and not red[-4:, :].any() and not red[:, -4:].any()


@pytest.mark.parametrize("ending", ["jpg", "png", "webp", "tif", "avif"])
def test_exif_turns_every_format(upright: Image.Image, tmp_path: Path, ending: str) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    lying(upright).save(tmp_path / f"a.{ending}", exif=exif)
    assert is_upright(tmp_path / f"a.{ending}")


@pytest.mark.parametrize("number", range(1, 9))
def test_every_number_of_exif_is_turned_as_pillow_turns_it(upright: Image.Image, tmp_path: Path, number: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = number
    upright.save(tmp_path / "a.png", exif=exif)
    with Image.open(tmp_path / "a.png") as image:
        expected = np.asarray(ImageOps.exif_transpose(image))
    assert np.array_equal(np.asarray(open_image(tmp_path / "a.png")), expected)
    assert read_size(tmp_path / "a.png") == expected.shape[:2]


@pytest.mark.parametrize("said", [ATTRIBUTE, QUOTED, ELEMENT])
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_xmp_turns_where_exif_says_nothing(upright: Image.Image, tmp_path: Path, ending: str, said: str) -> None:
    xmp, path = XMP.format(said), tmp_path / f"a.{ending}"
    if ending == "png":
        info = PngInfo()
        info.add_itxt("XML:com.adobe.xmp", xmp)
        lying(upright).save(path, pnginfo=info)
    else:
        lying(upright).save(path, xmp=xmp.encode())
    assert is_upright(path)


def exif(kind: int, count: int, value: bytes) -> bytes:
    return b"Exif\0\0MM\0*\0\0\0\x08\0\x01" + struct.pack(">HHI", 0x0112, kind, count) + value + b"\0\0\0\0"


MALFORMED = {
    "text": exif(2, 3, b"up\0\0"),
    "a fraction": exif(5, 1, b"\0\0\0\x08"),
    "a number that there is not": exif(3, 1, b"\0\x63\0\0"),
    "nothing": exif(3, 0, b"\0\0\0\0"),
    "cut off": b"Exif\0\0MM\0*\0\0\0\x08\0\x09\1\x12",
    "no header": b"Exif\0\0rubbish",
    "a place outside": b"Exif\0\0II*\0\xff\xff\xff\xff",
}


@pytest.mark.parametrize("name", MALFORMED)
@pytest.mark.parametrize("ending", ["jpg", "png", "webp"])
def test_malformed_exif_turns_nothing(upright: Image.Image, tmp_path: Path, ending: str, name: str) -> None:
    path = tmp_path / f"camera.{ending}"
    upright.save(path, exif=MALFORMED[name])
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert is_upright(path)


def test_damaged_bytes_end_in_one_line(upright: Image.Image, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for ending in ("jpg", "png", "webp", "tif", "gif", "bmp", "avif", "ppm"):
        path = tmp_path / f"a.{ending}"
        upright.save(path)
        whole = path.read_bytes()
        for _ in range(20):
            damaged = bytearray(whole)
            for place in rng.integers(0, len(whole), 4):
                damaged[place] = rng.integers(256)
            path.write_bytes(damaged[: rng.integers(8, len(whole) + 1)])
            said = refusal(path)
            assert said is None or (said.startswith(f"{path}: ") and "\n" not in said)


def refusal(path: Path) -> str | None:
    try:
        open_image(path)
    except InputError as error:
        return str(error)
    return None


def test_a_page_description_is_no_image_whatever_it_is_called(tmp_path: Path) -> None:
    """Pillow would run another program on it."""
    (tmp_path / "a.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n")
    with pytest.raises(InputError, match=r"a\.png: cannot be read as an image \(no known image format\)"):
        open_image(tmp_path / "a.png")


@pytest.mark.parametrize("turned", [False, True])
def test_an_image_of_one_line_costs_little(tmp_path: Path, turned: bool) -> None:
    line = (np.arange(60_000) // 300).astype(np.uint8)[None, :, None].repeat(3, 2)
    Image.fromarray(line.transpose(1, 0, 2) if turned else line).save(tmp_path / "a.png")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for center_crop in (False, True):
        image = read_image(tmp_path / "a.png", 224, center_crop)
        assert image.size == (224, 224)
        # Its middle is one pixel, enlarged.
        assert abs(int(np.asarray(image)[112, 112, 0]) - int(line[0, 30_000, 0])) <= 1
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000


@pytest.mark.parametrize("center_crop", [False, True])
def test_a_long_image_is_cut_as_a_short_one_is(tmp_path: Path, center_crop: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 150, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    after = np.asarray(read_image(tmp_path / "a.png", 28, center_crop)).astype(int)
    monkeypatch.setattr("dynamick.data.photographs.LONG", 1)
    before = np.asarray(read_image(tmp_path / "a.png", 28, center_crop)).astype(int)
    assert np.abs(after - before).max() <= 1
