"""Vigil watches training: two lines in a script.

    import vigil
    run = vigil.init(run="bert", config={"lr": 1e-4})
    vigil.watch(model, optimizer)

Everything else is in Run. Nothing here blocks the training loop or raises into
it; without an agent on the node it says so once and does nothing.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from typing import TYPE_CHECKING, Any, Optional

from . import _recovery, _settings
from ._ends import RESTART_EXIT_CODE, Interrupted
from ._orders import Order
from ._recovery import CheckpointRefused
from ._run import Run
from ._saving import Resume
from ._scratch import create as create_file

if TYPE_CHECKING:
    from ._watch import Watch

__version__ = "0.1.0"
__all__ = ["init", "current", "watch", "create_file", "Run", "Resume", "Order", "Interrupted", "CheckpointRefused", "RESTART_EXIT_CODE"]

_log = logging.getLogger("vigil")
_lock = threading.Lock()
_current: Optional[Run] = None


def init(run: Optional[str] = None, config: Any = None, *, total_steps: int = 0, checkpoint_every: int = 0,
         socket: str = "", signals: bool = True, hang_seconds: Optional[float] = None, **more: Any) -> Run:
    """Begins a run, or gives the one that this process has.

    run names it; under a supervisor, torchrun or SLURM it has an id already and
    the name is shown beside it. config is a mapping, a dataclass or argparse's
    namespace, and is shown with the run. checkpoint_every makes
    run.should_checkpoint true after so many steps. hang_seconds is how long no
    step may finish until the stacks of all threads are reported; by default 60
    usual steps, at least a minute.
    """
    global _current
    with _lock:
        if _current is not None and not _current._closed.is_set():
            return _current
        try:
            given = {k: v for k, v in more.items() if k in _settings.Settings.__dataclass_fields__}
            for name in sorted(set(more) - set(given)):
                _log.warning("vigil: init has no argument %r", name)
            given.update(socket=socket, total_steps=total_steps, hang_seconds=hang_seconds)
            given.setdefault("framework", _framework())
            settings, wrong = _settings.read(os.environ, run, config, given)
            for text in wrong + _recovery.read(os.environ).wrong:
                _log.warning("vigil: %s", text)
        except Exception:  # noqa: BLE001
            _log.exception("vigil: the run's settings cannot be used; it is not watched")
            settings = _settings.Settings(run_id="run")
        made = Run(settings)
        made._every = checkpoint_every
        if not settings.socket:
            _log.log(logging.WARNING if settings.rank == 0 and not settings.exit_file else logging.DEBUG,
                     "vigil: no agent (VIGIL_SOCKET is not set): training is not watched and not saved")
        try:
            made._start(signals)
        except Exception:  # noqa: BLE001
            _log.exception("vigil: the run cannot be watched")
        _current = made
        return made


def current() -> Optional[Run]:
    """The run of this process; None before init and after its end."""
    run = _current
    return None if run is None or run._closed.is_set() else run


def watch(model: Any, optimizer: Any = None, **options: Any) -> "Watch":
    """Hooks into a PyTorch model and its optimizer; gives a
    Watch, which says what it measures, and which policies there are on a value
    that is not finite."""
    from . import _watch

    return _watch.watch(model, optimizer, **options)


def __getattr__(name: str) -> Any:
    """Integrations are imported when they are first named: vigil.torch needs torch."""
    if name in ("torch", "lightning", "transformers", "accelerate", "multitask", "production"):
        import importlib

        return importlib.import_module("." + name, __name__)
    raise AttributeError("module 'vigil' has no attribute %r" % name)


def _framework() -> str:
    import sys

    for name in ("torch", "jax", "tensorflow"):
        module = sys.modules.get(name)
        version = getattr(module, "__version__", "")
        if version:
            return "%s/%s" % (name, version)
    return "python/%d.%d" % sys.version_info[:2]


def _at_exit() -> None:
    run = _current
    if run is None or run._closed.is_set() or run._pid != os.getpid():
        return
    order = run._ending
    told = order is not None and not run._exit_said
    if order is not None and told and run.supervised:
        run._settings_exit(order.failure, "step %d: told to save and end" % run.last_step, order.stops)
    run.finish()
    if told and run.supervised:
        # The script ended as if all was done; the supervisor must not think so.
        import sys

        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(RESTART_EXIT_CODE)


def _after_fork() -> None:
    """A forked child, such as a DataLoader's worker, is not the rank."""
    global _current, _lock
    _lock = threading.Lock()
    run, _current = _current, None
    if run is not None:
        run._detach()


atexit.register(_at_exit)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
