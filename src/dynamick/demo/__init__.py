"""The demo: dense, L1 and Dynamic-5 networks side by side, from nothing to one page."""

from dynamick.demo.running import Demo, run

__all__ = ["Demo", "run"]
