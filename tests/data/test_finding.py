"""Which files count as images, and as images of which class: hidden copies, links, nested folders, names of any bytes."""

import os
from pathlib import Path

import pytest
from PIL import Image

from dynamick.data.class_folders import FolderImages
from dynamick.data.finding import images_under
from dynamick.data.folder import ConceptFolder
from dynamick.data.in_memory import check_same_classes
from dynamick.errors import InputError


def image(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8)).save(path, format="png")
    return path


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        for number in range(2):
            image(tmp_path / "all" / name / f"{number}.png")
    return tmp_path


def listed(tree: Path) -> list[str]:
    return FolderImages(tree, "all", 8).names


FOUR = ["a/0.png", "a/1.png", "b/0.png", "b/1.png"]


@pytest.mark.parametrize(
    "hidden",
    [
        *("a/.ipynb_checkpoints/0-checkpoint.png", "a/._0.png", "a/@eaDir/0.png/small.jpg", "a/deep/.git/x.png"),
        *(".cache/c/0.png", "__MACOSX/a/0.png"),
    ],
)
def test_hidden_files_and_folders_do_not_count(tree: Path, hidden: str) -> None:
    image(tree / "all" / hidden)
    assert listed(tree) == FOUR


def test_folders_in_a_class_belong_to_it_and_the_order_is_that_of_folders_then_names(tree: Path) -> None:
    image(tree / "all" / "a" / "b" / "2.png")
    image(tree / "all" / "a" / "9.PNG")
    data = FolderImages(tree, "all", 8)
    assert data.names == ["a/0.png", "a/1.png", "a/9.PNG", "a/b/2.png", "b/0.png", "b/1.png"]
    assert data.labels.tolist() == [0, 0, 0, 0, 1, 1]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        *(("a/up", ".."), ("a/top", "../.."), ("a/itself", "."), ("a/other", "../b"), ("a/other.png", "../b/0.png")),
        *(("a/twice.png", "0.png"), ("a/deep/up", "..")),
    ],
)
def test_a_link_to_what_counts_already_does_not_count(tree: Path, link: str, target: str) -> None:
    place = tree / "all" / link
    place.parent.mkdir(exist_ok=True)
    place.symlink_to(target)
    assert listed(tree) == FOUR


def test_links_to_images_elsewhere_count(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = tmp_path_factory.mktemp("pool")
    image(pool / "more" / "x.png")
    (pool / "more" / "round").symlink_to(pool / "more")
    (tree / "all" / "b" / "more").symlink_to(pool / "more")
    (tree / "all" / "b" / "again").symlink_to(pool / "more")
    (tree / "all" / "c").symlink_to(pool / "more")
    image(tree / "all" / ".pool" / "y.png")
    (tree / "all" / "a" / "y.png").symlink_to("../.pool/y.png")
    data = FolderImages(tree, "all", 8)
    assert data.classes == ["a", "b", "c"]
    assert [name for name in data.names if name not in FOUR] == ["a/y.png", "c/x.png"]


def test_a_class_of_links_alone_is_a_class(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    pool = tmp_path_factory.mktemp("pool")
    for name in ("a", "b"):
        image(pool / name / "0.png")
        (pool / name / "up").symlink_to("..")
        (tree / "val").mkdir(exist_ok=True)
        (tree / "val" / name).symlink_to(pool / name)
    assert FolderImages(tree, "val", 8).names == ["a/0.png", "b/0.png"]


@pytest.mark.parametrize(
    ("target", "said"),
    [("b", "all/c: leads into the folder of the class b"), ("..", "all/c: leads to a folder that holds all classes")],
)
def test_a_class_that_is_another_ones_folder_is_refused(tree: Path, target: str, said: str) -> None:
    (tree / "all" / "c").symlink_to(target)
    with pytest.raises(InputError, match=said):
        listed(tree)


def test_every_usual_ending_counts_and_what_cannot_be_read_is_named(tree: Path) -> None:
    for ending in ("avif", "jfif", "tif", "jpe", "heic"):
        image(tree / "all" / "b" / f"z.{ending}")
    data = FolderImages(tree, "all", 8)
    assert len(data) == 9
    assert len(data.take(range(9))[0]) == 9
    (tree / "all" / "b" / "z.heic").write_bytes(b"\0\0\0\x18ftypheic")
    place = data.names.index("b/z.heic")
    with pytest.raises(InputError, match=r"z\.heic: cannot be read as an image \(no known image format\)"):
        data.take([place])


def test_a_name_that_is_no_utf8_serves_an_image_and_is_refused_for_a_class(tree: Path) -> None:
    odd = os.fsdecode(b"caf\xe9")
    image(tree / "all" / "b" / f"{odd}.png")
    data = FolderImages(tree, "all", 8)
    assert len(data.fingerprint()) == 64
    assert data.take([4])[1].tolist() == [1]
    image(tree / "all" / odd / "0.png")
    with pytest.raises(InputError, match=r"all: 'caf\\udce9' is no name in UTF-8; rename it"):
        listed(tree)


def test_a_class_without_images_is_named(tree: Path) -> None:
    (tree / "all" / "c").mkdir()
    (tree / "all" / "c" / "notes.txt").touch()
    with pytest.raises(InputError, match=r"all: no images in class folders \(c has none that ends in \.jpg, "):
        listed(tree)


def test_concepts_are_found_as_images_in_classes_are(tmp_path: Path) -> None:
    for name in ("x.jfif", "deep/y.png", ".hidden/z.png"):
        image(tmp_path / "images" / name)
    Image.new("L", (8, 8), 255).save(image(tmp_path / "masks" / "dog" / "x.png"))
    (tmp_path / "images" / "deep" / "up").symlink_to("..")
    (tmp_path / "images" / "linked.png").symlink_to("x.jfif")
    assert [ConceptFolder(tmp_path).name(place) for place in range(2)] == ["deep/y.png", "x.jfif"]


def test_a_folder_that_cannot_be_read_is_named(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = os.scandir

    def refused(place: str) -> object:
        if str(place).endswith("b"):
            raise PermissionError(13, "Permission denied")
        return real(place)

    monkeypatch.setattr(os, "scandir", refused)
    with pytest.raises(InputError, match=r"b: cannot be read \(Permission denied\); make it readable, or take it away"):
        images_under(tree)


def test_classes_that_differ_by_the_form_of_a_letter_alone(tmp_path: Path) -> None:
    check_same_classes(tmp_path, ["caf\u00e9"], ["caf\u00e9"])
    with pytest.raises(InputError, match=r"different classes \(.*as one sign here, as two there\)"):
        check_same_classes(tmp_path, ["caf\u00e9", "x"], ["cafe\u0301", "x"])
