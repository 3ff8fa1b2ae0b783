"""How the machine is: the monitor of vigil.production. It needs neither an agent nor torch."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import threading
import time
from typing import Any, Dict, List, Mapping, Optional, Tuple

from ._records import AlertCallback, FailureRecord, FailureType, tell

log = logging.getLogger("vigil")

THRESHOLDS = {"memory_percent": 90.0, "cpu_percent": 95.0, "gpu_memory_percent": 95.0, "disk_usage_percent": 95.0}


class SystemMonitor:
    """Looks at memory, CPU, disk and GPUs of this machine every so often, and
    calls back once each time that one of them passes its threshold."""

    def __init__(self, alert_thresholds: Optional[Mapping[str, float]] = None, alert_callbacks: Optional[List[AlertCallback]] = None, path: str = "/") -> None:
        self.alert_thresholds = dict(THRESHOLDS, **(alert_thresholds or {}))
        for name in set(self.alert_thresholds) - set(THRESHOLDS):
            log.warning("vigil: there is no threshold %r; there are %s", name, ", ".join(THRESHOLDS))
        self.alert_callbacks: List[AlertCallback] = list(alert_callbacks or [])
        self._path = path
        self._stop = threading.Event()
        self._thread: Optional[threading.Thread] = None
        self._above: Dict[str, bool] = {}
        self._cpu = _cpu_times()
        self._cpu_percent = 0.0

    def start_monitoring(self, interval: float = 30.0) -> None:
        """Begins in the background; again does nothing. The interval is in seconds."""
        if self._thread is not None and self._thread.is_alive():
            return
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(interval, self._stop), name="vigil-system-monitor", daemon=True)
        self._thread.start()

    def stop_monitoring(self) -> None:
        """Ends it, and waits a moment for its end."""
        self._stop.set()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._thread = None

    def get_system_stats(self) -> Dict[str, Any]:
        """How the machine is now. cpu_percent is since the last look; what
        cannot be told is 0."""
        total, available = _memory()
        usage = shutil.disk_usage(self._path)
        return {
            "timestamp": time.time(),
            "cpu_percent": self._cpu_since(),
            "memory": {"percent": 100.0 * (total - available) / total if total else 0.0, "available": available},
            "disk": {"percent": 100.0 * usage.used / (usage.used + usage.free) if usage.used + usage.free else 0.0, "free": usage.free},
            "gpu": _gpus(),
        }

    def _cpu_since(self) -> float:
        now = _cpu_times()
        busy, whole = now[0] - self._cpu[0], now[1] - self._cpu[1]
        if whole > 0:
            self._cpu, self._cpu_percent = now, max(0.0, min(100.0, 100.0 * busy / whole))
        return self._cpu_percent

    def _run(self, interval: float, stop: threading.Event) -> None:
        while True:
            try:
                self.check()
            except Exception:  # noqa: BLE001
                log.exception("vigil: the machine could not be looked at")
            if stop.wait(interval):
                return

    def check(self) -> Dict[str, Any]:
        """Looks once, and calls back for what passed its threshold."""
        stats = self.get_system_stats()
        values = {"memory_percent": stats["memory"]["percent"], "cpu_percent": stats["cpu_percent"], "disk_usage_percent": stats["disk"]["percent"]}
        gpu = _gpu_memory_percent() if stats["gpu"] else None
        if gpu is not None:
            values["gpu_memory_percent"] = gpu
        for name, value in values.items():
            above = value > self.alert_thresholds[name]
            if above and not self._above.get(name):
                self._alert(name, value, stats)
            self._above[name] = above
        return stats

    def _alert(self, name: str, value: float, stats: Dict[str, Any]) -> None:
        limit = self.alert_thresholds[name]
        kind = FailureType.DISK_FULL if name == "disk_usage_percent" else FailureType.SYSTEM_RESOURCES
        tell(self.alert_callbacks, FailureRecord(time.time(), kind, "%s is %.1f, above %.1f" % (name, value, limit), "", 0, stats))


def _cpu_times() -> Tuple[float, float]:
    """Busy and whole CPU time of the machine since its start."""
    try:
        with open("/proc/stat", encoding="ascii") as f:
            times = [float(x) for x in f.readline().split()[1:9]]
        return sum(times) - times[3] - times[4], sum(times)
    except (OSError, ValueError, IndexError):
        load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else 0.0
        now = time.monotonic()
        return load * now, now


def _memory() -> Tuple[int, int]:
    """Bytes of memory, whole and available."""
    try:
        found = {}
        with open("/proc/meminfo", encoding="ascii") as f:
            for line in f:
                name, _, rest = line.partition(":")
                found[name] = int(rest.split()[0]) * 1024
        return found["MemTotal"], found["MemAvailable"]
    except (OSError, ValueError, KeyError, IndexError):
        try:
            page = os.sysconf("SC_PAGE_SIZE")
            return os.sysconf("SC_PHYS_PAGES") * page, os.sysconf("SC_AVPHYS_PAGES") * page
        except (ValueError, OSError):
            return 0, 0


def _gpus() -> List[Dict[str, Any]]:
    """The GPUs that this process uses, by torch."""
    torch = sys.modules.get("torch")
    found: List[Dict[str, Any]] = []
    try:
        if torch is None or not torch.cuda.is_available():
            return found
        for device in range(torch.cuda.device_count()):
            try:
                busy: Optional[float] = float(torch.cuda.utilization(device))
            except Exception:  # noqa: BLE001 - needs NVML's Python package
                busy = None
            found.append({"device": device, "allocated_gb": torch.cuda.memory_allocated(device) / 1e9, "utilization": busy})
    except Exception:  # noqa: BLE001 - a driver that is away
        log.debug("vigil: the GPUs cannot be looked at", exc_info=True)
    return found


def _gpu_memory_percent() -> Optional[float]:
    """Used memory of the fullest GPU."""
    torch = sys.modules.get("torch")
    try:
        both = [torch.cuda.mem_get_info(d) for d in range(torch.cuda.device_count())] if torch is not None else []
        return max(100.0 * (total - free) / total for free, total in both)
    except Exception:  # noqa: BLE001
        return None
