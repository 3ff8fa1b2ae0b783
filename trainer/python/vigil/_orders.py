"""Directives as the training loop takes them."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import Any, Callable, Deque, Dict, List, Optional

from . import _wire

MAX_ORDERS = 8
REMEMBERED = 128

RESTART = "AFTER_CHECKPOINT_RESTART"
STOP = "AFTER_CHECKPOINT_STOP"
CONTINUE = "AFTER_CHECKPOINT_CONTINUE"


@dataclass
class Order:
    """A checkpoint that is to be made: asked for by a directive, or the process' own."""

    checkpoint_id: str = ""
    reason: str = "CHECKPOINT_REASON_PERIODIC"
    after: str = CONTINUE
    failure: str = "FAILURE_KIND_UNSPECIFIED"
    deadline: Optional[float] = None  # seconds since 1970
    traceparent: str = ""
    directive: str = ""
    at: Optional[int] = None  # the step after which it is carried out; None: the next boundary

    def due(self, step: int) -> bool:
        """Whether it is to be carried out after that step."""
        return self.at is None or step >= self.at

    @property
    def ends(self) -> bool:
        """Whether the process exits once it has saved."""
        return self.after in (RESTART, STOP)

    @property
    def stops(self) -> bool:
        """Whether the process exits for good once it has saved."""
        return self.after == STOP


def of(directive: Dict[str, Any]) -> Optional[Order]:
    """The order that a directive gives; None for a verb that is none."""
    verb = directive.get("checkpoint")
    if not verb:
        return None
    deadline = directive.get("deadline")
    return Order(
        checkpoint_id=verb.get("checkpointId", ""),
        reason=verb.get("reason", "CHECKPOINT_REASON_UNSPECIFIED"),
        after=verb.get("after", CONTINUE),
        failure=verb.get("failure", "FAILURE_KIND_UNSPECIFIED"),
        deadline=_wire.parse_timestamp(deadline) if deadline else None,
        traceparent=directive.get("traceparent", ""),
        directive=directive.get("directiveId", ""),
    )


class Mailbox:
    """Orders between the watch and the training loop: bounded, refuses when full."""

    def __init__(self) -> None:
        self._orders: Deque[Order] = deque()
        self._seen: Deque[str] = deque(maxlen=REMEMBERED)
        self._changed = threading.Condition()

    def put(self, order: Order) -> Optional[bool]:
        """Takes an order: True, False when there is no room, None when it was seen before."""
        with self._changed:
            if order.directive and order.directive in self._seen:
                return None
            if len(self._orders) >= MAX_ORDERS:
                return False
            self._seen.append(order.directive)
            self._orders.append(order)
            self._changed.notify_all()
            return True

    def waiting(self, step: int) -> bool:
        """Whether an order is due; without a lock."""
        return bool(self._orders) and any(o.due(step) for o in list(self._orders))

    def ending(self, step: int) -> bool:
        """Whether an order is due after which the process exits."""
        return bool(self._orders) and any(o.ends and o.due(step) for o in list(self._orders))

    def take(self, fits: Callable[[Order], bool] = lambda order: True) -> Optional[Order]:
        """Removes the oldest order that fits."""
        with self._changed:
            return self._take(fits)

    def _take(self, fits: Callable[[Order], bool]) -> Optional[Order]:
        for order in self._orders:
            if fits(order):
                self._orders.remove(order)
                return order
        return None

    def expired(self, now: float) -> List[Order]:
        """Removes the orders past their deadlines."""
        with self._changed:
            late = [o for o in self._orders if o.deadline is not None and o.deadline < now]
            for order in late:
                self._orders.remove(order)
            return late

    def wait(self, fits: Callable[[Order], bool], seconds: float) -> Optional[Order]:
        """Waits for an order that fits."""
        end = time.monotonic() + seconds
        with self._changed:
            while True:
                order = self._take(fits)
                rest = end - time.monotonic()
                if order is not None or rest <= 0:
                    return order
                self._changed.wait(rest)
