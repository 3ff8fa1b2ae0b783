"""Hooks into a PyTorch model and its optimizer."""

from __future__ import annotations

import copy
import logging
import math
import time
import types
from typing import Any, Callable, Dict, List, Optional, Sequence

import torch

from . import _blame, _clip, _estimate, _failure, _random, current, init
from . import torch as _checkpoints
from ._loader import Loader
from ._run import Run
from ._saving import Sized

log = logging.getLogger("vigil")

POLICIES = ("stop", "skip", "rollback")


def watch(model: Any, optimizer: Any = None, **options: Any) -> "Watch":
    """Makes a Watch; it never raises. See there."""
    run = options.pop("run", None) or current() or init()
    try:
        return Watch(run, model, optimizer, **options)
    except Exception:  # noqa: BLE001
        log.exception("vigil: the model is not watched")
        return Watch(run, model, None, install=False)


class Watch:
    """Looks at every optimizer step before it is made.

    A gradient that is not finite never reaches the parameters. What then
    happens is the policy:

    - "stop": the agent is told and asked what to do, the state that the last
      good step left is saved, and the process exits to be restarted;
    - "skip": the step is left out, max_skips in a row at most, then "stop";
    - "rollback": model and optimizer go back to a copy in memory that is made
      every snapshot_every steps, max_rollbacks times, then "stop".

    It measures the gradient norm (before clipping, where
    torch.nn.utils.clip_grad_norm_ is used), the time of a step and how long it
    waited for data. It fetches one number from the device a step, the norm; of
    torch 2.6 on it is the very norm that clipping has computed.

    optimizer may be a list; the first counts the steps. With scheduler, scaler,
    dataloader (wrapped in vigil.torch.Loader) and other objects that have a
    state, checkpoint saves all of them and resume puts them back.
    """

    def __init__(self, run: Run, model: Any, optimizer: Any, *, policy: str = "stop", scheduler: Any = None, scaler: Any = None,
                 dataloader: Any = None, max_skips: int = 5, snapshot_every: int = 50, max_rollbacks: int = 3,
                 install: bool = True, saver: bool = True, **objects: Any) -> None:
        if policy not in POLICIES:
            log.warning("vigil: there is no policy %r; there are %s; stop is taken", policy, ", ".join(POLICIES))
            policy = "stop"
        self.run, self.model, self.policy = run, model, policy
        self.optimizers: List[Any] = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer] if optimizer is not None else []
        self.gradient_norm: Optional[float] = None  # of the last step
        self.skipped = 0  # steps that were left out
        self.rollbacks = 0
        self._in_a_row = 0
        self._max_skips, self._max_rollbacks, self._snapshot_every = max_skips, max_rollbacks, snapshot_every
        self._named = _checkpoints._named(model, optimizer, scheduler, scaler, dataloader, objects)
        self._saver = Sized(self._save, lambda: _estimate.of(*self._named.values()))
        self._found: Optional[_blame.Found] = None  # a value that is not finite, not acted upon yet
        self._checked = False  # clipping has looked at the gradients of this step
        self._stopping = False  # the step that began is not made: what is saved is the moment before it
        self._marks_by_call = False  # a call of the model in training begins a step
        self._snapshot: Optional[Dict[str, Any]] = None
        self._steps = 0
        self._ended_at = 0.0
        self._inputs: Any = None  # of the model's last call
        self._mark: Optional[Dict[str, Any]] = None  # generators and loader before this step's first batch
        self._armed = True  # the next batch is a step's first
        self._buffers = _Buffers(model)
        self._undo: List[Callable[[], None]] = []
        if install:
            self._install(dataloader, saver)

    def _install(self, dataloader: Any, saver: bool) -> None:
        _clip.install()
        _clip.register(self)
        for i, optimizer in enumerate(self.optimizers):
            self._wrap(optimizer, first=i == 0)
        if isinstance(self.model, torch.nn.Module):
            more = {"with_kwargs": True} if int(torch.__version__.split(".")[0]) >= 2 else {}
            self._undo.append(self.model.register_forward_pre_hook(self._called, **more).remove)
        self._marks_by_call = True
        if isinstance(dataloader, Loader):
            dataloader.before.append(self._drawing)
            dataloader.after.append(self._epoch_ended)
            self._marks_by_call = False
        if saver and self.optimizers:
            self.run.saver = self._saver
        self._answer(isinstance(dataloader, Loader))
        from . import _profile

        self.run.profiler = _profile.Profiler(self.run)

    def _answer(self, skips: bool) -> None:
        """Says what of what recovery asks for is done here."""
        asked = self.run.recovery
        honoured, refused = [], []
        if asked.learning_rate_scale != 1.0:
            honoured.append("the learning rate is %g of what it was" % asked.learning_rate_scale)
        if asked.skip_batches and skips:
            honoured.append("%d batches are left out at step %d" % (asked.skip_batches, asked.skip_at_step))
        elif asked.skip_batches:
            refused.append("leave out %d batches: the loader is not a vigil.torch.Loader" % asked.skip_batches)
        self.run.answer_recovery(honoured, refused)

    def _scaled(self, optimizer: Any, step: Callable[[], Any]) -> Any:
        """Makes a step with the learning rate that recovery asks for; schedulers
        do not see it."""
        scale = self.run.recovery.learning_rate_scale
        if scale == 1.0:
            return step()
        before = [group.get("lr") for group in optimizer.param_groups]
        try:
            for group, lr in zip(optimizer.param_groups, before):
                if lr is not None:
                    group["lr"] = lr * scale
            return step()
        finally:
            for group, lr in zip(optimizer.param_groups, before):
                if lr is not None:
                    group["lr"] = lr

    # The steps.

    def _wrap(self, optimizer: Any, first: bool) -> None:
        inner = optimizer.step
        watch = self

        def step(opt: Any, *args: Any, **kwargs: Any) -> Any:
            if getattr(opt, "_vigil_off", False):
                return inner(*args, **kwargs)
            closure = kwargs.pop("closure", None)
            if args:
                closure, args = args[0], args[1:]
            if closure is not None:
                result = watch._scaled(opt, lambda: inner(watch._checked_closure(opt, closure), *args, **kwargs))
            elif watch._before(opt):
                result = watch._scaled(opt, lambda: inner(*args, **kwargs))
            else:
                return None
            if first:
                watch._after()
            return result

        step.__dict__.update(getattr(inner, "__dict__", {}))  # what learning-rate schedulers leave there
        step.__wrapped__ = inner  # type: ignore[attr-defined]
        optimizer.step = types.MethodType(step, optimizer)
        self._undo.append(lambda: setattr(optimizer, "step", inner))

    def _checked_closure(self, optimizer: Any, closure: Callable[[], Any]) -> Callable[[], Any]:
        """A closure after which the optimizer has no gradient to use if one is
        not finite. Lightning makes forward and backward inside it."""
        def checked() -> Any:
            with torch.enable_grad():
                loss = closure()
            if not self._before(optimizer):
                for group in optimizer.param_groups:
                    for p in group["params"]:
                        p.grad = None
            return loss

        return checked

    def _before(self, optimizer: Any) -> bool:
        """Whether the step may be made. What goes wrong here is no reason to
        end training; what the policy does is."""
        try:
            if getattr(optimizer, "found_inf", None) is not None or getattr(optimizer, "grad_scale", None) is not None:
                return True  # gradient scaling inside the optimizer's kernel looks itself
            if not self._checked:
                self.check([p for group in optimizer.param_groups for p in group["params"]])
        except Exception:  # noqa: BLE001
            log.exception("vigil: the gradients could not be looked at")
            return True
        self._checked = False
        found, self._found = self._found, None
        if found is None:
            self._in_a_row = 0
            return True
        return self._act(found)

    def check(self, parameters: Sequence[Any]) -> Optional[torch.Tensor]:
        """Looks at the gradients of parameters; gives their norm as it is on the
        device, None when there are none."""
        self._found = None
        gradients = [p.grad for p in parameters if p.grad is not None]
        norm = _clip.norm(gradients, self.model)
        if norm is None:
            return None
        self.gradient_norm = value = float(norm)  # the one synchronisation of a step
        if not math.isfinite(value):
            self._found = _blame.find(self.model, parameters, self._inputs)
            if self._found is None:  # only the norm overflows, as in half precision
                wide = _clip.norm([g.float() for g in gradients], self.model)
                self.gradient_norm = None if wide is None else float(wide)
        return norm

    def _after(self) -> None:
        """Takes in that a step was made."""
        now = time.perf_counter()
        measures: Dict[str, Any] = {}
        if self.gradient_norm is not None and math.isfinite(self.gradient_norm):
            measures["grad_norm"] = self.gradient_norm
        lr = self.optimizers[0].param_groups[0].get("lr")
        if isinstance(lr, (int, float)):
            measures["lr"] = float(lr) * self.run.recovery.learning_rate_scale
        if self._ended_at:
            whole = now - self._ended_at
            data = min(self.run.data_seconds, whole)
            measures.update(step_seconds=whole, data_seconds=data, compute_seconds=whole - data)
        if self.skipped:
            measures["skipped_steps"] = self.skipped
        if self.rollbacks:
            measures["rollbacks"] = self.rollbacks
        self._ended_at, self.run.data_seconds = now, 0.0
        self._steps += 1
        self._armed = True
        self.run._measured(measures)
        if self.policy == "rollback" and (self._snapshot is None or self._steps % self._snapshot_every == 0):
            self._snapshot = self._copy()
        profiler = self.run.profiler
        if profiler is not None and profiler.busy:
            profiler.stepped()

    # A value that is not finite.

    def _act(self, found: "_blame.Found") -> bool:
        step = self.step + 1
        self._armed = True
        log.error("vigil: step %d: %s; the step is not made", step, found)
        if self._mark is not None:
            self._buffers.put_back()
        if self.policy == "skip" and self._in_a_row < self._max_skips:
            self.skipped += 1
            self._in_a_row += 1
            return False
        if self.policy == "rollback" and self._snapshot is not None and self.rollbacks < self._max_rollbacks:
            self.rollbacks += 1
            self._restore(self._snapshot)
            log.warning("vigil: model and optimizer are as they were after step %d of this process", self._snapshot["steps"])
            return False
        self._stop(step, found)
        return False

    @property
    def step(self) -> int:
        """The last step that was made."""
        return self.run.last_step + (1 if self.run._pending is not None else 0)

    def _stop(self, step: int, found: "_blame.Found") -> None:
        run = self.run
        if run._pending is not None:
            run._put(run.last_step + 1, {})
        order = run.non_finite(step, found.tensor, found.quantity, found.nan_count, found.inf_count, found.size, found.intact)
        self._stopping = True
        if run.saver is not None:
            run._carry_out(order, run.saver, {"step": step - 1})
        run._ending = order
        run.exit("step %d: %s" % (step, found), _failure.NONFINITE)

    def _copy(self) -> Dict[str, Any]:
        with torch.no_grad():
            return {
                "steps": self._steps, "model": {k: v.detach().clone() if hasattr(v, "detach") else v for k, v in self.model.state_dict().items()},
                "optimizers": [copy.deepcopy(o.state_dict()) for o in self.optimizers],
            }

    def _restore(self, snapshot: Dict[str, Any]) -> None:
        self.model.load_state_dict(snapshot["model"])
        for optimizer, state in zip(self.optimizers, snapshot["optimizers"]):
            optimizer.load_state_dict(copy.deepcopy(state))
            optimizer.zero_grad()

    # Saving and resuming.

    def _called(self, module: Any, inputs: Any, named: Optional[Dict[str, Any]] = None) -> None:
        self._inputs = (inputs, named or {})
        if self._marks_by_call and self._armed and module.training:
            self._take_mark()

    def _drawing(self) -> None:
        if not self._armed:
            return
        self._take_mark()
        asked = self.run.recovery
        if asked.skip_batches and self.step + 1 >= asked.skip_at_step:
            self._named["dataloader"].leave_out, asked.skip_batches = asked.skip_batches, 0

    def _epoch_ended(self) -> None:
        """There was no batch where one was to be drawn: the step begins with the
        next epoch's first one."""
        mark = self._mark
        if mark is not None and mark["dataloader"] and mark["dataloader"]["position"] == self._named["dataloader"].position:
            self._armed = True

    def _take_mark(self) -> None:
        """Remembers what the step that begins depends on: should it be stopped,
        this is what is saved."""
        self._armed = False
        self._buffers.keep()
        loader = self._named.get("dataloader")
        rng = _random.capture()
        self._mark = {"rng": rng, "dataloader": loader.state_dict(rng) if isinstance(loader, Loader) else None}

    def _save(self, place: str) -> Dict[str, Any]:
        mark = self._mark if self._stopping else None
        replace = {"dataloader": mark["dataloader"]} if mark and mark["dataloader"] else {}
        return _checkpoints.write_state(place, self._named, self.step, rng=mark["rng"] if mark else None, replace=replace)

    def checkpoint(self) -> Optional[str]:
        """Saves everything that it was given; see vigil.torch.save_checkpoint."""
        return self.run.checkpoint(self._saver, step=self.step)

    def resume(self) -> int:
        """Puts the run's newest good checkpoint back and gives its step; 0 when
        training begins from nothing."""
        loaded = _checkpoints.load_checkpoint(run=self.run, **self._named)
        return loaded.step if loaded is not None else 0

    def profile(self, steps: int = 5) -> None:
        """Records torch.profiler for the next steps; the trace is a file below
        VIGIL_PROFILE_DIR or the temporary directory."""
        if self.run.profiler is not None:
            self.run.profiler.begin({"steps": steps})

    def boundary(self) -> None:
        """Carries out what is asked for between two steps: saves when somebody
        wants it or checkpoint_every is over, and exits when the run is to end.
        One call at the end of the loop's body is all that a loop needs."""
        while self.run.should_checkpoint:
            if self.checkpoint() is None and not self.run._orders.waiting(self.run.last_step):
                break
        if self.run.should_stop:
            self.run.exit()

    def remove(self) -> None:
        """Takes the hooks away."""
        while self._undo:
            self._undo.pop()()
        _clip.unregister(self)
        self.optimizers = []


class _Buffers:
    """The buffers of a model, such as batch normalisation's statistics, as they
    were before a step: its forward pass changes them before its gradient is
    looked at. Only those that changed are copied, as tensors count their changes;
    batch normalisation changes its own without counting."""

    def __init__(self, model: Any) -> None:
        self._places: List[Any] = []
        if isinstance(model, torch.nn.Module):
            for module in model.modules():
                lasting = set(module._buffers) - module._non_persistent_buffers_set
                self._places += [(module, name) for name in sorted(lasting)]
        self._kept: Dict[Any, Any] = {}

    def keep(self) -> None:
        """Copies what changed since the last time."""
        for place in self._places:
            buffer = place[0]._buffers.get(place[1])
            kept = self._kept.get(place)
            if buffer is not None and (kept is None or kept[0] is not buffer or kept[1] != buffer._version or _uncounted(place[0])):
                self._kept[place] = (buffer, buffer._version, buffer.detach().clone())

    def put_back(self) -> None:
        """Undoes what changed since then."""
        with torch.no_grad():
            for place, (buffer, version, copied) in self._kept.items():
                if buffer._version != version or _uncounted(place[0]):
                    buffer.copy_(copied)


def _uncounted(module: Any) -> bool:
    return hasattr(module, "running_mean") or hasattr(module, "running_var")
