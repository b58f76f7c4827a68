"""One model, many sessions: one pass at a time, turns in the order they were asked for.

A session asks anew after each pass, so the order is round-robin. What it verifies is decided when its turn has come,
not when it asked: drafts that arrived meanwhile are in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import structlog

from wanspec_p2p.models.base import LanguageModel
from wanspec_p2p.protocol import limits

__all__ = ["Engine"]

SLOW_PASS_SECONDS = 30.0
"""A pass cannot be interrupted and everyone waits for it, so one that takes this long is worth a line in the log."""

log = structlog.get_logger(__name__)


class Engine:
    def __init__(self, model: LanguageModel, slots: int) -> None:
        self.model = model
        self._turn = asyncio.Lock()  # wakes waiters first come, first served
        self._slots = asyncio.Semaphore(slots)
        self.serving = 0  # sessions that have a slot
        self.queued = 0  # sessions that wait for one

    @property
    def context(self) -> int:
        """Positions one session may fill: the model's, and no more than messages can carry."""
        return min(self.model.info.context, limits.MAX_PROMPT_TOKENS)

    @property
    def full(self) -> bool:
        return self._slots.locked()

    @asynccontextmanager
    async def slot(self) -> AsyncIterator[None]:
        """A place among the sessions served at once; their caches take memory."""
        self.queued += 1
        try:
            await self._slots.acquire()
        finally:
            self.queued -= 1
        self.serving += 1
        try:
            yield
        finally:
            self.serving -= 1
            self._slots.release()

    @asynccontextmanager
    async def turn(self) -> AsyncIterator[None]:
        """The model, for one pass."""
        async with self._turn:
            watch = asyncio.get_running_loop().call_later(SLOW_PASS_SECONDS, self._slow)
            try:
                yield
            finally:
                watch.cancel()

    def _slow(self) -> None:
        log.warning(
            "a forward pass takes long: all sessions wait for it",
            seconds_so_far=SLOW_PASS_SECONDS,
            serving=self.serving,
            queued=self.queued,
        )
