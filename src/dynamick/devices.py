"""Where networks run: a device by its name, checked against what this machine has."""

import torch

from dynamick.errors import InputError


def open_device(name: str | None) -> torch.device | None:
    """The device of that name, or an accelerator if there is one.

    Raises:
        InputError: this machine has no such device.
    """
    here = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if name is None:
        return here
    refused = InputError(f"--device {name}: not a device of this machine; give cpu, or cuda where there is one")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise refused from error
    accelerator = here is not None and device.type == here.type and (device.index or 0) < torch.accelerator.device_count()
    if device.type != "cpu" and not accelerator:
        raise refused
    return device
