"""The requests of one target: which are under way, for whom, and how long one goes on that nobody hears."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import structlog

from wanspec_p2p.errors import RemoteProtocolError
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.target.underway import Said, Underway

__all__ = ["KEPT_SECONDS", "RequestDesk"]

KEPT_SECONDS = 10.0
"""How long an answer goes on that nobody hears: so long a coordinator, or the way to it, may be away."""

log = structlog.get_logger(__name__)


class RequestDesk:
    """All requests of one target.

    Args:
        answer: answers one, saying what becomes of it; never raises.
        say: takes messages for the coordinator; must not block.
    """

    def __init__(
        self,
        answer: Callable[[Generate, Callable[[Said], None]], Coroutine[Any, Any, None]],
        say: Callable[[Said], None],
    ) -> None:
        self._answer, self._say = answer, say
        self._answers: dict[str, Underway] = {}
        self._unheard: list[Underway] = []

    @property
    def active(self) -> int:
        """Requests that somebody waits for."""
        return len(self._answers)

    @property
    def unheard(self) -> int:
        """Answers that go on, or have come to their end, without anybody to tell."""
        return len(self._unheard)

    def generate(self, request: Generate) -> None:
        """Start on a request, or go on with one that nobody hears; what becomes of it is said, not raised.

        Raises:
            RemoteProtocolError: a request of this name is being answered already.
        """
        if request.request in self._answers:
            raise RemoteProtocolError("a request of this name is being answered already")
        kept = next((unheard for unheard in self._unheard if unheard.continues(request)), None)
        if kept is None:
            kept = Underway(request, self._say)
            kept.task = asyncio.create_task(self._answer(request, kept), name=f"request-{request.request}")
        else:
            log.info("a request goes on with who asks for it again", request=request.request)
            self._unheard.remove(kept)
            kept.resume(request)
        if not kept.task.done():
            self._answers[request.request] = kept
            kept.task.add_done_callback(lambda _: self._forget(kept))

    def _forget(self, underway: Underway) -> None:
        if self._answers.get(underway.name) is underway:
            del self._answers[underway.name]

    def cancel(self, request: str) -> None:
        """Who cancels has stopped listening: nothing more is said of the request."""
        if (underway := self._answers.get(request)) is not None:
            log.info("a request is cancelled", request=request)
            underway.task.cancel()

    def unhear(self) -> None:
        """The way to the coordinator is lost: go on with everything for `KEPT_SECONDS`, and keep what would be said."""
        later = asyncio.get_running_loop().call_later
        for underway in self._answers.values():
            underway.deadline = later(KEPT_SECONDS, self._give_up, underway)
            self._unheard.append(underway)
        self._answers.clear()

    def _give_up(self, underway: Underway) -> None:
        log.info("nobody asked for a request again: it ends", request=underway.name)
        underway.task.cancel()
        underway.task.add_done_callback(lambda _: self._drop(underway))  # its pass may run for a while

    def _drop(self, underway: Underway) -> None:
        if underway in self._unheard:
            self._unheard.remove(underway)

    async def idle(self, seconds: float) -> None:
        """Wait until nothing is being answered, for at most so many seconds."""
        if self._answers:
            await asyncio.wait([underway.task for underway in self._answers.values()], timeout=seconds)

    async def cancel_all(self, seconds: float | None = None) -> None:
        """Returns when no request has a pass running any more, or after so many seconds."""
        for underway in self._unheard:
            assert underway.deadline is not None
            underway.deadline.cancel()
        tasks = [underway.task for underway in (*self._answers.values(), *self._unheard)]
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=seconds)
        self._unheard = [underway for underway in self._unheard if not underway.task.done()]
