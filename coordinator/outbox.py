"""What waits to be sent to one peer. Whoever gives it something never waits; a peer that does not read is let go."""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from dataclasses import dataclass
from typing import Protocol

import structlog

from wanspec_p2p.errors import CloseCode, LinkClosed, LocalProtocolError, PeerRefused
from wanspec_p2p.protocol.common_messages import ControlMessage
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate

__all__ = ["ClosableLink", "Outbox"]

MAX_MESSAGES = 16_384
"""Messages held for a peer that is slow to read, before it is let go. All answers of a target that is lost go to its
heir in one go: this is several times what submitters' connections can ask for (`connections.MAX_CONNECTIONS`)."""
SEND_SECONDS = 5.0
"""How long a peer may take to make room for one frame; one that takes longer does not read, and is let go."""


log = structlog.get_logger("coordinator")


class ClosableLink(Protocol):
    async def send(self, message: ControlMessage) -> None: ...

    async def close(self, code: int = 1000, reason: str = "", *, retry_after: float = 0.0) -> None: ...


@dataclass(frozen=True, slots=True)
class _End:
    code: CloseCode
    reason: str
    retry_after: float


class Outbox:
    """Run `deliver` in a task of its own; it returns when the link has ended."""

    def __init__(self, link: ClosableLink) -> None:
        self._link = link
        self._waiting: OrderedDict[object, ControlMessage] = OrderedDict()  # a Generate under its request's name
        self._end: _End | None = None
        self._news = asyncio.Event()

    def put(self, message: ControlMessage) -> None:
        """A request that is cancelled before its turn to be sent is never heard of, so that no prompts pile up here but
        those of answers under way."""
        if self._end is not None:
            return
        if isinstance(message, Cancel) and self._waiting.pop(message.request, None) is not None:
            return
        if len(self._waiting) >= MAX_MESSAGES:
            self._waiting.clear()
            self.close(CloseCode.TRY_AGAIN_LATER, f"{MAX_MESSAGES} messages wait to be read")
            return
        self._waiting[message.request if isinstance(message, Generate) else object()] = message
        self._news.set()

    def close(self, code: CloseCode, reason: str, *, retry_after: float = 0.0) -> None:
        """End the link once everything put before has been sent. The first reason counts."""
        if self._end is None:
            self._end = _End(code, reason, retry_after)
            self._news.set()

    async def deliver(self) -> None:
        try:
            while self._waiting or self._end is None:
                while self._waiting:
                    async with asyncio.timeout(SEND_SECONDS):
                        await self._link.send(self._waiting.popitem(last=False)[1])
                if self._end is None:
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            self._end = _End(CloseCode.TRY_AGAIN_LATER, f"a message was not taken in {SEND_SECONDS:g} s", 0.0)
        except (LinkClosed, PeerRefused):
            pass  # who receives from the link learns it too, and why
        except LocalProtocolError:
            log.exception("a message of ours cannot be sent")
            self._end = _End(CloseCode.INTERNAL_ERROR, "an error of the coordinator's own", 0.0)
        end = self._end or _End(CloseCode.GOING_AWAY, "", 0.0)
        await self._link.close(end.code, end.reason, retry_after=end.retry_after)
