"""Receipts on their way to the coordinator: kept until it says they are on disk, sent again after a reconnection."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts

__all__ = ["ReceiptBox"]

MAX_BATCHES = 4096
"""Kept while the coordinator is away; the oldest go first."""

log = structlog.get_logger(__name__)


class ReceiptBox:
    def __init__(self, say: Callable[[Receipts], None], new_id: Callable[[], str]) -> None:
        self._say, self._new_id = say, new_id
        self._unstored: dict[str, Receipts] = {}

    def __len__(self) -> int:
        return len(self._unstored)

    def add(self, receipts: list[Receipt]) -> None:
        for start in range(0, len(receipts), limits.MAX_RECEIPTS):
            batch = Receipts(self._new_id(), tuple(receipts[start : start + limits.MAX_RECEIPTS]))
            self._unstored[batch.batch] = batch
            if len(self._unstored) > MAX_BATCHES:
                del self._unstored[next(iter(self._unstored))]
                log.warning("the oldest receipts are dropped: the coordinator stores none", kept=MAX_BATCHES)
            self._say(batch)

    def stored(self, batch: str) -> None:
        self._unstored.pop(batch, None)

    def send_again(self) -> None:
        for batch in self._unstored.values():
            self._say(batch)
