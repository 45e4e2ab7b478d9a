"""Algorithm 3: SGD in which every sample updates only the weights that it drew."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from dynamick.errors import InputError
from dynamick.nn import find_classifier
from dynamick.optim.lipschitz import ESTIMATES, lipschitz
from dynamick.optim.sampling import check_options, probabilities

# Numbers held at once for a chunk of samples; one sample's O x M always fit, since the weight itself does.
CHUNK = 2**18


def interpretable_gradient(
    gy_BO: Tensor,
    x_BM: Tensor,
    weight_OM: Tensor,
    logits_BO: Tensor,
    s: float,
    block_size: int = 5,
    form: str = "normalised",
    beta: float | None = None,
    estimate: str = "local",
    generator: torch.Generator | None = None,
) -> Tensor:
    """sum_i g~_ij = sum_i q_ij g_ij over the samples of a minibatch (Algorithm 3, steps 3 to 5), for a linear layer.

    A sample's gradient is the outer product of gy and x, so samples are worked off in chunks of at most CHUNK numbers
    (one sample at least) and B x O x M numbers are never held.

    Args:
        gy_BO: the loss's gradient at the layer's outputs; it carries the loss's factor 1/B.
        x_BM, weight_OM, logits_BO: the layer's inputs, weight and outputs.
        s, block_size, form, beta: as in `probabilities`.
        estimate: `local`, `global` or `votes`, as in `lipschitz`. In the normalised form `local` and `global` are one,
            since P (1 - P) is common to a row.
        generator: where the q_ij come from: uniform numbers of shape (B, O, M), sample after sample.

    Returns:
        Shape (O, M).
    """
    if form == "normalised" and estimate == "local":
        estimate = "global"
    total_OM = torch.zeros_like(weight_OM)
    size = max(1, CHUNK // weight_OM.numel())
    for gy, x, logits in zip(gy_BO.split(size), x_BM.split(size), logits_BO.split(size), strict=True):
        L_ij = lipschitz(estimate, x, weight_OM, logits)
        q_ij = probabilities(L_ij, s, block_size, form, beta)
        drawn = torch.rand(q_ij.shape, generator=generator, dtype=q_ij.dtype, device=q_ij.device) < q_ij
        g_ij = gy[:, :, None] * x[:, None, :]
        total_OM += (g_ij * drawn).sum(0)
    return total_OM


class InterpretableSGD(torch.optim.SGD):
    """Interpretable SGD: block coordinate SGD with Lipschitz sampling (Algorithm 3).

    The weights of nn.Linear layers receive, in every backward pass, sum_i q_ij g_ij in place of sum_i g_ij; the rest is
    torch.optim.SGD, so momentum, weight decay, schedulers, clipping and gradient accumulation work as they do there. Biases,
    and groups that hold no linear layer or have s=None, are updated as SGD does. The forward pass is dense.

    Hooks on the layers catch what is needed. They are on from the start; `detach()`, or the end of a `with` block, leaves
    the model as it was. Pickle or export the model only after that.

        with InterpretableSGD(model.fc.parameters(), lr=0.1, s=0.9, block_size=5, model=model) as optimizer:
            ...the usual loop

    Args:
        params: parameters or parameter groups; each group may set its own lr, s, block_size, form, beta, estimate.
        lr: the learning rate.
        s, block_size, form, beta: which coordinates a sample updates; see `dynamick.optim.probabilities`.
        estimate: of the Lipschitz constants: `local`, `global` or `votes`; see `interpretable_gradient`.
        model: the module tree that holds the parameters.
        batch_size: the nominal B of Poisson-sampled minibatches, for losses that are means over the batch drawn: gradients
            are then divided by B instead. One backward pass a step. None leaves gradients as the loss scales them.
        generator: where the q_ij come from, on the parameters' device; its state is part of the state_dict.
        kwargs: momentum, weight_decay and whatever else torch.optim.SGD takes, without `differentiable`.

    Raises:
        InputError: an option is not one of those allowed; a group with a linear layer holds parameters of another kind of
            layer, which it names; a weight is shared; the literal form with an estimate of the final layer's curvature is
            asked for a hidden layer; there is nothing to sample. In a backward pass: a layer sees other than rows (B, M).
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        s: float,
        block_size: int,
        *,
        model: nn.Module,
        form: str = "normalised",
        beta: float | None = None,
        estimate: str = "local",
        batch_size: int | None = None,
        generator: torch.Generator | None = None,
        **kwargs: Any,
    ) -> None:
        check_options(s, block_size, form, beta)
        if batch_size is not None and batch_size < 1:
            raise InputError(f"batch_size: {batch_size!r} is no nominal batch size; give an integer from 1 up, or None")
        if kwargs.get("differentiable"):
            raise InputError("differentiable: sampled gradients have no second derivative; leave it out")
        self._options = {"s": s, "block_size": block_size, "form": form, "beta": beta, "estimate": estimate}
        self._owners = _owners(model)
        self._classifier = find_classifier(model)
        self._layers: dict[nn.Linear, Any] = {}
        self._drawn: dict[nn.Linear, int] = {}
        self.batch_size, self.generator = batch_size, generator
        try:
            super().__init__(params, lr=lr, **kwargs)
            if not self._layers:
                raise InputError("params: no group holds the weight of an nn.Linear; add one, or take torch.optim.SGD")
        except Exception:
            self.detach()
            raise

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim.SGD does, and hook its linear layers."""
        group = self._options | dict(param_group)
        super().add_param_group(group)
        try:
            self._layers |= {layer: self._hook(layer) for layer in self._linear_layers(self.param_groups[-1])}
        except InputError:
            self.param_groups.pop()
            raise

    def attach(self) -> None:
        """Hook the layers, where they are not hooked."""
        self._layers = {layer: handle or self._hook(layer) for layer, handle in self._layers.items()}

    def detach(self) -> None:
        """Take the hooks off; the model is as it was before."""
        for layer, handle in self._layers.items():
            if handle is not None:
                handle.remove()
            self._layers[layer] = None

    def __enter__(self) -> "InterpretableSGD":
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """W <- W - lr (1/B) sum_i g~_i (Algorithm 3, step 6). A step whose batch was empty changes nothing at all.

        Raises:
            InputError: a closure is given, a gradient is sparse, or the hooks are off.
        """
        if closure is not None:
            raise InputError("closure: a second pass would draw other weights; run backward(), then step() without one")
        if None in self._layers.values():
            raise InputError("step: the hooks are off, so gradients were not sampled; call attach() before the forward pass")
        grads = [p.grad for group in self.param_groups for p in group["params"] if p.grad is not None]
        if any(grad.is_sparse for grad in grads):
            raise InputError("params: a gradient is sparse; make it dense (nn.Embedding: sparse=False)")
        drawn = max(self._drawn.values(), default=None)
        self._drawn.clear()
        if drawn == 0:
            return
        if drawn is not None and self.batch_size is not None:
            torch._foreach_mul_(grads, drawn / self.batch_size)
        super().step()

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim.SGD's; with the generator's state, where one was given."""
        state = super().state_dict()
        return state if self.generator is None else state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of this optimiser, or of a torch.optim.SGD, whose groups then take this optimiser's options."""
        super().load_state_dict(state_dict)
        for group in self.param_groups:
            for name, value in self._options.items():
                group.setdefault(name, value)
        if self.generator is not None and "generator" in state_dict:
            self.generator.set_state(state_dict["generator"].cpu())

    def _linear_layers(self, group: dict[str, Any]) -> list[nn.Linear]:
        """The layers whose weights a group samples; none where it is a plain group."""
        owners = [self._owners.get(id(p), []) for p in group["params"]]
        if group["s"] is None or not any(_is_linear(owner) for owner in owners):
            return []
        check_options(group["s"], group["block_size"], group["form"], group["beta"])
        if group["estimate"] not in ESTIMATES:
            raise InputError(f"estimate: {group['estimate']!r} is unknown; the estimates are {', '.join(ESTIMATES)}")
        layers: list[nn.Linear] = []
        for p, owner in zip(group["params"], owners, strict=True):
            if not owner:
                raise InputError(
                    f"params: a tensor of shape {tuple(p.shape)} is no parameter of the model; give it in a plain group"
                )
            layer, name = owner[0][0], " and ".join(each for _, each in owner)
            if not isinstance(layer, nn.Linear) or not _is_linear(owner):
                kind = " and ".join(type(each).__name__ for each, _ in owner)
                raise InputError(
                    f"params: {name} of {kind} cannot be sampled, only one nn.Linear's can; give it in a group with s=None"
                )
            if p is not layer.weight:
                continue
            if group["form"] == "literal" and group["estimate"] != "votes" and name != f"{self._classifier}.weight".lstrip("."):
                raise InputError(
                    f"params: {name} is hidden and P (1 - P) x^2 is the final layer's curvature; take form='normalised'"
                )
            layers.append(layer)
        return layers

    def _hook(self, layer: nn.Linear) -> Any:
        # A plain function, not a bound method: a deep copy of the model then does not copy the optimiser.
        def hook(linear: nn.Linear, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor | None:
            x = args[0] if args else kwargs["input"]
            if not torch.is_grad_enabled() or not linear.weight.requires_grad:
                return None
            if x.ndim != 2:
                raise InputError(f"x: a sampled nn.Linear takes rows (B, {linear.in_features}), not {tuple(x.shape)}")
            dense = nn.functional.linear(x, linear.weight.detach(), linear.bias)
            return _Sampled.apply(dense, x.detach(), linear.weight, lambda *caught: self._sample(layer, *caught))

        return layer.register_forward_hook(hook, with_kwargs=True)

    def _sample(self, layer: nn.Linear, gy_BO: Tensor, x_BM: Tensor, weight_OM: Tensor, logits_BO: Tensor) -> Tensor:
        group = next(group for group in self.param_groups if any(p is layer.weight for p in group["params"]))
        self._drawn[layer] = self._drawn.get(layer, 0) + len(x_BM)
        options: dict[str, Any] = {name: group[name] for name in self._options}
        dtype = weight_OM.dtype
        return interpretable_gradient(
            gy_BO.to(dtype), x_BM.to(dtype), weight_OM, logits_BO.to(dtype), **options, generator=self.generator
        )


class _Sampled(torch.autograd.Function):
    """The layer's dense outputs; backwards, the weight receives its interpretable gradient."""

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, sample: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight, y)
        ctx.sample = sample
        return y.view_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        return gy, None, ctx.sample(gy, *ctx.saved_tensors), None


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """The layers that hold a parameter, by its id, with the name it has there."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for prefix, layer in model.named_modules():
        for name, p in layer.named_parameters(recurse=False):
            owners.setdefault(id(p), []).append((layer, f"{prefix}.{name}".lstrip(".")))
    return owners


def _is_linear(owner: list[tuple[nn.Module, str]]) -> bool:
    """Whether it is one nn.Linear; not a subclass, whose forward pass may be another."""
    return len(owner) == 1 and type(owner[0][0]) is nn.Linear
