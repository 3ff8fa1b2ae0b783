"""A data loader whose place can be saved and found again, in mid-epoch."""

from __future__ import annotations

from typing import Any, Callable, Dict, Iterator, List, Optional

from . import _random


_END = object()


class _Skip:
    """Batches of indices without the first ones: they are drawn and not loaded.

    They are drawn when the first of the rest is, as late as without skipping: a
    sampler draws its seed then, after the DataLoader has drawn its own.
    """

    def __init__(self, inner: Any, batches: int) -> None:
        self._inner = inner
        self._batches = batches
        self._iterator: Optional[Iterator[Any]] = None

    def __iter__(self) -> "_Skip":
        self._iterator = None
        return self

    def prime(self) -> None:
        """Draws the first batches, if they are not drawn yet."""
        if self._iterator is None:
            self._iterator = iter(self._inner)
            for _ in range(self._batches):
                next(self._iterator, None)

    def __next__(self) -> Any:
        self.prime()
        assert self._iterator is not None
        return next(self._iterator)

    def __len__(self) -> int:
        return len(self._inner)


class Loader:
    """Wraps a DataLoader. It iterates as that does, counts batches and epochs,
    and has state_dict and load_state_dict: after loading, the next iteration
    goes on behind the last batch that was used, in the same order, with the
    random numbers that would have been drawn.

    Batches that were used are drawn again by index alone and not loaded, which
    is exact where the dataset draws no random numbers, or does so in the main
    process. replay=True loads them again: for random augmentation in worker
    processes. Iterable datasets are always replayed.
    """

    def __init__(self, loader: Any, replay: bool = False) -> None:
        self.loader = loader
        self.epoch = 0  # epochs that are complete
        self.position = 0  # batches used of the present one
        self._replay = replay
        self._start: Optional[Dict[str, Any]] = None  # generators at the epoch's start; None between epochs
        self.leave_out = 0  # batches that are drawn and not used, next
        self._now: Optional[Dict[str, Any]] = None  # generators to go on with, after load_state_dict
        self.frozen: Optional[Dict[str, Any]] = None  # what state_dict gives in place of the truth
        self.before: List[Callable[[], None]] = []  # called before a batch is drawn
        self.after: List[Callable[[], None]] = []  # called at the end of an epoch

    def __len__(self) -> int:
        return len(self.loader)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") or name == "loader":
            raise AttributeError(name)
        return getattr(self.loader, name)

    def __iter__(self) -> Iterator[Any]:
        now, self._now = self._now, None
        if now is None:
            self._start, self.position = self._generators(), 0
            inner = self._begin()
        else:
            inner = self._find(now)
        while True:
            for call in self.before:
                call()
            while self.leave_out > 0 and next(inner, _END) is not _END:
                self.leave_out -= 1
                self.position += 1
            batch = next(inner, _END)
            if batch is _END:
                break
            self.position += 1
            yield batch
        for call in self.after:
            call()
        self._start, self.position = None, 0
        self.epoch += 1

    def _find(self, now: Dict[str, Any]) -> Iterator[Any]:
        """An iterator that goes on where the saved one was. The generators are
        set when the first batch is drawn: what ran before that, such as another
        evaluation, does not count."""
        if self._start is None:  # it was between two epochs
            self._set(now)
            self._start = self._generators()
            return self._begin()
        self._set(self._start)
        if self.position == 0:
            inner = self._begin()
        elif self._indexed():
            inner = self._begin(self.position)
        else:
            inner = self._begin()
            for _ in range(self.position):
                next(inner, None)
        self._set(now)
        return inner

    def _indexed(self) -> bool:
        if self._replay or not hasattr(self.loader, "batch_sampler"):
            return False
        from torch.utils.data import DataLoader, IterableDataset

        # A subclass with an iteration of its own, as Accelerate's, may draw ahead.
        plain = type(self.loader).__iter__ is DataLoader.__iter__
        return plain and not isinstance(self.loader.dataset, IterableDataset)

    def _begin(self, skip: int = 0) -> Iterator[Any]:
        sampler: Any = getattr(self.loader, "sampler", None)
        if hasattr(sampler, "set_epoch"):
            sampler.set_epoch(self.epoch)
        if not skip:
            return iter(self.loader)
        name = "batch_sampler" if self.loader.batch_sampler is not None else "sampler"
        whole = getattr(self.loader, name)
        rest = _Skip(whole, skip)
        # DataLoader forbids the assignment as its iterators would not see it;
        # here only the iterator that is made now is to see it.
        object.__setattr__(self.loader, name, rest)
        try:
            inner = iter(self.loader)
            rest.prime()
            return inner
        finally:
            object.__setattr__(self.loader, name, whole)

    def _own(self) -> List[Any]:
        found: List[Any] = []
        for owner in (self.loader, getattr(self.loader, "sampler", None), getattr(getattr(self.loader, "batch_sampler", None), "sampler", None)):
            generator = getattr(owner, "generator", None)
            if generator is not None and hasattr(generator, "get_state") and all(generator is not g for g in found):
                found.append(generator)
        return found

    def _generators(self) -> Dict[str, Any]:
        state = _random.capture()
        state["own"] = [g.get_state() for g in self._own()]
        return state

    def _set(self, state: Dict[str, Any]) -> None:
        _random.restore(state)
        for generator, one in zip(self._own(), state["own"]):
            generator.set_state(one)

    @property
    def samples(self) -> int:
        """Samples used since the run began, as far as the loader's sizes tell."""
        try:
            return self.epoch * len(self.loader.dataset) + self.position * int(self.loader.batch_size or 1)
        except (TypeError, AttributeError):
            return self.position

    def state_dict(self, now: Optional[Dict[str, Any]] = None) -> Dict[str, Any]:
        """Where it is, and the generators as they are, or as they were captured a moment ago."""
        if self.frozen is not None:
            return self.frozen
        state = self._generators() if now is None else dict(now, own=[g.get_state() for g in self._own()])
        return {"epoch": self.epoch, "position": self.position, "start": self._start, "now": state}

    def load_state_dict(self, state: Dict[str, Any]) -> None:
        """Has the next iteration go on there, with the generators as they were."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._start, self._now = state["start"], state["now"]
