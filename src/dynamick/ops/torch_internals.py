"""Every private name of PyTorch's that this project uses, in one place.

Each function says what happens if a release of PyTorch no longer has the name ("Without it"). Then things become slower, but
nothing becomes wrong in silence. `make test-torch VERSION=...` runs the tests with another release.
"""

import contextlib
import ctypes
import re
import sys
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad


def _find(path: str) -> Any:
    """The object of a dotted name in torch, or None if this release has no such name."""
    found: Any = torch
    for name in path.split("."):
        found = getattr(found, name, None)
    return found


# Looked up once, because every call of a layer asks them. torch.compile follows what a global name holds.
TRANSFORMS_ACTIVE = _find("_C._are_functorch_transforms_active")
IS_WRAPPED = _find("_C._functorch.is_functorch_wrapped_tensor")
IS_GRADTRACKING = _find("_C._functorch.is_gradtrackingtensor")
UNWRAPPED = _find("_C._functorch.get_unwrapped")
IS_BATCHED = _find("_C._functorch.is_batchedtensor")
IS_LEGACY_BATCHED = _find("_C._functorch.is_legacy_batchedtensor")
DISPATCH_MODES = _find("_C._len_torch_dispatch_stack")
IS_EXPORTING = _find("compiler.is_exporting")
BF16_SUPPORTED = _find("cpu._is_avx512_bf16_supported")

HOOKS = [name for name in vars(nn.Module()) if "hook" in name]

# In evaluation PyTorch's encoder does not call its linear layers but reads their weights, and it makes nested tensors of padded
# inputs, which Dynamic-K layers do not take. These attributes, set to 0, switch both off.
# Without them: `convert` of an encoder sets attributes that nothing reads, and the test of its outputs fails.
FAST_PATHS: dict[type[nn.Module], str] = {
    nn.TransformerEncoderLayer: "activation_relu_or_gelu",
    nn.TransformerEncoder: "use_nested_tensor",
}


def is_transformed() -> bool:
    """Whether one of torch.func's transforms (vmap, grad, jvp, or one built from them) is active.

    Without it: yes, always. All calls then take PyTorch's own operators, which every transform understands, and are slower.
    """
    return TRANSFORMS_ACTIVE is None or bool(TRANSFORMS_ACTIVE())


def exports_to_onnx() -> bool:
    """Whether torch.onnx.export is writing a file, by either of its two ways.

    Without it: `torch.onnx.export` says that it does not know this project's operators.
    """
    traced = torch.jit.is_tracing() or (IS_EXPORTING is not None and IS_EXPORTING())
    return traced and torch.onnx.is_in_onnx_export()


def is_followed(each: Tensor | None) -> bool:
    """Whether torch.func's grad or jvp follows this tensor.

    Without it: yes, always. Asked while a transform is at work; vmap alone then takes more memory.
    """
    if IS_WRAPPED is None or IS_GRADTRACKING is None or UNWRAPPED is None:
        return each is not None
    while each is not None and IS_WRAPPED(each):
        if IS_GRADTRACKING(each):
            return True
        each = UNWRAPPED(each)
    return False


def is_batched(each: Tensor) -> bool:
    """Whether this tensor stands for many at once (is_grads_batched, or vectorize=True).

    Without it: yes, always. Backward passes then take PyTorch's own operators, which need B*O*K numbers.
    """
    return any(test is None or bool(test(each)) for test in (IS_BATCHED, IS_LEGACY_BATCHED))


def has_tangent(*inputs: Tensor | None) -> bool:
    """Whether forward-mode differentiation is at work on one of these, which registered operators would drop in silence.

    Without it: every tensor is asked, which takes microseconds a call.
    """
    if getattr(forward_ad, "_current_level", 0) < 0:
        return False
    return any(each is not None and forward_ad.unpack_dual(each).tangent is not None for each in inputs)


def is_recorded() -> bool:
    """Whether the called operators are recorded: by torch.compile, torch.jit.trace, or a TorchDispatchMode.

    Without it: yes, always. Each call then goes through PyTorch's dispatcher: 0.15 ms a training step.
    """
    if torch.compiler.is_compiling() or torch.jit.is_tracing():
        return True
    return DISPATCH_MODES is None or DISPATCH_MODES() > 0


def has_bf16_instructions() -> bool:
    """Whether this CPU has instructions for bfloat16 (AVX-512 BF16).

    Without it: no. `precision: auto` then trains in float32.
    """
    return BF16_SUPPORTED is not None and bool(BF16_SUPPORTED())


def submodules(module: nn.Module) -> dict[str, nn.Module | None]:
    """A module's own submodules by name, as it keeps them: what is put in here takes the old one's place.

    `named_children` leaves out those that stand under a second name. Without it: an AttributeError; `convert` cannot work.
    """
    return module._modules


def parameters(module: nn.Module) -> dict[str, nn.Parameter | None]:
    """A module's own parameters by name, also those that are None.

    Without it: an AttributeError; `convert` cannot tell a parameter from a weight that is computed.
    """
    return module._parameters


def move_hooks(old: nn.Module, new: nn.Module) -> None:
    """Give a module the hooks of another one: the same dictionaries, so that a hook's handle still removes it.

    They are found by their names, which hold "hook". Without them: no hook is moved, and the test of hooks fails.
    """
    vars(new).update({name: vars(old)[name] for name in HOOKS})
    # These know their module.
    for hook in getattr(new, "_load_state_dict_pre_hooks", {}).values():
        if getattr(hook, "with_module", False):
            hook.module = weakref.ref(new)


def openmp_start() -> int | None:
    """The address of GOMP_parallel in the OpenMP library that PyTorch has loaded, whatever its file is called; or None.

    On PyTorch's own threads no thread of its operators waits in a loop for work while the kernel needs its core.
    Without it: None, and the kernel starts threads of its own.
    """
    for path in _openmp_libraries():
        with contextlib.suppress(OSError, AttributeError):
            return ctypes.cast(ctypes.CDLL(path).GOMP_parallel, ctypes.c_void_p).value
    return None


def _openmp_libraries() -> Iterator[str]:
    # PyTorch's own library is asked first: it finds the OpenMP that it depends on, though other packages bring one as well.
    yield from map(str, Path(torch.__file__).parent.glob("lib/libtorch_cpu.*"))
    try:
        mapped = {line.split()[-1] for line in Path("/proc/self/maps").read_text().splitlines()}
    except OSError:
        return
    yield from sorted(each for each in mapped if re.match(r"lib(gomp|omp|iomp5)\b", Path(each).name))


def compiled_inside(model: nn.Module) -> nn.Module | None:
    """The network that torch.compile has wrapped; None for one that is not compiled.

    Without it: None, always. Layers of a compiled network then have longer names, which messages list.
    """
    inside = getattr(model, "_orig_mod", None)
    return inside if isinstance(inside, nn.Module) else None


def uncompiled() -> contextlib.AbstractContextManager[None]:
    """Inside, all that torch.compile has compiled runs as it was written: compiled code does not call new hooks.

    Nothing is compiled where this part of PyTorch was never loaded, and loading it takes a second.
    Without it: compiled networks stay compiled, and the message says that their layers were not called.
    """
    return torch.compiler.set_stance("force_eager") if "torch._dynamo" in sys.modules else contextlib.nullcontext()


def outputs_of_step(step: Any) -> int:
    """How many gradients a step of autograd's record takes: one for each output.

    Without it: one, and a trace through this project's convolutions fails.
    """
    return len(getattr(step, "_input_metadata", (None,)))


def normalises_by_batch(step: Any) -> bool:
    """Whether a step of autograd's record is a batch normalisation by the batch's own mean.

    Without it: no, and a trace through one does not add up.
    """
    return bool(getattr(step, "_saved_training", False))
