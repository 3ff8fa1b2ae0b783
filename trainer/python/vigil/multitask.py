"""Balancing several losses in PyTorch: weights as modules and the gradient surgery of PCGrad.

AgentWeights asks the agent, which has all methods of the Go package
trainer/balance; the others work by themselves, with gradients or parameters of
the framework.
"""

from __future__ import annotations

from typing import Any, Dict, List, Mapping, Optional, Sequence

import torch
from torch import nn

from ._weights import AgentWeights

__all__ = ["UncertaintyWeighting", "GradNorm", "PCGrad", "AdaptiveWeights", "AgentWeights"]


class UncertaintyWeighting(nn.Module):
    """Kendall, Gal and Cipolla, Multi-Task Learning Using Uncertainty to Weigh
    Losses (2018): sum of c exp(-s) L + s/2 with s = log sigma^2 learned, c = 1/2
    for a regression and 1 for a classification. Give its parameters to the
    optimizer, without weight decay."""

    factors: torch.Tensor

    def __init__(self, tasks: Sequence[str], regression: Sequence[str] = ()) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.log_variances = nn.Parameter(torch.zeros(len(self.tasks)))
        self.register_buffer("factors", torch.tensor([0.5 if t in regression else 1.0 for t in self.tasks]))

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The total of the tasks' losses."""
        s = self.log_variances
        stacked = torch.stack([losses[t] for t in self.tasks])
        return (self.factors * torch.exp(-s) * stacked + 0.5 * s).sum()

    def weights(self) -> Dict[str, float]:
        """The weight of each task's loss in the total."""
        return dict(zip(self.tasks, (self.factors * torch.exp(-self.log_variances)).tolist()))


class GradNorm(nn.Module):
    """Chen et al., GradNorm: Gradient Normalization for Adaptive Loss Balancing
    in Deep Multitask Networks (2018), algorithm 1.

    update is called between the losses and the total's backward pass. It moves
    the weights so that the gradient of each w L with respect to the shared
    parameters (the last shared layer) comes to the mean norm times (relative
    inverse training rate)^alpha, and scales them to sum to the number of tasks.
    """

    initial: torch.Tensor

    def __init__(self, tasks: Sequence[str], shared: Sequence[nn.Parameter], alpha: float = 1.5, lr: float = 0.025) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.alpha = alpha
        self._shared = list(shared)
        self._weights = nn.Parameter(torch.ones(len(self.tasks)))
        self.register_buffer("initial", torch.zeros(len(self.tasks)))
        self.optimizer = torch.optim.Adam([self._weights], lr=lr)

    def update(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Moves the weights by the losses of this step; their graph stays."""
        stacked = torch.stack([losses[t] for t in self.tasks])
        if not bool(self.initial.any()):
            self.initial.copy_(stacked.detach())
        norms = torch.stack([self._norm(loss) for loss in stacked])  # of L, without the weight
        with torch.no_grad():
            ratio = stacked / self.initial
            rate = ratio / ratio.mean()
            target = (self._weights * norms).mean() * rate**self.alpha
            # The derivative of sum |w n - target|, the target held constant.
            self._weights.grad = torch.sign(self._weights * norms - target) * norms
        self.optimizer.step()
        with torch.no_grad():
            self._weights.clamp_(min=1e-6)
            self._weights.mul_(len(self.tasks) / self._weights.sum())

    def _norm(self, loss: torch.Tensor) -> torch.Tensor:
        gradients = torch.autograd.grad(loss, self._shared, retain_graph=True, allow_unused=True)
        return torch.sqrt(sum(((g.detach() ** 2).sum() for g in gradients if g is not None), loss.new_zeros(())))

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The total of the tasks' losses."""
        return (self._weights.detach() * torch.stack([losses[t] for t in self.tasks])).sum()

    def weights(self) -> Dict[str, float]:
        """The weight of each task's loss in the total."""
        return dict(zip(self.tasks, self._weights.detach().tolist()))


class AdaptiveWeights(nn.Module):
    """Liu, Johns and Davison, End-to-End Multi-Task Learning with Attention
    (2019), dynamic weight average: weights from how fast each loss falls,
    T softmax(r / temperature) with r the ratio of a loss's last two means, so
    that tasks that lag get more. Means are over window steps."""

    _sum: torch.Tensor
    _last: torch.Tensor
    _before: torch.Tensor
    _count: torch.Tensor
    _weights: torch.Tensor

    def __init__(self, tasks: Sequence[str], temperature: float = 2.0, window: int = 20) -> None:
        super().__init__()
        self.tasks = list(tasks)
        self.temperature = temperature
        self.window = window
        size = len(self.tasks)
        for name in ("_sum", "_last", "_before"):
            self.register_buffer(name, torch.zeros(size))
        self.register_buffer("_count", torch.zeros((), dtype=torch.long))
        self.register_buffer("_weights", torch.ones(size))

    def update(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Takes in the losses of a step."""
        self._sum += torch.stack([losses[t].detach() for t in self.tasks])
        self._count += 1
        if int(self._count) % self.window:
            return
        self._before.copy_(self._last)
        self._last.copy_(self._sum / self.window)
        self._sum.zero_()
        if int(self._count) >= 2 * self.window:
            ratio = self._last / self._before.clamp(min=1e-12)
            self._weights.copy_(len(self.tasks) * torch.softmax(ratio / self.temperature, 0))

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The total of the tasks' losses."""
        return (self._weights * torch.stack([losses[t] for t in self.tasks])).sum()

    def weights(self) -> Dict[str, float]:
        """The weight of each task's loss in the total."""
        return dict(zip(self.tasks, self._weights.tolist()))


class PCGrad:
    """Yu et al., Gradient Surgery for Multi-Task Learning (2020): of two tasks'
    gradients that conflict, each loses its part along the other; tasks are gone
    through in random order, with a generator of its own that can be saved.

    backward takes the place of total.backward(): it leaves the sum of the
    changed gradients in the parameters' grad. Parameters of one task alone get
    that task's gradient.
    """

    def __init__(self, parameters: Sequence[nn.Parameter], seed: int = 0) -> None:
        self._parameters = [p for p in parameters if p.requires_grad]
        self._generator = torch.Generator().manual_seed(seed)
        self.cosine: Optional[float] = None  # the least between two tasks, of the last backward

    def backward(self, losses: Mapping[str, torch.Tensor]) -> None:
        """Computes the gradients of all losses and leaves their sum."""
        own = [torch.autograd.grad(loss, self._parameters, retain_graph=True, allow_unused=True) for loss in losses.values()]
        used = [[g[i] is not None for g in own] for i in range(len(self._parameters))]
        shared = [i for i, by in enumerate(used) if all(by)]
        flat = [torch.cat([g[i].detach().flatten() for i in shared]) for g in own] if shared else []
        total = self._surgery(flat) if shared else None
        at = 0
        for i, p in enumerate(self._parameters):
            if i in shared and total is not None:
                p.grad = total[at : at + p.numel()].view_as(p).clone()
                at += p.numel()
            elif any(used[i]):
                p.grad = torch.stack([g[i] for g in own if g[i] is not None]).sum(0)

    def _surgery(self, flat: List[torch.Tensor]) -> torch.Tensor:
        count = len(flat)
        norms = [float(g.norm()) for g in flat]
        cosines = [float(flat[i] @ flat[j]) / (norms[i] * norms[j]) for i in range(count) for j in range(i) if norms[i] * norms[j] > 0]
        self.cosine = min(cosines) if cosines else None
        changed = []
        for i in range(count):
            g = flat[i].clone()
            for j in torch.randperm(count, generator=self._generator).tolist():
                square = norms[j] ** 2
                dot = float(g @ flat[j])
                if j != i and dot < 0 and square > 0:
                    g -= dot / square * flat[j]
            changed.append(g)
        return torch.stack(changed).sum(0)

    def state_dict(self) -> Dict[str, Any]:
        """The generator's state."""
        return {"generator": self._generator.get_state()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        self._generator.set_state(state["generator"])
