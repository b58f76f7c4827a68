"""The drafters a target has: links that are attached and warm, and which of them draft for which session."""

from __future__ import annotations

import math
from collections.abc import Callable

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.absence import Absence
from wanspec_p2p.links.base import Link
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security.leases import LEEWAY_SECONDS, LeaseClaims, check
from wanspec_p2p.speculation.hedging import Lead
from wanspec_p2p.speculation.instructions import AnnounceVerdict, OpenDraft, SendVerdict
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.target.draft_link import DraftLink, attach
from wanspec_p2p.target.retention import IDLE_SECONDS, Attached, Retention
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import PeerId

__all__ = ["ORPHAN_SECONDS", "DrafterPool"]

ORPHAN_SECONDS = 900.0
"""How much longer an attached lease is honoured while the coordinator cannot be reached to renew it."""
RENEWAL_SECONDS = 60.0
"""How much longer after the coordinator is back: nodes have to find it again before it can renew their leases."""
MAX_REVOKED = 65_536
"""Revocations that are remembered; leases run out long before so many have come."""

PATIENCE_PASSES = 3.0
USUAL_PASS_SECONDS, USUAL_RTT = 0.03, 0.05
"""Before any was measured."""
HOPE = 1.5
"""Times what is usual that a node is expected to bring which was not seen, were it next door."""
LEAST_EXPECTED = 2.0**-64
EXCHANGE_ROUNDS = 8
"""So often a session looks whether a node that is free would bring more than one that drafts for it."""
WORTH_EXCHANGING = 2.0
"""Times as much it must be expected to bring."""
DISMISSED_SECONDS = 900.0
"""A node whose drafts were of no use is not asked again for so long."""
ENOUGH_DECLINED = 8
"""Once so many nodes have turned a session down, or proved of no use to it, no more are asked for."""

log = structlog.get_logger(__name__)


class DrafterPool:
    """Args:
    me: this target's peer id: leases must name it.
    coordinator: the public key leases must be signed with.
    per_session: drafters each session gets, where there are so many.
    arrived: called when a node has shown its lease.
    short: called when one went, or sessions need more than there are; `lacking` says how many.
    tokenizer: fingerprint of the tokenizer drafters must share; None leaves that to the coordinator.
    hedge: whether another drafter is opened beside one that has gone silent.

    Attributes:
        hedges: drafters opened beside silent ones, so far.
    """

    def __init__(
        self,
        *,
        me: PeerId,
        coordinator: bytes,
        per_session: int,
        clock: Clock,
        arrived: Callable[[PeerId], None],
        short: Callable[[], None],
        tokenizer: str | None = None,
        hedge: bool = True,
    ) -> None:
        self._me, self._coordinator, self._clock = me, coordinator, clock
        self._per_session, self._arrived, self._short = per_session, arrived, short
        self._tokenizer = tokenizer
        self._links: dict[PeerId, DraftLink] = {}
        self._sessions: dict[SessionRunner, set[PeerId]] = {}  # to the nodes that declined them, or lost their lanes
        self._rivals: dict[SessionRunner, dict[PeerId, PeerId]] = {}  # who shares a lane until one of them drafts
        self._revoked: dict[str, None] = {}  # in the order they came
        self._dismissed, self._retention = Absence(DISMISSED_SECONDS), Retention()
        self._knowledge: Knowledge | None = None  # what its sessions share
        self._begun_at = -math.inf  # the last of them
        self._hedge, self._lead = hedge, Lead()
        self._spare_wanted = False
        self.hedges = 0
        self._coordinator_reachable = False
        self._found_at = 0.0

    @property
    def attached(self) -> list[PeerId]:
        return list(self._links)

    @property
    def lacking(self) -> int:
        """Drafters that sessions are short of: those attached are too few, or declined, or gone silent."""
        short = (
            self._per_session - len(set(runner.session.drafters.values()))
            for runner, declined in self._sessions.items()
            if len(declined) < ENOUGH_DECLINED
        )
        return max(short, default=0) + self._spare_wanted

    @property
    def unwanted(self) -> list[PeerId]:
        """Nodes not to be asked for: those attached, and those that were of no use a while ago."""
        return list(dict.fromkeys((*self._links, *self._dismissed.at(self._clock.monotonic()))))

    @property
    def released(self) -> list[PeerId]:
        """Nodes not to be looked at again in the hope of better ones."""
        return self._retention.released(self._clock.monotonic())

    @property
    def comparing(self) -> bool:
        """Whether there is work to compare others by with those attached, and no more of them than stay."""
        now = self._clock.monotonic()
        at_work = bool(self._sessions) or now - self._begun_at < IDLE_SECONDS
        return at_work and len(self._links) <= self._retention.stay(self._per_session, now)

    @property
    def sessions(self) -> int:
        """Sessions that take drafters."""
        return len(self._sessions)

    def link(self, node: PeerId) -> DraftLink | None:
        return self._links.get(node)

    async def serve(self, link: Link[TargetToNode, NodeToTarget]) -> None:
        """A node dialled and proved its identity: admit it by its lease and keep it until it goes."""
        try:
            lease = await attach(link, self._admit)
        except RemoteProtocolError as error:
            log.warning("a node was not admitted", node=link.peer, reason=error.reason)
            await link.close(error.code, error.reason)
            return
        except (LinkClosed, PeerRefused) as error:
            log.info("a node left before it showed a lease", node=link.peer, reason=str(error))
            await link.close()
            return
        draft_link = DraftLink(link, lease, self._admit, self._lost, self._drafted, self._clock)
        try:
            self._replace(draft_link)
            log.info("a node attached", node=link.peer, owner=lease.owner, site=lease.site, model=lease.model)
            self._arrived(link.peer)
            await draft_link.serve()
        finally:
            if self._links.get(link.peer) is draft_link:
                del self._links[link.peer]
            self._short()

    def begin(self, runner: SessionRunner) -> None:
        """Give a session its drafters, now and as they come. It must have started."""
        self._sessions[runner] = set()
        self._knowledge, self._begun_at = runner.session.knowledge, self._clock.monotonic()
        self._supply(runner)

    def end(self, runner: SessionRunner) -> None:
        self._sessions.pop(runner, None)
        self._rivals.pop(runner, None)
        self._spare_wanted = self._spare_wanted and bool(self._sessions)

    def revoke(self, jti: str, reason: str) -> None:
        self._refuse_lease(jti)
        for link in self._links.values():
            if link.lease.jti == jti:
                link.end(CloseCode.LEASE_REFUSED, reason or "the lease was revoked")

    def follow(self, coordinator: bytes) -> None:
        """The coordinator has another key now. Who is attached stays; whoever comes needs a lease signed with it."""
        self._coordinator = coordinator

    def coordinator_found(self) -> None:
        self._coordinator_reachable = True
        self._found_at = self._clock.monotonic()

    def coordinator_lost(self) -> None:
        self._coordinator_reachable = False

    def close_expired(self) -> None:
        """End links whose lease is over: renewed ones have shown a newer lease by now."""
        now = self._clock.wall()
        for link in self._links.values():
            if now >= link.lease.expires + self._grace():
                link.end(CloseCode.LEASE_REFUSED, "the lease has expired")

    def release(self) -> bool:
        """Let go of nodes that nobody needs: others may have use for those.

        Returns whether a newer one stays instead of one of them: better ones can be found.
        """
        now = self._clock.monotonic()
        attached = [link for link in self._links.values() if not link.ending]
        nodes, better = self._retention.look(
            [self._attached(link, now) for link in attached], self._per_session, self._begun_at, now
        )
        for node in nodes:
            link = self._links[node]
            self._refuse_lease(link.lease.jti)  # its node lets go of it; one that does not must not come back by it
            link.end(CloseCode.IDLE, "the target has drafters enough")
        return better

    def _attached(self, link: DraftLink, now: float) -> Attached:
        worth = None
        if link.drafted and self._knowledge is not None:
            worth = _expected(link, self._knowledge, 0, now)
        return Attached(link.node, link.since, link.idle_since, link.load, link.opened > 0, worth)

    def close(self) -> None:
        for link in self._links.values():
            link.end(CloseCode.GOING_AWAY, "the target stops")

    # What sessions say to their drafters: runner.DraftChannel

    def open(self, runner: SessionRunner, instruction: OpenDraft) -> None:
        if (link := self._links.get(instruction.drafter)) is not None:
            link.open(runner, instruction, self._per_session)

    def announce(self, runner: SessionRunner, instruction: AnnounceVerdict) -> None:
        if (link := self._links.get(instruction.drafter)) is not None:
            link.announce(runner, instruction)

    def verdict(self, runner: SessionRunner, instruction: SendVerdict) -> None:
        if (link := self._links.get(instruction.drafter)) is not None:
            link.verdict(runner, instruction)
            if runner.session.knowledge.fruitless(link.node, self._clock.monotonic()):
                runner.session.knowledge.forget(link.node)  # should it come again, it has another chance
                self._dismiss(link)
            elif self._hedge and link.silence(runner) > link.gaps.usual + self._lead.usual:
                self._open_beside(link, runner)
            elif runner.session.stats.rounds % EXCHANGE_ROUNDS == 0:
                self._exchange(link, runner)

    def close_session(self, runner: SessionRunner, drafter: PeerId) -> None:
        if (link := self._links.get(drafter)) is not None:
            link.close_session(runner)

    # Which node drafts where

    def _replace(self, link: DraftLink) -> None:
        """A node has one link: on a newer one its sessions are opened again, since the older one may be dead."""
        old = self._links.get(link.node)
        self._links[link.node] = link
        if old is not None:
            old.end(CloseCode.REPLACED, "the node attached again")  # its sessions lose it, and find this link
        for declined in self._sessions.values():
            declined.discard(link.node)  # it may have room by now
        self._spare_wanted = False
        self._supply_all()

    def _lost(self, runner: SessionRunner, node: PeerId, declined: bool) -> None:
        if runner in self._sessions:
            self._settled(runner, node)
            if declined:
                self._sessions[runner].add(node)
            self._supply(runner)

    def _supply_all(self) -> None:
        for runner in self._sessions:
            self._supply(runner)

    def _supply(self, runner: SessionRunner) -> None:
        """Fill a session's lanes, each with the node that suits best."""
        vacant = sorted(set(range(self._per_session)) - set(runner.session.drafters.values()))
        free = self._free(runner)
        choose = len(free) > len(vacant)  # else all of them draft, and which lane is whose does not matter
        for lane, first in zip(vacant, free, strict=False):
            link = self._best(runner) if choose else first
            if link is not None:
                runner.join(link.node, lane, link.lease.jti)
        if len(free) < len(vacant):
            self._short()

    def _free(self, runner: SessionRunner) -> list[DraftLink]:
        """The nodes that could draft for a session and do not."""
        drafting, declined = runner.session.drafters, self._sessions[runner]
        return [
            link
            for node, link in self._links.items()
            if node not in drafting and node not in declined and not link.ending
        ]

    def _best(self, runner: SessionRunner, instead_of: PeerId | None = None) -> DraftLink | None:
        """Who suits best of those."""
        drafting = runner.session.drafters
        taken = [self._links[node].lease for node in drafting if node in self._links and node != instead_of]
        return min(
            self._free(runner),
            key=lambda link: (
                link.node in self._retention.retiring,
                _preference(link, taken, self._expected(runner, link, link.load)),
            ),
            default=None,
        )

    def _expected(self, runner: SessionRunner, link: DraftLink, load: int) -> float:
        return _expected(link, runner.session.knowledge, load, self._clock.monotonic())

    def _exchange(self, link: DraftLink, runner: SessionRunner) -> None:
        """Give the lane of a drafter that brings little to a free node that can be expected to bring much more.

        One that has not drafted yet may still be reading the prompt, as the other would have to: that is for hedging.
        """
        lane = runner.session.drafters.get(link.node)
        if lane is None or runner not in self._sessions or link.node in self._rivals.get(runner, {}):
            return
        if not link.has_drafted(runner):
            return
        better = self._best(runner, instead_of=link.node)
        if better is None:
            return
        brings, would = self._expected(runner, link, link.load - 1), self._expected(runner, better, better.load)
        if would < WORTH_EXCHANGING * brings:
            return
        log.info("a drafter is exchanged for a better one", node=link.node, other=better.node)
        self._sessions[runner].add(link.node)
        self.close_session(runner, link.node)
        runner.leave(link.node)
        runner.join(better.node, lane, better.lease.jti)

    def _dismiss(self, link: DraftLink) -> None:
        """What it sends costs time to read, and is for nothing."""
        self._dismissed.add(link.node, self._clock.monotonic())
        link.end(CloseCode.IDLE, "nothing it drafted was of use")

    # Hedging: a silent drafter gets a rival on its lane, and whoever drafts first keeps it

    def _open_beside(self, silent: DraftLink, runner: SessionRunner) -> None:
        rivals = self._rivals.setdefault(runner, {})
        if silent.node in rivals or runner not in self._sessions:
            return
        self._retention.spare_wanted(self._clock.monotonic())
        spare = self._best(runner)
        if spare is None:
            self._spare_wanted = True
            self._short()
            return
        log.info("a drafter is silent: another is opened beside it", silent=silent.node, other=spare.node)
        self.hedges += 1
        rivals[silent.node], rivals[spare.node] = spare.node, silent.node
        runner.join(spare.node, runner.session.drafters[silent.node], spare.lease.jti)

    def _drafted(self, runner: SessionRunner, node: PeerId, lead: float | None) -> None:
        """A node sent a frame for a session; its rival, if it has one, is let go."""
        if lead is not None:
            self._lead.measured(node, lead)
        loser = self._settled(runner, node)
        if loser is not None:
            self._sessions[runner].add(loser)  # of this session it has had enough chances
            self.close_session(runner, loser)
            runner.leave(loser)

    def _settled(self, runner: SessionRunner, node: PeerId) -> PeerId | None:
        """`node` has no rival any more. Returns who was."""
        rivals = self._rivals.get(runner, {})
        rival = rivals.pop(node, None)
        if rival is not None:
            rivals.pop(rival, None)
        return rival

    # Leases

    def _refuse_lease(self, jti: str) -> None:
        self._revoked[jti] = None
        if len(self._revoked) > MAX_REVOKED:
            del self._revoked[next(iter(self._revoked))]

    def _admit(self, lease: str, node: PeerId) -> LeaseClaims:
        claims = check(lease, coordinator=self._coordinator, clock=self._clock, node=node, target=self._me)
        if claims.jti in self._revoked:
            raise RemoteProtocolError("the lease was revoked", CloseCode.LEASE_REFUSED)
        if self._dismissed.has(node, self._clock.monotonic()):
            raise RemoteProtocolError("nothing it drafted was of use lately", CloseCode.IDLE)
        if self._tokenizer is not None and claims.tokenizer != self._tokenizer:
            raise RemoteProtocolError(
                f"the drafter's tokenizer {claims.tokenizer} is not the target's {self._tokenizer}",
                CloseCode.TOKENIZER_MISMATCH,
            )
        return claims

    def _grace(self) -> float:
        """Seconds past its end for which an attached lease is honoured."""
        if not self._coordinator_reachable:
            return ORPHAN_SECONDS
        away_lately = self._clock.monotonic() < self._found_at + RENEWAL_SECONDS
        return ORPHAN_SECONDS if away_lately else LEEWAY_SECONDS


def _expected(link: DraftLink, knowledge: Knowledge, load: int, at: float) -> float:
    """Tokens of the answer that a node can be expected to bring a round, beside so many sessions it serves already.

    What it brought lately says it best. Of a node that was not seen, distance alone is known, and e^(-t/D) is the
    chance that a time t is not too late (as in `coordinator.matching`); D is some of this target's own passes, as many
    as drafts of use run ahead of. Else it is hoped to be a little better than those that were seen, or nobody would
    ever find out (optimism in the face of uncertainty: Lai and Robbins 1985).
    """
    patience = PATIENCE_PASSES * (knowledge.verify.mean or USUAL_PASS_SECONDS)
    in_time = math.exp(-(USUAL_RTT if link.rtt is None else link.rtt) / patience)
    return knowledge.expected(link.node, HOPE * in_time, at) / (1.0 + load)


def _preference(link: DraftLink, taken: list[LeaseClaims], expected: float) -> tuple[bool, bool, int, int, int]:
    """Lowest first: another owner, another site, then who can be expected to bring most, then the least busy, then
    whoever was asked least often. What lies within a factor of √2 is no difference, or load would not spread."""
    return (
        any(lease.owner == link.lease.owner for lease in taken),
        any(lease.site == link.lease.site for lease in taken),
        -round(2.0 * math.log2(max(expected, LEAST_EXPECTED))),
        link.load,
        link.opened,
    )
