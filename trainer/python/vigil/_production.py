"""The trainers and the model of vigil.production."""

from __future__ import annotations

import logging
import math
import time
from typing import Any, Callable, Dict, List, Mapping, Optional, Sequence

import torch
from torch import nn

from . import _clip, _estimate, _report, current, init, multitask
from ._monitor import SystemMonitor
from ._records import KINDS, AlertCallback, FailureRecord, FailureType, tell
from ._run import Run
from ._saving import Sized

log = logging.getLogger("vigil")

RECOVERIES = ("none", "skip", "checkpoint", "rollback", "stop")


class GenericTrainer:
    """A training step with Vigil around it. Subclasses say how the loss is made:
    compute_loss(batch) gives it, or a mapping with "loss" and any measures.

    A step whose loss or gradient is not finite is handed to handle_failure
    before the optimizer uses it.
    """

    def __init__(self, model: nn.Module, optimizer: Any, loss_fn: Optional[Callable[[Any, Any], Any]] = None, *, config: Any = None,
                 run: Optional[Run] = None, alert_callbacks: Optional[List[AlertCallback]] = None, max_grad_norm: Optional[float] = None,
                 nan_action: str = "skip") -> None:
        self.model, self.optimizer, self.loss_fn = model, optimizer, loss_fn
        self.run = run or current() or init(config=config)
        self.alert_callbacks: List[AlertCallback] = list(alert_callbacks or [])
        self.failures: List[FailureRecord] = []
        self.max_grad_norm = max_grad_norm
        self.nan_action = nan_action
        self.step = self.run.last_step
        self.device = next((p.device for p in model.parameters()), torch.device("cpu"))

    def add_alert_callback(self, callback: AlertCallback) -> None:
        """Has a callback receive every failure record."""
        self.alert_callbacks.append(callback)

    def compute_loss(self, batch: Any) -> Any:
        """The loss of a batch of inputs and targets."""
        inputs, targets = batch
        outputs = self.model(inputs.to(self.device))
        targets = targets.to(self.device)
        if self.loss_fn is None:
            return {"loss": nn.functional.cross_entropy(outputs, targets), "accuracy": _accuracy(outputs, targets)}
        measures = {"loss": self.loss_fn(outputs, targets)}
        if outputs.dim() == 2 and not targets.is_floating_point():
            measures["accuracy"] = _accuracy(outputs, targets)
        return measures

    def training_step(self, batch: Any, batch_idx: int) -> Dict[str, Any]:
        """Makes one step and gives its measures: loss, accuracy, step_duration,
        gpu_memory_gb, gradient_norm, and whatever compute_loss adds."""
        began = time.perf_counter()
        self.model.train()
        self.optimizer.zero_grad()
        try:
            made = self.compute_loss(batch)
            measures: Dict[str, Any] = dict(made) if isinstance(made, Mapping) else {"loss": made}
            loss = measures["loss"]
            self.backward(loss, measures)
        except RuntimeError as e:
            if "out of memory" not in str(e).lower():
                raise
            self.handle_failure(FailureType.OUT_OF_MEMORY, str(e), "skip")
            self.optimizer.zero_grad()
            return {"loss": math.nan, "accuracy": None, "step_duration": time.perf_counter() - began, "gpu_memory_gb": _gpu_gb(), "gradient_norm": None}
        norm = self._gradient_norm()
        values = {k: _plain(v) for k, v in measures.items()}
        values.update(gradient_norm=norm, gpu_memory_gb=_gpu_gb())
        values.setdefault("accuracy", None)
        if not math.isfinite(values["loss"]) or (norm is not None and not math.isfinite(norm)):
            what = "loss %s, gradient norm %s at step %d" % (values["loss"], norm, self.step + 1)
            self.handle_failure(FailureType.NAN_LOSS, what, self.nan_action)
            self.optimizer.zero_grad()
        else:
            self.optimizer.step()
            self.step += 1
            self._log(values, time.perf_counter() - began)
        values["step_duration"] = time.perf_counter() - began
        return values

    def backward(self, loss: torch.Tensor, measures: Dict[str, Any]) -> None:
        """Computes the gradients."""
        loss.backward()

    def _gradient_norm(self) -> Optional[float]:
        gradients = [p.grad for p in self.model.parameters() if p.grad is not None]
        norm = _clip.norm(gradients, self.model)
        if norm is None:
            return None
        value = float(norm)
        if self.max_grad_norm is not None and math.isfinite(value) and value > self.max_grad_norm:
            for g in gradients:
                g.mul_(self.max_grad_norm / (value + 1e-6))
        return value

    def _log(self, values: Dict[str, Any], duration: float) -> None:
        report = {k: v for k, v in values.items() if v is not None and k not in ("gradient_norm", "gpu_memory_gb")}
        self.run.log(self.step, report, grad_norm=values["gradient_norm"], lr=self.optimizer.param_groups[0].get("lr"), step_seconds=duration)

    def handle_failure(self, failure_type: FailureType, message: str, recovery_action: str = "none") -> FailureRecord:
        """Records a failure, tells the callbacks and the agent, and recovers:
        "none", "skip" (the step is left out), "checkpoint" (the run's saver
        saves), "rollback" (to the run's last good checkpoint, if a subclass can)
        or "stop" (save, and exit to be restarted)."""
        record = FailureRecord(time.time(), failure_type, message, recovery_action, self.step)
        self.failures.append(record)
        log.error("vigil: %s: %s; %s", failure_type.value, message, recovery_action)
        tell(self.alert_callbacks, record)
        if recovery_action not in RECOVERIES:
            log.warning("vigil: there is no recovery %r; there are %s", recovery_action, ", ".join(RECOVERIES))
        self.run.log(self.step, failures=len(self.failures))
        if recovery_action == "checkpoint":
            self.run.checkpoint(step=self.step)
        elif recovery_action == "rollback":
            self.rollback()
        elif recovery_action == "stop":
            if failure_type is FailureType.NAN_LOSS:
                order = self.run.non_finite(self.step + 1, "loss", "loss", nan_count=1, size=1)
                self.run._orders.put(order)
            if self.run.saver is not None:
                self.run.checkpoint(step=self.step)
            self.run.exit("step %d: %s" % (self.step, message), "FAILURE_KIND_" + KINDS[failure_type])
        return record

    def rollback(self) -> bool:
        """Goes back to an earlier state; False where it cannot."""
        log.warning("vigil: this trainer has no state to go back to; use ProductionTrainer")
        return False


class ProductionTrainer(GenericTrainer):
    """GenericTrainer with a system monitor, scheduled and emergency checkpoints
    through the agent, and resume."""

    def __init__(self, model: nn.Module, optimizer: Any, loss_fn: Optional[Callable[[Any, Any], Any]] = None, *, scheduler: Any = None,
                 dataloader: Any = None, checkpoint_every: int = 0, monitor_interval: float = 30.0,
                 alert_thresholds: Optional[Mapping[str, float]] = None, **options: Any) -> None:
        super().__init__(model, optimizer, loss_fn, **options)
        self.scheduler = scheduler
        from . import torch as checkpoints

        self._checkpoints = checkpoints
        self._named = checkpoints._named(model, optimizer, scheduler, None, dataloader, {})
        self.run.saver = Sized(lambda place: checkpoints.write_state(place, self._named, self.step), lambda: _estimate.of(*self._named.values()))
        if checkpoint_every:
            self.run._every = checkpoint_every
        self.monitor = SystemMonitor(alert_thresholds, [self._machine])
        self._interval = monitor_interval

    def _machine(self, record: FailureRecord) -> None:
        self.failures.append(record)
        tell(self.alert_callbacks, record)

    def resume(self) -> int:
        """Puts the run's newest good checkpoint back and gives its step; 0 without one."""
        loaded = self._checkpoints.load_checkpoint(run=self.run, **self._named)
        self.step = loaded.step if loaded is not None else self.step
        return self.step

    def rollback(self) -> bool:
        """Puts the run's newest good checkpoint back."""
        try:
            loaded = self._checkpoints.load_checkpoint(run=self.run, **self._named)
        except Exception:  # noqa: BLE001
            log.exception("vigil: the last checkpoint could not be put back")
            return False
        return loaded is not None

    def fit(self, batches: Any, steps: Optional[int] = None) -> int:
        """Trains over batches, until so many steps are made in all, and gives how
        many; carries out what the agent asks for between two steps."""
        self.monitor.start_monitoring(self._interval)
        try:
            for i, batch in enumerate(batches):
                if steps is not None and self.step >= steps:
                    break
                before = self.step
                self.training_step(batch, i)
                if self.scheduler is not None and self.step > before:
                    self.scheduler.step()
                while self.run.should_checkpoint:
                    if self.run.checkpoint(step=self.step) is None:
                        break
                if self.run.should_stop:
                    self.run.exit()
        finally:
            self.monitor.stop_monitoring()
        return self.step


class MultiTaskModel(nn.Module):
    """A shared encoder and a head for each task.

    task_configs maps a task's name to {"type": "classification" or
    "regression", "output_size": n, "hidden_size": h (optional)}.
    """

    def __init__(self, input_size: int, task_configs: Mapping[str, Mapping[str, Any]], dropout_rate: float = 0.1, hidden_sizes: Sequence[int] = (128, 64)) -> None:
        super().__init__()
        layers: List[nn.Module] = []
        size = input_size
        for hidden in hidden_sizes:
            layers += [nn.Linear(size, hidden), nn.BatchNorm1d(hidden), nn.ReLU(), nn.Dropout(dropout_rate)]
            size = hidden
        self.encoder = nn.Sequential(*layers)
        self.heads = nn.ModuleDict()
        for name, task in task_configs.items():
            hidden = int(task.get("hidden_size", 32))
            self.heads[name] = nn.Sequential(nn.Linear(size, hidden), nn.ReLU(), nn.Dropout(dropout_rate), nn.Linear(hidden, int(task.get("output_size", 1))))
        self.task_configs = {k: dict(v) for k, v in task_configs.items()}

    def forward(self, x: torch.Tensor, task: Optional[str] = None) -> Any:
        """Each task's output by name, or one task's."""
        shared = self.encoder(x)
        return self.heads[task](shared) if task is not None else {name: head(shared) for name, head in self.heads.items()}

    def shared_parameters(self) -> List[nn.Parameter]:
        """The parameters of the last shared layer that has any, for GradNorm."""
        linear = [m for m in self.encoder if isinstance(m, nn.Linear)][-1]
        return list(linear.parameters())


class AdvancedMultiTaskTrainer(GenericTrainer):
    """Trains a MultiTaskModel with losses balanced by config["weighting"]:
    "uncertainty", "gradnorm", "adaptive" or "equal" (the default).

    A batch is (inputs, {task: targets}). Each step reports every task's loss
    and weight.
    """

    def __init__(self, config: Mapping[str, Any], model: Any, optimizer: Any, task_configs: Mapping[str, Mapping[str, Any]], **options: Any) -> None:
        super().__init__(model, optimizer, config=config, **options)
        self.task_configs = {k: dict(v) for k, v in task_configs.items()}
        tasks = list(self.task_configs)
        self.weighting = str(config.get("weighting", "equal"))
        regression = [t for t, c in self.task_configs.items() if c.get("type") == "regression"]
        self.balance: Any = None
        if self.weighting == "uncertainty":
            self.balance = multitask.UncertaintyWeighting(tasks, regression).to(self.device)
            optimizer.add_param_group({"params": list(self.balance.parameters()), "weight_decay": 0.0})
        elif self.weighting == "gradnorm":
            self.balance = multitask.GradNorm(tasks, model.shared_parameters(), float(config.get("alpha", 1.5))).to(self.device)
        elif self.weighting == "adaptive":
            self.balance = multitask.AdaptiveWeights(tasks, window=int(config.get("window", 20))).to(self.device)
        elif self.weighting != "equal":
            raise ValueError("there is no weighting %r; there are uncertainty, gradnorm, adaptive and equal" % self.weighting)

    def task_weights(self) -> Dict[str, float]:
        """The weight of each task's loss now."""
        return self.balance.weights() if self.balance is not None else {t: 1.0 for t in self.task_configs}

    def compute_loss(self, batch: Any) -> Dict[str, Any]:
        """The total, the tasks' losses and weights, and the mean accuracy."""
        inputs, targets = batch
        outputs = self.model(inputs.to(self.device))
        losses: Dict[str, torch.Tensor] = {}
        accuracies: List[torch.Tensor] = []
        for name, task in self.task_configs.items():
            out, want = outputs[name], targets[name].to(self.device)
            if task.get("type") == "regression":
                losses[name] = nn.functional.mse_loss(out.squeeze(-1), want.float())
            else:
                losses[name] = nn.functional.cross_entropy(out, want)
                accuracies.append(_accuracy(out, want))
        if hasattr(self.balance, "update"):
            self.balance.update(losses)
        total = self.balance(losses) if self.balance is not None else sum(losses.values())
        measures: Dict[str, Any] = {
            "loss": total, "task_losses": {k: v.detach() for k, v in losses.items()}, "task_weights": self.task_weights()}
        if accuracies:
            measures["accuracy"] = torch.stack(accuracies).mean()
        return measures


def _accuracy(outputs: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    return (outputs.argmax(-1) == targets).float().mean()


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items()}
    return float(value) if value is not None else None


def _gpu_gb() -> float:
    found = _report.gpu_bytes()
    return found[0] / 1e9 if found else 0.0
