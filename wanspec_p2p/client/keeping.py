"""Stores measurements in a thread of its own: a file that is locked must not hold up the answers that are timed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from types import TracebackType
from typing import TYPE_CHECKING

from wanspec_p2p.client.series import Locked, Measurement, Series

if TYPE_CHECKING:
    from typing import Self

__all__ = ["Keeper"]

PAUSE = 0.1
"""Seconds between two tries to write to a file that is locked, beyond those that SQLite waits."""


class Keeper:
    """Called with measurements, it stores them in `series`, in that order, and never waits.

    Use it in `with`, which ends when everything is stored, and leave `series` alone meanwhile.

    Args:
        locked: called in the thread, once each time that another program holds the file. What is measured meanwhile is
            stored when that lets go, however long it takes; an interrupt while `with` ends gives it up.

    Raises:
        ConfigError: the file cannot be written; raised by the next call, or by the end of `with`.
    """

    def __init__(self, series: Series, locked: Callable[[], None]) -> None:
        self._series, self._locked = series, locked
        self._waiting: SimpleQueue[Measurement | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._store, name="series", daemon=True)
        self._given_up = threading.Event()
        self._failed: Exception | None = None
        self._taken = self._stored = 0

    @property
    def unstored(self) -> int:
        """Measurements that it was called with and that are not in the file."""
        return self._taken - self._stored

    def __call__(self, found: Measurement) -> None:
        if self._failed is not None:
            raise self._failed
        self._taken += 1
        self._waiting.put(found)

    def _store(self) -> None:
        try:
            while (found := self._waiting.get()) is not None:
                self._add(found)
        except Exception as error:  # the caller's, in whose thread nobody would see it
            self._failed = error

    def _add(self, found: Measurement) -> None:
        told = False
        while not self._given_up.is_set():
            try:
                self._series.add(found)
            except Locked:
                if not told:
                    self._locked()
                told = True
                self._given_up.wait(PAUSE)
            else:
                self._stored += 1
                return

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, where: TracebackType | None
    ) -> None:
        self._waiting.put(None)
        try:
            self._thread.join()
        except KeyboardInterrupt:
            self._given_up.set()
            self._thread.join()  # as long as SQLite waits for a lock, at most
            raise
        if self._failed is not None and self._failed is not value:
            raise self._failed
