"""The links to all targets we hold leases for, one a target."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from node.draft_link import DraftLink
from node.lease_checks import Held
from wanspec_p2p.types import PeerId

__all__ = ["DraftLinks"]

log = structlog.get_logger(__name__)


class DraftLinks:
    """Args:
    make: builds the link for a lease.
    lost: told (jti, reason) when a target will not have us for good.
    """

    def __init__(self, make: Callable[[Held], DraftLink], lost: Callable[[str, str], None]) -> None:
        self._make, self._lost = make, lost
        self._links: dict[PeerId, tuple[DraftLink, asyncio.Task[str]]] = {}
        self._tasks: dict[asyncio.Task[str], None] = {}  # in order, unlike a set

    def take(self, lease: Held) -> None:
        """Draft for the lease's target from now on, or go on under this lease."""
        if lease.claims.target in self._links:
            self._links[lease.claims.target][0].renew(lease)
            return
        link = self._make(lease)
        task = asyncio.create_task(link.run(), name=f"draft link to {lease.claims.target}")
        self._links[lease.claims.target] = (link, task)
        self._tasks[task] = None
        task.add_done_callback(lambda task: self._ended(link, task))

    def drop(self, lease: Held, reason: str) -> None:
        link, task = self._links.pop(lease.claims.target, (None, None))
        if link is None or task is None:
            return
        log.info("lease ended", target=lease.claims.target, reason=reason)
        if not link.leave(reason):
            task.cancel()

    async def finished(self) -> None:
        """Wait until every link that was dropped has said goodbye."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    async def abort(self) -> None:
        """End what is left without a goodbye."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def _ended(self, link: DraftLink, task: asyncio.Task[str]) -> None:
        self._tasks.pop(task, None)
        target = link.lease.claims.target
        held = self._links.get(target)
        if held is None or held[0] is not link:
            return  # we left
        del self._links[target]
        if task.cancelled():
            return
        error = task.exception()
        if error is not None:
            log.error("a draft link failed: this is a bug", target=target, exc_info=error)
        reason = "the node failed" if error is not None else task.result()
        log.info("lease ended", target=target, reason=reason)
        self._lost(link.lease.claims.jti, reason)
