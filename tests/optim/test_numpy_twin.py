"""Algorithm 3 as on the page, in NumPy: one sample and one coordinate after the other, beside the optimiser, step by step."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import dynamick as dk

B, M, H, O = 5, 6, 7, 4
LR, STEPS = 0.3, 5


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max())
    return e / e.sum()


def curvature(estimate: str, weight: np.ndarray, x: np.ndarray, factor: np.ndarray) -> np.ndarray:
    """L_ij of one sample (step 3). factor: the curvature of the loss along each of the layer's outputs."""
    L = np.zeros(weight.shape)
    for c in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            if estimate == "local":
                L[c, j] = factor[c] * x[j] ** 2
            elif estimate == "global":
                L[c, j] = x[j] ** 2 / 4
            else:
                L[c, j] = max(0.0, weight[c, j] * x[j])
    return L


def probability(L: np.ndarray, s: float, k: int, form: str, beta: float | None) -> np.ndarray:
    """q_j of one sample (step 5)."""
    q = np.zeros(L.shape)
    for c in range(L.shape[0]):
        order = sorted(range(L.shape[1]), key=lambda j: (-L[c, j], j))
        kth = L[c, order[min(k, L.shape[1]) - 1]]
        for j in range(L.shape[1]):
            if L[c, j] == 0:
                continue
            if form == "literal":
                power = (L[c, j] / L.sum()) ** (1 / (1 - s)) if s < 1 else float(L[c, j] == L.sum())
                q[c, j] = min(1.0, (k * L.shape[0] if beta is None else beta) * power)
            elif s == 1:
                q[c, j] = float(j in order[:k])
            else:
                q[c, j] = 1.0 if kth == 0 else min(1.0, (L[c, j] / kth) ** (1 / (1 - s)))
    return q


class Twin:
    """A network of two linear layers with a ReLU between them, trained by Algorithm 3 with momentum and weight decay."""

    def __init__(self, model: nn.Sequential, options: dict[str, Any], hidden: bool, sgd: dict[str, Any], seed: int) -> None:
        self.p = {name: p.detach().numpy().copy() for name, p in model.named_parameters()}
        self.v: dict[str, np.ndarray] = {}
        self.options, self.hidden, self.sgd = options, hidden, sgd
        self.generator = torch.Generator().manual_seed(seed)

    def coins(self, name: str) -> np.ndarray:
        shape = (B, *self.p[name].shape)
        return torch.rand(shape, generator=self.generator, dtype=torch.float64).numpy()

    def step(self, x: np.ndarray, labels: np.ndarray) -> None:
        options = dict(self.options)
        estimate = options.pop("estimate")
        # The backward pass comes by the last layer first.
        coins = {name: self.coins(name) for name in ["2.weight", *(["0.weight"] if self.hidden else [])]}
        g = {name: np.zeros(p.shape) for name, p in self.p.items()}
        for i in range(B):
            z = self.p["0.weight"] @ x[i] + self.p["0.bias"]
            h = np.maximum(z, 0)
            prob = softmax(self.p["2.weight"] @ h + self.p["2.bias"])
            dy = prob - np.eye(O)[labels[i]]
            jacobian = self.p["2.weight"] * (z > 0)
            dz = jacobian.T @ dy
            # Along the hidden outputs: the diagonal of J^T (diag P - P P^T) J.
            bend = np.array([(prob * (jacobian[:, o] - prob @ jacobian[:, o]) ** 2).sum() for o in range(H)])
            layers = {"2": (dy, h, prob * (1 - prob)), "0": (dz, x[i], bend)}
            for layer, (d, inputs, factor) in layers.items():
                weight = f"{layer}.weight"
                q = np.ones(self.p[weight].shape)
                if weight in coins:
                    q = probability(curvature(estimate, self.p[weight], inputs, factor), **options)
                    q = (coins[weight][i] < q).astype(float)
                for c in range(q.shape[0]):
                    for j in range(q.shape[1]):
                        g[weight][c, j] += q[c, j] * d[c] * inputs[j] / B
                g[f"{layer}.bias"] += d / B
        for name, p in self.p.items():
            d = g[name] + self.sgd.get("weight_decay", 0) * p
            if self.sgd.get("momentum"):
                self.v[name] = self.sgd["momentum"] * self.v[name] + d if name in self.v else d.copy()
                d = d + self.sgd["momentum"] * self.v[name] if self.sgd.get("nesterov") else self.v[name]
            self.p[name] = p - LR * d


RULES = [
    # form, estimate, s, k, beta, whether the hidden layer is sampled too
    *(("normalised", estimate, s, 2, None, True) for estimate in ("local", "global", "votes") for s in (0.3, 0.9, 1.0)),
    ("normalised", "votes", 0.5, 1, None, False),
    ("normalised", "local", 0.5, 100, None, True),
    ("literal", "votes", 0.2, 2, None, True),
    ("literal", "votes", 1.0, 2, None, True),
    *(("literal", estimate, 0.1, 3, None, False) for estimate in ("local", "global")),
    *(("literal", estimate, 0.4, 3, 40.0, False) for estimate in ("local", "global")),
]
CASES = [
    ({"form": form, "estimate": estimate, "s": s, "k": k, "beta": beta}, hidden) for form, estimate, s, k, beta, hidden in RULES
]


@pytest.mark.parametrize(("options", "hidden"), CASES, ids=str)
@pytest.mark.parametrize("sgd", [{"momentum": 0.9, "weight_decay": 0.02}, {"momentum": 0.8, "nesterov": True}, {}], ids=str)
def test_the_optimiser_is_algorithm_3(options: dict[str, Any], hidden: bool, sgd: dict[str, Any]) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(M, H), nn.ReLU(), nn.Linear(H, O)).double()
    twin = Twin(model, options, hidden, sgd, seed=5)
    mine = {"block_size" if name == "k" else name: value for name, value in options.items()}
    groups = model.parameters() if hidden else dk.optim.sampled_groups(model)
    generator = torch.Generator().manual_seed(5)
    optimizer = dk.optim.InterpretableSGD(groups, LR, **mine, model=model, generator=generator, **sgd)
    before = model[2].bias.detach().clone()
    for step in range(STEPS):
        x, labels = torch.randn(B, M, dtype=torch.float64), torch.randint(0, O, (B,))
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(x), labels).backward()
        optimizer.step()
        twin.step(x.numpy(), labels.numpy())
        for name, p in model.named_parameters():
            np.testing.assert_allclose(p.detach().numpy(), twin.p[name], rtol=1e-9, atol=1e-12, err_msg=f"{name}, step {step}")
    assert not torch.allclose(model[2].bias, before)


def test_chunks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few or many samples at once: the same coins fall for the same coordinates."""
    torch.manual_seed(0)
    gy, x, weight = torch.randn(23, O), torch.rand(23, M), torch.randn(O, M)
    found = []
    for size in (1, 3 * O * M, 10**9):
        monkeypatch.setattr("dynamick.optim.gradient.CHUNK", size)
        generator = torch.Generator().manual_seed(1)
        found.append(dk.optim.interpretable_gradient(gy, x, weight, x @ weight.T, 0.5, 2, generator=generator))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])
