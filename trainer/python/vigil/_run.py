"""A run, as its training script has it: its life and its end."""

from __future__ import annotations

import logging
import os
import threading
import time
from types import TracebackType
from typing import Optional, Type

from . import _ends, _failure, _report, _wire
from ._ends import Interrupted
from ._obeying import Obeying
from ._reporting import MAX_TEXT
from ._settings import Settings

log = logging.getLogger("vigil")

CLOSE_SECONDS = 3.0
HEARTBEAT_SECONDS = 0.25


class Run(Obeying):
    """One process of a training run. vigil.init makes it.

    No method blocks the training loop but checkpoint, resume, non_finite and
    finish, which are bounded; none raises into it but exit, and what a policy
    that was asked for raises. Without an agent all of them do nothing.
    """

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._hooks = _ends.Hooks(self)
        self._closed = threading.Event()
        self._error: Optional[BaseException] = None
        self._exit_said = False  # the supervisor knows why the process exits

    def _start(self, signals: bool) -> None:
        self._hooks.install(signals)
        threading.Thread(target=self._beat, name="vigil-heartbeat", daemon=True).start()
        if self._link is not None:
            self._link.start()
            self._link.tried.wait(self._settings.connect_seconds)

    def _beat(self) -> None:
        written = ""
        while not self._closed.wait(HEARTBEAT_SECONDS):
            if os.getpid() != self._pid:
                return
            try:
                if self.supervised and self._progress_text() != written:
                    written = self._progress_text()
                    _ends.write_step(self._settings.exit_file, written)
                self._heart.look(time.monotonic())
            except Exception:  # noqa: BLE001
                log.exception("vigil: the heartbeat broke")
                return

    def _progress_text(self) -> str:
        """What a supervisor finds of this process; empty while no step is known."""
        if not self.steps_done and not self._resumed_from:
            return ""
        gpu = _report.gpu_bytes()
        return "%d\nresumed %s\ngpu_bytes %d\n" % (self.last_step, self._resumed_from, gpu[0] if gpu else 0)

    def exception(self, error: BaseException) -> None:
        """Reports an exception that ends training; those that nobody catches are
        reported without it."""
        self._failed(error, error.__traceback__)

    def _failed(self, error: BaseException, tb: Optional[TracebackType]) -> None:
        """Takes an exception that ends training, once."""
        if self._error is not None or isinstance(error, (SystemExit, GeneratorExit)) or os.getpid() != self._pid:
            return
        self._error = error
        if isinstance(error, KeyboardInterrupt):
            return
        step = self.last_step + 1
        self._event(_ends.exception_event(error, tb, step))
        text = "step %d: %s: %s" % (step, _failure.type_name(type(error)), str(error).splitlines()[0] if str(error) else "")
        self._settings_exit(_failure.kind(error), _wire.cut(text, MAX_TEXT), False)

    def exit(self, explanation: str = "", failure: Optional[str] = None) -> None:
        """Ends the process as it was told to: saves first if that is still to be
        done and the run knows how, tells the supervisor, and raises Interrupted
        (a SystemExit with code 75)."""
        if self._ending is None and self.saver is not None and self.should_stop:
            self.checkpoint()
        order = self._ending or self._orders.take(lambda o: o.ends) or self._own()
        if failure is None:
            failure = _failure.PREEMPTED if order.reason == "CHECKPOINT_REASON_PREEMPTION" else order.failure
        self._ending = order
        self._settings_exit(failure, explanation or "step %d: told to save and end" % self.last_step, order.stops)
        raise Interrupted(explanation or "told to save and end", failure)

    def _settings_exit(self, failure: str, explanation: str, stop: bool) -> None:
        _ends.write_exit(self._settings.exit_file, failure, explanation, self._ending_id, stop)
        self._exit_said = True

    def finish(self, outcome: Optional[str] = None, parameters_sha256: str = "", explanation: str = "") -> None:
        """Ends the run: says how ("succeeded", "failed" or "stopped"), sends what
        waits, for three seconds at most, and closes. A run that nobody finishes
        is finished at the end of the process."""
        if self._closed.is_set() or os.getpid() != self._pid:
            return
        try:
            self._finish(outcome, parameters_sha256, explanation)
        except Exception:  # noqa: BLE001
            log.exception("vigil: the run could not be finished")

    def _finish(self, outcome: Optional[str], digest: str, explanation: str) -> None:
        if self._pending is not None:
            self._put(self.last_step + 1, {})
        if self.profiler is not None:
            self.profiler.close()
        order = self._orders.take()
        while order is not None:
            self._order_failed(order, order.checkpoint_id, "the process ended before it could save")
            order = self._orders.take()
        outcome = outcome or self._outcome()
        says = outcome is not None and (self.rank == 0 or outcome == "failed")
        if outcome is not None and says:
            self._event({"runEnded": {
                "outcome": "OUTCOME_" + outcome.upper(), "step": str(max(0, self.last_step)), "parametersSha256": digest,
                "explanation": _wire.cut(explanation or self._explanation(), MAX_TEXT),
            }})
        self._closed.set()
        flushed = self._flush()
        self._hooks.remove()
        if self.supervised:
            _ends.write_step(self._settings.exit_file, self._progress_text())
            if says and flushed and outcome == "succeeded" and not self._exit_said:
                self._settings_exit(_failure.UNSPECIFIED, "the run ended and the agent knows it", True)
        self._off = True

    def _outcome(self) -> Optional[str]:
        """How the run ended, told by how the process ends; None when that is for
        a supervisor to say, or for the attempt that follows."""
        if self._ending is not None or self._told_stop is not None:
            return "stopped" if not self.supervised and (self._ending is None or self._ending.stops) else None
        if self._error is not None or self._hooks.code:
            return None if self.supervised or "TORCHELASTIC_RUN_ID" in os.environ else "failed"
        return "succeeded"

    def _explanation(self) -> str:
        if self._error is not None:
            return "%s: %s" % (_failure.type_name(type(self._error)), self._error)
        if self._hooks.code:
            return "the process exits with %d" % self._hooks.code
        return ""

    def _flush(self) -> bool:
        link = self._link
        if link is None:
            return False
        link.closing = True
        link.wake()
        if not link.met:
            return False
        return link.flushed.wait(CLOSE_SECONDS)

    def _detach(self) -> None:
        """Makes it do nothing in a forked child, which is not the rank."""
        self._off = True
        self._closed.set()
        if self._link is not None:
            self._link.abandon()
            self._link = None
        self._hooks.remove()

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, cls: Optional[Type[BaseException]], error: Optional[BaseException], tb: Optional[TracebackType]) -> None:
        if error is not None:
            self._failed(error, tb)
            if isinstance(error, SystemExit) and not isinstance(error, Interrupted):
                self._hooks.code = error.code if isinstance(error.code, int) else 1
        self.finish()
