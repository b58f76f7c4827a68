"""Standing in for `asyncio.sleep`, so that a test decides when waiting is over."""

from __future__ import annotations

import asyncio

__all__ = ["Waits"]


class Waits:
    """Pass it as `sleep`. Every wait is held until the test ends it.

    Attributes:
        asked: seconds of every wait so far.
    """

    def __init__(self) -> None:
        self.asked: list[float] = []
        self._held: list[asyncio.Future[None]] = []
        self._new = asyncio.Event()

    async def __call__(self, seconds: float) -> None:
        self.asked.append(seconds)
        held: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._held.append(held)
        self._new.set()
        try:
            await held
        finally:
            if held in self._held:
                self._held.remove(held)

    async def begun(self) -> None:
        """Until somebody waits."""
        async with asyncio.timeout(5):
            while not self._held:
                self._new.clear()
                await self._new.wait()

    async def end(self) -> None:
        """End every wait that is held; wait for one first."""
        await self.begun()
        held, self._held = self._held, []
        for future in held:
            if not future.done():
                future.set_result(None)
        await asyncio.sleep(0)
