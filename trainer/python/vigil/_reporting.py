"""What a run reports, and what it knows of its steps for that."""

from __future__ import annotations

import logging
import os
import time
from contextlib import contextmanager
from typing import Any, Dict, Iterator, Mapping, Optional

from . import _hang, _wire
from ._link import Link
from ._queue import Queue
from ._saving import Resume
from ._settings import Settings
from ._step import Step

log = logging.getLogger("vigil")

MAX_TEXT = 1 << 10

_PHASES = {
    "evaluation": "EVALUATION", "checkpoint": "CHECKPOINT", "setup": "SETUP", "data": "DATA_CHANGE", "loss": "LOSS_CHANGE",
    "learning_rate": "LEARNING_RATE_RESTART", "world_size": "WORLD_SIZE_CHANGE", "sequence_length": "SEQUENCE_LENGTH_CHANGE",
}


class Reporting:
    """What every run is and reports; Run is what a script has of it."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = Queue(settings.queue_steps)
        self._link: Optional[Link] = None
        self._off = True  # nothing is reported
        self._heart = _hang.Heartbeat(self, settings.hang_seconds)
        self._pid = os.getpid()
        self._pending: Optional[Dict[str, Any]] = None  # measures of a step that was not logged yet
        self._open: Optional[Step] = None
        self._resume: Optional[Resume] = None  # loaded, and not reported yet
        self._resumed_from = ""
        self.profiler: Any = None  # what is told of a directive to profile; vigil.watch sets it
        self.pausing = 0  # phases that are open: no step is missed
        self.last_step = 0  # the last step that was reported or resumed from
        self.steps_done = 0  # steps that this process finished
        self._step_ended = 0.0  # perf_counter at the end of the last timed step
        self.data_seconds = 0.0  # spent waiting for data since the last step

    # What it is.

    @property
    def id(self) -> str:
        """The run's id: the join key of everything."""
        return self._settings.run_id

    @property
    def rank(self) -> int:
        """This process among those of the attempt, from 0."""
        return self._settings.rank

    @property
    def world_size(self) -> int:
        """How many processes the attempt has."""
        return self._settings.world_size

    @property
    def attempt(self) -> int:
        """The run's launch, from 0."""
        return self._settings.attempt

    @property
    def connected(self) -> bool:
        """Whether the agent answers at the moment."""
        return self._link is not None and self._link.session != ""

    @property
    def supervised(self) -> bool:
        """Whether a supervisor reads why the process exits, and restarts it."""
        return self._settings.exit_file != ""

    # Steps.

    def log(self, step: Optional[int] = None, values: Optional[Mapping[str, Any]] = None, **metrics: Any) -> None:
        """Reports what a step measured, in microseconds.

        Known names (loss, grad_norm, lr, samples, tokens, tasks={...}, ...) get
        their places; any other number is kept under its own name. A tensor on a
        device is fetched in the background, without a synchronisation here.
        Steps count from 1; without a number it is the next one.
        """
        try:
            if values:
                metrics.update(values)
            for name, value in metrics.items():
                cls = value.__class__
                if cls is not float and cls is not int:
                    metrics[name] = _keep(value)
            if self._open is not None:
                self._open.add(step, metrics)
                return
            self._put(self.last_step + 1 if step is None else int(step), metrics)
        except Exception:  # noqa: BLE001
            log.exception("vigil: a step could not be reported")

    def _put(self, step: int, metrics: Dict[str, Any]) -> None:
        if self._pending is not None:
            metrics, self._pending = {**self._pending, **metrics}, None
        self.last_step = step
        self.steps_done += 1
        if self._off:
            return
        if self._resume is not None:
            self._resumed(self._resume)
        self._queue.put_step(time.time_ns(), step, metrics)
        loss = metrics.get("loss")
        if loss.__class__ is float and loss - loss != 0.0:
            self._wake()

    def step(self, step: Optional[int] = None, **measures: Any) -> Step:
        """Times a step, and the wait for data before it, and reports both with
        what is logged inside: ``with run.step(samples=64) as step: ... step.log(loss=x)``."""
        return Step(self, step, measures)

    def _measured(self, measures: Dict[str, Any]) -> None:
        """Takes what a hook measured of the step that finished. The script's own
        log of that step joins it; without one it is reported by itself."""
        if self._pending is not None and self._open is None:
            self._put(self.last_step + 1, {})
        self._pending = measures
        self.steps_done += 1

    # Events.

    def evaluated(self, step: Optional[int] = None, values: Optional[Mapping[str, Any]] = None, **metrics: Any) -> None:
        """Reports an evaluation on held-out data: its loss, tasks={...}, and any other number."""
        try:
            metrics.update(values or {})
            body: Dict[str, Any] = {"step": str(self.last_step if step is None else int(step))}
            for name, value in metrics.items():
                number = None if isinstance(value, Mapping) else _wire.number(value)
                if name in ("loss", "eval_loss", "val_loss") and number is not None:
                    body["loss"] = number
                elif name in ("tasks", "task_losses") and isinstance(value, Mapping):
                    body["taskLosses"] = {str(k): _wire.number(v) for k, v in value.items()}
                elif number is not None:
                    body.setdefault("metrics", {})[str(name)] = number
            self._event({"evaluation": body})
        except Exception:  # noqa: BLE001
            log.exception("vigil: an evaluation could not be reported")

    @contextmanager
    def phase(self, kind: str) -> Iterator[None]:
        """Says that training pauses on purpose: "evaluation", "checkpoint" or "setup"."""
        self._phase(kind, "BEGIN")
        self.pausing += 1
        try:
            yield
        finally:
            self.pausing -= 1
            self._phase(kind, "END")

    def change(self, kind: str) -> None:
        """Says that something is another from here on by intent: "data", "loss",
        "learning_rate", "world_size" or "sequence_length"."""
        self._phase(kind, "BEGIN")

    def _phase(self, kind: str, edge: str) -> None:
        name = _PHASES.get(kind)
        if name is None:
            log.warning("vigil: there is no phase %r; there are %s", kind, ", ".join(_PHASES))
            return
        self._event({"phase": {"kind": "PHASE_KIND_" + name, "edge": "PHASE_EDGE_" + edge, "step": str(max(0, self.last_step))}})

    def dump_stacks(self, reason: str) -> None:
        """Reports where all threads stand."""
        text = _hang.stacks()
        log.warning("vigil: %s; the stacks of all threads:\n%s", reason, text)
        self._event({"stackDump": {"lastStep": str(max(0, self.last_step)), "reason": _wire.cut(reason, MAX_TEXT), "text": text}})

    def _resumed(self, found: Resume) -> None:
        self._resumed_from = found.checkpoint_id
        if self._resume is found:
            self._resume = None
            self.last_step = found.step
            self._event({"resumed": {"checkpointId": found.checkpoint_id, "step": str(found.step)}})

    def _note(self, text: str) -> None:
        log.warning("vigil: %s", text)

    def _event(self, event: Dict[str, Any]) -> None:
        """Reports an event, at once."""
        if self._off:
            return
        self._queue.put_event(time.time_ns(), event)
        self._wake()

    def _wake(self) -> None:
        if self._link is not None:
            self._link.wake()


def _keep(value: Any) -> Any:
    """What of a measure is kept until it is sent: a number where that costs no
    synchronisation; of a tensor on a device a copy, which later changes spare."""
    if isinstance(value, Mapping):
        return {k: _keep(v) for k, v in value.items()}
    detach = getattr(value, "detach", None)
    if detach is None:
        return _wire.number(value)
    tensor = detach()
    if tensor.device.type in ("cpu", "meta"):
        return _wire.number(tensor)
    return tensor.clone()
