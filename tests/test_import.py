"""`import dynamick` is light: what is heavy loads when it is used."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import dynamick

BROKEN = """
import torch
torch.library.register_fake("torchvision::nms")(lambda dets, scores, threshold: dets)
torch.library.register_fake("torchvision::qnms")(lambda dets, scores, threshold: dets)
"""
HEAVY = ("lightning", "matplotlib", "torchvision", "jinja2", "torchmetrics", "tensorboard", "jsonargparse")


def test_heavy_libraries_load_when_used() -> None:
    code = f"import sys, dynamick, dynamick.nn; print([m for m in {HEAVY} if m in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_every_public_name_is_there() -> None:
    code = "import dynamick as dk; [getattr(dk, name) for name in dk.__all__]"
    subprocess.run([sys.executable, "-c", code], check=True)


def run(code: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join([str(tmp_path), str(Path(dynamick.__file__).parents[1])])
    env = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)


def test_a_torchvision_of_another_build_is_imported(tmp_path: Path) -> None:
    (tmp_path / "torchvision").mkdir()
    (tmp_path / "torchvision" / "__init__.py").write_text("from torchvision import operators\nfrom torchvision import other\n")
    (tmp_path / "torchvision" / "operators.py").write_text(BROKEN)
    (tmp_path / "torchvision" / "other.py").write_text("name = 'other'\n")
    alone = run("import torchvision", tmp_path)
    assert alone.returncode == 1
    assert "torchvision::nms" in alone.stderr
    mended = run("import dynamick, torchvision; print(torchvision.other.name)", tmp_path)
    assert mended.stdout == "other\n", mended.stderr


@pytest.mark.parametrize("fault", ["raise RuntimeError('mine')", "1 / 0"])
def test_another_fault_of_torchvision_is_told_as_it_is(tmp_path: Path, fault: str) -> None:
    (tmp_path / "torchvision.py").write_text(fault)
    told = run("import dynamick, torchvision", tmp_path)
    assert told.returncode == 1
    assert "mine" in told.stderr or "ZeroDivisionError" in told.stderr
