"""A run, as its training script has it."""

from __future__ import annotations

import logging
import os
import threading
import time
from contextlib import contextmanager
from types import TracebackType
from typing import Any, Dict, Iterator, List, Mapping, Optional, Type

from . import _agree, _ends, _failure, _hang, _orders, _recovery, _report, _saving, _scratch, _wire
from ._ends import Interrupted
from ._link import Link
from ._orders import Order
from ._queue import Queue
from ._saving import Resume, Writer
from ._settings import Settings
from ._step import Step

log = logging.getLogger("vigil")

CLOSE_SECONDS = 3.0
HEARTBEAT_SECONDS = 0.25
MAX_TEXT = 1 << 10

_PHASES = {
    "evaluation": "EVALUATION", "checkpoint": "CHECKPOINT", "setup": "SETUP", "data": "DATA_CHANGE", "loss": "LOSS_CHANGE",
    "learning_rate": "LEARNING_RATE_RESTART", "world_size": "WORLD_SIZE_CHANGE", "sequence_length": "SEQUENCE_LENGTH_CHANGE",
}


class Run:
    """One process of a training run. vigil.init makes it.

    No method blocks the training loop but checkpoint, resume, non_finite and
    finish, which are bounded; none raises into it but exit, and what a policy
    that was asked for raises. Without an agent all of them do nothing.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._queue = Queue(settings.queue_steps)
        self._orders = _orders.Mailbox()
        self._link: Optional[Link] = None
        if settings.socket:
            self._link = Link(settings, self._queue, self._directed)
        self._hooks = _ends.Hooks(self)
        self._heart = _hang.Heartbeat(self, settings.hang_seconds)
        self._pid = os.getpid()
        self._closed = threading.Event()
        self._off = self._link is None  # nothing is reported
        self._pending: Optional[Dict[str, Any]] = None  # measures of a step that was not logged yet
        self._open: Optional[Step] = None
        self._resume: Optional[Resume] = None  # loaded, and not reported yet
        self._ending: Optional[Order] = None  # carried out, and the process is to exit
        self._ending_id = ""
        self._asked: Optional[str] = None  # a signal that asks to save
        self._told_stop: Optional[str] = None  # a signal that asks to stop
        self._polled = False  # the loop asks whether to save or stop
        self._error: Optional[BaseException] = None
        self._ended = False  # RunEnded was said
        self._every = 0  # steps between the run's own checkpoints
        self._saved_step = 0
        self._sizes = _scratch.Sizes()  # of the last checkpoint's files
        self.recovery = _recovery.read(os.environ)  # what this attempt is asked to do otherwise
        self.saver: Optional[Writer] = None  # how the whole state is saved; vigil.watch sets it
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

    # Reports.

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

    def exception(self, error: BaseException) -> None:
        """Reports an exception that ends training; those that nobody catches are
        reported without it."""
        self._failed(error, error.__traceback__)

    def dump_stacks(self, reason: str) -> None:
        """Reports where all threads stand."""
        text = _hang.stacks()
        log.warning("vigil: %s; the stacks of all threads:\n%s", reason, text)
        self._event({"stackDump": {"lastStep": str(max(0, self.last_step)), "reason": _wire.cut(reason, MAX_TEXT), "text": text}})

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

    def checkpoint(self, write: Optional[Writer] = None, step: Optional[int] = None, **metadata: Any) -> Optional[str]:
        """Saves: write puts files into the directory that it is given, and from
        the return on the agent keeps them, whatever becomes of this process.

        It gives the checkpoint's id, None when nothing was saved, which is said
        and no reason to stop. Without write the run's saver does it. Metadata:
        data_position (samples consumed), nonfinite_parameters, format.
        """
        write = write or self.saver
        order = self._orders.take(lambda o: o.due(self.last_step)) or self._own()
        if write is None:
            log.warning("vigil: nothing was saved: give checkpoint a function that writes")
            self._order_failed(order, order.checkpoint_id, "the training script does not say how to save")
            return None
        metadata["step"] = self.last_step if step is None else int(step)
        return self._carry_out(order, write, metadata)

    def _carry_out(self, order: Order, write: Writer, metadata: Dict[str, Any]) -> Optional[str]:
        with self.phase("checkpoint"):
            saved = _saving.save(self, order, write, metadata)
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

    def _resumed(self, found: Resume) -> None:
        self._resumed_from = found.checkpoint_id
        if self._resume is found:
            self._resume = None
            self.last_step = found.step
            self._event({"resumed": {"checkpointId": found.checkpoint_id, "step": str(found.step)}})

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

    _exit_said = False

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

    # Life.

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

    _resumed_from = ""

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
