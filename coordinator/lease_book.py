"""Wants and leases: from a target's question to nodes that hold its lease, renewed until one of the two is gone.

    want ──offer to the best──▶ offered ──accepted──▶ held ──half its life──▶ renewed ─┐
                                   │                   │  ▲                            │
                        declined, late: next best      │  └────────────────────────────┘
                                                       └── node or target gone, let go, expired: revoked

A lease of before the coordinator was started is awaited: its slot is taken, it is renewed by nobody, and ends when its
time is over. Once node and target are both back it is held like any other.

What was offered is signed: a node can show it to its target until its time is over, whatever it answered. So a target
is told of each that ends before, and again whenever it registers: it may have been away, or been started again.

Pure, and part of the registry: it changes only through the registry's `handle`.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping

from coordinator.events import LeaseInForce
from coordinator.instructions import Instruction, LeaseTerms, OfferLease, RecordLease, RenewLease, Send
from coordinator.lease_shelf import LeaseShelf
from coordinator.matching import Match, fitting_model
from coordinator.records import AwaitedLease, LeaseRecord, NodeRecord, PeerState, TargetRecord, WantRecord
from wanspec_p2p.links.absence import Absence
from wanspec_p2p.protocol.common_messages import LeaseRevoked
from wanspec_p2p.protocol.coordinator_to_target import Drafters, GrantedDrafter
from wanspec_p2p.protocol.node_to_coordinator import LeaseAnswer
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted
from wanspec_p2p.types import PeerId

__all__ = ["LeaseBook"]

UNANSWERED_SECONDS, LONGEST_UNANSWERED_SECONDS = 15.0, 960.0
"""How long a node that left an offer unanswered, or said no to it late, is offered nothing, twice as long each time: a
target waits for it meanwhile, and it may be silent to keep others away."""
LATE = 0.5
"""Share of the time to think after which a no comes late. What was offered later than that was offered too late."""
MAX_ENDED = 4096
"""Of one peer that are remembered: more than it has in the life of a lease, unless somebody makes them end."""
MAX_TOLD = 64
"""Leases that one heartbeat names and that are not the node's, of which it is told that they have ended."""
HONOURED_SECONDS = 900.0
"""How long past its end a peer that is cut off from us may go on by a lease (`ORPHAN_SECONDS` of nodes and targets)."""


class LeaseBook:
    """Args:
    nodes, targets: the registry's own records; read, never written.
    new_id: makes the `jti` of a lease.
    lease_seconds: how long a lease lasts; it is renewed at half of that.
    offer_seconds: how long a node may think.
    """

    def __init__(
        self,
        nodes: Mapping[PeerId, NodeRecord],
        targets: Mapping[PeerId, TargetRecord],
        *,
        new_id: Callable[[], str],
        lease_seconds: float,
        offer_seconds: float,
    ) -> None:
        self._nodes, self._targets, self._new_id = nodes, targets, new_id
        self._lease_seconds, self._offer_seconds = lease_seconds, offer_seconds
        self._leases, self._awaited = LeaseShelf[LeaseRecord](), LeaseShelf[AwaitedLease]()
        # By peer and jti: why a lease of its has ended before its time, and until when somebody may go on by it.
        self._ended: dict[PeerId, dict[str, tuple[str, float]]] = {}
        self._wants: dict[tuple[PeerId, str], WantRecord] = {}
        self._silent = Absence(UNANSWERED_SECONDS, longest=LONGEST_UNANSWERED_SECONDS)

    @property
    def leases(self) -> Mapping[str, LeaseRecord]:
        """Those held or on offer, between peers that are here."""
        return self._leases.by_jti

    @property
    def awaited(self) -> frozenset[PeerId]:
        """Nodes and targets of leases of before, not all of them back."""
        return self._awaited.peers

    def taken(self, node: PeerId) -> int:
        """Slots of this node that are leased or on offer."""
        return self._leases.count(node) + self._awaited.count(node)

    def left_alone(self, node: PeerId, at: float) -> bool:
        """It is offered nothing for now: it made a target wait in vain."""
        return self._silent.has(node, at)

    def partners(self, target: PeerId) -> frozenset[PeerId]:
        """Nodes that hold, or are offered, a lease for this target."""
        return frozenset(lease.node for lease in self._leases.of(target))

    # Wants

    def is_open(self, target: PeerId, want: str) -> bool:
        """Asked and not answered yet."""
        return (target, want) in self._wants

    def open_want(
        self, at: float, target: TargetRecord, message: DraftersWanted, ranked: list[Match], refusal: str
    ) -> list[Instruction]:
        """Call it for a want that is not open."""
        want = WantRecord(message.want, target.peer, message.count, at + self._offer_seconds, list(ranked), refusal)
        self._wants[target.peer, message.want] = want
        return self._advance(at, want)

    def _advance(self, at: float, want: WantRecord) -> list[Instruction]:
        """Offer until enough offers are out; answer the target once nothing more can come."""
        instructions: list[Instruction] = []
        while want.candidates and len(want.granted) + len(want.outstanding) < want.count:
            instructions += self._offer(at, want, want.candidates.pop(0))
        if not want.outstanding:
            instructions += self._answer_target(want)
        return instructions

    def _offer(self, at: float, want: WantRecord, match: Match) -> list[Instruction]:
        node, target = self._nodes.get(match.node), self._targets[want.target]
        if node is None or node.state is not PeerState.ACTIVE or self.taken(node.peer) >= node.slots:
            return []  # it changed while others were asked
        if node.peer in self.partners(want.target) or self.left_alone(node.peer, at):
            return []
        lease = LeaseRecord(
            jti=self._new_id(),
            node=node.peer,
            target=want.target,
            model=match.model,
            want=want.id,
            renew_at=at + self._lease_seconds / 2,
            expires_at=at + self._lease_seconds,
            offered_at=at,
        )
        self._leases.put(lease)
        want.outstanding.add(lease.jti)
        return [OfferLease(node.link, _terms(lease, node, target), self._lease_seconds)]

    def _answer_target(self, want: WantRecord) -> list[Instruction]:
        del self._wants[want.target, want.id]
        reason = "" if want.granted else want.refusal or "every node that was asked declined or did not answer in time"
        return [Send(self._targets[want.target].link, Drafters(want.id, tuple(want.granted), reason))]

    def answered(self, at: float, node: NodeRecord, answer: LeaseAnswer) -> list[Instruction]:
        lease = self._leases.by_jti.get(answer.jti)
        if lease is None or lease.node != node.peer:
            return []  # withdrawn while the answer was on its way, or not this node's to answer
        if lease.held:
            if answer.accepted:
                return []
            return self._revoke(lease, answer.reason or "the node let go of it", tell_node=False)
        if answer.accepted or not self._late(at, lease):
            self._silent.forgive(node.peer)
        else:
            self._made_wait(at, lease)
        want = self._wants.get((lease.target, lease.want))
        if want is not None:
            want.outstanding.discard(lease.jti)
        if not answer.accepted or want is None:
            ended = self._revoke(lease, "the node declined it", tell_node=False)
            return ended if want is None else [*ended, *self._advance(at, want)]
        lease.held = True
        model = lease.model
        want.granted.append(GrantedDrafter(node.peer, lease.jti, model.name, model.tokens_per_second))
        terms = _terms(lease, node, self._targets[lease.target])
        return [RecordLease(terms, lease.expires_at - at), *self._advance(at, want)]

    # Leases

    def listed(self, node: NodeRecord, jtis: tuple[str, ...]) -> list[Instruction]:
        """A heartbeat names the leases the node holds: one it named before and does not any more, it let go of; of one
        that is not here it must hear that it has ended."""
        named = set(jtis)
        instructions: list[Instruction] = []
        for lease in self._leases.of(node.peer):
            if lease.jti in named:
                lease.listed = True
            elif lease.held and lease.listed:
                instructions += self._revoke(lease, "the node let go of it", tell_node=False)
        for awaited in self._awaited.of(node.peer):
            if awaited.jti not in named:
                instructions += self._give_up_on(awaited, "the node let go of it", (awaited.target,))
        return instructions + self._not_held(node, jtis)

    def _not_held(self, node: NodeRecord, jtis: tuple[str, ...]) -> list[Instruction]:
        """It may have been cut off when these ended, and go on for a target that pays no heed. Some at a time: it names
        the others again."""
        shelves = self._leases, self._awaited
        ended = [jti for jti in dict.fromkeys(jtis) if not any(shelf.has(node.peer, jti) for shelf in shelves)]
        return [Send(node.link, LeaseRevoked(jti, "the lease has ended")) for jti in ended[:MAX_TOLD]]

    def tick(self, at: float) -> list[Instruction]:
        instructions: list[Instruction] = []
        for want in [want for want in self._wants.values() if at >= want.deadline]:
            instructions += self._give_up(at, want)
        self._forget_what_is_over(at)
        for lease in self._leases:
            if not lease.held:
                continue
            if at >= lease.expires_at:
                instructions += self._revoke(lease, "expired")
            elif at >= lease.renew_at:
                instructions += self._renew(at, lease)
        return instructions

    def _give_up(self, at: float, want: WantRecord) -> list[Instruction]:
        """Time is up: the offers still out are withdrawn, the target gets what there is."""
        instructions: list[Instruction] = []
        for jti in sorted(want.outstanding):
            lease = self._leases.by_jti[jti]
            if self._late(at, lease):
                self._made_wait(at, lease)
            instructions += self._revoke(lease, "no answer in time")
        want.outstanding.clear()
        return [*instructions, *self._answer_target(want)]

    def _late(self, at: float, offer: LeaseRecord) -> bool:
        return at - offer.offered_at >= LATE * self._offer_seconds

    def _made_wait(self, at: float, offer: LeaseRecord) -> None:
        """Once for all offers that were out at a time: that was one hiccup."""
        if not self._silent.has(offer.node, at):
            self._silent.add(offer.node, at)

    def _renew(self, at: float, lease: LeaseRecord) -> list[Instruction]:
        """Who drains is not renewed: its leases run out."""
        node, target = self._nodes[lease.node], self._targets[lease.target]
        if node.state is not PeerState.ACTIVE or target.state is not PeerState.ACTIVE:
            return []
        lease.renew_at, lease.expires_at = at + self._lease_seconds / 2, at + self._lease_seconds
        terms = _terms(lease, node, target)
        return [RenewLease(node.link, terms, self._lease_seconds), RecordLease(terms, self._lease_seconds)]

    # Of before the coordinator was started

    def expect(self, at: float, leases: Collection[LeaseInForce]) -> None:
        """They are in force, and their nodes and targets known by id alone. Call it before anybody is registered."""
        for lease in leases:
            awaited = AwaitedLease(lease.jti, lease.node, lease.target, lease.digest, at + lease.seconds)
            self._awaited.put(awaited)

    def came(self, peer: PeerId) -> list[Instruction]:
        """Call it once a peer is registered: it hears what has ended, and goes on with whoever is back as well."""
        instructions: list[Instruction] = []
        for jti, (reason, _) in self._ended.get(peer, {}).items():
            instructions += self._tell(peer, jti, reason)
        for lease in self._awaited.of(peer):
            node, target = self._nodes.get(lease.node), self._targets.get(lease.target)
            if node is not None and target is not None:
                instructions += self._resume(lease, node, target)
        return instructions

    def _resume(self, lease: AwaitedLease, node: NodeRecord, target: TargetRecord) -> list[Instruction]:
        """What a renewal has to say, the two have said anew. The node's next heartbeat names it, or it was let go."""
        model = fitting_model([model for model in node.models if model.digest == lease.digest], target.model)
        if model is None or node.pool != target.pool:
            return self._give_up_on(lease, "the node does not fit the target any more", (lease.node, lease.target))
        self._awaited.remove(lease)
        self._leases.put(
            LeaseRecord(
                jti=lease.jti,
                node=lease.node,
                target=lease.target,
                model=model,
                want="",
                renew_at=lease.expires_at - self._lease_seconds / 2,
                expires_at=lease.expires_at,
                held=True,
                listed=True,
            )
        )
        return []

    def revoked(self, peers: Collection[PeerId]) -> list[Instruction]:
        """They are enrolled no more. Call it once those that were registered are forgotten."""
        instructions: list[Instruction] = []
        for lease in self._awaited:
            others = [peer for peer in (lease.node, lease.target) if peer not in peers]
            if len(others) < 2:
                instructions += self._give_up_on(lease, "the operator has revoked a peer of it", others)
        return instructions

    def _give_up_on(self, lease: AwaitedLease, reason: str, tell: Collection[PeerId]) -> list[Instruction]:
        self._awaited.remove(lease)
        instructions: list[Instruction] = []
        for peer in tell:
            self._remember(peer, lease, reason)
            if peer in self._nodes or peer in self._targets:
                instructions += self._tell(peer, lease.jti, reason)
        return instructions

    def _tell(self, peer: PeerId, jti: str, reason: str) -> list[Instruction]:
        record = self._nodes.get(peer) or self._targets[peer]
        return [Send(record.link, LeaseRevoked(jti, reason))]

    def _remember(self, peer: PeerId, lease: LeaseRecord | AwaitedLease, reason: str) -> None:
        ended = self._ended.setdefault(peer, {})
        ended[lease.jti] = reason, lease.expires_at + HONOURED_SECONDS
        if len(ended) > MAX_ENDED:
            del ended[next(iter(ended))]

    def _forget_what_is_over(self, at: float) -> None:
        """Whoever holds it knows when it ends."""
        for lease in self._awaited:
            if at >= lease.expires_at:
                self._awaited.remove(lease)
        for peer, ended in tuple(self._ended.items()):
            for jti in [jti for jti, (_, until) in ended.items() if at >= until]:
                del ended[jti]
            if not ended:
                del self._ended[peer]

    # Ends

    def withdraw_offers(self, at: float, node: PeerId) -> list[Instruction]:
        """The node drains: what it has not accepted yet goes to somebody else; what it holds, it finishes."""
        return self._replace_offers(at, [lease for lease in self._leases.of(node) if not lease.held])

    def drop_node(self, at: float, node: PeerId, reason: str, *, tell_node: bool = False) -> list[Instruction]:
        """Call it before the record is forgotten. `tell_node` where it is only its link that was replaced."""
        held = [lease for lease in self._leases.of(node) if lease.held]
        offered = [lease for lease in self._leases.of(node) if not lease.held]
        instructions: list[Instruction] = []
        for lease in held:
            instructions += self._revoke(lease, reason, tell_node=tell_node)
        return instructions + self._replace_offers(at, offered)

    def drop_target(self, target: PeerId, reason: str) -> list[Instruction]:
        """As above. A target that is only cut off from us may have its drafters yet: `came` tells it."""
        for key in [key for key in self._wants if key[0] == target]:
            del self._wants[key]
        instructions: list[Instruction] = []
        for lease in self._leases.of(target):
            instructions += self._revoke(lease, reason, tell_target=False)
        return instructions

    def _replace_offers(self, at: float, offered: list[LeaseRecord]) -> list[Instruction]:
        instructions: list[Instruction] = []
        for lease in offered:
            instructions += self._revoke(lease, "the node takes nothing new", tell_node=False)
            want = self._wants[lease.target, lease.want]
            want.outstanding.discard(lease.jti)
            want.candidates = [match for match in want.candidates if match.node != lease.node]
            instructions += self._advance(at, want)
        return instructions

    def _revoke(
        self, lease: LeaseRecord, reason: str, *, tell_node: bool = True, tell_target: bool = True
    ) -> list[Instruction]:
        self._leases.remove(lease)
        self._remember(lease.target, lease, reason)
        message = LeaseRevoked(lease.jti, reason)
        instructions: list[Instruction] = []
        if tell_node:
            instructions.append(Send(self._nodes[lease.node].link, message))
        if tell_target:
            instructions.append(Send(self._targets[lease.target].link, message))
        return instructions


def _terms(lease: LeaseRecord, node: NodeRecord, target: TargetRecord) -> LeaseTerms:
    return LeaseTerms(
        jti=lease.jti,
        node=node.peer,
        target=target.peer,
        owner=node.owner,
        site=node.site,
        pool=node.pool,
        model=lease.model.name,
        digest=lease.model.digest,
        tokenizer=lease.model.tokenizer,
        addresses=target.addresses,
        certificate=target.certificate,
        target_model=target.model.name,
        target_digest=target.model.digest,
    )
