"""`dynamick doctor`: what runs here, and why."""

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it looks at this installation, as the environment variables make it."""


def run(args: argparse.Namespace) -> None:
    """Print the versions, which implementation of the linear map serves on each device, and why."""
    print("\n".join(findings()))


def findings() -> list[str]:
    """One finding a line."""
    from dynamick import __version__
    from dynamick.ops.findings import findings

    versions, *others = findings()
    return [f"dynamick {__version__}, {versions}", *others]
