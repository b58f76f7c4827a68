"""One model, many sessions: one pass at a time, turns in the order they were asked for.

A session asks anew after each pass, so the order is round-robin. What it verifies is decided when its turn has come,
not when it asked: drafts that arrived meanwhile are in.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from wanspec_p2p.models.base import LanguageModel

__all__ = ["Engine"]


class Engine:
    def __init__(self, model: LanguageModel, slots: int) -> None:
        self.model = model
        self._turn = asyncio.Lock()  # wakes waiters first come, first served
        self._slots = asyncio.Semaphore(slots)
        self.serving = 0  # sessions that have a slot
        self.queued = 0  # sessions that wait for one

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
            yield
