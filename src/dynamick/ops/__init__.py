"""The operators and their implementations. Every file here is imported, so adding an implementation is adding a file."""

from dynamick.discovery import modules_in
from dynamick.ops.registry import Implementation, add, compute_dtype, implementations, register

modules_in(__name__)

__all__ = ["Implementation", "add", "compute_dtype", "implementations", "register"]
