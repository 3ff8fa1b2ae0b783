"""How a run saves and resumes, and how it carries out what it is told."""

from __future__ import annotations

import logging
import os
import time
from typing import Any, Dict, List, Optional

from . import _agree, _failure, _orders, _recovery, _saving, _scratch, _wire
from ._link import Link
from ._orders import Order
from ._reporting import MAX_TEXT, Reporting
from ._saving import Resume, Writer
from ._settings import Settings

log = logging.getLogger("vigil")


class Obeying(Reporting):
    """A run that also takes orders; Run is what a script has of it."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings)
        self._orders = _orders.Mailbox()
        if settings.socket:
            self._link, self._off = Link(settings, self._queue, self._directed), False
        self._ending: Optional[Order] = None  # carried out, and the process is to exit
        self._ending_id = ""
        self._asked: Optional[str] = None  # a signal that asks to save
        self._told_stop: Optional[str] = None  # a signal that asks to stop
        self._polled = False  # the loop asks whether to save or stop
        self._every = 0  # steps between the run's own checkpoints
        self._saved_step = 0
        self._estimated = False  # a checkpoint was begun: how large the next will be is not estimated
        self._sizes = _scratch.Sizes()  # of the last checkpoint's files
        self.recovery = _recovery.read(os.environ)  # what this attempt is asked to do otherwise
        self.saver: Optional[Writer] = None  # how the whole state is saved; vigil.watch sets it

    # Saving and resuming.

    @property
    def should_checkpoint(self) -> bool:
        """Whether to save now: somebody asked for it, or checkpoint_every steps
        are over. Look after every step; checkpoint carries it out."""
        self._polled = True
        if self._orders.waiting(self.last_step):
            for order in self._orders.expired(time.time()):
                self._order_failed(order, order.checkpoint_id, "its deadline passed before a step boundary came")
            if self._orders.waiting(self.last_step):
                return True
        if self._asked is not None or (self._told_stop is not None and self._ending is None):
            return self._link is not None
        return self._every > 0 and self.last_step - self._saved_step >= self._every and self.connected

    @property
    def should_stop(self) -> bool:
        """Whether training is to end now; call exit for it."""
        self._polled = True
        return self._ending is not None or self._told_stop is not None or self._orders.ending(self.last_step)

    def checkpoint(self, write: Optional[Writer] = None, step: Optional[int] = None, size_bytes: int = 0,
                   **metadata: Any) -> Optional[str]:
        """Saves: write puts files into the directory that it is given, and from
        the return on the agent keeps them, whatever becomes of this process.

        It gives the checkpoint's id, None when nothing was saved, which is said
        and no reason to stop. Without write the run's saver does it. Metadata:
        data_position (samples consumed), nonfinite_parameters, format.

        size_bytes is about how much write will write. The agent knows it from the
        second time on; told the first time, it takes that into memory, too.
        """
        write = write or self.saver
        order = self._orders.take(lambda o: o.due(self.last_step)) or self._own()
        if write is None:
            log.warning("vigil: nothing was saved: give checkpoint a function that writes")
            self._order_failed(order, order.checkpoint_id, "the training script does not say how to save")
            return None
        metadata["step"] = self.last_step if step is None else int(step)
        return self._carry_out(order, write, metadata, size_bytes)

    def _carry_out(self, order: Order, write: Writer, metadata: Dict[str, Any], size_bytes: int = 0) -> Optional[str]:
        with self.phase("checkpoint"):
            saved = _saving.save(self, order, write, metadata, size_bytes)
        self._asked = None
        self._saved_step = self.last_step
        if order.ends:
            self._ending, self._ending_id = order, saved or ""
        return saved

    def _own(self) -> Order:
        """The order of a process that saves by itself."""
        if self._told_stop is not None:
            return Order(reason="CHECKPOINT_REASON_PREEMPTION", after=_orders.STOP)
        if self._asked is not None:
            return Order(reason="CHECKPOINT_REASON_PREEMPTION")
        return Order()

    def resume(self, timeout: Optional[float] = None) -> Optional[Resume]:
        """The newest good checkpoint to go on from, or None to begin from
        nothing. While an agent that should be there does not answer it waits:
        3 s in a first attempt, 2 min in a later one, which would throw away what
        was saved. It raises CheckpointRefused where there is one and the run's
        configuration, or its number of ranks, refuses it."""
        try:
            found = _saving.resume(self, timeout)
        except _recovery.CheckpointRefused:
            raise
        except Exception:  # noqa: BLE001
            log.exception("vigil: the checkpoint to go on from is not known")
            return None
        if found is not None:
            self._resume = found
            self.last_step = self._saved_step = found.step
        return found

    def answer_recovery(self, honoured: List[str], refused: List[str]) -> None:
        """Says which of the changes that recovery asks for are made, each as a
        person reads it, and which cannot be; vigil.watch does."""
        if self.recovery.changes:
            self._event({"recoveryAnswer": {"honoured": honoured, "refused": refused}})
            _recovery.write_answer(self._settings.exit_file, honoured, refused)

    # Orders.

    def non_finite(self, step: int, tensor: str = "", quantity: str = "gradient", nan_count: int = 0, inf_count: int = 0,
                   size: int = 0, intact: bool = True) -> Order:
        """Says that a step was stopped because a value is not finite, and gives
        the order to carry out with the state that the last good step left. It
        waits for one as long as the agent asks for; when none comes the order is
        the process' own: save, and restart."""
        trace = "00-%s-%s-01" % (os.urandom(16).hex(), os.urandom(8).hex())
        self._event({"traceparent": trace, "nonFinite": {
            "step": str(step), "quantity": "QUANTITY_" + quantity.upper(), "tensor": _wire.cut(tensor, MAX_TEXT),
            "nanCount": str(nan_count), "infCount": str(inf_count), "tensorSize": str(size), "parametersIntact": intact,
        }})
        order = None
        if self._link is not None and self._link.met:
            order = self._orders.wait(lambda o: o.ends, self._link.hold)
        return order or Order(
            reason="CHECKPOINT_REASON_REFLEX", after=_orders.RESTART, failure=_failure.NONFINITE, traceparent=trace)

    def _told_by_signal(self, name: str) -> bool:
        """Takes a signal; False when the loop would not act on it, or has been
        told to stop before. It runs in a signal handler: it takes no lock."""
        if not self._polled or (name == "SIGTERM" and self._told_stop is not None):
            return False
        if name == "SIGTERM":
            self._told_stop = name
            if not self._off:
                self._queue.put_event(time.time_ns(), {"preemption": {"source": name}})
        else:
            self._asked = name
        return True

    def _directed(self, directive: Dict[str, Any]) -> None:
        """Takes a directive, on the thread that reads them."""
        if directive.get("profile"):
            self._profiled(directive)
            return
        order = _orders.of(directive)
        if order is None:
            return
        try:
            if self.world_size > 1:
                order.at = _agree.on_step(order.checkpoint_id, self.last_step, self._heart.usual)
        except Exception as e:  # noqa: BLE001
            log.warning("vigil: the ranks could not agree on a step to save: %s", e)
        taken = self._orders.put(order)
        if taken:
            self._progress(order, order.checkpoint_id, "DIRECTED", "")
        elif taken is False:
            self._order_failed(order, order.checkpoint_id, "too many orders wait for a step boundary")

    def _profiled(self, directive: Dict[str, Any]) -> None:
        if self.profiler is not None:
            self.profiler.directed(directive["profile"], directive)
            return
        self._event({"traceparent": directive.get("traceparent", ""), "profile": {
            "profileId": directive["profile"].get("profileId", ""), "state": "PROFILE_STATE_FAILED",
            "error": "the training script does not call vigil.watch, which records profiles",
        }})

    def _order_failed(self, order: Order, checkpoint_id: str, why: str) -> None:
        if checkpoint_id:  # else nobody knows of it yet
            self._progress(order, checkpoint_id, "FAILED", why)

    def _progress(self, order: Order, checkpoint_id: str, state: str, why: str) -> None:
        event: Dict[str, Any] = {"checkpoint": {
            "checkpointId": checkpoint_id, "state": "CHECKPOINT_STATE_" + state, "reason": order.reason, "failure": order.failure,
            "error": _wire.cut(why, MAX_TEXT),
        }}
        if order.traceparent:
            event["traceparent"] = order.traceparent
        self._event(event)
