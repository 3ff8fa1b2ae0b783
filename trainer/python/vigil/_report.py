"""What was measured as events of vigil.common.v1. Runs in the background."""

from __future__ import annotations

import sys
from typing import Any, Dict, List, Mapping, Optional

from . import _wire
from ._queue import Item

# What users call a measure, and what the wire does. A name that is not here
# becomes one of the step's free metrics.
DOUBLES = {
    "loss": "loss",
    "train_loss": "loss",
    "grad_norm": "gradientNorm",
    "gradient_norm": "gradientNorm",
    "lr": "learningRate",
    "learning_rate": "learningRate",
    "step_seconds": "stepSeconds",
    "data_seconds": "dataSeconds",
    "compute_seconds": "computeSeconds",
    "communication_seconds": "communicationSeconds",
    "device_utilization": "deviceUtilization",
    "update_ratio": "updateRatio",
    "parameter_norm": "parameterNorm",
    "gradient_cosine": "gradientCosine",
}
INTEGERS = {
    "samples": "samples",
    "tokens": "tokens",
    "resident_bytes": "residentBytes",
    "gpu_memory_bytes": "gpuMemoryBytes",
    "gpu_memory_reserved_bytes": "gpuMemoryReservedBytes",
    "nonfinite_parameters": "nonfiniteParameters",
}
MAPS = {
    "tasks": "taskLosses",
    "task_losses": "taskLosses",
    "weights": "taskWeights",
    "task_weights": "taskWeights",
    "dead_ratios": "deadRatios",
    "saturated_ratios": "saturatedRatios",
}
MAX_METRICS = 256
MAX_NAME = 128


def fill(report: Dict[str, Any], measures: Mapping[str, Any]) -> None:
    """Adds measures to a step report; later ones win."""
    for name, value in measures.items():
        if value is None:
            continue
        if name in DOUBLES:
            _put(report, DOUBLES[name], _wire.number(value))
        elif name in INTEGERS:
            number = _wire.number(value)
            if isinstance(number, float):
                report[INTEGERS[name]] = str(int(number))
        elif name in MAPS and isinstance(value, Mapping):
            into = report.setdefault(MAPS[name], {})
            for key, one in value.items():
                _put(into, str(key)[:MAX_NAME], _wire.number(one))
        else:
            into = report.setdefault("metrics", {})
            if len(into) < MAX_METRICS or name in into:
                _put(into, str(name)[:MAX_NAME], _wire.number(value))


def _put(into: Dict[str, Any], name: str, value: Optional[Any]) -> None:
    if value is not None:
        into[name] = value


def events(items: List[Item]) -> List[Dict[str, Any]]:
    """Items as events with ids: should a call break off, the same ids are sent
    again. Measures of one step that follow each other are one report."""
    found: List[Dict[str, Any]] = []
    report: Dict[str, Any] = {}
    last: Optional[Item] = None
    for item in items:
        if item.measures is None:
            event = dict(item.event or {})
            event["eventId"] = _wire.new_id(item.at)
            event["time"] = _wire.timestamp(item.at)
            found.append(event)
            last = None
            continue
        if last is None or last.step != item.step:
            report = {"step": str(item.step)}
            found.append({"eventId": _wire.new_id(item.at), "time": _wire.timestamp(item.at), "step": report})
        fill(report, item.measures)
        last = item
    memory(found)
    return found


def memory(found: List[Dict[str, Any]]) -> None:
    """Adds what the process has of memory to the last step of a batch. That
    costs the training thread nothing."""
    for event in reversed(found):
        report = event.get("step")
        if report is None:
            continue
        resident = resident_bytes()
        if resident is not None:
            report.setdefault("residentBytes", str(resident))
        gpu = gpu_bytes()
        if gpu is not None:
            report.setdefault("gpuMemoryBytes", str(gpu[0]))
            report.setdefault("gpuMemoryReservedBytes", str(gpu[1]))
        return


def resident_bytes() -> Optional[int]:
    """Resident memory of this process; None where it cannot be told."""
    try:
        import resource

        with open("/proc/self/statm", "rb") as f:
            return int(f.read().split()[1]) * resource.getpagesize()
    except (ImportError, OSError, ValueError, IndexError):
        return None


def gpu_bytes() -> Optional[Any]:
    """Allocated and reserved bytes of the process' GPU; None without one, or
    before the training program has made use of it."""
    torch = sys.modules.get("torch")
    try:
        if torch is None or not torch.cuda.is_initialized():
            return None
        return int(torch.cuda.memory_allocated()), int(torch.cuda.memory_reserved())
    except Exception:  # noqa: BLE001 - a foreign library, on another thread
        return None
