"""How a run's process ends: exceptions, signals, exit codes, and the word to a supervisor."""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import traceback
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any, Dict, Optional, Type

from . import _failure, _wire

if TYPE_CHECKING:
    from ._run import Run

log = logging.getLogger("vigil")

# A process that was told to save and be restarted exits so (EX_TEMPFAIL).
RESTART_EXIT_CODE = 75

MAX_MESSAGE = 4 << 10
MAX_TRACEBACK = 16 << 10


class Interrupted(SystemExit):
    """Training ends before its last step because it was to; the process exits with 75."""

    def __init__(self, explanation: str, failure: str = _failure.UNSPECIFIED) -> None:
        super().__init__(RESTART_EXIT_CODE)
        self.explanation = explanation
        self.vigil_failure = failure

    def __str__(self) -> str:
        return self.explanation


def write_exit(path: str, failure: str, explanation: str, checkpoint_id: str, stop: bool) -> None:
    """Tells the supervisor why the process exits; without one it does nothing."""
    if not path:
        return
    report = {"failure": failure, "explanation": explanation, "checkpoint_id": checkpoint_id, "stop": stop}
    try:
        with open(path + ".new", "w", encoding="utf-8") as f:
            json.dump(report, f)
            f.flush()
            os.fsync(f.fileno())
        os.replace(path + ".new", path)
    except OSError as e:
        log.warning("vigil: the supervisor cannot be told why the process exits: %s", e)


def write_step(exit_file: str, text: str) -> None:
    """Leaves the last step, and what else is known of progress, where a supervisor finds it: that is how it tells
    failing again from getting on."""
    if not text:
        return
    try:
        with open(exit_file + ".step.new", "w", encoding="ascii") as f:
            f.write(text)
        os.replace(exit_file + ".step.new", exit_file + ".step")
    except OSError:
        pass


def exception_event(error: BaseException, tb: Optional[TracebackType], step: int) -> Dict[str, Any]:
    """An exception that the training program did not handle, as an event."""
    text = "".join(traceback.format_exception(type(error), error, tb))
    return {"exception": {
        "step": str(step), "type": _failure.type_name(type(error)), "message": _wire.cut(str(error), MAX_MESSAGE),
        "traceback": _wire.cut(text, MAX_TRACEBACK, keep_end=True), "failure": _failure.kind(error),
    }}


class Hooks:
    """Puts itself where Python tells of exceptions, exits and signals, and hands
    everything on to who was there before."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._excepthook = sys.excepthook
        self._threadhook = threading.excepthook
        self._exit = sys.exit
        self._signals: Dict[int, Any] = {}
        self.code: Optional[int] = None  # given to sys.exit

    def install(self, signals: bool) -> None:
        """Called once, from the thread that starts the run."""
        sys.excepthook = self._on_exception
        sys.exit = self._on_exit  # type: ignore[assignment]
        if not signals or threading.current_thread() is not threading.main_thread():
            return
        for number in (getattr(signal, n, None) for n in ("SIGTERM", "SIGUSR1")):
            if number is not None:
                self._signals[number] = signal.getsignal(number)
                signal.signal(number, self._on_signal)

    def remove(self) -> None:
        """Gives back what nobody else has taken meanwhile."""
        if sys.excepthook == self._on_exception:
            sys.excepthook = self._excepthook
        if sys.exit == self._on_exit:
            sys.exit = self._exit
        if threading.current_thread() is threading.main_thread():
            for number, before in self._signals.items():
                if signal.getsignal(number) == self._on_signal and before is not None:
                    signal.signal(number, before)
        self._signals = {}

    def _on_exception(self, cls: Type[BaseException], error: BaseException, tb: Optional[TracebackType]) -> None:
        self._run._failed(error, tb)
        self._excepthook(cls, error, tb)

    def _on_exit(self, code: Any = None) -> None:
        self.code = code if isinstance(code, int) else (0 if code is None else 1)
        self._exit(code)

    def _on_signal(self, number: int, frame: Optional[FrameType]) -> None:
        name = signal.Signals(number).name
        before = self._signals.get(number)
        if self._run._told_by_signal(name):
            if callable(before):
                before(number, frame)
            return
        # Nobody asks the run whether to stop: what the signal does without
        # Vigil, it does with it.
        if callable(before):
            before(number, frame)
        elif before != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
