"""Who is here, and what is given to whom: the coordinator's one state machine. Pure; `executor.py` carries it out.

    UNKNOWN ──registered──▶ ACTIVE ◀──heartbeat── SILENT
       ▲                     │  └──none for a while──▲│
       │                     └──drain──▶ DRAINING     │
       └──── lost · silent too long · replaced ───────┘        (from every state)

State belongs to a link, not to a peer: a peer that connects again gets a new link and the old one is closed, so that
news still under way on the old one can be told apart and ignored.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeAlias

from coordinator import matching
from coordinator.acceptance import Acceptance, Positions, Voices
from coordinator.coordinates import Accuracy, Coordinates
from coordinator.events import (
    Disenrolled,
    DraftersAsked,
    Event,
    LandmarkTimed,
    LeaseAnswered,
    LeasesRead,
    LinkId,
    NodeBeat,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    PeerEvent,
    ReceiptsKept,
    TargetBeat,
    TargetDraining,
    TargetLost,
    TargetRegistered,
    Tick,
)
from coordinator.instructions import Close, Instruction, Send, TargetGone
from coordinator.landmarks import LandmarkBook
from coordinator.lease_book import LeaseBook
from coordinator.matching import Candidate, Want
from coordinator.records import LeaseRecord, NodeRecord, PeerState, Survey, Tally, TargetRecord
from wanspec_p2p.errors import CloseCode, LocalProtocolError
from wanspec_p2p.links import draft_address
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.coordinator_to_target import Drafters
from wanspec_p2p.protocol.target_to_coordinator import Receipt, RegisterTarget
from wanspec_p2p.types import PeerId

__all__ = ["Registry"]

BEATS_BEFORE_SILENT, BEATS_BEFORE_LOST = 3, 5
"""Heartbeats that may be missing before a peer gets nothing new, and before it is let go."""
MAX_PAIRS = 1000
"""Pairs of models whose acceptance is remembered here; later ones are taken for usual."""
LOUDEST_OF_PAIR = 10_000
"""Positions that one target's word of a pair of models counts for, and what the ledger had of it as one more."""
WANTS_A_SECOND = 8
"""Of one target; more are answered with nobody. An honest one asks once in two seconds."""
FRUITLESS_SECONDS = 1800.0
"""After which it is forgotten that nothing came of a node: it may be well again, and only drafting tells."""
OURSELVES = PeerId("")
"""The coordinator's own point on the map of round trips; no peer has this id."""
Handled: TypeAlias = list[Instruction]


class Registry:
    """Args:
    rng: breaks ties between equal nodes.
    new_id: makes the `jti` of a lease; unique for ever.
    heartbeat: seconds between the heartbeats peers are asked for.
    lease_seconds, offer_seconds: see `LeaseBook`.
    trusted_pools: whose nodes may see prompts of privacy "trusted".
    tallies: each node's receipts so far, from the ledger.
    acceptance: of each pair of models so far, from the ledger.
    """

    def __init__(
        self,
        *,
        rng: random.Random,
        new_id: Callable[[], str],
        heartbeat: float = 2.0,
        lease_seconds: float = 600.0,
        offer_seconds: float = 2.0,
        trusted_pools: frozenset[str] = frozenset(),
        tallies: Mapping[PeerId, Tally] | None = None,
        acceptance: Sequence[Acceptance] = (),
    ) -> None:
        self._rng, self._heartbeat, self._trusted = rng, heartbeat, trusted_pools
        self._tallies = dict(tallies or {})
        self._coordinates = Coordinates(OURSELVES, rng)
        self._acceptance = {
            (a.pair.target_digest, a.pair.drafter_digest): a.total.at_most(LOUDEST_OF_PAIR) for a in acceptance
        }
        self._heard: dict[tuple[str, str], Voices] = {}  # of such pairs since
        self._nodes: dict[PeerId, NodeRecord] = {}
        self._targets: dict[PeerId, TargetRecord] = {}
        self._links: dict[LinkId, NodeRecord | TargetRecord] = {}
        self._landmarks = LandmarkBook(self._targets)
        self._book = LeaseBook(
            self._nodes, self._targets, new_id=new_id, lease_seconds=lease_seconds, offer_seconds=offer_seconds
        )

    # What others may look at

    @property
    def nodes(self) -> Mapping[PeerId, NodeRecord]:
        return MappingProxyType(self._nodes)

    @property
    def targets(self) -> Mapping[PeerId, TargetRecord]:
        return MappingProxyType(self._targets)

    @property
    def leases(self) -> Mapping[str, LeaseRecord]:
        return MappingProxyType(self._book.leases)

    @property
    def awaited(self) -> frozenset[PeerId]:
        """Peers of leases that were given before the coordinator was started, not all of them back."""
        return self._book.awaited

    @property
    def tallies(self) -> Mapping[PeerId, Tally]:
        return MappingProxyType(self._tallies)

    @property
    def accuracy(self) -> Accuracy:
        """How well round trips between nodes and targets were predicted before they were measured."""
        return self._coordinates.accuracy

    def leased(self, node: PeerId) -> int:
        """Slots of this node that are leased or on offer."""
        return self._book.taken(node)

    def unmatched(self, node: NodeRecord) -> str | None:
        """Why no target of its pool can use this node, in words; None where one can."""
        targets = [target.model for target in self._targets.values() if target.pool == node.pool]
        if not targets:
            return f"no target is registered in pool {node.pool}"
        return matching.misfit(node.models, targets)

    # The door

    def handle(self, event: Event) -> Handled:
        """Raises LocalProtocolError for an event that cannot happen to such a link: a bug of the endpoints."""
        if isinstance(event, Tick):
            return self._on_tick(event)
        if isinstance(event, Disenrolled):
            return self._on_disenrolled(event)
        if isinstance(event, LeasesRead):
            self._book.expect(event.at, event.leases)
            return []
        record = self._links.get(event.link)
        state = PeerState.UNKNOWN if record is None else record.state
        handler = _TABLE.get((state, type(event)))
        expected = NodeRecord if isinstance(event, _NODE_EVENTS) else TargetRecord
        if handler is None or (record is not None and not isinstance(record, expected)):
            raise LocalProtocolError(f"{type(event).__name__} cannot happen to a link that is {state.value}")
        if record is not None:
            record.seen = max(record.seen, event.at)
        return handler(self, event)

    # Coming

    def _on_node(self, event: NodeRegistered) -> Handled:
        message = event.message
        targets = [target.model for target in self._targets.values() if target.pool == event.pool]
        mismatch = matching.misfit(message.models, targets)
        if mismatch is not None:
            return [Close(event.link, CloseCode.TOKENIZER_MISMATCH, mismatch)]
        replaced, revoked = self._replace(event.at, event.link, event.peer)
        node = NodeRecord(
            link=event.link,
            peer=event.peer,
            pool=event.pool,
            name=message.name,
            owner=message.owner,
            site=message.site,
            models=message.models,
            slots=message.slots,
            since=event.at,
            seen=event.at,
            survey=Survey() if event.landmarks else None,
        )
        self._nodes[node.peer] = self._links[node.link] = node
        came = self._book.came(node.peer)
        return [*replaced, Send(node.link, Registered(node.pool, self._heartbeat)), *revoked, *came]

    def _on_target(self, event: TargetRegistered) -> Handled:
        message = event.message
        if not _dialable(message):
            reason = (
                "each address must start with wss:// and a host (and a certificate be named), or with ws:// on "
                f"loopback, and have the path {draft_address.DRAFT_PATH}"
            )
            return [Close(event.link, CloseCode.POLICY_VIOLATION, reason)]
        replaced, revoked = self._replace(event.at, event.link, event.peer)
        target = TargetRecord(
            link=event.link,
            peer=event.peer,
            pool=event.pool,
            name=message.name,
            owner=message.owner,
            site=message.site,
            model=message.model,
            addresses=message.addresses,
            certificate=message.certificate,
            slots=message.slots,
            queue=message.queue,
            since=event.at,
            seen=event.at,
        )
        self._targets[target.peer] = self._links[target.link] = target
        self._landmarks.changed()
        came = self._book.came(target.peer)
        return [*replaced, Send(target.link, Registered(target.pool, self._heartbeat)), *revoked, *came]

    def _replace(self, at: float, link: LinkId, peer: PeerId) -> tuple[Handled, Handled]:
        """What to do before and after `peer` is registered on `link`, if it was here on another one.

        Revocations go to the new link: the process behind both may be the same, and still hold the leases. A target
        may go on with the answers it owed, but hears `Registered` first.
        """
        record: NodeRecord | TargetRecord | None = self._nodes.get(peer) or self._targets.get(peer)
        if record is None:
            return [], []
        close = Close(record.link, CloseCode.REPLACED, "the same identity has connected again")
        del self._links[record.link]
        record.state = PeerState.DRAINING  # nothing is offered to it before it is registered again
        reason = "the peer has connected again"
        if isinstance(record, NodeRecord):
            record.link = link
            revoked = self._book.drop_node(at, peer, reason, tell_node=True)
            del self._nodes[peer]
            return [close], revoked
        gone = TargetGone(record.link, "the target has connected again")
        record.link = link
        revoked = self._book.drop_target(peer, reason)
        del self._targets[peer]
        return [close], [gone, *revoked]

    def _on_twice(self, event: NodeRegistered | TargetRegistered) -> Handled:
        return [
            Close(event.link, CloseCode.PROTOCOL_ERROR, "a link registers once"),
            *self._forget(event.at, event.link),
        ]

    # Staying

    def _on_node_beat(self, event: NodeBeat) -> Handled:
        node = self._node(event.link)
        node.sessions = event.message.sessions
        self._measured(node, event)
        if node.state is PeerState.SILENT:
            node.state = PeerState.ACTIVE
        return [*self._book.listed(node, event.message.leases), *self._landmarks.ask(event.at, node)]

    def _on_target_beat(self, event: TargetBeat) -> Handled:
        target, message = self._target(event.link), event.message
        target.sessions, target.queued, target.drafters = message.sessions, message.queued, message.drafters
        self._measured(target, event)
        if target.state is PeerState.SILENT:
            target.state = PeerState.ACTIVE
        return []

    def _measured(self, peer: NodeRecord | TargetRecord, event: NodeBeat | TargetBeat) -> None:
        """Only what our own end measured goes on the map: a peer can be slow with its pongs, but not too early."""
        if event.rtt is None:
            peer.rtt = event.message.rtt if event.message.rtt is not None else peer.rtt
            return
        peer.rtt, peer.jitter = event.rtt, event.jitter
        self._coordinates.observe(peer.peer, OURSELVES, event.rtt)

    def _on_answer(self, event: LeaseAnswered) -> Handled:
        return self._book.answered(event.at, self._node(event.link), event.message)

    def _on_timed(self, event: LandmarkTimed) -> Handled:
        """What it was not asked for, or is asked for no more, is passed over."""
        node, message = self._node(event.link), event.message
        if self._landmarks.answered(node, message.target):
            self._coordinates.hear(node.peer, message.target, message.seconds)
        return []

    def _on_wanted(self, event: DraftersAsked) -> Handled:
        """No node is compared for a want that gets nobody in any case: one target must not hold up the rest."""
        target, message = self._target(event.link), event.message
        if self._book.is_open(target.peer, message.want):
            return []  # asked twice: one answer is under way
        if (reason := _hurry(target, event.at)) is not None:
            return [Send(target.link, Drafters(message.want, (), reason))]
        partners = self._book.partners(target.peer)
        want = Want(
            pool=target.pool,
            model=target.model,
            privacy=message.privacy,
            trusted=target.pool in self._trusted,
            exclude=frozenset(message.exclude) | partners,
            company=tuple((self._nodes[peer].owner, self._nodes[peer].site) for peer in sorted(partners)),
        )
        if (reason := matching.barred(want)) is not None:
            return [Send(target.link, Drafters(message.want, (), reason))]
        pool = [node for node in self._nodes.values() if node.pool == target.pool]
        free = [self._candidate(node, target, event.at) for node in pool if self._book.taken(node.peer) < node.slots]
        ranked, refusal = matching.rank(want, free, self._rng, full=len(pool) - len(free))
        return self._book.open_want(event.at, target, message, ranked, refusal)

    def _candidate(self, node: NodeRecord, target: TargetRecord, at: float) -> Candidate:
        tally = self._tallies.get(node.peer, Tally())
        model = matching.fitting_model(node.models, target.model)
        known = self._usual((target.model.digest, model.digest), at) if model is not None else Positions()
        predicted = self._coordinates.predict(node.peer, target.peer)
        return Candidate(
            peer=node.peer,
            pool=node.pool,
            owner=node.owner,
            site=node.site,
            models=node.models,
            slots=node.slots,
            free=node.slots - self._book.taken(node.peer),
            available=node.state is PeerState.ACTIVE and not self._book.left_alone(node.peer, at),
            rtt=node.rtt if predicted is None else predicted.rtt,
            doubt=matching.MOST_DOUBT if predicted is None else predicted.error,
            jitter=node.jitter,
            positions=tally.voices.together(at),
            fruitless=sum(at - said < FRUITLESS_SECONDS for said in tally.fruitless.values()),
            usual=known.alpha,
        )

    def _on_not_wanted(self, event: DraftersAsked) -> Handled:
        return [Send(event.link, Drafters(event.message.want, (), "the target is draining"))]

    def _on_receipts(self, event: ReceiptsKept) -> Handled:
        """Counted even where the target has left since: the receipts are on disk either way."""
        target = self._links.get(event.link)
        for receipt in event.receipts:
            tally = self._tallies.setdefault(receipt.node, Tally())
            tally.drafted += receipt.drafted
            tally.verified += receipt.verified
            tally.accepted += receipt.accepted
            tally.won += receipt.won
            if isinstance(target, TargetRecord):
                tally.voices.hear(target.peer, _positions(receipt), event.at)
                _judge(tally, target.peer, receipt, event.at)
            node = self._nodes.get(receipt.node)
            if node is not None and isinstance(target, TargetRecord) and node.pool == target.pool:
                self._learn(node, target, receipt, event.at)
        return []

    def _learn(self, node: NodeRecord, target: TargetRecord, receipt: Receipt, at: float) -> None:
        if receipt.rtt is not None:
            self._coordinates.observe(node.peer, target.peer, receipt.rtt)
        model = matching.fitting_model(node.models, target.model)  # what a lease names
        if model is not None:
            pair = target.model.digest, model.digest  # as they say themselves
            if pair not in self._heard and len(self._heard) < MAX_PAIRS:
                self._heard[pair] = Voices(LOUDEST_OF_PAIR)
            if pair in self._heard:
                self._heard[pair].hear(target.peer, _positions(receipt), at)

    def _usual(self, pair: tuple[str, str], at: float) -> Positions:
        """What is known of a pair of models, from its nodes and targets together."""
        before = self._acceptance.get(pair, Positions())
        return before + self._heard[pair].together(at) if pair in self._heard else before

    # Going

    def _on_node_draining(self, event: NodeDraining) -> Handled:
        node = self._node(event.link)
        node.state = PeerState.DRAINING
        return self._book.withdraw_offers(event.at, node.peer)

    def _on_target_draining(self, event: TargetDraining) -> Handled:
        self._target(event.link).state = PeerState.DRAINING
        return []

    def _on_lost(self, event: NodeLost | TargetLost) -> Handled:
        return self._forget(event.at, event.link)

    def _forget(self, at: float, link: LinkId) -> Handled:
        record = self._links.pop(link)
        self._coordinates.forget(record.peer)
        if isinstance(record, NodeRecord):
            # It must not be offered anything while its offers go to others.
            record.state = PeerState.DRAINING
            instructions = self._book.drop_node(at, record.peer, "the node is gone")
            del self._nodes[record.peer]
            return instructions
        instructions = self._book.drop_target(record.peer, "the target is gone")
        del self._targets[record.peer]
        self._landmarks.changed()
        return [TargetGone(link, "the target is gone"), *instructions]

    def _on_disenrolled(self, event: Disenrolled) -> Handled:
        instructions: Handled = []
        for record in tuple(self._links.values()):
            if record.peer in event.peers:
                reason = "the operator has revoked this peer: join with a token to come back"
                instructions += [
                    Close(record.link, CloseCode.NOT_ENROLLED, reason),
                    *self._forget(event.at, record.link),
                ]
        return instructions + self._book.revoked(event.peers)

    def _on_late(self, event: PeerEvent) -> Handled:
        return []  # read from a link that was closed meanwhile

    def _on_tick(self, event: Tick) -> Handled:
        instructions: Handled = []
        for record in tuple(self._links.values()):
            quiet = event.at - record.seen
            if quiet >= BEATS_BEFORE_LOST * self._heartbeat:
                reason = f"no heartbeat for {BEATS_BEFORE_LOST * self._heartbeat:g} s"
                instructions += [Close(record.link, CloseCode.IDLE, reason), *self._forget(event.at, record.link)]
            elif quiet >= BEATS_BEFORE_SILENT * self._heartbeat and record.state is PeerState.ACTIVE:
                record.state = PeerState.SILENT
        return instructions + self._book.tick(event.at)

    def _node(self, link: LinkId) -> NodeRecord:
        record = self._links[link]
        assert isinstance(record, NodeRecord)  # `handle` has looked
        return record

    def _target(self, link: LinkId) -> TargetRecord:
        record = self._links[link]
        assert isinstance(record, TargetRecord)
        return record


def _hurry(target: TargetRecord, at: float) -> str | None:
    """Why a target that asks again now hears nobody, in words; None where it may ask."""
    while target.asked and at - target.asked[0] >= 1.0:
        target.asked.popleft()
    if len(target.asked) >= WANTS_A_SECOND:
        return f"the target has asked for drafters {WANTS_A_SECOND} times within a second"
    target.asked.append(at)
    return None


def _judge(tally: Tally, target: PeerId, receipt: Receipt, at: float) -> None:
    """A node from which nothing came in time, though it is near enough and had time enough, is slow or broken, for
    whomever it drafts. Each target is heard once, or a single one could take a node from all others."""
    near = receipt.rtt is not None and receipt.rtt < matching.DEADLINE_SECONDS
    if receipt.verified:
        tally.fruitless.pop(target, None)
    elif near and receipt.rounds >= limits.FIRST_DRAFT_ROUNDS:
        tally.fruitless.pop(target, None)
        tally.fruitless[target] = at
        if len(tally.fruitless) > matching.MOST_FRUITLESS:
            del tally.fruitless[next(iter(tally.fruitless))]


def _positions(receipt: Receipt) -> Positions:
    reached = sum(reached for reached, _ in receipt.by_depth)
    return Positions(reached, min(sum(right for _, right in receipt.by_depth), reached))


def _dialable(message: RegisterTarget) -> bool:
    """Whether nodes would dial every address; a lease that names another would be of no use to them."""
    places = [draft_address.parse(address) for address in message.addresses]
    return all(place is not None and (message.certificate is not None or not place.secure) for place in places)


_NODE_EVENTS = (NodeRegistered, NodeBeat, LeaseAnswered, LandmarkTimed, NodeDraining, NodeLost)
_Handler: TypeAlias = Callable[[Registry, Any], Handled]
_HERE: dict[type, _Handler] = {
    NodeRegistered: Registry._on_twice,
    NodeBeat: Registry._on_node_beat,
    LeaseAnswered: Registry._on_answer,
    LandmarkTimed: Registry._on_timed,
    NodeDraining: Registry._on_node_draining,
    NodeLost: Registry._on_lost,
    TargetRegistered: Registry._on_twice,
    TargetBeat: Registry._on_target_beat,
    DraftersAsked: Registry._on_wanted,
    TargetDraining: Registry._on_target_draining,
    TargetLost: Registry._on_lost,
    ReceiptsKept: Registry._on_receipts,
}
_BY_STATE: dict[PeerState, dict[type, _Handler]] = {
    PeerState.UNKNOWN: {
        **dict.fromkeys(_HERE, Registry._on_late),
        NodeRegistered: Registry._on_node,
        TargetRegistered: Registry._on_target,
        ReceiptsKept: Registry._on_receipts,
    },
    PeerState.ACTIVE: _HERE,
    PeerState.SILENT: _HERE,
    PeerState.DRAINING: {**_HERE, DraftersAsked: Registry._on_not_wanted},
}
_TABLE: dict[tuple[PeerState, type], _Handler] = {
    (state, event): handler for state, row in _BY_STATE.items() for event, handler in row.items()
}
