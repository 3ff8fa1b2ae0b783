"""How large a checkpoint of PyTorch objects will be, told before it is written."""

from __future__ import annotations

import logging
from typing import Any, Iterator

log = logging.getLogger("vigil")

# Objects whose state_dict gathers what other ranks have: what is seen here says
# nothing of what is written.
_GATHERED = ("FullyShardedDataParallel", "FSDP", "DeepSpeed", "ZeroRedundancyOptimizer")


def of(*objects: Any) -> int:
    """The bytes of the tensors of modules and optimizers, each counted once; 0
    where that cannot be told. It copies nothing and waits for no device; what has
    no tensors that can be seen, such as a scheduler, counts as nothing."""
    try:
        seen = {id(t): t for o in _flat(objects) for t in _tensors(o)}
        return sum(_bytes(t) for t in seen.values())
    except Exception:  # noqa: BLE001 - a model that is not initialised, or of another kind
        log.debug("vigil: the size of the checkpoint is not known beforehand", exc_info=True)
        return 0


def _flat(o: Any) -> Iterator[Any]:
    if isinstance(o, (list, tuple)):
        for one in o:
            yield from _flat(one)
    else:
        yield o


def _tensors(o: Any) -> Iterator[Any]:
    for part in o.modules() if hasattr(o, "modules") else (o,):
        if any(name in type(part).__name__ for name in _GATHERED):
            raise ValueError("%s gathers its state" % type(part).__name__)
    if hasattr(o, "parameters") and hasattr(o, "buffers"):
        yield from o.parameters()
        yield from o.buffers()
    elif hasattr(o, "param_groups") and hasattr(o, "state"):
        for state in o.state.values():
            yield from (v for v in state.values() if hasattr(v, "element_size"))


def _bytes(tensor: Any) -> int:
    local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
    return int(local.numel() * local.element_size())
