"""A profile of the next steps, when a directive or the script asks for it."""

from __future__ import annotations

import logging
import os
import tempfile
import threading
import time
from typing import TYPE_CHECKING, Any, Dict, Mapping, Optional

from . import _wire

if TYPE_CHECKING:
    from ._run import Run

log = logging.getLogger("vigil")

MOST_STEPS = 100
FORMAT = "torch.profiler trace"
WRITE_SECONDS = 5.0  # that the end of a run waits for a trace


class Profiler:
    """Records torch.profiler for some steps. It begins and ends at step
    boundaries, on the training thread; the trace is written in the background."""

    def __init__(self, run: "Run") -> None:
        self._run = run
        self._left = 0
        self._profile: Any = None
        self._order: Dict[str, Any] = {}
        self._seen = ""  # the directive that was carried out last
        self._first = 0
        self._writer: Optional[threading.Thread] = None
        self.busy = False
        self.path = ""  # the last trace

    def directed(self, order: Mapping[str, Any], directive: Mapping[str, Any]) -> None:
        """Carries out a directive; called on the thread that reads them."""
        if directive.get("directiveId") and directive["directiveId"] == self._seen:
            return
        self._seen = directive.get("directiveId", "")
        wanted = dict(order, traceparent=directive.get("traceparent", ""))
        if directive.get("deadline"):
            wanted["until"] = _wire.parse_timestamp(directive["deadline"])
        if self.busy:
            self._tell(wanted, "FAILED", error="another profile of the process is being recorded")
            return
        self._tell(wanted, "DIRECTED")
        self.begin(wanted)

    def begin(self, order: Mapping[str, Any]) -> None:
        """Asks for a profile of the steps that follow; called from any thread."""
        if not self.busy:
            self._order = dict(order)
            self._left = max(1, min(MOST_STEPS, int(order.get("steps", 5))))
            self.busy = True

    def stepped(self) -> None:
        """Takes in that a step was made."""
        try:
            if time.time() > self._order.get("until", float("inf")):
                self._end("the steps were not made in time")
            elif self._profile is None:
                import torch

                self._profile = torch.profiler.profile(record_shapes=True)
                self._profile.__enter__()
                self._first = self._run.last_step + 1 + (self._run._pending is not None)
            else:
                self._left -= 1
                if self._left <= 0:
                    self._end("")
        except Exception as e:  # noqa: BLE001
            log.exception("vigil: no profile")
            self._profile = None
            self._end("%s: %s" % (type(e).__name__, e))

    def _end(self, error: str) -> None:
        order, profile, self._profile, self.busy = self._order, self._profile, None, False
        last = self._first + max(1, min(MOST_STEPS, int(order.get("steps", 5)))) - 1
        if profile is not None:
            profile.__exit__(None, None, None)
        if error or profile is None:
            self._tell(order, "FAILED", error=error or "it was not begun")
            return
        self._writer = threading.Thread(target=self._write, args=(profile, order, self._first, last), name="vigil-profile", daemon=True)
        self._writer.start()

    def close(self) -> None:
        """Gives up what is being recorded, and lets a trace be written: the run ends."""
        if self.busy:
            try:
                self._end("the process ended before the steps were made")
            except Exception:  # noqa: BLE001
                log.exception("vigil: the profile could not be ended")
        if self._writer is not None:
            self._writer.join(WRITE_SECONDS)

    def _write(self, profile: Any, order: Mapping[str, Any], first: int, last: int) -> None:
        try:
            path = self._export(profile, order, last)
            self.path = path
            self._run._note("the profile of steps %d to %d is in %s" % (first, last, path))
            self._tell(order, "RECORDED", firstStep=str(first), lastStep=str(last), path=path,
                       sizeBytes=str(os.path.getsize(path)), format=FORMAT)
        except Exception as e:  # noqa: BLE001
            log.exception("vigil: the profile could not be written")
            self._tell(order, "FAILED", error="%s: %s" % (type(e).__name__, e))

    def _export(self, profile: Any, order: Mapping[str, Any], last: int) -> str:
        """Writes the trace where the agent keeps them or, where this process may
        not write there, below VIGIL_PROFILE_DIR or the temporary directory."""
        own = os.environ.get("VIGIL_PROFILE_DIR") or os.path.join(tempfile.gettempdir(), "vigil-profiles")
        name = os.path.basename(order.get("profileId") or "%s-step%d" % (self._run.id, last))
        for place in filter(None, (order.get("directory"), own)):
            path = os.path.join(place, "%s-rank-%05d.json" % (name, self._run.rank))
            try:
                os.makedirs(place, exist_ok=True)
                with open(path, "a"):
                    pass
            except OSError as e:
                if place == own:
                    raise
                log.warning("vigil: %s takes no profile: %s", place, e)
                continue
            profile.export_chrome_trace(path)
            return path
        raise OSError("no place takes the profile")

    def _tell(self, order: Mapping[str, Any], state: str, **more: Any) -> None:
        if not order.get("profileId"):
            return  # the script asked, not a directive
        if "error" in more:
            more["error"] = _wire.cut(more["error"], 1 << 10)
        event: Dict[str, Any] = {"profile": {"profileId": order["profileId"], "state": "PROFILE_STATE_" + state, **more}}
        if order.get("traceparent"):
            event["traceparent"] = order["traceparent"]
        self._run._event(event)
