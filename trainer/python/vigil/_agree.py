"""One step for all ranks: a checkpoint is complete when every rank saved the same one.

Each rank hears of an order by itself, and a step boundary may lie between. The
first to hear of it proposes a step a little ahead in torch.distributed's store,
and all save there. It happens on the thread that reads directives: the training
thread does not wait.
"""

from __future__ import annotations

import math
import sys
from typing import Any, Optional

AHEAD_SECONDS = 1.0  # in which every rank has heard of it
LEAST_STEPS = 2  # ranks that train together are at most one step apart
MOST_STEPS = 10_000


def on_step(order_id: str, last_step: int, step_seconds: float) -> Optional[int]:
    """The step after which an order is to be carried out; None: at once, as
    there is nobody to agree with."""
    store = _store()
    if store is None or not order_id:
        return None
    ahead = LEAST_STEPS
    if step_seconds > 0:
        ahead = min(MOST_STEPS, max(ahead, math.ceil(AHEAD_SECONDS / step_seconds)))
    agreed = store.compare_set("vigil/order/" + order_id, "", str(last_step + ahead))
    return int(agreed.decode() if isinstance(agreed, bytes) else agreed)


def _store() -> Any:
    torch = sys.modules.get("torch")
    dist = getattr(torch, "distributed", None)
    if dist is None or not dist.is_available() or not dist.is_initialized() or dist.get_world_size() < 2:
        return None
    return dist.distributed_c10d._get_default_store()
