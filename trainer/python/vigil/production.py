"""The names that Vigil's first users know, over the same SDK.

SystemMonitor works without an agent and without torch; the rest needs torch.
"""

from __future__ import annotations

from typing import Any

from ._monitor import THRESHOLDS, SystemMonitor
from ._records import AlertCallback, FailureRecord, FailureType

__all__ = ["SystemMonitor", "FailureType", "FailureRecord", "GenericTrainer", "ProductionTrainer", "MultiTaskModel", "AdvancedMultiTaskTrainer"]


def __getattr__(name: str) -> Any:
    """What needs torch is imported when it is named."""
    if name in ("GenericTrainer", "ProductionTrainer", "MultiTaskModel", "AdvancedMultiTaskTrainer"):
        from . import _production

        return getattr(_production, name)
    raise AttributeError("module 'vigil.production' has no attribute %r" % name)
