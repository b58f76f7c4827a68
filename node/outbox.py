"""What waits to be sent on one link: whoever speaks never waits, and a peer that does not read is hung up on."""

from __future__ import annotations

import asyncio
from typing import Any, Generic, TypeVar

import structlog

from wanspec_p2p.errors import CloseCode, LinkClosed, LocalProtocolError, PeerRefused
from wanspec_p2p.links.base import Link

__all__ = ["MAX_WAITING", "Outbox"]

MAX_WAITING = 1024
"""Messages. The windows of a full node's sessions stay well below it; what goes beyond is a peer that does not read."""

Out = TypeVar("Out")
log = structlog.get_logger(__name__)


class Outbox(Generic[Out]):
    """Sends in order, in a task of its own. What goes wrong on the way is learned by whoever receives on the link."""

    def __init__(self, link: Link[Out, Any]) -> None:
        self._link = link
        self._waiting: asyncio.Queue[Out | None] = asyncio.Queue()  # None: all is said
        self._last_words = ""
        self._sender = asyncio.create_task(self._send(), name=f"outbox to {link.peer}")
        self._hanging_up: asyncio.Task[None] | None = None

    def put(self, message: Out) -> None:
        if self._waiting.qsize() < MAX_WAITING:
            self._waiting.put_nowait(message)
        elif self._hanging_up is None:
            log.warning("hanging up on a peer that does not read", peer=self._link.peer)
            self._hanging_up = asyncio.create_task(
                self._link.close(CloseCode.POLICY_VIOLATION, "the peer does not read what it is sent")
            )

    def finish(self, reason: str) -> None:
        """Close the link once everything before this has been sent."""
        self._last_words = reason
        self._waiting.put_nowait(None)

    async def close(self) -> None:
        """Drop what still waits, and close the link."""
        self._sender.cancel()
        tasks = [self._sender, *([self._hanging_up] if self._hanging_up else [])]
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._link.close(CloseCode.GOING_AWAY)

    async def _send(self) -> None:
        try:
            while (message := await self._waiting.get()) is not None:
                await self._link.send(message)
            await self._link.close(CloseCode.GOING_AWAY, self._last_words)
        except (LinkClosed, PeerRefused):
            return
        except LocalProtocolError:
            log.exception("a message that must not be sent: this is a bug", peer=self._link.peer)
            await self._link.close(CloseCode.INTERNAL_ERROR, "a bug at the sender")
