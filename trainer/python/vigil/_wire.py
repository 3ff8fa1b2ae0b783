"""How values are written in the JSON of vigil.trainer.v1."""

from __future__ import annotations

import math
import os
import time
from typing import Any, Optional, Union

Number = Union[float, str]


def number(value: Any) -> Optional[Number]:
    """A double as protobuf's JSON has it; None for what is no number.

    Tensors and NumPy's scalars are taken; one that lies on a device is fetched.
    """
    try:
        f = float(value)
    except Exception:  # noqa: BLE001 - whatever a foreign __float__ raises
        return None
    if f - f == 0.0:
        return f
    if math.isnan(f):
        return "NaN"
    return "Infinity" if f > 0 else "-Infinity"


def timestamp(ns: int) -> str:
    """Nanoseconds since 1970 as RFC 3339."""
    seconds, rest = divmod(ns, 1_000_000_000)
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds)) + ".%09dZ" % rest


def parse_timestamp(text: str) -> Optional[float]:
    """RFC 3339 in UTC as seconds since 1970; None when it is none."""
    import calendar

    try:
        whole, _, rest = text.rstrip("Z").partition(".")
        seconds = calendar.timegm(time.strptime(whole, "%Y-%m-%dT%H:%M:%S"))
        return seconds + (float("0." + rest) if rest else 0.0)
    except ValueError:
        return None


def parse_duration(text: Any, default: float) -> float:
    """A duration such as "10s" in seconds."""
    try:
        return float(str(text).rstrip("s"))
    except ValueError:
        return default


def new_id(ns: int) -> str:
    """A UUID of version 7.

    It draws from the system, not from the ``random`` module: a training run's
    random numbers must be the same with Vigil and without.
    """
    raw = bytearray((ns // 1_000_000).to_bytes(6, "big") + os.urandom(10))
    raw[6] = 0x70 | raw[6] & 0x0F
    raw[8] = 0x80 | raw[8] & 0x3F
    h = raw.hex()
    return "-".join((h[:8], h[8:12], h[12:16], h[16:20], h[20:]))


def cut(text: str, limit: int, keep_end: bool = False) -> str:
    """The first (or last) bytes of a text, at most limit, as whole characters."""
    raw = text.encode("utf-8", "replace")
    if len(raw) <= limit:
        return raw.decode("utf-8", "replace")
    raw = raw[-limit:] if keep_end else raw[:limit]
    return raw.decode("utf-8", "ignore")
