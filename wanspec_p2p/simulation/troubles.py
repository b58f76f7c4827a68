"""What happens to nodes while a scenario is played: each trouble a task of its own, none of which outlives the play."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Coroutine
from typing import Any, Protocol

__all__ = ["Troubles"]

FLAP_SECONDS = 0.1


class _Spoilable(Protocol):
    """The link of a node: simulated, or of real sockets."""

    def disconnect(self) -> None: ...

    def partition(self) -> None: ...

    def heal(self) -> None: ...


class Troubles:
    """Args:
    slow: by what the times of adversaries are stretched.
    """

    def __init__(self, slow: float) -> None:
        self._slow = slow
        self._tasks: dict[asyncio.Task[None], None] = {}

    @contextlib.asynccontextmanager
    async def meanwhile(self) -> AsyncIterator[None]:
        """They end with the body. What went wrong in one is raised then, if the body itself went well."""
        try:
            yield
        finally:
            for task in self._tasks:
                task.cancel()
            ended = await asyncio.gather(*self._tasks, return_exceptions=True)
        for fault in ended:
            if isinstance(fault, Exception):
                raise fault

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work, name="trouble of a scenario")
        self._tasks[task] = None

    def beset(self, kind: str, link: _Spoilable) -> None:
        """Begin what the link of a node of that kind goes through; for most kinds that is nothing."""
        if kind in ("flapping", "stalling"):
            self.begin(self._flap(link, cut=kind == "flapping"))

    async def _flap(self, link: _Spoilable, *, cut: bool) -> None:
        while True:
            await asyncio.sleep(FLAP_SECONDS * self._slow)
            if cut:
                link.disconnect()
            else:
                link.partition()
                await asyncio.sleep(FLAP_SECONDS * self._slow)
                link.heal()
