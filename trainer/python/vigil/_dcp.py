"""Sharded state in the files of torch.distributed.checkpoint.

Every rank has a directory of its own at the agent, and DCP wants one for all:
each rank writes its shards and the common metadata into its own, and reading
puts the ranks' directories together again.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from typing import Any, Dict, List

import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint import state_dict

METADATA = ".metadata"
SHOWN = "metadata.dcp"  # a name that no store takes for a temporary file


def _states(model: Any, optimizers: List[Any]) -> Dict[str, Any]:
    """The states as DCP wants them: by the parameters' names, and complete also
    of an optimizer that has made no step."""
    for optimizer in optimizers:
        optimizer._vigil_off = True  # torch makes a step that changes nothing
    try:
        states, optimizer_states = state_dict.get_state_dict(model, optimizers)
        return {"model": states, "optimizer": optimizer_states}
    finally:
        for optimizer in optimizers:
            del optimizer._vigil_off


def save(model: Any, optimizers: List[Any], place: str) -> None:
    """Writes this rank's shards; every rank calls it."""
    os.makedirs(place, exist_ok=True)
    dcp.save(_states(model, optimizers), checkpoint_id=place)
    path = os.path.join(place, METADATA)
    content = [None]
    if os.path.exists(path):  # the coordinator alone wrote it
        with open(path, "rb") as f:
            content = [f.read()]  # type: ignore[list-item]
        os.remove(path)
    if dist.is_available() and dist.is_initialized():
        dist.broadcast_object_list(content, src=0)
    with open(os.path.join(place, SHOWN), "wb") as f:
        f.write(content[0] or b"")


def load(model: Any, optimizers: List[Any], place: str) -> None:
    """Puts the states back; every rank calls it."""
    if dist.is_available() and dist.is_initialized():
        dist.barrier()  # every rank has its directory
    whole = tempfile.mkdtemp(prefix="vigil-dcp-")
    try:
        for directory in _ranks(place):
            for name in os.listdir(directory):
                target = os.path.join(whole, METADATA if name == SHOWN else name)
                if not os.path.exists(target):
                    os.symlink(os.path.join(directory, name), target)
        states = _states(model, optimizers)
        dcp.load(states, checkpoint_id=whole)
        state_dict.set_state_dict(model, optimizers, model_state_dict=states["model"], optim_state_dict=states["optimizer"])
    finally:
        shutil.rmtree(whole, ignore_errors=True)


def _ranks(place: str) -> Any:
    """The same directory of this rank and of the others, as far as they are seen."""
    yield place
    found = re.match(r"(?P<before>.*/rank-)\d+(?P<after>/.*)$", os.path.abspath(place))
    if found is None:
        return
    parent = os.path.dirname(found["before"])
    for name in sorted(os.listdir(parent)):
        other = os.path.join(parent, name + found["after"])
        if name.startswith("rank-") and os.path.abspath(place) != other and os.path.isdir(other):
            yield other
