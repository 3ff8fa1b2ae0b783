"""Where a value that is not finite came from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Sequence, Tuple

import torch

from . import _random


@dataclass
class Found:
    """A value that is not finite, and where."""

    tensor: str
    quantity: str  # "loss", "gradient" or "parameter"
    nan_count: int
    inf_count: int
    size: int
    intact: bool = True  # the parameters are finite
    others: int = 0  # further gradients that are not finite
    note: str = ""

    def __str__(self) -> str:
        text = "%s has %d NaN and %d infinite of %d values" % (self.tensor, self.nan_count, self.inf_count, self.size)
        if self.others:
            text += ", and so have %d other gradients" % self.others
        return text + (" (%s)" % self.note if self.note else "")


def find(model: Any, parameters: Sequence[Any], inputs: Any) -> Optional[Found]:
    """Names the tensor in which a value that is not finite first appeared; None
    when every gradient is finite.

    First by the order of computation: a parameter that is not finite is the
    cause of all else; else it is the gradient nearest to the loss, as backward
    passes come from there. The forward pass is run once more, with the same
    inputs and without a trace, to see whether it begins in one of its modules.
    """
    named = list(model.named_parameters()) if hasattr(model, "named_parameters") else []
    known = {id(p) for _, p in named}
    named += [("parameter.%d" % i, p) for i, p in enumerate(parameters) if id(p) not in known]
    wanted = {id(p) for p in parameters}
    named = [(n, p) for n, p in named if id(p) in wanted]
    hit = [(n, p) for n, p in named if p.grad is not None and _counts(p.grad) != (0, 0)]
    if not hit:
        return None
    bad = [(n, p) for n, p in named if _counts(p) != (0, 0)]
    if bad:
        return _found(bad[0][0], bad[0][1], "parameter", len(hit), intact=False)
    name, parameter = hit[-1]
    found = _found(name + ".grad", parameter.grad, "gradient", len(hit) - 1)
    found.note = _forward(model, inputs)
    return found


def _found(name: str, tensor: Any, quantity: str, others: int, intact: bool = True) -> Found:
    nan, inf = _counts(tensor)
    return Found(name, quantity, nan, inf, int(_local(tensor).numel()), intact, others)


def _local(tensor: Any) -> torch.Tensor:
    tensor = tensor.detach()
    if hasattr(tensor, "to_local"):
        tensor = tensor.to_local()
    return tensor.coalesce().values() if tensor.is_sparse else tensor


def _counts(tensor: Any) -> Tuple[int, int]:
    local = _local(tensor)
    if not local.is_floating_point():
        return 0, 0
    return int(torch.isnan(local).sum()), int(torch.isinf(local).sum())


def _forward(model: Any, inputs: Any) -> str:
    """Runs the forward pass again and says where it begins; "" when it does not
    show, or when running it might make a rank wait for others."""
    if inputs is None or not isinstance(model, torch.nn.Module) or "FullySharded" in type(model).__name__:
        return ""
    model = getattr(model, "module", model) if "DataParallel" in type(model).__name__ else model
    if any(_bad(t) for t in _tensors(inputs)):
        return "the batch itself is not finite"
    first: List[str] = []
    hooks: List[Any] = []

    def look(name: str) -> Any:
        def hook(module: Any, args: Any, output: Any) -> None:
            if not first and any(_bad(t) for t in _tensors(output)):
                first.append(name)
        return hook

    generators = _random.capture()
    buffers: Dict[str, torch.Tensor] = {n: b.detach().clone() for n, b in model.named_buffers()}
    try:
        for name, module in model.named_modules():
            hooks.append(module.register_forward_hook(look(name or type(model).__name__)))
        with torch.no_grad():
            model(*inputs[0], **inputs[1])
    except Exception:  # noqa: BLE001 - a model that needs more than its inputs
        pass
    finally:
        for h in hooks:
            h.remove()
        with torch.no_grad():
            for n, b in model.named_buffers():
                b.copy_(buffers[n])
        _random.restore(generators)
    return "in the forward pass it begins in %s" % first[0] if first else ""


def _bad(t: torch.Tensor) -> bool:
    return _counts(t) != (0, 0)


def _tensors(value: Any) -> List[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        return [value]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        return [t for one in value for t in _tensors(one)]
    return []
