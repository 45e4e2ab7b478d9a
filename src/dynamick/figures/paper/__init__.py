"""One file a table or figure, found by its name. Each has a `FIGURE`, a `dynamick.figures.PaperFigure`."""

import pkgutil


def names() -> list[str]:
    """The names of all figures, tables first."""
    found = [each.name for each in pkgutil.iter_modules(__path__)]
    return sorted(found, key=lambda name: (not name.startswith("table"), name))
