from __future__ import annotations

import itertools
import random
from collections import Counter

import msgspec
import pytest

from coordinator import landmarks as module
from coordinator.events import LandmarkTimed, NodeBeat, NodeDraining, NodeRegistered, TargetLost, TargetRegistered
from coordinator.instructions import Instruction, Send
from coordinator.registry import Registry
from tests.support.fake_target import SERVED, drafter, node_registration, target_registration
from wanspec_p2p.protocol.coordinator_to_node import Landmark, Landmarks
from wanspec_p2p.protocol.limits import LANDMARK_SECONDS, MAX_LANDMARKS
from wanspec_p2p.protocol.node_to_coordinator import Heartbeat, Timed
from wanspec_p2p.types import PeerId

NODE = 1000
"""The link of the first node; targets have those before."""


def target(number: int) -> PeerId:
    return PeerId(f"{number:t>32}")


class Bench:
    """A registry with targets, and nodes that say they live when a test wants it."""

    def __init__(self, targets: int = 0) -> None:
        ids = itertools.count(1)
        self.registry = Registry(rng=random.Random(0), new_id=lambda: f"j{next(ids)}")
        self._links = itertools.count(1)
        self.links: dict[int, int] = {}
        for number in range(targets):
            self.add(number)

    def add(self, number: int, pool: str = "default", tokenizer: str = SERVED.tokenizer) -> None:
        link = self.links[number] = next(self._links)
        served = msgspec.structs.replace(SERVED, tokenizer=tokenizer)
        address = f"ws://127.0.0.1:{number + 1}/wanspec/draft"
        message = target_registration(addresses=(address, "ws://127.0.0.1:9999/wanspec/draft"), model=served)
        self.registry.handle(TargetRegistered(0.0, link, target(number), pool, message))

    def lose(self, number: int) -> None:
        self.registry.handle(TargetLost(0.0, self.links.pop(number), "closed"))

    def join(self, number: int = 0, *, landmarks: bool = True) -> None:
        message = node_registration(models=(drafter(),))
        peer = PeerId(f"{number:n>32}")
        self.registry.handle(NodeRegistered(0.0, NODE + number, peer, "default", message, landmarks))

    def beat(self, at: float, number: int = 0) -> list[Landmark]:
        """What the node is asked with its heartbeat."""
        asked = [_landmarks(i) for i in self.registry.handle(NodeBeat(at, NODE + number, Heartbeat(0), 0.05, 0.001))]
        assert len(asked) <= 1
        return [landmark for landmarks in asked for landmark in landmarks]

    def tell(self, peer: PeerId, seconds: float, number: int = 0) -> None:
        assert self.registry.handle(LandmarkTimed(0.0, NODE + number, Timed(peer, seconds))) == []

    def known(self, peer: PeerId, number: int = 0) -> float | None:
        return self.registry._coordinates.measured(PeerId(f"{number:n>32}"), peer)


def _landmarks(instruction: Instruction) -> tuple[Landmark, ...]:
    assert isinstance(instruction, Send)
    assert isinstance(instruction.message, Landmarks)
    return instruction.message.landmarks


def names(landmarks: list[Landmark]) -> set[PeerId]:
    return {landmark.target for landmark in landmarks}


def test_a_node_is_asked_with_its_first_heartbeat_for_a_few_targets_by_their_first_address() -> None:
    bench = Bench(targets=10)
    bench.join()
    asked = bench.beat(0.0)
    assert len(asked) == len(names(asked)) == MAX_LANDMARKS
    assert all(bench.registry.targets[mark.target].addresses[0] == mark.address for mark in asked)
    assert bench.beat(2.0) == []


def test_a_node_whose_link_lacks_the_feature_is_asked_nothing() -> None:
    bench = Bench(targets=2)
    bench.join(landmarks=False)
    assert bench.beat(0.0) == []


def test_only_targets_a_lease_could_name_are_told_of() -> None:
    bench = Bench()
    bench.add(0)
    bench.add(1, pool="other")
    bench.add(2, tokenizer="b" * 64)
    bench.join()
    assert names(bench.beat(0.0)) == {target(0)}


def test_a_node_that_drains_is_asked_nothing() -> None:
    bench = Bench(targets=2)
    bench.join()
    bench.registry.handle(NodeDraining(0.0, NODE, "bye"))
    assert bench.beat(0.0) == []


def test_the_load_is_spread() -> None:
    bench = Bench(targets=10)
    asked: Counter[PeerId] = Counter()
    for number in range(200):
        bench.join(number)
        asked.update(names(bench.beat(0.0, number)))
    assert sum(asked.values()) == 200 * MAX_LANDMARKS
    assert len(asked) == 10
    assert max(asked.values()) < 2 * min(asked.values())


def test_each_round_has_other_landmarks() -> None:
    bench = Bench(targets=30)
    bench.join()
    seen = names(bench.beat(0.0))
    assert bench.beat(module.ROUND_SECONDS - 1.0) == []
    for number in range(1, 6):
        seen |= names(bench.beat(number * module.ROUND_SECONDS))
    assert len(seen) > 3 * MAX_LANDMARKS


def test_a_target_that_comes_is_asked_for_and_nothing_else_but_not_at_once() -> None:
    bench = Bench(targets=1)
    bench.join()
    assert names(bench.beat(0.0)) == {target(0)}
    bench.add(1)
    assert bench.beat(LANDMARK_SECONDS - 1.0) == []
    assert names(bench.beat(LANDMARK_SECONDS)) == {target(1)}
    assert bench.beat(2 * LANDMARK_SECONDS) == []


def test_a_target_that_comes_again_is_asked_for_again() -> None:
    """Its place on the map is forgotten when it leaves."""
    bench = Bench(targets=3)
    bench.join()
    bench.beat(0.0)
    bench.lose(1)
    bench.add(1)
    assert names(bench.beat(LANDMARK_SECONDS)) == {target(1)}


def test_a_node_that_waits_for_its_first_target_is_asked_as_soon_as_it_comes() -> None:
    bench = Bench()
    bench.join()
    assert bench.beat(0.0) == []
    bench.add(0)
    assert names(bench.beat(2.0)) == {target(0)}


def test_what_a_node_was_asked_for_is_believed_once() -> None:
    bench = Bench(targets=1)
    bench.join()
    bench.tell(target(0), 0.01)
    assert bench.known(target(0)) is None, "nobody had asked"
    bench.beat(0.0)
    bench.tell(target(0), 0.02)
    bench.tell(target(0), 0.03)
    assert bench.known(target(0)) == 0.02
    bench.tell(target(7), 0.02)
    assert bench.known(target(7)) is None


def test_news_of_a_target_that_has_left_are_too_late() -> None:
    bench = Bench(targets=1)
    bench.join()
    bench.beat(0.0)
    bench.lose(0)
    bench.tell(target(0), 0.02)
    assert bench.known(target(0)) is None
    assert len(bench.registry._coordinates) == 2


@pytest.mark.parametrize("away", [True, False])
def test_a_target_that_comes_or_goes_changes_the_landmarks_of_few_nodes(away: bool) -> None:
    bench = Bench(targets=10)
    for number in range(100):
        bench.join(number)
        bench.beat(0.0, number)
    if away:
        bench.lose(3)
    else:
        bench.add(10)
    asked = [bench.beat(LANDMARK_SECONDS, number) for number in range(100)]
    assert all(len(landmarks) <= 1 for landmarks in asked)
    assert 20 < sum(map(len, asked)) < 60
