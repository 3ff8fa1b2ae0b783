"""The heartbeat: says that time passes and no step finishes, and shows where all
threads stand when that lasts too long."""

from __future__ import annotations

import os
import sys
import threading
import time
import traceback
from typing import TYPE_CHECKING, Dict, List, Optional

from . import _wire

if TYPE_CHECKING:
    from ._reporting import Reporting

TICK_STEPS = 10  # usual steps without one, before the first tick
TICK_LEAST = 10.0  # seconds
TICK_MOST = 60.0  # between ticks
HANG_STEPS = 60  # usual steps without one, before stacks are taken
HANG_LEAST = 60.0
FIRST_STEP = 10.0  # times as long before the first step: compilation, loading
DUMP_GROWTH = 4.0  # each further dump of the same hang waits so much longer
MAX_DUMP = 60 << 10

# What a stack in a collective operation has in it.
_COLLECTIVE = ("distributed_c10d", "torch/distributed/", "torch/nn/parallel/distributed", "horovod", "mpi4py", "deepspeed/comm")
_DATA = ("torch/utils/data/", "vigil/torch.py", "datasets/iterable", "webdataset")


class Heartbeat:
    """Looks at a run's progress a few times a second. It needs the interpreter's
    lock: a library that hangs while it holds that is told by the agent alone."""

    def __init__(self, run: "Reporting", hang_seconds: Optional[float]) -> None:
        self._run = run
        self._hang_seconds = hang_seconds
        self._main = threading.main_thread().ident or 0
        self._seen = -1  # count of steps
        self._since = time.monotonic()
        self.usual = 0.0  # seconds a step takes
        self._next_tick = 0.0
        self._next_dump = 0.0
        self._dumps = 0

    def look(self, now: float) -> None:
        """Takes in how far the run is and says what there is to be said."""
        count = self._run.steps_done
        if count != self._seen:
            steps = count - max(0, self._seen)
            if self._seen > 0 and steps > 0:
                each = (now - self._since) / steps
                self.usual = each if not self.usual else self.usual + (min(each, 2 * self.usual) - self.usual) / 8
            if self._dumps:
                self._run._note("steps finish again after %.0f s" % (now - self._since))
            self._seen, self._since, self._dumps = count, now, 0
            factor = 1.0 if self.usual else FIRST_STEP
            self._next_tick = factor * max(TICK_LEAST, TICK_STEPS * self.usual)
            self._next_dump = self._hang_seconds or factor * max(HANG_LEAST, HANG_STEPS * self.usual)
            return
        if self._run.pausing:
            self._since = now
            return
        quiet = now - self._since
        if quiet >= self._next_tick:
            self._next_tick = quiet + min(TICK_MOST, 0.5 * quiet)
            self._run._event({"tick": {"lastStep": str(max(0, self._run.last_step)), "activity": self.activity()}})
        if quiet >= self._next_dump:
            self._next_dump = DUMP_GROWTH * quiet
            self._dumps += 1
            self._run.dump_stacks("no step for %.0f s" % quiet)

    def activity(self) -> str:
        """What the training thread does, told by its stack."""
        frame = sys._current_frames().get(self._main)
        names: List[str] = []
        while frame is not None and len(names) < 64:
            names.append(frame.f_code.co_filename.replace(os.sep, "/"))
            frame = frame.f_back
        for name in names:  # the innermost counts
            if any(part in name for part in _COLLECTIVE):
                return "ACTIVITY_COLLECTIVE"
            if any(part in name for part in _DATA):
                return "ACTIVITY_DATA"
        return "ACTIVITY_COMPUTE"


def stacks() -> str:
    """The stacks of all threads of this process, the training thread first."""
    names: Dict[int, str] = {t.ident or 0: t.name for t in threading.enumerate()}
    main = threading.main_thread().ident
    frames = sys._current_frames()
    parts: List[str] = []
    for ident in sorted(frames, key=lambda i: (i != main, names.get(i, "").startswith("vigil-"), i)):
        name = names.get(ident, "thread")
        parts.append('Thread %d "%s":\n%s' % (ident, name, "".join(traceback.format_stack(frames[ident]))))
    return _wire.cut("\n".join(parts), MAX_DUMP)
