"""`dynamick doctor`: what runs here, and why."""

import argparse
import platform


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """None: it looks at this installation, as the environment variables make it."""


def run(args: argparse.Namespace) -> None:
    """Print the versions, and which implementation of the linear map serves on each device, and why."""
    print("\n".join(findings()))


def findings() -> list[str]:
    """One finding a line."""
    import torch

    from dynamick import __version__
    from dynamick.ops import cpu, registry

    lines = [
        f"dynamick {__version__}, PyTorch {torch.__version__}, Python {platform.python_version()}",
        f"CPU: {platform.machine()}, {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads",
    ]
    if torch.cuda.is_available():
        lines.append(f"GPU: {torch.cuda.get_device_name()}, CUDA {torch.version.cuda}")
    else:
        lines.append("GPU: none that PyTorch can use")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        tensor = torch.zeros(1, 1, dtype=dtype)
        serves = registry.select(None, tensor, tensor).name
        level = f", level {cpu.kernel.level}" if serves == "cpu" and cpu.kernel else ""
        lines.append(f"dynamic_linear on the CPU in {str(dtype).removeprefix('torch.')}: {serves}{level}")
    lines.append("dynamic_linear on the CPU in float64, or where routes are asked for: chunked")
    if torch.cuda.is_available():
        tensor = torch.zeros(1, 1, device="cuda")
        named = (
            "; triton by name (implementation=), for nobody has measured it" if "triton" in registry.implementations() else ""
        )
        lines.append(f"dynamic_linear on the GPU: {registry.select(None, tensor, tensor).name}{named}")
    lines += [f"{name}: cannot run here: {why}" for name, why in registry.absent().items()]
    return lines + list(cpu.kernel.passed_over if cpu.kernel else ())
