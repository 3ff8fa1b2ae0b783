"""Checkpoints: what a run hands over to the agent, and what it goes on from."""

from __future__ import annotations

import logging
import os
import shutil
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Callable, Dict, List, Mapping, Optional

from . import _failure, _orders, _recovery, _scratch
from ._http import DEADLINE, PRECONDITION, UNAVAILABLE, AgentError

if TYPE_CHECKING:
    from ._obeying import Obeying

log = logging.getLogger("vigil")

# Puts regular files into an empty directory, best with create_file. What it returns is added to the
# checkpoint's metadata: step, data_position, nonfinite_parameters, format.
Writer = Callable[[str], Optional[Mapping[str, Any]]]

CALL_SECONDS = 30.0
RESOLVE_SECONDS = 900.0
PATIENCE = 1.0  # training does not stand still longer for an absent agent
FAILED_PATIENCE = 30.0  # after a failure there is no training to hold up
FIRST_RESUME_WAIT = 3.0  # a first attempt may begin from nothing
LATER_RESUME_WAIT = 120.0  # a later one would throw away what was saved


class Sized:
    """A writer that knows, before it writes, about how many bytes it will write;
    0 where it does not."""

    def __init__(self, write: Writer, size: Callable[[], int]) -> None:
        self._write = write
        self.size = size

    def __call__(self, place: str) -> Optional[Mapping[str, Any]]:
        return self._write(place)


@dataclass
class Resume(os.PathLike):  # type: ignore[type-arg]
    """A checkpoint to go on from; os.fspath gives its directory."""

    directory: str
    step: int
    checkpoint_id: str
    data_position: int = 0
    format: str = ""
    passed_over: List[str] = field(default_factory=list)
    _run: Optional["Obeying"] = field(default=None, repr=False, compare=False)

    def __fspath__(self) -> str:
        return self.directory

    def loaded(self) -> None:
        """Says that training goes on from it. The first report of a step says it, too."""
        if self._run is not None:
            self._run._resumed(self)


def resume(run: "Obeying", timeout: Optional[float]) -> Optional[Resume]:
    """Asks the agent for the checkpoint to go on from."""
    link, asked = run._link, run.recovery
    if link is None or asked.source == _recovery.FROM_NOTHING:
        return None
    if timeout is None:
        timeout = LATER_RESUME_WAIT if run.attempt > 0 else FIRST_RESUME_WAIT
    try:
        answer = link.call("ResolveResume", {"worldSize": run.world_size, **({"mode": asked.mode} if asked.mode else {})}, timeout, RESOLVE_SECONDS)
    except AgentError as e:
        if e.code == PRECONDITION:  # there are checkpoints, and they do not fit
            raise _recovery.CheckpointRefused(str(e)) from e
        log.warning("vigil: the checkpoint to go on from is not known; training begins from nothing (%s)", e)
        return None
    passed = ["%s: %s" % (p.get("checkpointId"), p.get("reason")) for p in answer.get("passedOver", [])]
    for text in passed:
        log.warning("vigil: a checkpoint is passed over: %s", text)
    if passed and not asked.fallback:
        raise _recovery.CheckpointRefused("the newest checkpoint is not fit to resume from, and no earlier one is wanted: %s" % passed[0])
    ref = answer.get("checkpoint")
    if not ref:
        return None
    meta = ref.get("metadata") or {}
    return Resume(
        directory=ref.get("directory", ""), step=int(meta.get("step", 0)), checkpoint_id=ref.get("checkpointId", ""),
        data_position=int(meta.get("dataPosition", 0)), format=meta.get("format", ""), passed_over=passed, _run=run)


def save(run: "Obeying", order: _orders.Order, write: Writer, metadata: Dict[str, Any], size_bytes: int = 0) -> Optional[str]:
    """Makes the checkpoint of an order and gives its id, None after saying that
    it could not. A save that fails is no reason to end training."""
    link = run._link
    if link is None:
        return None
    checkpoint_id, directory = order.checkpoint_id, ""
    patience = FAILED_PATIENCE if order.failure == _failure.NONFINITE else PATIENCE
    if not link.met:
        patience = min(patience, PATIENCE)
    if order.deadline is not None:
        patience = min(patience, max(0.0, order.deadline - time.time()))
    committing = False
    try:
        place = link.call("BeginCheckpoint", {
            "checkpointId": order.checkpoint_id, "reason": order.reason, "sizeBytes": str(_size(run, write, size_bytes)),
        }, patience, CALL_SECONDS)
        checkpoint_id, directory, run._estimated = place.get("checkpointId", ""), place.get("stagingDirectory", ""), True
        with _scratch.staging(directory, run._sizes):
            metadata.update(write(directory) or {})
        why = _recovery.too_large(directory, run.recovery.max_checkpoint_bytes)
        if why:
            raise ValueError(why)
        message = _message(run, metadata)
        committing = True
        link.call("CommitCheckpoint", {
            "checkpointId": checkpoint_id, "metadata": message, "traceparent": order.traceparent,
        }, patience, CALL_SECONDS)
    except Exception as e:  # noqa: BLE001 - whatever the writer raises
        log.error("vigil: nothing was saved at step %s: %s", metadata.get("step"), e, exc_info=not isinstance(e, AgentError))
        # Without an answer to the handing over the agent may well have taken it.
        unanswered = committing and isinstance(e, AgentError) and e.code in (UNAVAILABLE, DEADLINE)
        if not unanswered:
            if directory and not committing:
                shutil.rmtree(directory, ignore_errors=True)  # the room may be memory
            run._order_failed(order, checkpoint_id, str(e))
        return None
    log.info("vigil: saved step %s as %s", message["step"], checkpoint_id)
    return checkpoint_id


def _size(run: "Obeying", write: Writer, given: int) -> int:
    """About how many bytes will be written, 0 when nobody knows: the agent puts
    them into memory where they fit. Of a rank that has saved it knows better than
    an estimate; and one that was wrong, so that nothing was saved, is not made again."""
    if given > 0:
        return int(given)
    return max(0, write.size()) if isinstance(write, Sized) and not run._estimated else 0


def _message(run: "Obeying", metadata: Mapping[str, Any]) -> Dict[str, Any]:
    message: Dict[str, Any] = {
        "step": str(int(metadata.get("step", run.last_step))), "dataPosition": str(int(metadata.get("data_position", 0))),
        "worldSize": run.world_size, "rank": run.rank, "format": str(metadata.get("format", "")),
    }
    count = metadata.get("nonfinite_parameters")
    if count is not None:
        message["nonfiniteParameters"] = str(int(count))
    return message
