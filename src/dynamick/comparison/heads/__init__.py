"""The heads that are compared, one file each. A file that has a tuple `COMPARED` of heads is found by itself."""

from dynamick.comparison.heads.compared import ComparedHead
from dynamick.comparison.heads.fitted import Fitted
from dynamick.discovery import modules_in

__all__ = ["HEADS", "ComparedHead", "Fitted", "find"]


def find() -> dict[str, ComparedHead]:
    """The heads of all files here by their names, in the order of tables and plots."""
    found = [head for module in modules_in(__name__) for head in getattr(module, "COMPARED", ())]
    return {head.name: head for head in sorted(found, key=lambda head: head.order)}


HEADS = find()
