"""Task weights that the agent works out, by the methods of the Go trainer."""

from __future__ import annotations

import json
import logging
import math
import os
import time
from typing import TYPE_CHECKING, Any, Dict, List, Mapping, Optional, Sequence

import torch
import torch.distributed as dist
from torch import nn

from ._http import AgentError, Client

if TYPE_CHECKING:
    from ._run import Run

log = logging.getLogger("vigil")

CALL_SECONDS = 0.5  # that a step waits for the agent at most
REST_SECONDS = 5.0  # between tries while it does not answer
NORMS = ("gradnorm",)
PRODUCTS = ("pcgrad", "cagrad", "mgda", "imtl", "nash")


class AgentWeights(nn.Module):
    """Weights of several tasks' losses from the agent on the node, by any method
    that it has: equal, static, uncertainty, gradnorm, dwa, random, geometric,
    famo, adaptive, pcgrad, cagrad, mgda, imtl, nash.

    Call update with the losses between the forward and the backward pass, then
    call the module with them for the total. gradnorm and the methods from pcgrad
    on need shared, the parameters that all tasks share (for gradnorm those of the
    last shared layer); their gradients are taken once a task and step.

    What the method has learnt is part of state_dict, so that a resumed run goes
    on exactly. Without an agent, or while it is away, the weights stay as they
    are, at first 1 each, and it is said once; no step waits longer than half a
    second, and after that none for five. Ranks ask as one: losses and gradients
    are averaged, rank 0 asks, all get its answer.
    """

    def __init__(self, tasks: Sequence[str], method: str = "uncertainty", *, regression: Sequence[str] = (),
                 shared: Sequence[nn.Parameter] = (), settings: Optional[Mapping[str, Any]] = None, seed: int = 0,
                 run: Optional["Run"] = None) -> None:
        super().__init__()
        if not tasks:
            raise ValueError("AgentWeights needs at least one task")
        if method in NORMS + PRODUCTS and not shared:
            raise ValueError("the method %r needs shared, the parameters that all tasks share" % method)
        self.tasks = list(tasks)
        self.method = method
        self.cosine: Optional[float] = None  # the least between two tasks' gradients, where the method needs these
        self._kinds = ["TASK_KIND_REGRESSION" if t in regression else "TASK_KIND_CLASSIFICATION" for t in self.tasks]
        self._shared = list(shared)
        self._settings = json.dumps(dict(settings)) if settings else ""
        self._seed = seed
        self._run = run
        self._state = ""
        self._weights: List[float] = [1.0] * len(self.tasks)
        self._client: Optional[Client] = None
        self._pid = 0
        self._rest_until = 0.0
        self._said = False

    def update(self, losses: Mapping[str, torch.Tensor], step: Optional[int] = None) -> Dict[str, float]:
        """Takes in the losses of a step, by default the one after the run's last,
        and gives the weights; the losses' graph stays."""
        with torch.no_grad():
            values = torch.stack([losses[t].detach().float() for t in self.tasks])
        ranks = dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1
        products = self._products(losses, ranks) if self.method in NORMS + PRODUCTS else None
        if ranks > 1:
            dist.all_reduce(values)
            values = values / ranks
        if ranks == 1 or dist.get_rank() == 0:
            self._ask(values.tolist(), products, step)
        if ranks > 1:
            told = torch.tensor(self._weights, dtype=torch.float64, device=values.device)
            dist.broadcast(told, 0)
            self._weights = told.tolist()
        return self.weights()

    def forward(self, losses: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """The total of the tasks' losses."""
        return torch.stack([w * losses[t] for t, w in zip(self.tasks, self._weights)]).sum()

    def weights(self) -> Dict[str, float]:
        """The weight of each task's loss in the total."""
        return dict(zip(self.tasks, self._weights))

    def get_extra_state(self) -> Dict[str, Any]:
        """What the method has learnt, for state_dict."""
        return {"state": self._state, "weights": list(self._weights)}

    def set_extra_state(self, state: Mapping[str, Any]) -> None:
        """Puts it back."""
        self._state, self._weights = state["state"], list(state["weights"])

    def _products(self, losses: Mapping[str, torch.Tensor], ranks: int) -> List[List[float]]:
        """The dot products of the tasks' gradients on the shared parameters."""
        flat = []
        for task in self.tasks:
            own = torch.autograd.grad(losses[task], self._shared, retain_graph=True, allow_unused=True)
            flat.append(torch.cat([(torch.zeros_like(p) if g is None else g).detach().flatten().float() for g, p in zip(own, self._shared)]))
        gradients = torch.stack(flat)
        if ranks > 1:
            dist.all_reduce(gradients)
            gradients = gradients / ranks
        return (gradients @ gradients.T).tolist()

    def _ask(self, losses: List[float], products: Optional[List[List[float]]], step: Optional[int]) -> None:
        run = self._the_run()
        session = run._link.session if run is not None and run._link is not None else ""
        if run is None or not session or time.monotonic() < self._rest_until:
            self._say("no agent answers: the tasks' weights stay as they are")
            return
        if not all(map(math.isfinite, losses + [x for row in products or [] for x in row])):
            return  # the step is lost; who watches it says so
        tasks = [{"name": t, "kind": k, "loss": x} for t, k, x in zip(self.tasks, self._kinds, losses)]
        body: Dict[str, Any] = {"sessionId": session, "method": self.method, "settings": self._settings, "seed": str(self._seed),
                                "step": str(self._next(run) if step is None else step), "tasks": tasks, "state": self._state}
        if products is not None and self.method in NORMS:
            for i, task in enumerate(tasks):
                task["gradientNorm"] = math.sqrt(products[i][i])
        elif products is not None:
            body["dotProducts"] = [x for row in products for x in row]
        try:
            answer = self._connection(run).call("Weights", body)
        except AgentError as e:
            self._rest_until = time.monotonic() + REST_SECONDS
            self._say("the agent gives no task weights, they stay as they are: %s" % e)
            return
        self._weights = [float(w) for w in answer["weights"]]
        self._state = answer.get("state", "")
        self.cosine = answer.get("gradientCosine")
        self._said = False

    @staticmethod
    def _next(run: "Run") -> int:
        return run.last_step + 1 + (run._pending is not None)

    def _the_run(self) -> Optional["Run"]:
        if self._run is None:
            from . import current

            return current()
        return self._run

    def _connection(self, run: "Run") -> Client:
        if self._client is None or self._pid != os.getpid():
            self._client, self._pid = Client(run._settings.socket, CALL_SECONDS), os.getpid()
        return self._client

    def _say(self, text: str) -> None:
        if not self._said:
            self._said = True
            log.warning("vigil: %s", text)
