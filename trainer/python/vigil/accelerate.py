"""Vigil for Accelerate.

    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    loader = vigil.torch.Loader(accelerator.prepare(loader))
    watch = vigil.accelerate.watch(accelerator, model, optimizer, scheduler=scheduler, dataloader=loader)
    step = watch.resume()
    for batch in loader:
        ...
        watch.boundary()
"""

from __future__ import annotations

from typing import Any

from . import current, init
from ._watch import Watch

__all__ = ["watch"]


def watch(accelerator: Any, model: Any, optimizer: Any, *, run: Any = None, **options: Any) -> Watch:
    """vigil.watch for what Accelerator.prepare gave: it looks at the model and
    the optimizer inside the wrappers, and saves the gradient scaler, too."""
    several = list(optimizer) if isinstance(optimizer, (list, tuple)) else [optimizer]
    inner = [getattr(o, "optimizer", o) for o in several]
    scaler = getattr(accelerator, "scaler", None)
    if scaler is not None:
        options.setdefault("scaler", scaler)
    return Watch(run or current() or init(), accelerator.unwrap_model(model), inner if len(inner) > 1 else inner[0], **options)
