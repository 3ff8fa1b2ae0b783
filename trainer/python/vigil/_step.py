"""One optimizer step, timed."""

from __future__ import annotations

import time
from types import TracebackType
from typing import TYPE_CHECKING, Any, Dict, Optional, Type

if TYPE_CHECKING:
    from ._reporting import Reporting


class Step:
    """Times what is inside and reports it at its end, unless that is an exception."""

    def __init__(self, run: "Reporting", number: Optional[int], measures: Dict[str, Any]) -> None:
        self._run = run
        self._measures = measures
        self._began = 0.0
        self.number = number

    def log(self, values: Optional[Dict[str, Any]] = None, **metrics: Any) -> None:
        """Adds what the step measured; as Run.log does."""
        self._run.log(None, values, **metrics)

    def add(self, number: Optional[int], measures: Dict[str, Any]) -> None:
        """Takes measures that are plain already."""
        if number is not None:
            self.number = int(number)
        self._measures.update(measures)

    def __enter__(self) -> "Step":
        self._began = time.perf_counter()
        self._run._open = self
        return self

    def __exit__(self, cls: Optional[Type[BaseException]], error: Optional[BaseException], tb: Optional[TracebackType]) -> None:
        run = self._run
        run._open = None
        if error is not None:
            return
        now = time.perf_counter()
        measures = self._measures
        inside = now - self._began
        before = self._began - run._step_ended if run._step_ended else 0.0
        data = max(before, run.data_seconds)
        run.data_seconds = 0.0
        measures.setdefault("step_seconds", inside + before)
        measures.setdefault("data_seconds", data)
        measures.setdefault("compute_seconds", max(0.0, inside + before - data))
        run._step_ended = now
        run.log(self.number, measures)
