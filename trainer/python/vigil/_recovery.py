"""What an attempt is asked to do otherwise than the one before."""

from __future__ import annotations

import json
import logging
import os
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional

log = logging.getLogger("vigil")

FROM_NOTHING = "nothing"

_MODES = {"exact": "RECOVERY_MODE_EXACT", "latest": "RECOVERY_MODE_LATEST", "best": "RECOVERY_MODE_BEST"}


@dataclass
class Recovery:
    """What a supervisor asks for; its default asks for nothing."""

    source: str = ""  # "latest", "earlier" or "nothing": where training goes on
    skip_batches: int = 0  # batches that are left out when skip_at_step is reached
    skip_at_step: int = 0
    learning_rate_scale: float = 1.0  # multiplies the learning rate
    mode: str = ""  # which checkpoint is wanted, as the wire names it
    fallback: bool = True  # whether an earlier checkpoint will do when the newest is not fit
    max_checkpoint_bytes: int = 0  # of this process; 0: nothing bounds it
    wrong: List[str] = field(default_factory=list)

    @property
    def changes(self) -> bool:
        """Whether the training loop itself is to do something otherwise."""
        return self.skip_batches > 0 or self.learning_rate_scale != 1.0


def read(environ: Mapping[str, str]) -> Recovery:
    """What the environment asks for. What it has wrong is in Recovery.wrong."""
    r = Recovery(fallback=environ.get("VIGIL_RESUME_FALLBACK", "") != "false")
    try:
        asked: Dict[str, Any] = json.loads(environ.get("VIGIL_RECOVERY") or "{}")
        r.source = str(asked.get("from", ""))
        r.skip_batches = max(0, int(asked.get("skip_batches", 0)))
        r.skip_at_step = max(0, int(asked.get("skip_at_step", 0)))
        r.learning_rate_scale = float(asked.get("learning_rate_scale", 0)) or 1.0
    except (ValueError, TypeError, AttributeError) as e:
        r.wrong.append("VIGIL_RECOVERY is not readable: %s" % e)
    try:
        r.max_checkpoint_bytes = max(0, int(environ.get("VIGIL_MAX_CHECKPOINT_BYTES") or 0))
    except ValueError:
        r.wrong.append("VIGIL_MAX_CHECKPOINT_BYTES is no number of bytes")
    mode = environ.get("VIGIL_RECOVERY_MODE", "")
    if mode and mode not in _MODES:
        r.wrong.append("VIGIL_RECOVERY_MODE is %r; there are %s" % (mode, ", ".join(_MODES)))
    r.mode = _MODES.get(mode, "")
    return r


class CheckpointRefused(RuntimeError):
    """There is a checkpoint to go on from and the user does not want that one."""

    vigil_failure = "FAILURE_KIND_CHECKPOINT_CORRUPT"


def write_answer(exit_file: str, honoured: List[str], refused: List[str]) -> None:
    """Tells the supervisor which changes are made; without one it does nothing."""
    if not exit_file:
        return
    try:
        with open(exit_file + ".recovery", "w", encoding="utf-8") as f:
            json.dump({"honoured": honoured, "refused": refused}, f)
    except OSError as e:
        log.warning("vigil: the supervisor cannot be told which changes are made: %s", e)


def too_large(directory: str, most: int) -> Optional[str]:
    """Why a checkpoint's files are more than its user allows; None when they are not."""
    if not most:
        return None
    size = sum(os.path.getsize(os.path.join(root, name)) for root, _, names in os.walk(directory) for name in names)
    return "it has %d bytes; limits.max_checkpoint_size_gb allows %d" % (size, most) if size > most else None
