"""PyTorch's names that are not promised: they are here, all in one file, and what happens without them is what it says."""

import ast
import inspect
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import dynamick as dk
from dynamick import functional
from dynamick.ops import cpu, torch_internals

SOURCE = Path(dk.__file__).parent
LOOKED_UP = (
    "TRANSFORMS_ACTIVE",
    "IS_WRAPPED",
    "IS_GRADTRACKING",
    "UNWRAPPED",
    "IS_BATCHED",
    "IS_LEGACY_BATCHED",
    "DISPATCH_MODES",
    "BF16_SUPPORTED",
)
OF_MODULES = ("_modules", "_parameters", "_buffers")
# Our own names and Python's that begin with an underscore, and what PyTorch's documentation tells subclasses to override.
ALLOWED = ("_asdict", "_fields", "_exit", "_replace", "_load_from_state_dict")
X, W, B = torch.randn(5, 9), torch.randn(4, 9), torch.randn(4)


@pytest.mark.parametrize("name", LOOKED_UP)
def test_this_release_has_the_name(name: str) -> None:
    """A release that has it no more still works, but slower: it is to be known before it is allowed in pyproject.toml."""
    assert getattr(torch_internals, name) is not None


def test_every_function_says_what_happens_without_its_name() -> None:
    functions = [
        each for name, each in inspect.getmembers(torch_internals, inspect.isfunction) if name.islower() and name[0] != "_"
    ]
    assert len(functions) > 8
    for each in functions:
        assert "Without " in (each.__doc__ or ""), each.__name__


def private_names(path: Path) -> set[str]:
    """Names that begin with an underscore and are reached through something that is neither `self` nor a module of ours."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom | ast.Import):
            names = [f"{getattr(node, 'module', '')}.{alias.name}" for alias in node.names]
            found |= {each for each in names if each.strip(".").startswith("torch") and "._" in each}
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_") and not node.attr.startswith("__"):
            root = ast.unparse(node.value)
            if root.split(".")[0] in ("torch", "nn", "F") or node.attr in OF_MODULES or node.attr.endswith("hooks"):
                found.add(node.attr)
    return {each for each in found if each not in ALLOWED}


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_they_are_named_in_one_file_alone(path: Path) -> None:
    ours = {"_hooks"}  # InterpretableSGD's own
    assert not private_names(path) - ours or path.name == "torch_internals.py"


def test_the_rule_can_fail(tmp_path: Path) -> None:
    file = tmp_path / "some.py"
    file.write_text("import torch\nfrom torch.utils import _pytree\ntorch._C.x()\nmodule._modules\nother._forward_hooks\n")
    assert private_names(file) == {"torch.utils._pytree", "_C", "_modules", "_forward_hooks"}


def without(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    for name in names:
        monkeypatch.setattr(torch_internals, name, None)


def gradients(rule: str = "at_most") -> list[Tensor]:
    x, w, b = (each.clone().requires_grad_() for each in (X, W, B))
    y = functional.dynamic_linear(x, w, b, 3, rule)
    return [y, *torch.autograd.grad(y.square().sum(), (x, w, b))]


@pytest.mark.parametrize("names", [(name,) for name in LOOKED_UP] + [LOOKED_UP], ids=lambda names: names[-1] + str(len(names)))
def test_without_a_name_sums_and_gradients_are_the_same(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    want = gradients()
    without(monkeypatch, *names)
    for ours, theirs in zip(gradients(), want, strict=True):
        torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("names", [(), *[(name,) for name in LOOKED_UP], LOOKED_UP], ids=str)
def test_without_a_name_transforms_are_right(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(x: Tensor) -> Tensor:
        return functional.dynamic_linear(x, W, B, 3).square().sum()

    _, want, _, _ = gradients()
    without(monkeypatch, *names)
    torch.testing.assert_close(torch.func.grad(loss)(X), want)
    torch.testing.assert_close(torch.func.vmap(torch.func.grad(lambda row: loss(row[None])))(X), want)
    _, tangent = torch.func.jvp(loss, (X,), (torch.ones_like(X),))
    torch.testing.assert_close(tangent, want.sum())
    many = torch.autograd.functional.jacobian(lambda x: functional.dynamic_linear(x, W, B, 3), X, vectorize=True)
    one = torch.autograd.functional.jacobian(lambda x: functional.dynamic_linear(x, W, B, 3), X)
    torch.testing.assert_close(many, one)


@pytest.mark.parametrize("names", [(), ("IS_WRAPPED",), ("IS_GRADTRACKING", "UNWRAPPED")], ids=str)
def test_without_a_name_convolutions_are_differentiated(names: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    x, w = torch.randn(2, 3, 5, 5), torch.randn(2, 3, 3, 3)

    def loss(x: Tensor) -> Tensor:
        return functional.dynamic_conv2d(x, w, None, k=2).square().sum()

    leaf = x.clone().requires_grad_()
    [want] = torch.autograd.grad(loss(leaf), leaf)
    without(monkeypatch, *names)
    torch.testing.assert_close(torch.func.grad(loss)(x), want)


def test_without_the_level_of_forward_mode_tangents_are_still_found(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.autograd import forward_ad

    assert forward_ad._current_level == -1
    with forward_ad.dual_level():
        assert forward_ad._current_level >= 0
    monkeypatch.setattr(torch_internals, "forward_ad", _Without(forward_ad, "_current_level"))
    assert not torch_internals.has_tangent(X, None)
    with forward_ad.dual_level():
        dual = forward_ad.make_dual(X, torch.ones_like(X))
        assert torch_internals.has_tangent(None, dual)
        y = functional.dynamic_linear(dual, W, None, 3)
        assert forward_ad.unpack_dual(y).tangent is not None


class _Without:
    """A module but for one of its names."""

    def __init__(self, module: object, name: str) -> None:
        self._module, self._name = module, name

    def __getattr__(self, name: str) -> object:
        if name == self._name:
            raise AttributeError(name)
        return getattr(self._module, name)


def test_what_is_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    from torch.utils._python_dispatch import TorchDispatchMode

    assert not torch_internals.is_recorded()
    with TorchDispatchMode():
        assert torch_internals.is_recorded()
    without(monkeypatch, "DISPATCH_MODES")
    assert torch_internals.is_recorded()


def test_without_the_question_bfloat16_is_not_used(monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(torch_internals.has_bf16_instructions(), bool)
    without(monkeypatch, "BF16_SUPPORTED")
    assert not torch_internals.has_bf16_instructions()


def test_a_module_keeps_its_own_by_name() -> None:
    layer = nn.Linear(2, 3, bias=False)
    assert torch_internals.parameters(layer) == {"weight": layer.weight, "bias": None}
    model = nn.Sequential(layer, layer)
    assert list(torch_internals.submodules(model)) == ["0", "1"]
    torch_internals.submodules(model)["1"] = nn.ReLU()
    assert isinstance(model[1], nn.ReLU)


def test_all_kinds_of_hooks_move() -> None:
    """The names that PyTorch keeps hooks under: those of the modules' documentation are among them."""
    layer = nn.Linear(2, 3)
    registers = [name for name in dir(layer) if name.startswith("register_") and name.endswith("hook")]
    registers.remove("register_backward_hook")  # not beside register_full_backward_hook
    for register in registers:
        getattr(layer, register)(lambda *_: None)
    kept = {name: value for name, value in vars(layer).items() if name in torch_internals.HOOKS and value}
    assert len(kept) >= 6
    other = dk.DynamicLinear(2, 3)
    torch_internals.move_hooks(layer, other)
    assert all(vars(other)[name] is value for name, value in kept.items() if isinstance(value, dict))


def test_encoders_have_the_attributes_of_the_fast_path() -> None:
    layer = nn.TransformerEncoderLayer(4, 2, batch_first=True)
    encoder = nn.TransformerEncoder(layer, 1)
    for module in (layer, encoder):
        assert hasattr(module, torch_internals.FAST_PATHS[type(module)])


def test_the_kernel_shares_pytorchs_threads_where_pytorch_has_openmp() -> None:
    if not torch.backends.openmp.is_available() or cpu.kernel is None:
        pytest.skip("this PyTorch has no OpenMP, or there is no kernel")
    start = torch_internals.openmp_start()
    assert start is None or start > 0
    if "GOMP" in torch.__config__.parallel_info() or "libgomp" in Path("/proc/self/maps").read_text():
        assert start is not None


def test_a_compiled_network_is_found_inside_and_runs_uncompiled_under_hooks() -> None:
    layer = nn.Linear(2, 3)
    compiled, called = torch.compile(layer, backend="eager"), []
    assert torch_internals.compiled_inside(compiled) is layer
    assert torch_internals.compiled_inside(layer) is None
    compiled(torch.ones(1, 2))
    hook = layer.register_forward_hook(lambda *_: called.append(1))
    with torch_internals.uncompiled():
        compiled(torch.ones(1, 2))
    hook.remove()
    assert called == [1]
