"""How long a peer may be silent, watched without a timer for each of its frames.

A coordinator hears a thousand peers several times a second. A time-out around each `receive` makes and cancels a timer
a frame, which costs more than what is then done with the frame; here one timer looks, when silence can have become too
long at the earliest, whether it has.
"""

from __future__ import annotations

import asyncio
import math
from types import TracebackType

__all__ = ["Patience"]


class Patience:
    """Use as an asynchronous context manager in the task that listens, and say when it does and when it does not.

    Args:
        seconds: how long it listens in vain.

    Raises:
        TimeoutError: from the body, when it has listened in vain for so long.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._since = math.inf  # loop time; infinite while we do not listen
        self._loop = asyncio.get_running_loop()
        self._timeout = asyncio.timeout(None)
        self._timer: asyncio.TimerHandle | None = None

    async def __aenter__(self) -> Patience:
        await self._timeout.__aenter__()
        self._look()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        await self._timeout.__aexit__(kind, error, traceback)

    def listen(self) -> None:
        """From now on silence counts."""
        self._since = self._loop.time()

    def rest(self) -> None:
        """What takes time from now on is not the peer's silence."""
        self._since = math.inf

    def _look(self) -> None:
        now = self._loop.time()
        due = min(self._since, now) + self._seconds
        if due > now:
            self._timer = self._loop.call_at(due, self._look)
        else:
            self._timeout.reschedule(now)
