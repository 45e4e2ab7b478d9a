"""The files that explaining a folder writes. They are checked before any work is done."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dynamick.data.finding import is_image
from dynamick.errors import InputError
from dynamick.explanation.threeway import check_figure
from dynamick.files import why_no_folder
from dynamick.report.study import files_of


@dataclass(frozen=True)
class Outputs:
    """What is written; None leaves a file out. Messages call them by the names of the command's options.

    Attributes:
        out: the page.
        json: the explanations.
        pictures: a folder for one picture of each.
        measure: how far they can be trusted.
        study: the page of a study; two CSV files lie beside it.
        three_way: the figure of the three ways to explain.
        assets: a folder for the page's pictures; None puts them into the page.

    >>> dk.explanation.Outputs(out="page.html", json="why.json").pictures is None
    True
    """

    out: str | Path | None = None
    json: str | Path | None = None
    pictures: str | Path | None = None
    measure: str | Path | None = None
    study: str | Path | None = None
    three_way: str | Path | None = None
    assets: str | Path | None = None

    @property
    def given(self) -> dict[str, Path]:
        """The options of those that are asked for, and their paths."""
        return {
            f"--{name.replace('_', '-')}": Path(path)
            for name, path in vars(self).items()
            if path is not None and name != "assets"
        }

    def check(self, read: Mapping[str, Path | None]) -> None:
        """Check that all paths are possible.

        Args:
            read: what is read, by option: it is never written over.

        Raises:
            InputError: nothing is asked for; a folder is missing; a file would be written over another one, over what is read,
                or among the images.
        """
        if not self.given:
            raise InputError("explain: nothing to write; give --out PAGE.html, or see dynamick explain --help")
        for flag, path in self.given.items():
            _check_place(flag, path)
        self._check_apart(read)
        if self.assets is not None:
            self._check_assets(Path(self.assets), read)
        if self.three_way is not None:
            missing = [flag for flag in ("--twin", "--concepts") if read.get(flag) is None]
            if missing:
                raise InputError(f"--three-way: {' and '.join(missing)} missing; give the dense weights and Broden-format data")
            check_figure(Path(self.three_way))

    def _check_assets(self, folder: Path, read: Mapping[str, Path | None]) -> None:
        if self.out is None:
            raise InputError(f"--assets {folder}: is for the page's pictures; give --out PAGE.html too")
        if folder.exists() and not folder.is_dir():
            raise InputError(f"--assets {folder}: is a file; give a folder")
        if not folder.absolute().parent.is_dir():
            raise InputError(f"--assets {folder}: its folder does not exist; give a place in a folder that does")
        for flag in ("--images", "--concepts"):
            if (given := read.get(flag)) is not None and given.resolve() in (folder.resolve(), *folder.resolve().parents):
                raise InputError(f"--assets {folder}: lies in {flag}; give a place outside")

    def _check_apart(self, read: Mapping[str, Path | None]) -> None:
        taken = {file: flag for flag, path in read.items() if path is not None for file in _read_with(path)}
        written: dict[Path, str] = {}
        for flag, path in self.given.items():
            if flag == "--study" and path.suffix.lower() == ".csv":
                raise InputError(f"{flag} {path}: its questions go into a CSV of that name; give a page's, such as study.html")
            for file in map(Path.resolve, files_of(path) if flag == "--study" else [path]):
                if file in taken:
                    raise InputError(f"{flag} {path}: would be written over {taken[file]}'s {file.name}; give another name")
                if file in written:
                    raise InputError(f"{flag} {path}: {written[file]} writes {file.name} too; give each its own")
                _check_outside(flag, path, file, read)
                written[file] = flag


def _check_place(flag: str, path: Path) -> None:
    try:
        path.exists()
    except OSError as error:
        # Such as a name that is too long.
        raise InputError(f"{flag} {path}: cannot be written ({error.strerror}); give another name") from None
    if not path.parent.is_dir():
        raise InputError(f"{path}: its folder does not exist; give a file in a folder that does")
    if path.is_dir() and flag != "--pictures":
        raise InputError(f"{path}: is a folder; give a file's name in it")
    if flag == "--pictures" and path.exists() and not path.is_dir():
        raise InputError(f"--pictures {path}: is a file; give a folder")
    if (why := why_no_folder(path.parent)) is not None:
        raise InputError(f"{flag} {path}: cannot be written ({why}); give a place in a folder of your own")


def check_penalty(penalty: float | None) -> None:
    """Raise InputError unless it is a possible penalty of IBD's regressions, or None."""
    if penalty is not None and not 0 < penalty < math.inf:
        raise InputError(f"--ibd-penalty: {penalty} must be a number above 0")


def _check_outside(flag: str, path: Path, file: Path, read: Mapping[str, Path | None]) -> None:
    images, concepts = read.get("--images"), read.get("--concepts")
    if images is not None and images.resolve() in (file, *file.parents) and (flag == "--pictures" or is_image(file)):
        raise InputError(f"{flag} {path}: lies in --images, and would be explained next time; give a place outside")
    if concepts is not None and concepts.resolve() in file.parents:
        raise InputError(f"{flag} {path}: lies in --concepts; give a place outside")


def _read_with(path: Path) -> Sequence[Path]:
    """A file and what is read with it: a tally's dissection, and of a run's folder the weights."""
    beside = [path.with_name("dissection.json")] if path.name == "tally.csv" else path.glob("*.safetensors")
    return [file.resolve() for file in (path, *beside)]
