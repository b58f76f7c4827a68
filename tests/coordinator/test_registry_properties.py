"""Any order of events: never a lease to a node that does not match, never more leases than slots, never an error."""

from __future__ import annotations

import itertools
import random

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from coordinator.events import (
    Disenrolled,
    DraftersAsked,
    LeaseAnswered,
    LeaseInForce,
    LeasesRead,
    NodeBeat,
    NodeDraining,
    NodeLost,
    NodeRegistered,
    TargetBeat,
    TargetDraining,
    TargetLost,
    TargetRegistered,
    Tick,
)
from coordinator.instructions import Instruction, OfferLease, Send
from coordinator.records import PeerState
from coordinator.registry import Registry
from tests.support.fake_target import drafter, node_registration, target_registration
from wanspec_p2p.protocol.coordinator_to_target import Drafters
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat, LeaseAnswer
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted, TargetHeartbeat
from wanspec_p2p.types import PeerId, Privacy

NODES = [PeerId(letter * 32) for letter in "abcd"]
TARGETS = [PeerId(letter * 32) for letter in "xy"]
POOLS = st.sampled_from(["p", "q"])
TOKENIZERS = st.sampled_from(["a" * 64, "b" * 64])


class RegistryMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.ids = itertools.count(1)
        self.registry = Registry(
            rng=random.Random(0), new_id=lambda: f"j{next(self.ids)}", lease_seconds=20.0, offer_seconds=2.0
        )
        self.now = 0.0
        self.links = itertools.count(1)
        self.node_links: list[int] = []
        self.target_links: list[int] = []
        self.offered: list[tuple[int, str]] = []
        self.open_wants: dict[tuple[int, str], float] = {}

    def do(self, event: object) -> None:
        for instruction in self.registry.handle(event):  # type: ignore[arg-type]  # any of them
            self.check(instruction)

    def check(self, instruction: Instruction) -> None:
        if isinstance(instruction, OfferLease):
            terms = instruction.terms
            node, target = self.registry.nodes[terms.node], self.registry.targets[terms.target]
            assert node.link == instruction.link
            assert node.pool == target.pool
            assert terms.tokenizer == target.model.tokenizer
            assert node.state is PeerState.ACTIVE
            self.offered.append((instruction.link, terms.jti))
        if isinstance(instruction, Send) and isinstance(instruction.message, Drafters):
            held = self.registry.leases
            assert all(held[entry.jti].held for entry in instruction.message.drafters)
            self.open_wants.pop((instruction.link, instruction.message.want), None)

    @initialize(
        partners=st.dictionaries(st.sampled_from(NODES), st.sampled_from(TARGETS)), seconds=st.floats(1.0, 20.0)
    )
    def leases_of_before(self, partners: dict[PeerId, PeerId], seconds: float) -> None:
        digest = drafter().digest
        leases = [LeaseInForce(f"of {node}", node, target, digest, seconds) for node, target in partners.items()]
        self.do(LeasesRead(self.now, leases))

    @rule(index=st.integers(0, 9))
    def somebody_is_revoked(self, index: int) -> None:
        self.do(Disenrolled(self.now, frozenset({(NODES + TARGETS)[index % 6]})))

    @rule(peer=st.sampled_from(NODES), pool=POOLS, tokenizer=TOKENIZERS, slots=st.integers(1, 3))
    def node_comes(self, peer: PeerId, pool: str, tokenizer: str, slots: int) -> None:
        link = next(self.links)
        self.node_links.append(link)
        message = node_registration(models=(drafter(tokenizer=tokenizer),), slots=slots)
        self.do(NodeRegistered(self.now, link, peer, pool, message))

    @rule(peer=st.sampled_from(TARGETS), pool=POOLS)
    def target_comes(self, peer: PeerId, pool: str) -> None:
        link = next(self.links)
        self.target_links.append(link)
        self.do(TargetRegistered(self.now, link, peer, pool, target_registration()))

    @rule(index=st.integers(0, 9), kind=st.integers(0, 3), named=st.booleans())
    def node_speaks(self, index: int, kind: int, named: bool) -> None:
        if self.node_links:
            link = self.node_links[index % len(self.node_links)]
            leases = tuple(jti for owner, jti in self.offered if owner == link) if named else ()
            leases += tuple(f"of {peer}" for peer, node in self.registry.nodes.items() if node.link == link)
            self.do(
                (
                    NodeBeat(self.now, link, Heartbeat(0, leases=leases)),
                    NodeBeat(self.now, link, Heartbeat(1, leases=leases[:1])),
                    NodeDraining(self.now, link, ""),
                    NodeLost(self.now, link, ""),
                )[kind]
            )

    @rule(index=st.integers(0, 9), accepted=st.booleans(), right=st.booleans())
    def node_answers(self, index: int, accepted: bool, right: bool) -> None:
        if self.offered:
            link, jti = self.offered[-1 - index % len(self.offered)]
            self.do(LeaseAnswered(self.now, link if right else self.node_links[0], LeaseAnswer(jti, accepted)))

    @rule(index=st.integers(0, 9), kind=st.integers(0, 2))
    def target_speaks(self, index: int, kind: int) -> None:
        if self.target_links:
            link = self.target_links[index % len(self.target_links)]
            self.do(
                (
                    TargetBeat(self.now, link, TargetHeartbeat(0, 0, 0)),
                    TargetDraining(self.now, link, ""),
                    TargetLost(self.now, link, ""),
                )[kind]
            )

    @rule(index=st.integers(0, 9), count=st.integers(1, 3), private=st.booleans(), want=st.integers(0, 5))
    def target_asks(self, index: int, count: int, private: bool, want: int) -> None:
        if self.target_links:
            link = self.target_links[index % len(self.target_links)]
            privacy = Privacy.PRIVATE if private else Privacy.PUBLIC
            if any(target.link == link for target in self.registry.targets.values()):
                self.open_wants.setdefault((link, f"w{want}"), self.now)
            self.do(DraftersAsked(self.now, link, DraftersWanted(f"w{want}", count, privacy)))

    @rule(seconds=st.floats(0.0, 6.0))
    def time_passes(self, seconds: float) -> None:
        self.now += seconds
        self.do(Tick(self.now))

    @invariant()
    def leases_are_between_peers_that_are_here_and_fit_into_slots(self) -> None:
        registry = self.registry
        for lease in registry.leases.values():
            node, target = registry.nodes[lease.node], registry.targets[lease.target]
            assert node.pool == target.pool
            assert lease.model.tokenizer == target.model.tokenizer
        for peer, node in registry.nodes.items():
            taken = sum(lease.node == peer for lease in registry.leases.values())
            assert registry.leased(peer) <= node.slots
            assert registry.leased(peer) - taken == (peer in registry.awaited), "one of before at most, not resumed"

    @invariant()
    def every_want_is_answered_in_time(self) -> None:
        here = {target.link for target in self.registry.targets.values()}
        for (link, _), since in self.open_wants.items():
            assert link not in here or self.now - since < 2.0


RegistryMachine.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestRegistry = RegistryMachine.TestCase
