"""One node's draft link as the target sees it: its lease, its sessions, and a queue of words for it.

Nothing a node sends reaches further than its own sessions; nothing it fails to read holds anybody up.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.node_to_target import Attach, Decline, Detach, Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict
from wanspec_p2p.protocol.target_to_node import Window as WireWindow
from wanspec_p2p.security.leases import LeaseClaims
from wanspec_p2p.speculation.events import DraftArrived, Window
from wanspec_p2p.speculation.instructions import OpenDraft, SendVerdict
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import PeerId

__all__ = ["DraftLink"]

MAX_WAITING = 256
"""Frames that wait for a slow node before it is dropped: many rounds' worth of verdicts."""

log = structlog.get_logger(__name__)


class DraftLink:
    """Args:
    check: a lease to its claims, if it admits this peer here and now; RemoteProtocolError otherwise.
    """

    def __init__(
        self, link: Link[TargetToNode, NodeToTarget], check: Callable[[str, PeerId], LeaseClaims], clock: Clock
    ) -> None:
        self.node = link.peer
        self.lease: LeaseClaims | None = None
        self._link, self._check, self._clock = link, check, clock
        self._handles = itertools.count(1)
        self._sessions: dict[int, SessionRunner] = {}
        self._by_runner: dict[SessionRunner, int] = {}
        self._waiting: asyncio.Queue[TargetToNode] = asyncio.Queue(MAX_WAITING)
        self._ending: asyncio.Future[tuple[CloseCode, str]] = asyncio.get_running_loop().create_future()

    @property
    def rtt(self) -> float | None:
        return self._link.rtt

    @property
    def load(self) -> int:
        return len(self._sessions)

    async def attach(self) -> LeaseClaims:
        """The first message must be a lease that holds.

        Raises:
            RemoteProtocolError: it is not; the link has to be closed with its code.
            LinkClosed, PeerRefused: the node went away.
        """
        try:
            async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
                message = await self._link.receive()
        except TimeoutError as error:
            raise RemoteProtocolError("no lease was shown in time", CloseCode.LEASE_REFUSED) from error
        if not isinstance(message, Attach):
            raise RemoteProtocolError("the first message on a draft link must be Attach", CloseCode.LEASE_REFUSED)
        self.lease = self._check(message.lease, self.node)
        return self.lease

    async def serve(self) -> None:
        """Until the node leaves or breaks a rule. Its sessions lose it; they go on without."""
        sender = asyncio.create_task(self._send_waiting(), name=f"draft-link-sender-{self.node}")
        receiver = asyncio.create_task(self._receive(), name=f"draft-link-receiver-{self.node}")
        tasks = (sender, receiver)
        try:
            done, _ = await asyncio.wait((*tasks, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if self._ending in done:
                code, reason = self._ending.result()
                log.info("ending a draft link", node=self.node, reason=reason)
                await self._link.close(code, reason)
            for task in tasks:
                if task in done:
                    task.result()
        except RemoteProtocolError as error:
            log.warning("a node broke the protocol", node=self.node, reason=error.reason)
            await self._link.close(error.code, error.reason)
        except (LinkClosed, PeerRefused) as error:
            log.info("a draft link ended", node=self.node, reason=str(error))
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            self._drop_sessions()

    def open(self, runner: SessionRunner, instruction: OpenDraft, lanes: int) -> None:
        spec = runner.session.spec
        handle = next(self._handles)
        self._sessions[handle] = runner
        self._by_runner[runner] = handle
        self._say(
            Open(
                session=handle,
                id=spec.session,
                prefix=instruction.prefix,
                prompt_len=len(spec.prompt),
                seed=spec.seed,
                sampling=spec.sampling,
                stop_tokens=spec.stop_tokens,
                window=_wire(instruction.window),
                lane=instruction.lane,
                lanes=max(lanes, instruction.lane + 1),
            )
        )

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None:
        handle = self._by_runner.get(runner)
        if handle is not None:
            self._say(
                Verdict(
                    session=handle,
                    committed_len=instruction.committed_len,
                    tail=instruction.tail,
                    hash=instruction.hash,
                    window=_wire(instruction.window),
                )
            )

    def close_session(self, runner: SessionRunner) -> None:
        handle = self._by_runner.pop(runner, None)
        if handle is not None:
            del self._sessions[handle]
            self._say(Close(session=handle))

    def end(self, code: CloseCode, reason: str) -> None:
        """Have `serve` close the link; the first reason given stands."""
        if not self._ending.done():
            self._ending.set_result((code, reason))

    def _say(self, message: TargetToNode) -> None:
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self.end(CloseCode.TRY_AGAIN_LATER, "the node does not read what it is sent")

    async def _send_waiting(self) -> None:
        while True:
            await self._link.send(await self._waiting.get())

    async def _receive(self) -> None:
        while True:
            message = await self._link.receive()
            match message:
                case Draft():
                    self._draft(message)
                case Decline(session=session, reason=reason):
                    self._decline(session, reason)
                case Attach(lease=lease):
                    self.lease = self._check(lease, self.node)
                case Detach(reason=reason):
                    raise LinkClosed(f"the node leaves: {reason}")

    def _draft(self, draft: Draft) -> None:
        runner = self._sessions.get(draft.session)
        if runner is None:
            return  # it crossed our Close
        runner.feed(
            DraftArrived(
                drafter=self.node,
                base_len=draft.base_len,
                base_hash=draft.base_hash,
                tokens=draft.tokens,
                parents=draft.parents,
                confidences=draft.confidences,
                at=self._clock.monotonic(),
            )
        )

    def _decline(self, session: int, reason: str) -> None:
        runner = self._sessions.pop(session, None)
        if runner is not None:
            log.info("a node declined a session", node=self.node, reason=reason)
            del self._by_runner[runner]
            runner.leave(self.node)

    def _drop_sessions(self) -> None:
        sessions, self._sessions = list(self._sessions.values()), {}
        self._by_runner.clear()
        for runner in sessions:
            runner.leave(self.node)


def _wire(window: Window) -> WireWindow:
    return WireWindow(positions=window.positions, tokens=window.tokens)
