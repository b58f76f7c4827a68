"""Receipts on their way to the coordinator: kept in memory, and sent again, until it says they are on disk."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts

__all__ = ["ReceiptBox"]

MAX_BATCHES = 4096
"""Kept while the coordinator is away; the oldest go first."""
AGAIN_SECONDS = 30.0
"""How long the coordinator may take to store a batch before it is sent again: its disk may have been full."""
AGAIN_AT_ONCE = 8
"""Batches sent again at a time; a disk that stays full is not worth more."""

log = structlog.get_logger(__name__)


class ReceiptBox:
    def __init__(self, say: Callable[[Receipts], None], new_id: Callable[[], str], clock: Clock) -> None:
        self._to_coordinator, self._new_id, self._clock = say, new_id, clock
        self._unstored: dict[str, Receipts] = {}
        self._said_at: dict[str, float] = {}

    def __len__(self) -> int:
        return len(self._unstored)

    def add(self, receipts: list[Receipt]) -> None:
        for start in range(0, len(receipts), limits.MAX_RECEIPTS):
            batch = Receipts(self._new_id(), tuple(receipts[start : start + limits.MAX_RECEIPTS]))
            self._unstored[batch.batch] = batch
            if len(self._unstored) > MAX_BATCHES:
                self.stored(next(iter(self._unstored)))
                log.warning("the oldest receipts are dropped: the coordinator stores none", kept=MAX_BATCHES)
            self._say(batch)

    def stored(self, batch: str) -> None:
        self._unstored.pop(batch, None)
        self._said_at.pop(batch, None)

    def send_again(self) -> None:
        """All there are, to a coordinator that has taken us in."""
        for batch in self._unstored.values():
            self._say(batch)

    def send_overdue(self) -> None:
        """Some of those that the coordinator was sent a while ago, and has not stored. Call it now and then."""
        before = self._clock.monotonic() - AGAIN_SECONDS
        for batch in sorted(self._said_at, key=self._said_at.__getitem__)[:AGAIN_AT_ONCE]:
            if self._said_at[batch] <= before:
                self._say(self._unstored[batch])

    def _say(self, batch: Receipts) -> None:
        self._said_at[batch.batch] = self._clock.monotonic()
        self._to_coordinator(batch)
