"""Round-trip times between peers that have never talked, from those that were measured.

Vivaldi (Dabek, Cox, Kaashoek, Morris: A Decentralized Network Coordinate System, SIGCOMM 2004): every peer is a point
in a small Euclidean space and stands at a height above it, its own access link; a round trip between two peers is the
way between the points and both heights. Each measurement pulls or pushes points as a spring would, by a step that is
long where a peer is unsure of itself and its partner is not (the paper's adaptive time step).

Two things differ from the paper, because here one place sees everything. The coordinator stands still: nothing that
peers report can turn or shift the map. And what was measured is remembered: with each new measurement, both peers step
towards the partners whose turn it is, so that one that reports ten times as often, or falsely, has one voice like
everybody else. Samples and steps are bounded. A peer most of whose partners lie is misplaced all the same.
"""

from __future__ import annotations

import math
import random
import statistics
from collections import OrderedDict, deque
from dataclasses import dataclass, field

from wanspec_p2p.types import PeerId

__all__ = ["Accuracy", "Coordinates", "Prediction"]

DIMENSIONS = 3
ERROR_GAIN, STEP_GAIN = 0.25, 0.5
"""The paper's c_e and c_c, where it has 0.25 for both: what is remembered is stepped on again and again, and bold steps
find the place sooner."""
FIRST_ERROR, LEAST_ERROR, MOST_ERROR = 1.0, 0.02, 2.0
"""Relative. Nobody may be so sure of itself that nothing moves it any more, nor so unsure that it never mends."""
SHORTEST, LONGEST = 1e-4, 2.0
"""Seconds a sample is taken to lie between: nobody measures less, nobody further away drafts to any use."""
LEAST_HEIGHT = 1e-4
LONGEST_STEP = 0.02
"""Seconds a point may move for one sample."""
MAX_PARTNERS = 32
"""Measurements remembered of one peer; that of the partner that has just had its turn gives way to a new one."""
ERRORS_KEPT = 1000
STEPS = 8
"""Steps of each peer for one sample, each towards another partner."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """`rtt` in seconds; `error` relative to it, about how far off it may be; 0 where it was measured."""

    rtt: float
    error: float


@dataclass(frozen=True, slots=True)
class Accuracy:
    """How well pairs were predicted just before they were measured for the first time."""

    checked: int = 0
    median_error: float | None = None
    """|predicted - measured| / measured, of the last `ERRORS_KEPT`; None before there was one."""


@dataclass(frozen=True, slots=True)
class _Known:
    rtt: float  # seconds
    hearsay: bool


@dataclass(slots=True)
class _Point:
    at: list[float]
    height: float
    error: float = FIRST_ERROR
    still: bool = False
    partners: OrderedDict[PeerId, _Known] = field(default_factory=OrderedDict)  # whose turn is next comes first

    @property
    def doubt(self) -> float:
        """Relative. A point that is seen from one side only fits there wherever it lies on a circle."""
        return max(self.error, 1.0 / (1.0 + len(self.partners)))


class Coordinates:
    """Args:
    anchor: the peer that stands still: the coordinator.
    rng: draws the direction in which two points part that lie on one spot.
    """

    def __init__(self, anchor: PeerId, rng: random.Random) -> None:
        self._anchor, self._rng = anchor, rng
        self._points = {anchor: _Point([0.0] * DIMENSIONS, LEAST_HEIGHT, still=True)}
        self._checked = 0
        self._errors: deque[float] = deque(maxlen=ERRORS_KEPT)

    def __len__(self) -> int:
        return len(self._points)

    @property
    def accuracy(self) -> Accuracy:
        return Accuracy(self._checked, statistics.median(self._errors) if self._errors else None)

    def observe(self, one: PeerId, other: PeerId, rtt: float) -> None:
        """Take in that a round trip between two peers took `rtt` seconds.

        What cannot be a round trip (not a number, infinite, negative, to oneself) is passed over.
        """
        if _is_round_trip(one, other, rtt):
            known = _Known(min(max(rtt, SHORTEST), LONGEST), hearsay=False)
            self._check(one, other, known.rtt)
            self._take(one, other, known)

    def hear(self, one: PeerId, other: PeerId, rtt: float) -> None:
        """As `observe`, of what one of the two says of itself, before they have anything to do with each other.

        It does not replace what was observed, and no prediction is judged by it: nobody relied on one.
        """
        found = self._known(one, other)
        if _is_round_trip(one, other, rtt) and (found is None or found.hearsay):
            self._take(one, other, _Known(min(max(rtt, SHORTEST), LONGEST), hearsay=True))

    def _take(self, one: PeerId, other: PeerId, known: _Known) -> None:
        for peer, partner in ((one, other), (other, one)):
            point = self._points.get(peer) or self._new(peer, partner, known.rtt)
            self._remember(point, partner, known)
        for peer in (one, other):
            self._relax(self._points[peer])

    def measured(self, one: PeerId, other: PeerId) -> float | None:
        """Seconds, as it was last measured; None where it never was, or too long ago to be remembered."""
        known = self._known(one, other)
        return None if known is None else known.rtt

    def _known(self, one: PeerId, other: PeerId) -> _Known | None:
        for peer, partner in ((one, other), (other, one)):
            point = self._points.get(peer)
            if point is not None and partner in point.partners:
                return point.partners[partner]
        return None

    def predict(self, one: PeerId, other: PeerId) -> Prediction | None:
        """What was measured where it was; else what the map says; None where a peer is not on it."""
        if (measured := self.measured(one, other)) is not None:
            return Prediction(measured, 0.0)
        here, there = self._points.get(one), self._points.get(other)
        if here is None or there is None:
            return None
        return Prediction(_way(here, there), math.hypot(here.doubt, there.doubt))

    def forget(self, peer: PeerId) -> None:
        """It has left. Should it come back, it may be anywhere."""
        if peer == self._anchor:
            return
        gone = self._points.pop(peer, None)
        if gone is not None:
            for point in self._points.values():
                point.partners.pop(peer, None)

    def _check(self, one: PeerId, other: PeerId, rtt: float) -> None:
        if self._anchor in (one, other):
            return  # that way is measured for itself; nobody relies on a prediction of it
        predicted = self.predict(one, other)
        if predicted is not None and self.measured(one, other) is None:
            self._checked += 1
            self._errors.append(abs(predicted.rtt - rtt) / rtt)

    def _new(self, peer: PeerId, partner: PeerId, rtt: float) -> _Point:
        """As far from its first partner as was measured, in any direction."""
        there = self._points.get(partner)
        direction = self._direction()
        if there is None:  # both are new: the first one goes anywhere
            there = _Point([0.0] * DIMENSIONS, 0.0)
        height = max(rtt / 8, LEAST_HEIGHT)
        distance = max(rtt - height - there.height, 0.0)
        point = _Point([x + distance * u for x, u in zip(there.at, direction, strict=True)], height)
        self._points[peer] = point
        return point

    @staticmethod
    def _remember(point: _Point, partner: PeerId, known: _Known) -> None:
        first = partner not in point.partners
        point.partners[partner] = known
        if first:
            point.partners.move_to_end(partner, last=False)  # its turn is now
            if len(point.partners) > MAX_PARTNERS:
                point.partners.popitem()

    def _relax(self, point: _Point) -> None:
        for _ in range(1 if point.still else min(STEPS, len(point.partners))):
            partner, known = next(iter(point.partners.items()))
            point.partners.move_to_end(partner)
            there = self._points.get(partner)
            if there is not None:
                self._step(point, there, known.rtt)

    def _step(self, here: _Point, there: _Point, rtt: float) -> None:
        """One step of the paper's algorithm (its figure 3, with the height vectors of its section 5.4)."""
        way = _way(here, there)
        weight = here.error / (here.error + there.error)
        gain = ERROR_GAIN * weight
        error = gain * abs(way - rtt) / rtt + (1 - gain) * here.error
        here.error = min(max(error, LEAST_ERROR), MOST_ERROR)
        step = STEP_GAIN * weight * (rtt - way)
        step = min(max(step, -LONGEST_STEP), LONGEST_STEP)
        flat = math.dist(here.at, there.at)
        here.height = max(here.height + step * (here.height + there.height) / way, LEAST_HEIGHT)
        if here.still:
            return
        if flat > 1e-9:
            scale = step / way  # the share of the flat way in the whole one: step * (flat / way) along the unit vector
            here.at = [x + scale * (x - y) for x, y in zip(here.at, there.at, strict=True)]
        else:
            here.at = [x + abs(step) * u for x, u in zip(here.at, self._direction(), strict=True)]

    def _direction(self) -> list[float]:
        drawn = [self._rng.gauss(0.0, 1.0) for _ in range(DIMENSIONS)]
        length = math.hypot(*drawn) or 1.0
        return [x / length for x in drawn]


def _is_round_trip(one: PeerId, other: PeerId, rtt: float) -> bool:
    return one != other and math.isfinite(rtt) and rtt >= 0


def _way(here: _Point, there: _Point) -> float:
    """Seconds between two points, both heights with it."""
    return math.dist(here.at, there.at) + here.height + there.height
