from __future__ import annotations

import itertools
import math
import random
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields

import pytest

from coordinator import coordinates as module
from coordinator.coordinates import Accuracy, Coordinates, Prediction
from wanspec_p2p.types import PeerId

ANCHOR = PeerId("")
PEERS = 60
REGIONS = ((0.0, 0.0), (0.035, 0.01), (0.07, 0.0), (0.075, 0.06), (0.12, -0.03), (0.03, 0.09))
"""Places on a map in seconds of round trip: 36 to 157 ms apart."""
Pair = tuple[int, int]


def peer(number: int) -> PeerId:
    return PeerId(f"p{number}" if number else ANCHOR)


def world(seed: int) -> dict[Pair, float]:
    """Round trips between peers of six regions: the way, a detour of each pair's own, and both access links."""
    rng = random.Random(seed)
    places = [
        (x + rng.gauss(0, 0.003), y + rng.gauss(0, 0.003), rng.lognormvariate(math.log(0.004), 0.7))
        for x, y in itertools.islice(itertools.cycle(REGIONS), PEERS)
    ]
    ways: dict[Pair, float] = {}
    for i, j in itertools.combinations(range(PEERS), 2):
        a, b = places[i], places[j]
        detour = rng.lognormvariate(0.1, 0.15)
        ways[i, j] = ways[j, i] = 0.001 + math.dist(a[:2], b[:2]) * detour + a[2] + b[2]
    return ways


def pairs(rng: random.Random, count: int) -> Iterable[Pair]:
    """Every peer talks to the coordinator first, then anybody to anybody."""
    for number in range(count):
        yield (number + 1, 0) if number < PEERS - 1 else tuple(rng.sample(range(PEERS), 2))  # type: ignore[misc]


def jittered(rng: random.Random, rtt: float) -> float:
    return rtt * (1.0 + 0.1 * abs(rng.gauss(0, 1)))


def error(found: Coordinates, ways: dict[Pair, float], of: Iterable[Pair]) -> float:
    def relative(i: int, j: int) -> float:
        prediction = found.predict(peer(i), peer(j))
        assert prediction is not None
        return abs(prediction.rtt - ways[i, j]) / ways[i, j]

    return statistics.median(relative(i, j) for i, j in of)


def learn(
    seed: int, count: int, lie: Callable[[random.Random], float] | None = None, liars: int = 0
) -> tuple[Coordinates, dict[Pair, float], set[Pair]]:
    """What is known after `count` samples; whatever concerns one of the last `liars` peers is made up, ten times."""
    ways, rng = world(seed), random.Random(seed + 100)
    found, seen = Coordinates(ANCHOR, random.Random(seed)), set()
    for i, j in pairs(rng, count):
        seen |= {(i, j), (j, i)}
        if lie is not None and max(i, j) >= PEERS - liars:
            for _ in range(10):
                found.observe(peer(i), peer(j), lie(rng))
        else:
            found.observe(peer(i), peer(j), jittered(rng, ways[i, j]))
    return found, ways, seen


@pytest.mark.parametrize("seed", range(3))
def test_ways_nobody_measured_are_predicted_after_a_few_hundred_samples(seed: int) -> None:
    found, ways, seen = learn(seed, 600)
    unmeasured = [pair for pair in itertools.combinations(range(PEERS), 2) if pair not in seen]
    assert len(unmeasured) > 1000
    assert error(found, ways, unmeasured) < 0.25


def test_nodes_that_know_a_few_targets_have_their_way_to_others_predicted() -> None:
    """As in service: links to the coordinator are measured all the time, nodes talk to targets and never to nodes."""
    errors = []
    for seed in range(3):
        ways, rng = world(seed), random.Random(seed)
        found = Coordinates(ANCHOR, random.Random(seed))
        targets, nodes = range(1, 13), range(13, PEERS)
        known = {node: rng.sample(targets, 6) for node in nodes}
        for beat in range(10):
            for number in range(1, PEERS):
                found.observe(peer(number), ANCHOR, jittered(rng, ways[number, 0]))
            for node in nodes:
                target = known[node][beat % 6]
                found.observe(peer(node), peer(target), jittered(rng, ways[node, target]))
        errors.append(error(found, ways, [(n, t) for n in nodes for t in targets if t not in known[n]]))
        assert found.accuracy.checked > 150
    assert statistics.median(errors) < 0.25


@dataclass(frozen=True, slots=True)
class Ranking:
    """How well nodes are ranked for targets they have not talked to. `error` is the median of ways nobody measured;
    the others are mean round trips in seconds: of the two nodes ranked nearest to each target, of any, of the nearest.
    """

    error: float
    chosen: float
    random: float
    nearest: float


def ranking(seed: int, landmarks: int) -> Ranking:
    """As in service: idle nodes and ten targets that beat, each node having timed so many of the targets."""
    rng, found = random.Random(seed), Coordinates(ANCHOR, random.Random(seed))
    ways, targets, nodes = world(seed), range(1, 11), range(11, PEERS)
    known = [(node, target) for node in nodes for target in rng.sample(targets, landmarks)]
    for beat in range(30):
        for number in range(1, PEERS):
            found.observe(peer(number), ANCHOR, jittered(rng, ways[number, 0]))
        for node, target in known if beat == 1 else ():
            found.hear(peer(node), peer(target), min(jittered(rng, ways[node, target]) for _ in range(3)))

    def predicted(node: int, target: int) -> float:
        prediction = found.predict(peer(node), peer(target))
        assert prediction is not None
        return prediction.rtt

    def two_nearest(by: Callable[[int, int], float]) -> float:
        chosen = ((node, target) for target in targets for node in sorted(nodes, key=lambda n: by(n, target))[:2])
        return statistics.mean(ways[pair] for pair in chosen)

    service = list(itertools.product(nodes, targets))
    return Ranking(
        error=error(found, ways, set(service) - set(known)),
        chosen=two_nearest(predicted),
        random=statistics.mean(ways[pair] for pair in service),
        nearest=two_nearest(lambda node, target: ways[node, target]),
    )


def test_idle_nodes_are_ranked_well_if_they_have_timed_three_targets_and_hardly_if_none() -> None:
    def means(landmarks: int) -> Ranking:
        found = [ranking(seed, landmarks) for seed in range(5)]
        return Ranking(*(statistics.mean(getattr(each, field.name) for each in found) for field in fields(Ranking)))

    alone, timed = means(0), means(3)
    assert alone.error > 0.5 and timed.error < 0.35
    assert alone.chosen > 0.7 * alone.random
    assert timed.chosen < 0.4 * alone.chosen
    assert timed.chosen < 2.0 * timed.nearest


def test_what_one_says_of_itself_gives_way_to_what_others_measure_and_judges_nothing() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    for name in "ab":
        found.observe(PeerId(name), ANCHOR, 0.05)
    found.hear(PeerId("a"), PeerId("b"), 0.01)
    found.hear(PeerId("a"), PeerId("b"), 0.02)
    assert found.predict(PeerId("b"), PeerId("a")) == Prediction(0.02, 0.0)
    found.observe(PeerId("b"), PeerId("a"), 0.3)
    found.hear(PeerId("a"), PeerId("b"), 0.02)
    found.hear(PeerId("a"), PeerId("b"), math.nan)
    found.hear(PeerId("a"), PeerId("a"), 0.02)
    assert found.measured(PeerId("a"), PeerId("b")) == 0.3
    assert found.accuracy == Accuracy(0, None)


LIES: dict[str, Callable[[random.Random], float]] = {
    "nothing": lambda rng: 0.0,
    "an age": lambda rng: 1e300,
    "anything": lambda rng: rng.choice([0.0, 1e-9, 5.0, 1e12, math.nan, math.inf, -math.inf, -1.0]),
}


@pytest.mark.parametrize("lie", LIES)
def test_liars_do_not_throw_others(lie: str) -> None:
    liars = PEERS // 10
    found, ways, seen = learn(1, 800, LIES[lie], liars)
    honest = [pair for pair in itertools.combinations(range(PEERS - liars), 2) if pair not in seen]
    assert error(found, ways, honest) < 0.3
    for i, j in itertools.combinations(range(PEERS), 2):
        prediction = found.predict(peer(i), peer(j))
        assert prediction is not None
        assert math.isfinite(prediction.rtt) and prediction.rtt > 0
        assert math.isfinite(prediction.error)


def test_who_reports_a_thousand_times_is_heard_no_more_than_others() -> None:
    """One target claims, again and again, that a well-known node is two seconds away."""
    found, ways, seen = learn(2, 1200)
    before = error(found, ways, [(7, j) for j in range(PEERS) if j != 7 and (7, j) not in seen])
    for _ in range(1000):
        found.observe(PeerId("liar"), peer(7), 2.0)
    after = error(found, ways, [(7, j) for j in range(PEERS) if j != 7 and (7, j) not in seen])
    assert after < before + 0.25


@pytest.mark.parametrize("sample", [math.nan, math.inf, -math.inf, -0.1])
def test_what_cannot_be_a_round_trip_is_passed_over(sample: float) -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    found.observe(PeerId("a"), ANCHOR, sample)
    found.observe(PeerId("a"), PeerId("a"), 0.1)
    assert len(found) == 1
    assert found.predict(PeerId("a"), ANCHOR) is None


def test_samples_are_bounded() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    found.observe(PeerId("a"), ANCHOR, 1e9)
    found.observe(PeerId("b"), ANCHOR, 0.0)
    assert found.measured(PeerId("a"), ANCHOR) == module.LONGEST
    assert found.measured(ANCHOR, PeerId("b")) == module.SHORTEST


def test_the_coordinator_stands_still_and_others_move_by_short_steps() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    found.observe(PeerId("a"), ANCHOR, 0.1)
    for sample in (2.0, 0.0, 2.0, 2.0):
        before = found._points[PeerId("a")].at
        found.observe(PeerId("a"), ANCHOR, sample)
        assert math.dist(before, found._points[PeerId("a")].at) <= module.LONGEST_STEP + 1e-12
        assert found._points[ANCHOR].at == [0.0] * module.DIMENSIONS


def test_peers_on_one_spot_part() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    for name in "ab":
        found.observe(PeerId(name), ANCHOR, 0.0)
    found._points[PeerId("b")].at = list(found._points[PeerId("a")].at)
    found.observe(PeerId("a"), PeerId("b"), 0.1)
    assert math.dist(found._points[PeerId("a")].at, found._points[PeerId("b")].at) > 0


def test_a_measurement_goes_before_the_map() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    for name, rtt in (("a", 0.01), ("b", 0.02)):
        found.observe(PeerId(name), ANCHOR, rtt)
    guess = found.predict(PeerId("a"), PeerId("b"))
    assert guess is not None
    assert guess.error >= 0.5  # each was seen from one side only
    found.observe(PeerId("b"), PeerId("a"), 0.7)
    assert found.predict(PeerId("a"), PeerId("b")) == Prediction(0.7, 0.0)


def test_a_prediction_is_judged_when_its_pair_is_measured_and_only_then() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    for name in "ab":
        found.observe(PeerId(name), ANCHOR, 0.05)
    assert found.accuracy == Accuracy(0, None)
    guess = found.predict(PeerId("a"), PeerId("b"))
    assert guess is not None
    for _ in range(3):
        found.observe(PeerId("a"), PeerId("b"), 0.1)
    assert found.accuracy.checked == 1
    assert found.accuracy.median_error == pytest.approx(abs(guess.rtt - 0.1) / 0.1)


def test_errors_shrink_as_partners_agree() -> None:
    found, _, _ = learn(0, 1500)
    doubts = [point.doubt for point in found._points.values()]
    assert statistics.median(doubts) < 0.3


def test_who_left_is_forgotten_and_memory_stays_bounded() -> None:
    found = Coordinates(ANCHOR, random.Random(0))
    for number in range(200):
        found.observe(PeerId("t"), PeerId(f"n{number}"), 0.05)
        if number >= 50:
            found.forget(PeerId(f"n{number - 50}"))
    assert len(found) == 52  # the coordinator, the target, fifty nodes
    assert len(found._points[PeerId("t")].partners) <= module.MAX_PARTNERS
    assert found.predict(PeerId("n0"), PeerId("t")) is None
    found.forget(PeerId("nobody"))
    found.forget(ANCHOR)
    assert len(found) == 52
    for number in range(2000):
        found.observe(PeerId("x"), PeerId(f"y{number}"), 0.05)
        found.observe(PeerId("x"), PeerId(f"z{number}"), 0.05)
        found.forget(PeerId(f"y{number}"))
    assert len(found._errors) <= module.ERRORS_KEPT


def test_the_same_samples_and_seed_give_the_same_map() -> None:
    one, other = (learn(4, 300)[0] for _ in range(2))
    assert [point.at for point in one._points.values()] == [point.at for point in other._points.values()]


def test_the_way_to_the_coordinator_is_no_prediction_to_be_judged() -> None:
    found = Coordinates(ANCHOR, random.Random(1))
    found.observe(ANCHOR, PeerId("target"), 0.02)
    found.hear(PeerId("node"), PeerId("target"), 0.05)
    assert found.predict(ANCHOR, PeerId("node")) is not None
    found.observe(ANCHOR, PeerId("node"), 0.03)
    assert found.accuracy == Accuracy(0, None)
