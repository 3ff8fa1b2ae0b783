"""Vigil for Transformers: one callback.

    trainer = Trainer(..., callbacks=[vigil.transformers.VigilCallback()])
    trainer.train(resume_from_checkpoint=vigil.transformers.resume())
"""

from __future__ import annotations

import logging
import os
import random
import shutil
from contextlib import ExitStack
from typing import Any, Dict, Optional

import numpy
import torch
from transformers import TrainerCallback

from . import _ends, _estimate, _scratch, current, init
from ._run import Run
from ._saving import Sized
from ._watch import Watch
from .torch import nonfinite, save_object

log = logging.getLogger("vigil")

FORMAT = "transformers/1"


def resume(run: Optional[Run] = None, name: Optional[str] = None) -> Optional[str]:
    """The directory to give to Trainer.train as resume_from_checkpoint; None to begin from nothing."""
    run = run or current() or init(name)
    found = run.resume()
    return None if found is None else found.directory


class VigilCallback(TrainerCallback):  # type: ignore[misc]
    """Reports what the Trainer logs and measures of every step, has a value that
    is not finite stopped before the optimizer uses it, and saves when somebody
    asks for it or every checkpoint_every steps, in the Trainer's own format.

    policy and its options are vigil.watch's. For models that are sharded over
    ranks it has the Trainer itself save instead, and takes those files.
    """

    def __init__(self, run: Optional[Run] = None, name: Optional[str] = None, checkpoint_every: int = 0, **options: Any) -> None:
        self._run = run
        self._name = name
        self._every = checkpoint_every
        self._options = options
        self._watch: Optional[Watch] = None
        self._state: Any = None
        self._args: Any = None
        self._unlogged: Optional[int] = None  # a step that is not reported yet
        self._parts: Dict[str, Any] = {}
        self._phase = ExitStack()

    @property
    def run(self) -> Run:
        """The run that is reported."""
        if self._run is None:
            self._run = current() or init(self._name, checkpoint_every=self._every)
        return self._run

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hooks in."""
        self._args, self._state = args, state
        self._parts = {k: kwargs.get(k) for k in ("model", "optimizer", "lr_scheduler", "processing_class")}
        if self._every:
            self.run._every = self._every
        optimizer = _inner(kwargs.get("optimizer"))
        if self._watch is None and optimizer is not None:
            self._watch = Watch(self.run, kwargs.get("model"), optimizer, saver=False, **self._options)
            self._watch._marks_by_call = False
            self._watch._take_mark()
            self.run.saver = Sized(self._save, lambda: _estimate.of(self._parts["model"], optimizer))
        if self.run._resume is not None:
            self.run._resume.loaded()

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Reports the step before, if the Trainer did not log it."""
        self._flush()

    def _flush(self) -> None:
        if self._unlogged is not None:
            step, self._unlogged = self._unlogged, None
            self.run.log(step)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> Any:
        """Reports the step, and carries out what is asked for."""
        run, step = self.run, int(state.global_step)
        self._flush()
        self._unlogged, run.last_step = step, step
        if self._watch is not None:
            self._watch._take_mark()
        if _sharded(self._parts.get("model")):
            if run.should_checkpoint:
                control.should_save = True
        else:
            while run.should_checkpoint:
                if run.checkpoint(step=step) is None and not run._orders.waiting(run.last_step):
                    break
        if run.should_stop and not control.should_save:
            run.exit()
        return control

    def on_log(self, args: Any, state: Any, control: Any, logs: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        """Reports what the Trainer logs."""
        values = {k: v for k, v in (logs or {}).items() if isinstance(v, (int, float)) and not k.startswith("eval_")}
        if not values or "train_runtime" in values:
            return
        self._unlogged = None
        self.run.log(int(state.global_step), values)  # with what was measured of the step

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Says that steps pause."""
        if not self.run.pausing:
            self._phase.enter_context(self.run.phase("evaluation"))

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Optional[Dict[str, Any]] = None, **kwargs: Any) -> None:
        """Reports an evaluation."""
        self._phase.close()
        self.run.evaluated(int(state.global_step), {k: v for k, v in (metrics or {}).items() if isinstance(v, (int, float))})
        if self._watch is not None:
            self._watch._take_mark()

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Hands over what the Trainer saved of a sharded model."""
        run = self.run
        if _sharded(self._parts.get("model")) and run.should_checkpoint:
            place = os.path.join(args.output_dir, "checkpoint-%d" % state.global_step)
            write = Sized(lambda staging: _copy(place, staging, int(state.global_step)), lambda: _bytes_in(place))
            run.checkpoint(write, step=int(state.global_step))
            if run.should_stop:
                run.exit()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Takes the hooks away."""
        self._flush()
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _save(self, place: str) -> Dict[str, Any]:
        """Writes what Trainer._save_checkpoint writes, of the moment after the last step."""
        watch, parts = self._watch, self._parts
        assert watch is not None
        model = parts["model"]
        if hasattr(model, "save_pretrained"):
            model.save_pretrained(place)
        else:
            save_object(model.state_dict(), os.path.join(place, "pytorch_model.bin"))
        if parts["processing_class"] is not None:
            parts["processing_class"].save_pretrained(place)
        save_object(_inner(parts["optimizer"]).state_dict(), os.path.join(place, "optimizer.pt"))
        if parts["lr_scheduler"] is not None:
            save_object(parts["lr_scheduler"].state_dict(), os.path.join(place, "scheduler.pt"))
        rank = "_%d" % self._args.process_index if self._args.world_size > 1 else ""
        mark = watch._mark if watch._stopping else None
        save_object(_generators(mark["rng"] if mark else None), os.path.join(place, "rng_state%s.pth" % rank))
        save_object(self._args, os.path.join(place, "training_args.bin"))
        self._state.save_to_json(os.path.join(place, "trainer_state.json"))
        return {"step": int(self._state.global_step), "format": FORMAT, "nonfinite_parameters": nonfinite([model])}


def _generators(captured: Optional[Dict[str, Any]]) -> Dict[str, Any]:
    """The generators as Trainer._load_rng_state reads them."""
    if captured is None:
        state = {"python": random.getstate(), "numpy": numpy.random.get_state(), "cpu": torch.get_rng_state()}
        if torch.cuda.is_available():
            state["cuda"] = torch.cuda.get_rng_state()
        return state
    name, keys, pos, has_gauss, cached = captured["numpy"]
    state = {"python": captured["python"], "numpy": (name, numpy.array(keys, dtype=numpy.uint32), pos, has_gauss, cached), "cpu": captured["torch"]}
    if "cuda" in captured:
        state["cuda"] = captured["cuda"][torch.cuda.current_device()]
    return state


def _inner(optimizer: Any) -> Any:
    """The optimizer inside Accelerate's."""
    return getattr(optimizer, "optimizer", optimizer)


def _sharded(model: Any) -> bool:
    name = type(model).__name__
    return "FullySharded" in name or "FSDP" in name or "DeepSpeed" in name


def _copy(source: str, staging: str, step: int) -> Dict[str, Any]:
    shutil.copytree(source, staging, dirs_exist_ok=True, copy_function=_copy_file)
    return {"step": step, "format": FORMAT}


def _bytes_in(directory: str) -> int:
    return sum(os.lstat(os.path.join(at, name)).st_size for at, _, names in os.walk(directory) for name in names)


def _copy_file(source: str, target: str) -> None:
    with open(source, "rb") as f, _scratch.create(target) as to:
        shutil.copyfileobj(f, to, _scratch.LEAST)
