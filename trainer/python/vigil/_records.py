"""What the alert callbacks of vigil.production receive."""

from __future__ import annotations

import enum
import logging
from dataclasses import asdict, dataclass, field
from typing import Any, Callable, Dict, List

log = logging.getLogger("vigil")


class FailureType(enum.Enum):
    """What went wrong in training."""

    NAN_LOSS = "nan_loss"
    GRADIENT_EXPLOSION = "gradient_explosion"
    LOSS_DIVERGENCE = "loss_divergence"
    OUT_OF_MEMORY = "out_of_memory"
    HARDWARE_FAILURE = "hardware_failure"
    NETWORK_FAILURE = "network_failure"
    DATA_CORRUPTION = "data_corruption"
    CHECKPOINT_CORRUPTION = "checkpoint_corruption"
    DISK_FULL = "disk_full"
    TIMEOUT = "timeout"
    PREEMPTION = "preemption"
    SYSTEM_RESOURCES = "system_resources"
    UNKNOWN = "unknown"


# What the control plane calls each.
KINDS = {
    FailureType.NAN_LOSS: "NONFINITE", FailureType.GRADIENT_EXPLOSION: "DIVERGENCE", FailureType.LOSS_DIVERGENCE: "DIVERGENCE",
    FailureType.OUT_OF_MEMORY: "GPU_OOM", FailureType.HARDWARE_FAILURE: "GPU_FAULT", FailureType.NETWORK_FAILURE: "NETWORK",
    FailureType.DATA_CORRUPTION: "DATA", FailureType.CHECKPOINT_CORRUPTION: "CHECKPOINT_CORRUPT", FailureType.DISK_FULL: "DISK_FULL",
    FailureType.TIMEOUT: "HANG", FailureType.PREEMPTION: "PREEMPTED", FailureType.SYSTEM_RESOURCES: "LIMIT", FailureType.UNKNOWN: "CRASH",
}


@dataclass
class FailureRecord:
    """What alert callbacks receive."""

    timestamp: float
    failure_type: FailureType
    message: str
    recovery_action: str = ""
    step: int = 0
    metrics: Dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> Dict[str, Any]:
        """As plain values."""
        return dict(asdict(self), failure_type=self.failure_type.value)


AlertCallback = Callable[[FailureRecord], None]


def tell(callbacks: List[AlertCallback], record: FailureRecord) -> None:
    """Has every callback receive a record, whatever the others do with it."""
    for callback in callbacks:
        try:
            callback(record)
        except Exception:  # noqa: BLE001 - a failing callback is no reason to end training
            log.exception("vigil: an alert callback failed")
