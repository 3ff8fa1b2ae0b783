"""What waits to be reported: bounded, never blocking, with counted drops."""

from __future__ import annotations

import itertools
from collections import deque
from typing import Any, Deque, Dict, List, NamedTuple, Optional

MAX_EVENTS = 256


class Item(NamedTuple):
    """One thing to report: measures of a step, or an event that is built already."""

    order: int  # when it was put, among all items
    at: int  # nanoseconds since 1970
    step: int
    measures: Optional[Dict[str, Any]]  # of a step; None for an event
    event: Optional[Dict[str, Any]]


class Queue:
    """Items in order. Steps and events have their own room, so that a flood of
    steps never drops an event; either drops its oldest when full.

    It has no lock: a deque's append and popleft are atomic, and a signal handler
    may report while the thread that it interrupts does. Drops are known from
    the gaps in the items' numbers.
    """

    def __init__(self, steps: int) -> None:
        self._steps: Deque[Item] = deque(maxlen=steps)
        self._events: Deque[Item] = deque(maxlen=MAX_EVENTS)
        self._next = itertools.count()
        self._taken = 0  # items that were taken, by the one thread that takes
        self._highest = -1  # greatest number among these
        self._lost = 0  # items that were taken and could not be sent

    def put_step(self, at: int, step: int, measures: Dict[str, Any]) -> None:
        """Adds the measures of a step."""
        self._steps.append(Item(next(self._next), at, step, measures, None))

    def put_event(self, at: int, event: Dict[str, Any]) -> None:
        """Adds an event."""
        self._events.append(Item(next(self._next), at, 0, None, event))

    def take(self, most: int) -> List[Item]:
        """Removes the oldest items, at most so many."""
        found: List[Item] = []
        while len(found) < most:
            item = self._oldest()
            if item is None:
                break
            self._taken += 1
            self._highest = max(self._highest, item.order)
            found.append(item)
        return found

    def _oldest(self) -> Optional[Item]:
        while True:
            try:
                if not self._events:
                    return self._steps.popleft()
                if not self._steps:
                    return self._events.popleft()
                first = self._steps if self._steps[0].order < self._events[0].order else self._events
                return first.popleft()
            except IndexError:  # a full room dropped its last item just now
                if not self._steps and not self._events:
                    return None

    def __len__(self) -> int:
        return len(self._steps) + len(self._events)

    def lose(self, items: int) -> None:
        """Counts items that were taken and could not be reported."""
        self._lost += items

    def drops(self) -> int:
        """Items that were dropped, as far as the taken ones show."""
        return max(0, self._highest + 1 - self._taken) + self._lost
