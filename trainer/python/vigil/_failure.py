"""What an exception means for the run."""

from __future__ import annotations

import errno
from typing import Optional, Type

UNSPECIFIED = "FAILURE_KIND_UNSPECIFIED"
NONFINITE = "FAILURE_KIND_NONFINITE"
PREEMPTED = "FAILURE_KIND_PREEMPTED"

# Words of messages, in lower case; the first that is found counts. They are
# those of PyTorch, NCCL and CUDA.
_WORDS = (
    ("FAILURE_KIND_GPU_OOM", ("cuda out of memory", "hip out of memory", "cublas_status_alloc_failed", "cudaerrormemoryallocation")),
    ("FAILURE_KIND_HOST_OOM", ("defaultcpuallocator: can't allocate", "cannot allocate memory")),
    ("FAILURE_KIND_NETWORK", (
        "nccl", "gloo", "socket timeout", "connection reset by peer", "connection refused", "broken pipe",
        "watchdog caught collective", "distbackenderror", "distnetworkerror", "rendezvous")),
    ("FAILURE_KIND_GPU_FAULT", (
        "uncorrectable ecc", "fallen off the bus", "unspecified launch failure", "illegal memory access",
        "misaligned address", "cudaerrorlaunchfailure", "device-side assert", "hardware failure")),
    ("FAILURE_KIND_DISK_FULL", ("no space left on device", "disk quota exceeded")),
    ("FAILURE_KIND_CHECKPOINT_CORRUPT", ("pytorchstreamreader failed", "invalid magic number; corrupt file", "checkpoint is corrupt")),
    ("FAILURE_KIND_DATA", ("dataloader worker", "unicodedecodeerror", "cannot identify image file")),
    ("FAILURE_KIND_NONFINITE", ("nan", "non-finite", "nonfinite")),
)


def kind(error: BaseException) -> str:
    """The FailureKind of an exception; CRASH when nothing speaks for another.
    An exception that carries its own says it in an attribute vigil_failure."""
    own: Optional[str] = getattr(error, "vigil_failure", None)
    if own:
        return own
    if isinstance(error, MemoryError):
        return "FAILURE_KIND_HOST_OOM"
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT):
        return "FAILURE_KIND_DISK_FULL"
    name = type_name(type(error)).lower()
    if name.endswith("outofmemoryerror"):
        return "FAILURE_KIND_GPU_OOM"
    text = name + ": " + str(error).lower()
    for failure, words in _WORDS:
        if any(word in text.split() if word == "nan" else word in text for word in words):
            return failure
    if isinstance(error, (ConnectionError, TimeoutError)):
        return "FAILURE_KIND_NETWORK"
    return "FAILURE_KIND_CRASH"


def type_name(cls: Type[BaseException]) -> str:
    """An exception's type as a person writes it: torch.OutOfMemoryError."""
    module = cls.__module__
    return cls.__qualname__ if module in ("builtins", "__main__") else module + "." + cls.__qualname__
