"""The link to the coordinator, carried out: the one place that awaits it. The rules are in `coordinator_link`."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import Protocol, TypeAlias, TypeVar, cast

import structlog

from node.coordinator_events import (
    AnswerProbe,
    DrainRequested,
    DropLease,
    Event,
    GiveUp,
    HangUp,
    Instruction,
    Joined,
    LeaseLost,
    LinkLost,
    LinkOpened,
    LoadChanged,
    Misunderstood,
    Redial,
    Refused,
    Send,
    TakeLease,
    Tick,
    TimeLandmarks,
)
from node.coordinator_link import CoordinatorLink, State
from node.draft_links import DraftLinks
from node.drafting import DraftingEngine
from node.landmarks import LandmarkTimer
from node.outbox import Outbox
from node.probes import answer_probe
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import (
    CloseCode,
    ConfigError,
    LinkClosed,
    PeerRefused,
    RemoteProtocolError,
    Unreachable,
    WanspecError,
)
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.coordinator_to_node import CoordinatorToNode, Landmark, ProbeRequest
from wanspec_p2p.protocol.node_to_coordinator import NodeMessage

__all__ = ["ControlLink", "DialCoordinator"]


class CoordinatorPeer(Link[NodeMessage, CoordinatorToNode], Protocol):
    """A link whose peer may say, with its Goodbye, in how many seconds it wants to be dialled again."""

    @property
    def retry_after(self) -> float | None: ...


DialCoordinator: TypeAlias = Callable[[], Awaitable[CoordinatorPeer]]
Sleep: TypeAlias = Callable[[float], Awaitable[None]]
T = TypeVar("T")

FIRST_HEARTBEAT = 2.0
"""Until the coordinator says how often."""
MAX_PROBES = 4
"""Unanswered at once."""

log = structlog.get_logger(__name__)


class ControlLink:
    """Args:
    links: the links to targets.
    landmarks: times the way to targets nobody has leased us to.
    dial: how the coordinator is reached.
    joined: called with the pool's name each time the coordinator has taken us in.
    """

    def __init__(
        self,
        machine: CoordinatorLink,
        engine: DraftingEngine,
        links: DraftLinks,
        landmarks: LandmarkTimer,
        *,
        dial: DialCoordinator,
        joined: Callable[[str], None],
        backoff: Backoff,
        clock: Clock,
        sleep: Sleep = asyncio.sleep,
    ) -> None:
        self._machine, self._engine, self._links, self._landmarks = machine, engine, links, landmarks
        self._dial, self._joined, self._backoff, self._clock, self._sleep = dial, joined, backoff, clock, sleep
        self._heartbeat = FIRST_HEARTBEAT
        self._link: CoordinatorPeer | None = None
        self._outbox: Outbox[NodeMessage] | None = None
        self._probes: set[asyncio.Task[None]] = set()
        self._timing: asyncio.Task[None] | None = None
        self._redial: Redial | None = None
        self._ended = asyncio.Event()  # nobody is to be dialled any more
        self._error: WanspecError | None = None

    async def run(self) -> None:
        """Stay in touch until drained.

        Raises:
            PeerRefused: the coordinator does not want this node; trying again would change nothing.
            RemoteProtocolError: on first contact, whoever answered is not the coordinator of the join token.
            ConfigError: the coordinator's address must not be dialled, or `joined` could not do its part.
        """
        async with asyncio.TaskGroup() as self._tasks:
            ticking = self._tasks.create_task(self._tick(), name="heartbeats")
            while self._machine.state is not State.ENDED:
                self._redial = None
                self.feed(await self._stay_linked())
                if self._redial is not None:
                    await self._back_off(self._redial)
            for task in (ticking, *self._probes):
                task.cancel()
            self._stop_timing()
        if self._error is not None:
            raise self._error

    def drain(self, reason: str) -> None:
        """Say that we leave, let go of every lease, and end."""
        self.feed(DrainRequested(reason))

    def lease_lost(self, jti: str, reason: str) -> None:
        """A target will not have us for good."""
        self.feed(LeaseLost(jti, reason))

    def feed(self, event: Event) -> None:
        for instruction in self._machine.handle(event):
            self._carry_out(instruction)

    def _carry_out(self, instruction: Instruction) -> None:
        match instruction:
            case Send(message):
                if self._outbox is not None:
                    self._outbox.put(message)
            case Joined(pool, heartbeat):
                self._heartbeat = heartbeat
                self._backoff.reset()
                self._joined(pool)
            case TakeLease(lease):
                self._links.take(lease)
            case DropLease(lease, reason):
                self._links.drop(lease, reason)
            case AnswerProbe(request):
                self._probe(request)
            case TimeLandmarks(landmarks):
                self._time(landmarks)
            case Redial():
                self._redial = instruction
            case GiveUp(error):
                self._error = error
                self._ended.set()
            case HangUp(reason):
                if self._outbox is not None:
                    self._outbox.finish(reason)
                self._ended.set()

    async def _back_off(self, redial: Redial) -> None:
        delay = self._backoff.next(redial.retry_after)
        log.warning("no coordinator", reason=redial.reason, again_in_seconds=round(delay, 1))
        await self._unless_ended(self._sleep(delay))

    async def _stay_linked(self) -> Event:
        """One connection, from dialling to its end; returns how it ended."""
        link: CoordinatorPeer | None = None
        try:
            link = await self._unless_ended(self._dial())
            return LinkLost("we leave") if link is None else await self._converse(link)
        except PeerRefused as error:
            return Refused(error, _retry_after(link))
        except (Unreachable, LinkClosed) as error:
            return LinkLost(str(error), _retry_after(link))
        except RemoteProtocolError as error:
            return Misunderstood(error)
        except ConfigError as error:  # an address that must not be dialled, or a membership that cannot be written
            self._error = error
            return DrainRequested("this node's set-up is at fault")

    async def _converse(self, link: CoordinatorPeer) -> Event:
        if self._ended.is_set():  # in the moment the dial succeeded
            await link.close(CloseCode.GOING_AWAY)
            return LinkLost("we leave")
        self._link, self._outbox = link, Outbox(link)
        try:
            self.feed(LinkOpened())
            while True:
                message = await link.receive()
                self._report_load()
                self.feed(cast(Event, message))
        except RemoteProtocolError as error:
            await link.close(error.code, error.reason)
            raise
        finally:
            outbox, self._link, self._outbox = self._outbox, None, None
            self._stop_timing()
            await outbox.close()

    async def _tick(self) -> None:
        while True:
            await self._sleep(self._heartbeat)
            self._report_load()
            self.feed(Tick(self._clock.wall(), None if self._link is None else self._link.rtt))

    def _report_load(self) -> None:
        self.feed(LoadChanged(self._engine.sessions, self._engine.paused))

    def _probe(self, request: ProbeRequest) -> None:
        if len(self._probes) >= MAX_PROBES:
            raise RemoteProtocolError(f"more than {MAX_PROBES} probes at once")
        task = self._tasks.create_task(self._answer(request), name=f"probe {request.probe}")
        self._probes.add(task)
        task.add_done_callback(self._probes.discard)

    async def _answer(self, request: ProbeRequest) -> None:
        outbox = self._outbox
        result = await answer_probe(self._engine, request, self._clock)
        if outbox is not None and outbox is self._outbox:  # after a reconnection nobody waits for it
            outbox.put(result)

    def _time(self, landmarks: Sequence[Landmark]) -> None:
        """In the place of what was asked before, should that not be done."""
        self._stop_timing()
        if self._outbox is not None:
            work = self._landmarks.time(landmarks, self._outbox.put)
            self._timing = self._tasks.create_task(work, name="landmarks")

    def _stop_timing(self) -> None:
        if self._timing is not None:
            self._timing.cancel()
            self._timing = None

    async def _unless_ended(self, awaitable: Awaitable[T]) -> T | None:
        """Its result; None if we are to end before it has one."""
        task = asyncio.ensure_future(awaitable)
        ended = asyncio.create_task(self._ended.wait())
        try:
            await asyncio.wait((task, ended), return_when=asyncio.FIRST_COMPLETED)
            return task.result() if task.done() else None
        finally:
            for each in (task, ended):
                each.cancel()
            await asyncio.gather(task, ended, return_exceptions=True)


def _retry_after(link: CoordinatorPeer | None) -> float:
    return 0.0 if link is None else link.retry_after or 0.0
