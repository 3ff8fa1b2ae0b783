"""Who the process is and where its agent listens."""

from __future__ import annotations

import os
import re
import sys
import time
from dataclasses import dataclass, field
from typing import Any, Dict, List, Mapping, Optional, Tuple

# The agent of a machine where it is installed as a service.
USUAL_SOCKET = "/run/vigil/agent.sock"

MAX_SETTINGS = 256
MAX_TEXT = 1024


@dataclass
class Settings:
    """What a run needs to know before it speaks. Times are in seconds."""

    socket: str = ""
    run_id: str = ""
    name: str = ""
    attempt: int = 0
    rank: int = 0
    world_size: int = 1
    exit_file: str = ""
    framework: str = ""
    total_steps: int = 0
    config: Dict[str, str] = field(default_factory=dict)
    queue_steps: int = 4096
    flush_seconds: float = 0.1
    call_seconds: float = 2.0
    connect_seconds: float = 1.0
    hang_seconds: Optional[float] = None  # None: from the usual step time


def run_id(text: str) -> str:
    """A run's id out of whatever a user calls it."""
    text = re.sub(r"[^A-Za-z0-9._-]+", "-", text).strip("-").lstrip(".")
    return text[:128] or "run"


def flatten(config: Any, prefix: str = "", into: Optional[Dict[str, str]] = None) -> Dict[str, str]:
    """A configuration as flat text: nested mappings become dotted keys. Takes
    mappings, dataclasses and argparse's namespaces."""
    into = {} if into is None else into
    if config is None:
        return into
    if not isinstance(config, Mapping):
        config = getattr(config, "__dict__", {})
    for key, value in config.items():
        name = prefix + str(key)
        if isinstance(value, Mapping):
            flatten(value, name + ".", into)
        elif len(into) < MAX_SETTINGS:
            into[name[:MAX_TEXT]] = str(value)[:MAX_TEXT]
    return into


def _first(environ: Mapping[str, str], names: Tuple[str, ...], default: int, wrong: List[str]) -> int:
    for name in names:
        text = environ.get(name, "")
        if not text:
            continue
        try:
            n = int(text)
        except ValueError:
            n = -1
        if n >= 0:
            return n
        wrong.append("%s is %r; want a whole number from 0 on" % (name, text))
    return default


def read(environ: Mapping[str, str], run: Optional[str], config: Any, given: Dict[str, Any]) -> Tuple[Settings, List[str]]:
    """Settings of arguments and environment, and what is wrong with them.

    A supervisor's VIGIL_RUN_ID wins over the name in the script, so that all
    launches are one run; the name is shown all the same. Ranks are those of
    torchrun, of srun, or of mpirun.
    """
    wrong: List[str] = []
    s = Settings(**given)
    s.name = run or ""
    s.config = flatten(config)
    if not s.socket:
        s.socket = environ.get("VIGIL_SOCKET", "")
    if not s.socket and os.path.exists(USUAL_SOCKET):
        s.socket = USUAL_SOCKET
    launcher = environ.get("TORCHELASTIC_RUN_ID", "")
    job = environ.get("SLURM_JOB_ID", "")
    s.run_id = environ.get("VIGIL_RUN_ID", "") or (run_id(run) if run else "")
    if not s.run_id and launcher not in ("", "none"):
        s.run_id = run_id(launcher)
    if not s.run_id and job:
        s.run_id = run_id("slurm-" + job)
    if not s.run_id:
        script = os.path.splitext(os.path.basename(sys.argv[0] or "python"))[0]
        s.run_id = run_id("%s-%s" % (script, time.strftime("%Y%m%d-%H%M%S")))
    s.exit_file = environ.get("VIGIL_EXIT_FILE", "")
    s.attempt = _first(environ, ("VIGIL_ATTEMPT", "TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"), 0, wrong)
    step = "SLURM_STEP_NUM_TASKS" in environ  # srun started this process
    s.rank = _first(environ, ("RANK",) + (("SLURM_PROCID",) if step else ()) + ("OMPI_COMM_WORLD_RANK",), 0, wrong)
    sizes = ("WORLD_SIZE",) + (("SLURM_STEP_NUM_TASKS",) if step else ()) + ("OMPI_COMM_WORLD_SIZE",)
    s.world_size = max(1, _first(environ, sizes, 1, wrong))
    if s.rank >= s.world_size:
        wrong.append("rank %d of %d ranks; ranks count from 0" % (s.rank, s.world_size))
        s.world_size = s.rank + 1
    if len(s.socket.encode()) > 107:
        wrong.append("the socket's path has more than 107 bytes: %s" % s.socket)
        s.socket = ""
    return s, wrong
