"""Checkpoints of PyTorch training: everything that the next step depends on."""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
from dataclasses import dataclass, field
from typing import Any, Callable, Dict, Iterable, Mapping, Optional

import torch

from . import _estimate, _random, _scratch, current
from ._loader import Loader
from ._run import Run
from ._saving import Sized

__all__ = ["save_checkpoint", "load_checkpoint", "Loader", "Loaded", "FORMAT"]

log = logging.getLogger("vigil")

FORMAT = "vigil-torch/1"
STATE_FILE = "state.pt"
DCP_DIRECTORY = "dcp"


@dataclass
class Loaded:
    """What was found in a checkpoint beside the state that was put back."""

    step: int
    extra: Dict[str, Any] = field(default_factory=dict)


def save_checkpoint(model: Any, optimizer: Any = None, scheduler: Any = None, scaler: Any = None, dataloader: Any = None, *,
                    step: Optional[int] = None, run: Optional[Run] = None, directory: Optional[str] = None,
                    extra: Optional[Mapping[str, Any]] = None, dcp: bool = False, **objects: Any) -> Optional[str]:
    """Saves model, optimizer and whatever else has a state_dict, with the state
    of Python's, NumPy's, torch's and CUDA's random number generators.

    It goes to the agent, which keeps it from the return on, and gives the
    checkpoint's id; or into a directory, atomically, and gives its path. None
    when nothing was saved. In a distributed run every rank calls it and saves
    its own shard. dcp=True writes model and optimizer with
    torch.distributed.checkpoint, for sharded models. extra holds plain values.
    """
    run = run or current()
    named = _named(model, optimizer, scheduler, scaler, dataloader, objects)
    number = step if step is not None else (run.last_step if run is not None else 0)

    def write(place: str) -> Dict[str, Any]:
        return write_state(place, named, number, extra, dcp=dcp)

    if directory is not None:
        return _replace(directory, write)
    if run is None:
        return None
    return run.checkpoint(Sized(write, lambda: 0 if dcp else _estimate.of(*named.values())), step=number)


def load_checkpoint(model: Any, optimizer: Any = None, scheduler: Any = None, scaler: Any = None, dataloader: Any = None, *,
                    run: Optional[Run] = None, directory: Optional[str] = None, **objects: Any) -> Optional[Loaded]:
    """Puts the run's newest good checkpoint, or that of a directory, back into
    the same objects; None when there is none and training begins from nothing.

    Unlike the rest it raises what torch raises when the state does not fit: to
    begin from nothing then would throw away what was trained.
    """
    run = run or current()
    named = _named(model, optimizer, scheduler, scaler, dataloader, objects)
    if directory is not None:
        return read_state(directory, named) if os.path.exists(os.path.join(directory, STATE_FILE)) else None
    found = run.resume() if run is not None else None
    if found is None:
        return None
    if found.format != FORMAT:
        raise ValueError("checkpoint %s holds %r, not %r" % (found.checkpoint_id, found.format, FORMAT))
    loaded = read_state(found.directory, named)
    found.loaded()
    return loaded


def _named(model: Any, optimizer: Any, scheduler: Any, scaler: Any, dataloader: Any, objects: Mapping[str, Any]) -> Dict[str, Any]:
    every = dict(objects, model=model, optimizer=optimizer, scheduler=scheduler, scaler=scaler, dataloader=dataloader)
    return {name: o for name, o in every.items() if o is not None}


def _optimizers(named: Mapping[str, Any]) -> Any:
    o = named.get("optimizer")
    return list(o) if isinstance(o, (list, tuple)) else [] if o is None else [o]


def _states(o: Any) -> Any:
    """The state of an object, or of a list of them, such as two optimizers."""
    if isinstance(o, (list, tuple)):
        return [_states(one) for one in o]
    if not hasattr(o, "state_dict"):
        raise TypeError("%s has no state_dict; wrap a DataLoader in vigil.torch.Loader" % type(o).__name__)
    return o.state_dict()


def _put_back(o: Any, state: Any) -> None:
    if isinstance(o, (list, tuple)):
        for one, part in zip(o, state):
            _put_back(one, part)
    else:
        o.load_state_dict(state)


def write_state(place: str, named: Mapping[str, Any], step: int, extra: Optional[Mapping[str, Any]] = None, *,
                rng: Optional[Dict[str, Any]] = None, replace: Optional[Mapping[str, Any]] = None, dcp: bool = False) -> Dict[str, Any]:
    """Writes a state's files and gives the checkpoint's metadata. rng and
    replace stand for the generators and for the state of objects as they were
    at another moment."""
    replace = replace or {}
    apart = ("model", "optimizer") if dcp else ()
    states = {n: replace[n] if n in replace else _states(o) for n, o in named.items() if n not in apart}
    save_object({
        "format": FORMAT, "step": step, "states": states, "rng": rng if rng is not None else _random.capture(),
        "extra": dict(extra or {}), "dcp": dcp,
    }, os.path.join(place, STATE_FILE))
    if dcp:
        from . import _dcp

        _dcp.save(named["model"], _optimizers(named), os.path.join(place, DCP_DIRECTORY))
    metadata: Dict[str, Any] = {"step": step, "format": FORMAT}
    models = named.get("model")
    if models is not None:
        metadata["nonfinite_parameters"] = nonfinite(models if isinstance(models, (list, tuple)) else [models])
    loader = named.get("dataloader")
    if isinstance(loader, Loader):
        metadata["data_position"] = loader.samples
    return metadata


def save_object(o: Any, path: str) -> None:
    """torch.save over memory that is there already, where there is some."""
    with _scratch.create(path) as f:
        torch.save(o, f)


def read_state(place: str, named: Mapping[str, Any]) -> Loaded:
    """Puts a state back. From torch 2 on only plain values are read: no code of
    the file runs. Before, torch could not tell them apart."""
    plain = int(torch.__version__.split(".")[0]) >= 2
    saved = torch.load(os.path.join(place, STATE_FILE), map_location="cpu", weights_only=plain)
    states = saved["states"]
    if saved.get("dcp"):
        from . import _dcp

        _dcp.load(named["model"], _optimizers(named), os.path.join(place, DCP_DIRECTORY))
    for name, o in named.items():
        if name in states:
            _put_back(o, states[name])
        elif saved.get("dcp") and name in ("model", "optimizer"):
            continue
        else:
            log.warning("vigil: the checkpoint has no %s; it begins anew", name)
    for name in sorted(set(states) - set(named)):
        log.warning("vigil: the checkpoint's %s is left out: load_checkpoint was given none", name)
    _random.restore(saved["rng"])
    return Loaded(int(saved["step"]), saved["extra"])


def nonfinite(models: Iterable[Any]) -> int:
    """How many values among the parameters are not finite."""
    total = 0
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                local = p.to_local() if hasattr(p, "to_local") else p
                if local.is_floating_point():
                    # The sum is finite unless a value is not (or it overflows).
                    if not bool(torch.isfinite(local.detach().float().sum())):
                        total += int(local.numel() - torch.isfinite(local).sum())
    return total


def _replace(directory: str, write: Callable[[str], Dict[str, Any]]) -> Optional[str]:
    """Writes beside a directory and then puts it in that one's place."""
    parent = os.path.dirname(os.path.abspath(directory))
    new = ""
    try:
        os.makedirs(parent, exist_ok=True)
        new = tempfile.mkdtemp(prefix="." + os.path.basename(directory) + "-", dir=parent)
        write(new)
        for root, _, files in os.walk(new):
            for name in files:
                with open(os.path.join(root, name), "rb+") as f:
                    os.fsync(f.fileno())
        old = new + ".old"
        if os.path.exists(directory):
            os.rename(directory, old)
        os.rename(new, directory)
        shutil.rmtree(old, ignore_errors=True)
        return directory
    except Exception:  # noqa: BLE001
        log.exception("vigil: nothing was saved in %s", directory)
        if new:
            shutil.rmtree(new, ignore_errors=True)
        return None
