"""One file a table or figure, found by its name. Each has a `FIGURE`, a `dynamick.figures.PaperFigure`."""

from dynamick.discovery import names_in


def names() -> list[str]:
    """The names of all figures, tables first.

    >>> dk.figures.names()[0]
    'table1'
    """
    return sorted(names_in(__name__), key=lambda name: (not name.startswith("table"), name))
