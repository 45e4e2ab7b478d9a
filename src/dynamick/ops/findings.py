"""What runs here, and why: the findings that `dynamick doctor` prints. It asks the registry, and knows no implementation."""

import platform

import torch
from torch import Tensor

from dynamick.ops import registry

DTYPES = (torch.float32, torch.bfloat16, torch.float16, torch.float64)
DEVICES = {"cpu": "the CPU", "cuda": "the GPU"}


def findings() -> list[str]:
    """One finding a line: the versions, what serves on each device in each type, what does not and why."""
    lines = [
        f"PyTorch {torch.__version__}, Python {platform.python_version()}",
        f"CPU: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
        f"GPU: {_gpu()}",
    ]
    for device in DEVICES if torch.cuda.is_available() else ["cpu"]:
        lines += _on(device)
    lines += [f"{name}: cannot run here: {why}" for name, why in registry.absent().items()]
    return lines + [note for each in registry.all_present() for note in each.notes()]


def _gpu() -> str:
    if not torch.cuda.is_available():
        return "none that PyTorch can use"
    return f"{torch.cuda.get_device_name()}, CUDA {torch.version.cuda}"


def _on(device: str) -> list[str]:
    """What serves on a device: by default in each type, where routes are asked for, and by name only."""
    where = f"dynamic_linear on {DEVICES[device]}"
    one = torch.zeros(1, 1, device=device)
    lines = [f"{where} in {str(dtype).removeprefix('torch.')}: {_serves(one.to(dtype))}" for dtype in DTYPES]
    lines.append(f"{where} where routes are asked for: {_said(registry.select_for_routes(None, one, one))}")
    served = registry.select(None, one, one)
    by_name = [each.name for each in registry.all_present() if each is not served and each.supports(one, one)]
    return [*lines, f"{where} by name (implementation=): {', '.join(by_name)}"] if by_name else lines


def _serves(x: Tensor) -> str:
    """The name of what serves by default: float64 is only for those that form routes."""
    select = registry.select_for_routes if x.dtype == torch.float64 else registry.select
    return _said(select(None, x, x))


def _said(served: registry.Implementation) -> str:
    label = served.label()
    return f"{served.name}, {label}" if label else served.name
