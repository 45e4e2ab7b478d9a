"""Run from the repository's root: `python -m benchmarks.cost SUITE`, `python -m benchmarks.results.NAME`."""
