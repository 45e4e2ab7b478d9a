"""Import torchvision also where its compiled operators do not match the installed PyTorch.

torchvision's wheels are built against one build of PyTorch; beside another (a CPU build, say) its operator library does
not load, and its Python part then fails to register the missing `torchvision::nms` and `qnms`. Declaring their schemas
first is enough: this project uses only torchvision's data sets, transforms and models, none of which calls the compiled
operators.
"""

import torch

try:
    import torchvision
except RuntimeError:
    if hasattr(torch.ops.torchvision, "nms"):
        raise
    # Kept for the life of the process: the declarations end with the object.
    _library = torch.library.Library("torchvision", "DEF")
    for _name in ("nms", "qnms"):
        _library.define(f"{_name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    import torchvision

__all__ = ["torchvision"]
