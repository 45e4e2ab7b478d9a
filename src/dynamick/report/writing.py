"""Filling a page's template, and writing the page whole or not at all."""

from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from dynamick.files import read_text, write_atomically

_HERE = Path(__file__).parent


@cache
def environment() -> Any:
    """The Jinja environment of all pages: everything is escaped, and templates/base.html.j2 inlines assets/style.css."""
    found = Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    found.globals["style"] = Markup(read_text(_HERE / "assets" / "style.css"))
    return found


def render(template: str, **context: Any) -> str:
    """Fill a template of this package. Every value is escaped, except those given as `markupsafe.Markup`."""
    return environment().get_template(template).render(**context)


def save(path: str | Path, text: str) -> None:
    """Write a file whole or not at all: what was there before survives a failure. Folders are made as needed.

    Raises:
        OSError: the folder cannot be made, or the file cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    # A file name that cannot be decoded must not prevent the whole page.
    write_atomically(path, text.encode("utf-8", errors="replace"))
