"""A checkpoint's files, written over memory that is there already.

The agent keeps the files of a checkpoint in memory once they are sealed, and
leaves them beside the directory that it gives for the next one. To write over
them takes as long as to copy memory; to get as much memory anew takes several
times as long.
"""

from __future__ import annotations

import contextlib
import io
import os
import stat
from typing import IO, Any, Dict, Iterator, List, Optional, Tuple, Union, cast

SPARE = "spare"  # the directory beside; a file in it is for whoever renames it
LEAST = 1 << 20  # bytes from which the agent keeps a file


class Sizes:
    """How large each file of the last checkpoint was: a file of the same name
    takes the memory that fits it."""

    def __init__(self) -> None:
        self.last: Dict[str, int] = {}
        self.now: Dict[str, int] = {}


_staged: Dict[str, Sizes] = {}  # directories that the agent gave and that are being written to


@contextlib.contextmanager
def staging(directory: str, sizes: Sizes) -> Iterator[None]:
    """Has create write over what lies beside a directory, within the block."""
    sizes.last, sizes.now = sizes.now, {}
    _staged[directory] = sizes
    try:
        yield
    finally:
        _staged.pop(directory, None)


class _File(io.BufferedIOBase):
    """A file that is written from its beginning on. Which memory it gets is
    chosen once it is large enough for that to matter."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._within = _within(path)
        self._held = bytearray()  # until the file is opened
        self._out: Optional[io.BufferedWriter] = None
        self._at = path  # where it is while it is written
        self.written = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("write to closed file")
        view = memoryview(data)
        if view.nbytes == 0:
            return 0
        view = view.cast("B")
        self.written += len(view)
        if self._out is None and self.written < LEAST:
            self._held += view
        else:
            self._opened().write(view)
        return len(view)

    def flush(self) -> None:
        if self._out is not None:
            self._out.flush()

    def _opened(self) -> io.BufferedWriter:
        if self._out is None:
            taken = _take(*self._within) if self._within is not None and self.written >= LEAST else None
            self._at, fd = taken or (self._path, os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666))
            self._out = io.BufferedWriter(io.FileIO(fd, "w"), LEAST)
            self._out.write(self._held)
            self._held = bytearray()
        return self._out

    def complete(self) -> None:
        """Puts the file where it is to be, with what was written and no more."""
        out = self._opened()
        out.flush()
        os.ftruncate(out.fileno(), self.written)
        self._end()
        if self._at != self._path:
            os.rename(self._at, self._path)
        if self._within is not None:
            sizes, _, name = self._within
            sizes.now[name] = self.written

    def give_up(self) -> None:
        """Leaves no file."""
        if self._out is not None:
            with contextlib.suppress(OSError):
                os.unlink(self._at)
            with contextlib.suppress(OSError):  # what is not written yet may be too much
                self._end()

    def _end(self) -> None:
        out, self._out = self._out, None
        self.close()
        if out is not None:
            out.close()


@contextlib.contextmanager
def create(path: Union[str, "os.PathLike[str]"]) -> Iterator[IO[bytes]]:
    """Opens a file of a checkpoint for writing, from its beginning to its end:
    it cannot be sought in. Below the directory that run.checkpoint gave to the
    function that writes, a file of 1 MiB and more is written over memory of the
    checkpoint before, which is several times as fast; elsewhere it is as if
    opened. After an exception in the block there is no file.

        with vigil.create_file(os.path.join(place, "weights.bin")) as f:
            f.write(weights)
    """
    f = _File(os.fspath(path))
    try:
        yield cast(IO[bytes], f)
        f.complete()
    except BaseException:
        f.give_up()
        raise


def _within(path: str) -> Optional[Tuple[Sizes, str, str]]:
    """Of which staging directory a path is, and as what name."""
    if not _staged:
        return None
    path = directory = os.path.abspath(path)
    while directory != os.path.dirname(directory):
        directory = os.path.dirname(directory)
        sizes = _staged.get(directory)
        if sizes is not None:
            return sizes, directory, os.path.relpath(path, directory)
    return None


def _take(sizes: Sizes, directory: str, name: str) -> Optional[Tuple[str, int]]:
    """Takes a file to write over, and opens it. It stays outside the checkpoint,
    under a name of its own, until it is complete: whatever happens before, what
    it held before is never part of a checkpoint."""
    spare = os.path.join(os.path.dirname(directory), SPARE)
    for found in _list(spare, sizes.last.get(name, 0)):
        mine = os.path.join(spare, ".taken-%s" % found)
        try:
            os.rename(os.path.join(spare, found), mine)
            return mine, os.open(mine, os.O_WRONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:  # another took it
            continue
    return None


def _list(spare: str, size: int) -> List[str]:
    """The files that may be written over, the fittest first: the smallest with
    room, then the largest. Of a file whose size nobody knows, the largest."""
    found = []
    try:
        with os.scandir(spare) as entries:
            for entry in entries:
                info = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(info.st_mode) and not entry.name.startswith("."):
                    found.append((info.st_size, entry.name))
    except OSError:
        return []
    roomy = sorted(f for f in found if 0 < size <= f[0])
    rest = sorted((f for f in found if not 0 < size <= f[0]), reverse=True)
    return [name for _, name in roomy + rest]
