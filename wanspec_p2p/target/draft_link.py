"""One node's draft link as the target sees it: its lease, its sessions, and a queue of words for it.

Nothing a node sends reaches further than its own sessions; nothing it fails to read holds anybody up. What it may send
is bounded by what it was told: each `Open` and `Verdict` is credit for a window of tokens, and a node that drafts
beyond it is cut off. A flood costs the target 0.2 ms a round for each of the node's sessions, 1 ms where it comes token
by token, and at first, while the window is large, twice that (docs/decisions/0034-what-a-flood-may-cost.md).
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.node_to_target import Attach, Decline, Detach, Draft, NodeToTarget
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict, Verifying
from wanspec_p2p.protocol.target_to_node import Outlook as WireOutlook
from wanspec_p2p.protocol.target_to_node import Window as WireWindow
from wanspec_p2p.security.leases import LeaseClaims
from wanspec_p2p.speculation.events import DraftArrived, Outlook, Window
from wanspec_p2p.speculation.hedging import Gaps
from wanspec_p2p.speculation.instructions import AnnounceVerdict, OpenDraft, SendVerdict
from wanspec_p2p.speculation.tree import chain_end
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import PeerId

__all__ = ["CheckLease", "DraftLink", "attach"]

MAX_WAITING = 256
"""Frames that wait for a slow node before it is dropped: many rounds' worth of verdicts."""
MAX_CREDIT = 8192
"""Tokens of credit that one session saves up. What a node sent while its way to us stood still comes all at once: from
the reference drafter up to 2,900 after a second, and 6,100 after eight; after ten a link is dead.
"""
MAX_OLD_LEASES = 16
"""Leases in a row that are no newer than one shown before. A node shows each once, when the coordinator has renewed it;
after that one's clock was set back, as far as its leases are still taken, up to 14 of the shortest are such.
"""

CheckLease = Callable[[str, PeerId], LeaseClaims]
"""A lease to its claims, if it admits this peer here and now; RemoteProtocolError otherwise."""

log = structlog.get_logger(__name__)


async def attach(link: Link[TargetToNode, NodeToTarget], check: CheckLease) -> LeaseClaims:
    """The first message must be a lease that holds.

    Raises:
        RemoteProtocolError: it is not; the link has to be closed with its code.
        LinkClosed, PeerRefused: the node went away.
    """
    try:
        async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
            message = await link.receive()
    except TimeoutError as error:
        raise RemoteProtocolError("no lease was shown in time", CloseCode.LEASE_REFUSED) from error
    if not isinstance(message, Attach):
        raise RemoteProtocolError("the first message on a draft link must be Attach", CloseCode.LEASE_REFUSED)
    return check(message.lease, link.peer)


@dataclass(slots=True)
class _Session:
    """One session on one link, and what need not be said again about it."""

    runner: SessionRunner
    window: Window
    opened: float
    told: float | None  # when it was last given something to draft that it has sent nothing since; None: it has
    heard: bool = False  # anything at all
    end: tuple[int, bytes] | None = None  # the place where its last draft ended

    def base_hash(self, draft: Draft) -> bytes:
        """The hash that names the draft's base; an empty one stands for the end of the draft before it."""
        if draft.base_hash:
            base_hash = draft.base_hash
        elif self.end is not None and self.end[0] == draft.base_len:
            base_hash = self.end[1]
        else:
            raise RemoteProtocolError("a draft without base_hash must go on where the one before it ended")
        self.end = None if draft.parents else chain_end(draft.base_len, base_hash, draft.tokens)
        return base_hash


class DraftLink:
    """Args:
    lease: what the node showed to be admitted.
    check: for the leases it shows later.
    lost: called after a session has lost this node, and whether the node declined it.
    heard: called when the node has drafted for a session, with the seconds since it was opened if that is its first.
    """

    def __init__(
        self,
        link: Link[TargetToNode, NodeToTarget],
        lease: LeaseClaims,
        check: CheckLease,
        lost: Callable[[SessionRunner, PeerId, bool], None],
        heard: Callable[[SessionRunner, PeerId, float | None], None],
        clock: Clock,
    ) -> None:
        self.node = link.peer
        self.gaps = Gaps()
        self.lease = lease
        self.opened = 0  # sessions so far
        self.drafted = False  # whether it has sent anything for one
        self._link, self._check, self._lost, self._heard, self._clock = link, check, lost, heard, clock
        self._handles = itertools.count(1)
        self._sessions: dict[int, _Session] = {}
        self._by_runner: dict[SessionRunner, int] = {}
        self._credit = 0  # tokens it may send
        self.since = clock.monotonic()
        self.idle_since = self.since  # or since the last session ended for which it had drafted
        self._declined = 0  # sessions so far, each of them once
        self._newest = lease.issued
        self._old_leases = 0  # since one that was newer
        self._waiting: asyncio.Queue[TargetToNode] = asyncio.Queue(MAX_WAITING)
        self._ending: asyncio.Future[tuple[CloseCode, str]] = asyncio.get_running_loop().create_future()

    @property
    def rtt(self) -> float | None:
        return self._link.rtt

    @property
    def load(self) -> int:
        return len(self._sessions)

    @property
    def ending(self) -> bool:
        """No session may be opened here any more."""
        return self._ending.done()

    async def serve(self) -> None:
        """Until the node leaves or breaks a rule. Its sessions lose it; they go on without."""
        sender = asyncio.create_task(self._send_waiting(), name=f"draft-link-sender-{self.node}")
        receiver = asyncio.create_task(self._receive(), name=f"draft-link-receiver-{self.node}")
        try:
            await asyncio.wait((sender, receiver, self._ending), return_when=asyncio.FIRST_COMPLETED)
            if self._ending.done():
                code, reason = self._ending.result()
                log.info("ending a draft link", node=self.node, reason=reason)
                self.drop_sessions()  # closing may take its time
                await self._link.close(code, reason)
                return
            if sender.done():
                sender.result()
            await receiver  # it knows why the link ended
        except RemoteProtocolError as error:
            log.warning("a node broke the protocol: its link is closed", node=self.node, reason=error.reason)
            self.end(error.code, error.reason)
            self.drop_sessions()
            await self._link.close(error.code, error.reason)
        except (LinkClosed, PeerRefused) as error:
            log.info("a draft link ended", node=self.node, reason=str(error))
        finally:
            self.end(CloseCode.GOING_AWAY, "the link has ended")
            self.drop_sessions()
            for task in (sender, receiver):
                task.cancel()
            await asyncio.gather(sender, receiver, return_exceptions=True)
            await self._link.close(CloseCode.GOING_AWAY)

    def open(self, runner: SessionRunner, instruction: OpenDraft, lanes: int) -> None:
        spec = runner.session.spec
        handle = next(self._handles)
        self.opened += 1
        now = self._clock.monotonic()
        self._sessions[handle] = _Session(runner, instruction.window, opened=now, told=now)
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
                window=self._grant(instruction.window),
                lane=instruction.lane,
                lanes=lanes,
            )
        )
        if handle == limits.MAX_SESSIONS - 1:
            self.end(CloseCode.GOING_AWAY, "all session numbers of this link are used: dial again")

    def announce(self, runner: SessionRunner, instruction: AnnounceVerdict) -> None:
        handle = self._by_runner.get(runner)
        if handle is not None:
            microseconds = min(round(instruction.seconds * 1e6), limits.MAX_VERIFYING_MICROSECONDS)
            self._say(Verifying(session=handle, microseconds=microseconds))

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None:
        handle = self._by_runner.get(runner)
        if handle is not None:
            session = self._sessions[handle]
            if (rtt := self._link.greeted if self.rtt is None else self.rtt) is not None:
                runner.rtts[self.node] = rtt
            window = self._grant(instruction.window)
            if session.told is None:
                session.told = self._clock.monotonic()
            changed = instruction.window != session.window
            session.window = instruction.window
            self._say(
                Verdict(
                    session=handle,
                    committed_len=instruction.committed_len,
                    tail=instruction.tail,
                    hash=instruction.hash,
                    window=window if changed else None,
                    outlook=None if instruction.outlook is None else _on_the_wire(instruction.outlook),
                )
            )

    def close_session(self, runner: SessionRunner) -> None:
        handle = self._by_runner.pop(runner, None)
        if handle is not None:
            if self._sessions.pop(handle).heard:
                self.idle_since = self._clock.monotonic()
            self._say(Close(session=handle))

    def silence(self, runner: SessionRunner) -> float:
        """Seconds that this session has waited for a frame, since it last gave the node something new."""
        handle = self._by_runner.get(runner)
        told = None if handle is None else self._sessions[handle].told
        return 0.0 if told is None else self._clock.monotonic() - told

    def has_drafted(self, runner: SessionRunner) -> bool:
        """Whether the node has sent anything for this session."""
        handle = self._by_runner.get(runner)
        return handle is not None and self._sessions[handle].heard

    def end(self, code: CloseCode, reason: str) -> None:
        """Have `serve` close the link; the first reason given stands."""
        if not self._ending.done():
            self._ending.set_result((code, reason))

    def drop_sessions(self) -> None:
        """They lose this node now, whenever its link is closed."""
        sessions, self._sessions = list(self._sessions.values()), {}
        self._by_runner.clear()
        for session in sessions:
            session.runner.leave(self.node)
            self._lost(session.runner, self.node, False)

    def _grant(self, window: Window) -> WireWindow:
        """A word that gives a window is credit for as many tokens: a drafter that keeps to its window, however that
        changes, never sends more between two words that it reads. What was saved up stays when sessions end: it may be
        under way."""
        saved_up = min(self._credit + window.tokens, MAX_CREDIT * len(self._sessions))
        self._credit = max(self._credit, saved_up)
        return WireWindow(positions=window.positions, tokens=window.tokens)

    def _say(self, message: TargetToNode) -> None:
        try:
            self._waiting.put_nowait(message)
        except asyncio.QueueFull:
            self.end(CloseCode.TRY_AGAIN_LATER, "the node does not read what it is sent")

    async def _send_waiting(self) -> None:
        try:
            while True:
                await self._link.send(await self._waiting.get())
        except (LinkClosed, PeerRefused):
            return  # the receiver learns why

    async def _receive(self) -> None:
        while True:
            message = await self._link.receive()
            match message:
                case Draft():
                    self._draft(message)
                case Decline(session=session, reason=reason):
                    self._decline(session, reason)
                case Attach(lease=lease):
                    self._renew(self._check(lease, self.node))
                case Detach(reason=reason):
                    raise LinkClosed(f"the node leaves: {reason}")
            await asyncio.sleep(0)  # frames that are already here must not keep the sessions from their turn

    def _draft(self, draft: Draft) -> None:
        self._credit -= len(draft.tokens)
        if self._credit < 0:
            raise RemoteProtocolError("more tokens were drafted than the window allows", CloseCode.POLICY_VIOLATION)
        session = self._sessions.get(draft.session)
        if session is None:
            return  # it crossed our Close
        now = self._clock.monotonic()
        base_hash = session.base_hash(draft)
        if session.told is not None:
            self.gaps.measured(now - session.told)
            session.told = None
        self._heard(session.runner, self.node, None if session.heard else now - session.opened)
        session.heard = self.drafted = True
        session.runner.feed(
            DraftArrived(
                drafter=self.node,
                base_len=draft.base_len,
                base_hash=base_hash,
                tokens=draft.tokens,
                parents=draft.parents,
                confidences=draft.confidences,
                bases=draft.bases,
                at=now,
                heard=now if self.rtt is None else now - self.rtt,  # who answers no ping may have heard all
            )
        )

    def _decline(self, handle: int, reason: str) -> None:
        self._declined += 1
        if self._declined > self.opened:
            raise RemoteProtocolError("more sessions were declined than opened", CloseCode.POLICY_VIOLATION)
        session = self._sessions.pop(handle, None)
        if session is not None:
            runner = session.runner
            log.info("a node declined a session", node=self.node, reason=reason)
            del self._by_runner[runner]
            runner.leave(self.node)
            self._lost(runner, self.node, True)

    def _renew(self, lease: LeaseClaims) -> None:
        self._old_leases = 0 if lease.issued > self._newest else self._old_leases + 1
        if self._old_leases > MAX_OLD_LEASES:
            raise RemoteProtocolError("no lease that is newer was shown", CloseCode.POLICY_VIOLATION)
        self._newest = max(self._newest, lease.issued)
        self.lease = lease
        for session in self._sessions.values():
            session.runner.leases[self.node] = lease.jti


def _on_the_wire(outlook: Outlook) -> WireOutlook:
    chain = all(parent == number - 1 for number, parent in enumerate(outlook.parents))
    return WireOutlook(outlook.tokens, () if chain else outlook.parents, outlook.confidences)
