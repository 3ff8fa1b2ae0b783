"""The gradient norm, shared with clipping: what it computes is not computed twice."""

from __future__ import annotations

import functools
import time
import weakref
from typing import Any, List, Optional, Sequence

import torch

from . import current

_watches: "weakref.WeakSet[Any]" = weakref.WeakSet()
_NORM = 2.0


def register(watch: Any) -> None:
    """Has clipping of a watch's parameters tell it the norm."""
    _watches.add(watch)


def unregister(watch: Any) -> None:
    """Ends that."""
    _watches.discard(watch)


def norm(gradients: Sequence[torch.Tensor], model: Any = None) -> Optional[torch.Tensor]:
    """The L2 norm over all gradients, on the device; None when there are none."""
    if not gradients:
        return None
    total = getattr(torch.nn.utils, "get_total_norm", None)
    if total is not None:
        value = total(gradients, _NORM)
    else:
        value = _norm_before_2_6(gradients)
    if hasattr(value, "full_tensor"):
        value = value.full_tensor()
    return _over_shards(value, model)


def _norm_before_2_6(gradients: Sequence[torch.Tensor]) -> torch.Tensor:
    first = gradients[0].device
    dense = [g.detach() if not g.is_sparse else g.detach().coalesce().values() for g in gradients]
    if all(g.device == first for g in dense):
        norms = list(torch._foreach_norm(dense, _NORM))
    else:
        norms = [torch.linalg.vector_norm(g, _NORM).to(first) for g in dense]
    return torch.linalg.vector_norm(torch.stack(norms), _NORM)


def _over_shards(value: torch.Tensor, model: Any) -> torch.Tensor:
    """Of FSDP's flat shards every rank has its own: all ranks must come to the
    same judgement, so their squares are summed."""
    if type(model).__name__ != "FullyShardedDataParallel" or not torch.distributed.is_initialized():
        return value
    square = value.detach().float() ** 2
    torch.distributed.all_reduce(square)
    return square.sqrt()


def install() -> None:
    """Puts itself before torch.nn.utils.clip_grad_norm_, and times the wait for
    a DataLoader's batches; once."""
    utils = torch.nn.utils
    original = utils.clip_grad_norm_
    if getattr(original, "_vigil", False):
        return

    @functools.wraps(original)
    def clip_grad_norm_(parameters: Any, max_norm: float, norm_type: float = _NORM, error_if_nonfinite: bool = False,
                        foreach: Optional[bool] = None, **more: Any) -> torch.Tensor:
        several: List[Any] = [parameters] if isinstance(parameters, torch.Tensor) else list(parameters)
        kind = {} if foreach is None else {"foreach": foreach}
        watch = _watching(several) if float(norm_type) == _NORM and not error_if_nonfinite else None
        if watch is None:
            return original(several, max_norm, norm_type, error_if_nonfinite, **kind, **more)
        value = watch.check(several)
        watch._checked = True
        if value is None or watch._found is not None:
            # Scaling by a norm that is not finite would make every gradient so.
            return value if value is not None else torch.tensor(0.0)
        if hasattr(utils, "clip_grads_with_norm_"):
            utils.clip_grads_with_norm_(several, max_norm, value, **kind)
            return value
        return original(several, max_norm, norm_type, error_if_nonfinite, **kind, **more)

    clip_grad_norm_._vigil = True  # type: ignore[attr-defined]
    utils.clip_grad_norm_ = clip_grad_norm_
    utils.clip_grad.clip_grad_norm_ = clip_grad_norm_
    _time_data()


def _watching(parameters: List[Any]) -> Any:
    if not parameters:
        return None
    for watch in list(_watches):
        for optimizer in watch.optimizers:
            for group in optimizer.param_groups:
                if any(p is parameters[0] for p in group["params"]):
                    return watch
    return None


def _time_data() -> None:
    """Has every wait for a batch counted, whoever iterates."""
    from torch.utils.data import dataloader

    cls = dataloader._BaseDataLoaderIter
    original = cls.__next__

    @functools.wraps(original)
    def timed(self: Any) -> Any:
        began = time.perf_counter()
        try:
            return original(self)
        finally:
            run = current()
            if run is not None:
                run.data_seconds += time.perf_counter() - began

    setattr(cls, "__next__", timed)
