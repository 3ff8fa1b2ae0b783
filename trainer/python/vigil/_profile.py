"""A profile of the next steps, when a directive asks for it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
from typing import TYPE_CHECKING, Any, Mapping

if TYPE_CHECKING:
    from ._run import Run

log = logging.getLogger("vigil")

MOST_STEPS = 100


class Profiler:
    """Records torch.profiler for some steps. It begins and ends at step
    boundaries, on the training thread; the trace is written in the background."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._left = 0
        self._profile: Any = None
        self.busy = False
        self.path = ""  # the last trace

    def directed(self, directive: Mapping[str, Any]) -> None:
        """Asks for a profile of the steps that follow; called from any thread."""
        if not self.busy:
            self._left = max(1, min(MOST_STEPS, int(directive.get("steps", 5))))
            self.busy = True

    def stepped(self) -> None:
        """Takes in that a step was made."""
        try:
            if self._profile is None:
                import torch

                self._profile = torch.profiler.profile(record_shapes=True)
                self._profile.__enter__()
                return
            self._left -= 1
            if self._left > 0:
                return
            profile, self._profile, self.busy = self._profile, None, False
            profile.__exit__(None, None, None)
            threading.Thread(target=self._write, args=(profile, self._run.last_step), name="vigil-profile", daemon=True).start()
        except Exception:  # noqa: BLE001
            log.exception("vigil: no profile")
            self._profile, self.busy = None, False

    def _write(self, profile: Any, step: int) -> None:
        place = os.environ.get("VIGIL_PROFILE_DIR") or os.path.join(tempfile.gettempdir(), "vigil-profiles")
        try:
            os.makedirs(place, exist_ok=True)
            path = os.path.join(place, "%s-rank%d-step%d.json" % (self._run.id, self._run.rank, step))
            profile.export_chrome_trace(path)
            self.path = path
            self._run._note("the profile of the steps before %d is in %s" % (step, path))
        except Exception:  # noqa: BLE001
            log.exception("vigil: the profile could not be written")
