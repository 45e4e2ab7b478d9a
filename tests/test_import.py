"""`import dynamick` is light: what is heavy loads when it is used."""

import subprocess
import sys

HEAVY = ("lightning", "matplotlib", "torchvision", "jinja2", "torchmetrics", "tensorboard", "jsonargparse")


def test_heavy_libraries_load_when_used() -> None:
    code = f"import sys, dynamick, dynamick.nn; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_is_there() -> None:
    code = "import dynamick as dk; [getattr(dk, name) for name in dk.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)
