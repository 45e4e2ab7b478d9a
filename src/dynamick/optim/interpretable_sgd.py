"""Algorithm 3: SGD in which every sample updates only the weights that it drew."""

import weakref
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.hooks import RemovableHandle

from dynamick.errors import InputError
from dynamick.nn import find_classifier
from dynamick.optim.gradient import interpretable_gradient
from dynamick.optim.groups import find_owners
from dynamick.optim.lipschitz import check_estimate
from dynamick.optim.sampling import check_options, is_count

NAMED = 3
"""An error names this many parameters and counts the others."""


class InterpretableSGD(torch.optim.SGD):
    """Interpretable SGD: block coordinate SGD with Lipschitz sampling (Algorithm 3).

    In every backward pass the weights of nn.Linear layers receive sum_i q_ij g_ij in place of sum_i g_ij. The rest is
    torch.optim.SGD: momentum, weight decay, schedulers, gradient scaling, clipping and accumulation work as they do there.
    Biases, and groups with s=None, are updated as in SGD. The forward pass is dense, and sampled layers run it twice.

    Forward hooks on the layers catch what is needed. They are on as long as the optimiser lives. `detach()`, or the end of a
    `with` block, leaves the model as it was. Only then pickle or export the model, or give it to torch.func. A group's options
    may change during the training, as lr may:
    `optimizer.param_groups[0]["s"] = 0.95`.

        groups = dynamick.optim.sampled_groups(model)  # the classifier's weight, and all else plain
        with InterpretableSGD(groups, lr=0.1, s=0.9, block_size=5, model=model) as optimizer:
            ...the usual loop

    Args:
        params: parameters or parameter groups; each group may set its own lr, s, block_size, form, beta, estimate.
        lr: the learning rate.
        s, block_size, form, beta: which coordinates a sample updates; see `dynamick.optim.probabilities`.
        estimate: of the Lipschitz constants: `local`, `global` or `votes`; see `interpretable_gradient`.
        model: the module tree that holds the parameters.
        batch_size: the nominal B of Poisson-sampled minibatches, for losses that are means over the batch drawn. Gradients
            are then multiplied by (number drawn) / B in `step`. This is for one process and one backward pass a step. In other
            cases divide a summed loss by B. None leaves gradients as they are.
        generator: where the q_ij come from, on the parameters' device; its state is part of the state_dict. Give each of many
            processes a seed of its own. None takes PyTorch's global one.
        kwargs: momentum, weight_decay and whatever else torch.optim.SGD takes, without `differentiable`.

    Raises:
        InputError: an option is not one of those allowed; a sampled group holds parameters of another kind of layer, which
            it names; a weight is shared; the literal form with an estimate of the final layer's curvature is asked for a
            hidden layer; there is nothing to sample. In a forward pass: a sampled layer sees other than rows (B, M). In
            `step`: a closure, a sparse gradient, or a gradient that was not sampled, since the hooks did not see it.

    >>> model = torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    >>> groups = dk.optim.sampled_groups(model)
    >>> with dk.optim.InterpretableSGD(groups, lr=0.1, s=0.9, block_size=5, model=model) as optimizer:
    ...     torch.nn.functional.cross_entropy(model(torch.rand(2, 4)), torch.tensor([0, 2])).backward()
    ...     optimizer.step()
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
        if batch_size is not None and not is_count(batch_size):
            raise InputError(f"batch_size: {batch_size!r} is no nominal batch size; give an integer from 1 up, or None")
        if not isinstance(model, nn.Module):
            raise InputError(f"model: a {type(model).__name__} is no module; give the one that holds the parameters")
        if kwargs.get("differentiable"):
            raise InputError("differentiable: sampled gradients have no second derivative; leave it out")
        self._options = {"s": s, "block_size": block_size, "form": form, "beta": beta, "estimate": estimate}
        self._model, self._owners = model, find_owners(model)
        self.batch_size, self.generator = batch_size, generator
        # Each sampled layer's name and place of its group; the hooks that are on; samples seen by backward since the last step.
        self._layers: dict[nn.Linear, tuple[str, int]] = {}
        self._hooks: dict[nn.Linear, RemovableHandle] = {}
        self._drawn: dict[nn.Linear, int] = {}
        super().__init__(params, lr=lr, **kwargs)
        if not self._layers:
            raise InputError("params: no group holds the weight of an nn.Linear; add one, or take torch.optim.SGD")
        self.defaults |= self._options
        # `step` is not overridden: SGD's own would run the user's step hooks a second time.
        self.register_step_pre_hook(_before_step)
        self.attach()
        # A model may live longer than its optimisers. Their hooks end with them.
        weakref.finalize(self, _remove, self._hooks).atexit = False

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as torch.optim.SGD does, and sample the weights of its linear layers unless its s is None."""
        super().add_param_group(self._options | param_group if isinstance(param_group, dict) else param_group)
        place = len(self.param_groups) - 1
        try:
            layers = self._linear_layers(self.param_groups[place])
        except InputError:
            self.param_groups.pop()
            raise
        self._layers |= {layer: (name, place) for layer, name in layers.items()}
        if self._hooks:
            self.attach()

    def attach(self) -> None:
        """Hook the layers that are not hooked yet."""
        for layer in self._layers:
            if layer not in self._hooks:
                # Before the user's own hooks: these then see, and may change, what is passed on.
                self._hooks[layer] = layer.register_forward_hook(_hook(self, layer), with_kwargs=True, prepend=True)

    def detach(self) -> None:
        """Take the hooks off; the model is as it was before."""
        _remove(self._hooks)

    def __enter__(self) -> "InterpretableSGD":
        self.attach()
        return self

    def __exit__(self, *_: object) -> None:
        self.detach()

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch.optim.SGD's."""
        self._drawn.clear()
        super().zero_grad(set_to_none)

    def state_dict(self) -> dict[str, Any]:
        """As torch.optim.SGD's; with the generator's state, where one was given."""
        state = super().state_dict()
        return state if self.generator is None else state | {"generator": self.generator.get_state()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Of this optimiser, or of a torch.optim.SGD of the same groups, which then keep this optimiser's options.

        Raises:
            InputError: the groups sample what cannot be sampled, or the generator's state is of another kind of device.
        """
        before = self.param_groups, self.state
        own = [{name: group[name] for name in self._options} for group in self.param_groups]
        super().load_state_dict(state_dict)
        layers: dict[nn.Linear, tuple[str, int]] = {}
        try:
            for place, (group, options) in enumerate(zip(self.param_groups, own, strict=True)):
                for name, value in options.items():
                    group.setdefault(name, value)
                layers |= {layer: (name, place) for layer, name in self._linear_layers(group).items()}
            if "generator" in state_dict:
                self._load_generator(state_dict["generator"])
        except InputError:
            self.param_groups, self.state = before
            raise
        hooked = bool(self._hooks)
        self.detach()
        self._layers = layers
        if hooked:
            self.attach()

    def _load_generator(self, state: Tensor) -> None:
        generator = self.generator or torch.Generator(self.param_groups[0]["params"][0].device)
        try:
            generator.set_state(state.cpu())
        except RuntimeError:
            raise InputError(
                f"generator: its state is not one of a generator on {generator.device}; go on there, or leave the key out"
            ) from None
        self.generator = generator

    def __getstate__(self) -> dict[str, Any]:
        raise InputError("InterpretableSGD: it hooks its model and cannot be copied or pickled; keep its state_dict()")

    def _linear_layers(self, group: dict[str, Any]) -> dict[nn.Linear, str]:
        """The layers whose weights a group samples, with the names of these weights; none if s is None."""
        if group["s"] is None:
            return {}
        check_options(group["s"], group["block_size"], group["form"], group["beta"])
        check_estimate(group["estimate"])
        layers: dict[nn.Linear, str] = {}
        wrong: list[str] = []
        for p in group["params"]:
            if id(p) not in self._owners:
                raise InputError(
                    f"params: a tensor of shape {tuple(p.shape)} is none of the model's; give as model the one that has it"
                )
            owners = self._owners[id(p)]
            layer, name = owners[0]
            if len(owners) > 1 or type(layer) is not nn.Linear or (p is not layer.weight and p is not layer.bias):
                # No subclass either: its forward pass may differ. Nor the parts that a weight is computed from, as in pruning.
                wrong.append(" and ".join(f"{each} ({type(owner).__name__})" for owner, each in owners))
            elif p is layer.weight:
                layers[layer] = name
        if wrong:
            more = f" and {len(wrong) - NAMED} more" if len(wrong) > NAMED else ""
            raise InputError(
                f"params: {', '.join(wrong[:NAMED])}{more} cannot be sampled, only the weight and bias of one nn.Linear each; "
                "put them in a group with s=None, as dynamick.optim.sampled_groups(model) does"
            )
        if group["form"] == "literal" and group["estimate"] != "votes":
            self._check_final(layers)
        return layers

    def _check_final(self, layers: dict[nn.Linear, str]) -> None:
        for layer, name in layers.items():
            if layer is not self._model.get_submodule(find_classifier(self._model)):
                raise InputError(
                    f"params: {name} is hidden and P (1 - P) x^2 is the final layer's curvature; take form='normalised'"
                )

    def _group(self, layer: nn.Linear) -> dict[str, Any]:
        group: dict[str, Any] = self.param_groups[self._layers[layer][1]]
        return group

    def _forward(self, layer: nn.Linear, x: Tensor, output: Tensor) -> Tensor | None:
        """The layer's outputs, whose backward pass samples; None if there is nothing to sample."""
        if not torch.is_grad_enabled():
            return None
        if layer.weight.requires_grad and layer.weight.grad is None:
            # The draws for it were given up: a step was skipped, and the gradients were set to None.
            self._drawn.pop(layer, None)
        if not layer.weight.requires_grad or self._group(layer)["s"] is None:
            if output.requires_grad and self.batch_size is not None:
                output.register_hook(lambda _: self._count(layer, len(x)))
            return None
        if x.ndim != 2:
            raise InputError(
                f"{self._layers[layer][0]}: a sampled nn.Linear sees one row a sample, (B, {layer.in_features}), not "
                f"{tuple(x.shape)}; put it in a group with s=None"
            )
        dense = nn.functional.linear(x, layer.weight.detach(), layer.bias)
        zero = _Sampled.apply(dense.detach(), x.detach(), layer.weight, lambda *caught: self._sample(layer, *caught))
        return dense + zero

    def _count(self, layer: nn.Linear, samples: int) -> None:
        if self.batch_size is not None and layer in self._drawn:
            raise InputError(
                "batch_size: a second backward pass before step(), or a layer used twice; leave it out, and divide a summed "
                "loss by B"
            )
        self._drawn[layer] = self._drawn.get(layer, 0) + samples

    def _sample(self, layer: nn.Linear, gy_BO: Tensor, x_BM: Tensor, weight_OM: Tensor, logits_BO: Tensor) -> Tensor:
        self._count(layer, len(x_BM))
        options: dict[str, Any] = {name: self._group(layer)[name] for name in self._options}
        if options["form"] == "literal" and options["estimate"] != "votes":
            self._check_final({layer: self._layers[layer][0]})
        return interpretable_gradient(gy_BO, x_BM, weight_OM, logits_BO, **options, generator=self.generator)


class _Sampled(torch.autograd.Function):
    """Zeros, to be added to the layer's outputs y; backwards, the weight receives its interpretable gradient.

    They are separate from y. So nothing is drawn if only the inputs' gradient is asked for.
    """

    @staticmethod
    def forward(ctx: Any, y: Tensor, x: Tensor, weight: Tensor, sample: Callable[..., Tensor]) -> Tensor:
        ctx.save_for_backward(x, weight, y)
        ctx.sample = sample
        return y.new_zeros(()).expand_as(y)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gy: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, ctx.sample(gy, *ctx.saved_tensors), None


def _before_step(optimizer: InterpretableSGD, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    """Before W <- W - lr (1/B) sum_i g~_i (Algorithm 3, step 6): the gradients are what they should be, and of the nominal B.

    A step with an empty batch changes nothing. Without a nominal B this holds only if no other layer has a gradient.
    """
    if [*args[1:], *kwargs.values()] not in ([], [None]):
        raise InputError("closure: a second pass would draw other weights; run backward(), then step() without one")
    params = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    if any(p.grad.is_sparse for p in params):
        raise InputError("params: a gradient is sparse; make it dense (nn.Embedding: sparse=False)")
    for layer, (name, _) in optimizer._layers.items():
        missed = layer not in optimizer._drawn and optimizer._group(layer)["s"] is not None
        if missed and layer.weight.grad is not None and layer.weight.grad.any():
            raise InputError(
                f"{name}: its gradient was not sampled; attach() first, compile the model after that, and let it call the layer"
            )
    drawn = max(optimizer._drawn.values(), default=None)
    optimizer._drawn.clear()
    if _processes() > 1:
        # Gradients are of all processes, but this process knows only its own number.
        if optimizer.batch_size is not None:
            raise InputError("batch_size: every process draws another number; leave it out, and divide a summed loss by B")
    elif drawn == 0 and (optimizer.batch_size is not None or not any(p.grad.any() for p in params)):
        for p in params:
            p.grad = None
    elif drawn is not None and optimizer.batch_size is not None:
        for p in params:
            p.grad.mul_(drawn / optimizer.batch_size)


def _processes() -> int:
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return torch.distributed.get_world_size() if distributed else 1


def _hook(optimizer: InterpretableSGD, layer: nn.Linear) -> Callable[..., Tensor | None]:
    """A forward hook that neither keeps the optimiser alive nor acts in a deep copy of the model."""
    reference = weakref.ref(optimizer)

    # A compiled model runs it between its graphs, as it is.
    @torch.compiler.disable
    def hook(linear: nn.Linear, args: tuple[Tensor, ...], kwargs: dict[str, Tensor], output: Tensor) -> Tensor | None:
        alive = reference()
        if alive is None or linear is not layer or getattr(output, "sampled", False):
            return None
        y = alive._forward(layer, args[0] if args else kwargs["input"], output)
        if y is not None:
            # For an older optimiser of this layer, whose hook comes after this one's.
            y.sampled = True  # type: ignore[attr-defined]
        return y

    return hook


def _remove(hooks: dict[nn.Linear, RemovableHandle]) -> None:
    for handle in hooks.values():
        handle.remove()
    hooks.clear()
