"""Vigil for Lightning: one callback.

    loader = vigil.torch.Loader(DataLoader(...))
    vigil_callback = vigil.lightning.VigilCallback()
    trainer = Trainer(callbacks=[vigil_callback])
    trainer.fit(module, loader, ckpt_path=vigil_callback.resume())
"""

from __future__ import annotations

import logging
import os
from contextlib import ExitStack, contextmanager
from typing import Any, Dict, Iterator, Mapping, Optional

import torch

try:
    from lightning.pytorch.callbacks import Callback
    from lightning.pytorch.plugins.io import TorchCheckpointIO
except ImportError:
    from pytorch_lightning.callbacks import Callback  # type: ignore[no-redef,assignment]
    from pytorch_lightning.plugins.io import TorchCheckpointIO  # type: ignore[no-redef,assignment]

from . import _ends, _estimate, _random, current, init
from ._loader import Loader
from ._run import Run
from ._saving import Sized
from ._watch import Watch
from .torch import nonfinite, save_object

log = logging.getLogger("vigil")

FORMAT = "lightning/2"
FILE = "lightning.ckpt"
RANK_FILE = "rank.pt"


class VigilCallback(Callback):  # type: ignore[misc]
    """Reports every step and evaluation, has a value that is not finite stopped
    before the optimizer uses it, saves when somebody asks for it or every
    checkpoint_every steps, and says where to resume from.

    Training goes on bit for bit in mid-epoch where the training loader is
    wrapped in vigil.torch.Loader. policy and its options are vigil.watch's.
    """

    def __init__(self, run: Optional[Run] = None, name: Optional[str] = None, checkpoint_every: int = 0, log_every: int = 1, **options: Any) -> None:
        self._run = run
        self._name = name
        self._every = checkpoint_every
        self._log_every = max(1, log_every)
        self._options = options
        self._watch: Optional[Watch] = None
        self._trainer: Any = None
        self._loader: Optional[Loader] = None
        self._phase = ExitStack()

    @property
    def run(self) -> Run:
        """The run that is reported."""
        if self._run is None:
            self._run = current() or init(self._name, checkpoint_every=self._every)
        return self._run

    def resume(self) -> Optional[str]:
        """The file to give to Trainer.fit as ckpt_path; None to begin from nothing."""
        found = self.run.resume()
        if found is None:
            return None
        path = os.path.join(found.directory, FILE)
        if not os.path.exists(path):  # only rank 0 writes the model
            path = os.path.join(os.path.dirname(os.path.dirname(found.directory)), "rank-00000", "files", FILE)
        return path if os.path.exists(path) else None

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Hooks in."""
        self._trainer = trainer
        loader = trainer.train_dataloader
        self._loader = loader if isinstance(loader, Loader) else None
        if self._watch is None:
            self._watch = Watch(self.run, pl_module, list(trainer.optimizers), dataloader=self._loader, saver=False, **self._options)
            self.run.saver = Sized(self._save, self._size)
        if self.run._resume is not None:
            self.run._resume.loaded()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Reports the step, and carries out what is asked for."""
        step = int(trainer.global_step)
        if step <= self.run.last_step:
            return  # gradients are accumulated
        if step % self._log_every == 0:
            measures: Dict[str, Any] = {k: v for k, v in trainer.callback_metrics.items() if not k.startswith("val")}
            loss = outputs.get("loss") if isinstance(outputs, Mapping) else outputs
            if loss is not None:
                measures["loss"] = loss
            self.run.log(step, measures)
        else:
            self.run._measured({})
        # Lightning counts the batch after this call; what is saved has it.
        progress = trainer.fit_loop.epoch_loop.batch_progress
        while self.run.should_checkpoint:
            progress.increment_completed()
            try:
                saved = self.run.checkpoint(step=step)
            finally:
                progress.current.completed -= 1
                progress.total.completed -= 1
            if saved is None and not self.run._orders.waiting(self.run.last_step):
                break
        if self.run.should_stop:
            self.run.exit()

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        """Says that steps pause."""
        self._phase.enter_context(self.run.phase("evaluation"))

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Reports what was measured."""
        self._phase.close()
        if not trainer.sanity_checking:
            self.run.evaluated(int(trainer.global_step), {k.replace("val_", "") if k == "val_loss" else k: v for k, v in trainer.callback_metrics.items() if "val" in k})

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """Reports it."""
        if not isinstance(exception, _ends.Interrupted):
            self.run.exception(exception)

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Takes the hooks away."""
        if self._watch is not None:
            self._watch.remove()
            self._watch = None

    def _size(self) -> int:
        watch = self._watch
        if watch is None or not self._trainer.is_global_zero:  # rank 0 writes the model
            return 0
        return _estimate.of(watch.model, watch.optimizers)

    def _save(self, place: str) -> Dict[str, Any]:
        watch, loader = self._watch, self._loader
        assert watch is not None
        stopped = watch._stopping and watch._mark is not None
        mark = watch._mark if stopped else None
        if loader is not None and mark is not None:
            loader.frozen = mark["dataloader"]
        try:
            with _written_over(self._trainer.strategy):
                self._trainer.save_checkpoint(os.path.join(place, FILE))
        finally:
            if loader is not None:
                loader.frozen = None
        save_object({"rng": mark["rng"] if mark else _random.capture()}, os.path.join(place, RANK_FILE))
        return {"step": int(self._trainer.global_step), "format": FORMAT, "nonfinite_parameters": nonfinite([watch.model]),
                "data_position": loader.samples if loader is not None else 0}


class _Over(TorchCheckpointIO):  # type: ignore[misc]
    """Lightning's own, but for where the bytes go: it makes the whole file in
    memory of its own and in a temporary file before it is where it is to be."""

    def save_checkpoint(self, checkpoint: Dict[str, Any], path: Any, storage_options: Optional[Any] = None) -> None:
        """Writes one file."""
        if storage_options is not None:
            raise TypeError("storage_options are not for a file")
        save_object(checkpoint, os.fspath(path))


@contextmanager
def _written_over(strategy: Any) -> Iterator[None]:
    """Has a strategy that saves by Lightning's own CheckpointIO write over memory of
    the checkpoint before; any other saves as it does."""
    before = getattr(strategy, "_checkpoint_io", False)
    if before is not None and type(before) is not TorchCheckpointIO:
        yield
        return
    strategy.checkpoint_io = _Over()
    try:
        yield
    finally:
        strategy.checkpoint_io = before
