"""What became of an hour of a large network, in figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from wanspec_p2p.simulation.swarm_churn import Counts

__all__ = ["SwarmReport", "Waits"]


@dataclass(frozen=True, slots=True)
class Waits:
    """Virtual seconds of so many waits; None where there was none."""

    count: int
    median: float | None = None
    p95: float | None = None
    longest: float | None = None

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Waits:
        if not seconds:
            return cls(0)
        ordered = sorted(seconds)
        p95 = ordered[min(len(ordered) - 1, math.ceil(0.95 * len(ordered)) - 1)]
        return cls(len(ordered), *(round(value, 3) for value in (statistics.median(ordered), p95, ordered[-1])))


@dataclass(frozen=True, slots=True)
class SwarmReport:
    """What became of it.

    Attributes:
        asked, exact: answers, and those that came to their end with the target's own tokens.
        faults: what became of the others, in words, and how often.
        answers: how long they took.
        matches: drafters that attached to a target.
        replaced: time from a drafter's loss to the next one's attachment, by how it was lost (`swarm_watch`).
        unreplaced: losses that nobody had made good at the end.
        leases_issued, leases_ended, leases_left: offered to nodes in all; of these, revoked, declined or let go of
            until the end; and held or on offer then.
        registered, here: nodes at the end, as the registry has it and in truth.
        ghosts, missing: as in `SwarmWatch`; both are to be 0.
        tasks_left, links_left: after the end; both are to be 0.
        pairs_checked, rtt_error: predictions of round trips that were measured later, and how far off the median was.
        received, sent: frames at the coordinator by kind, in all.
        trace: SHA-256 of the trace; the same for the same seed.
    """

    virtual_seconds: float
    asked: int
    exact: int
    faults: dict[str, int]
    answers: Waits
    churn: Counts
    matches: int
    replaced: dict[str, Waits]
    unreplaced: int
    leases_issued: int
    leases_ended: int
    leases_left: int
    registered: int
    here: int
    ghosts: int
    missing: int
    tasks_left: int
    links_left: int
    pairs_checked: int
    rtt_error: float | None
    received: dict[str, int]
    sent: dict[str, int]
    trace: str

    @property
    def flawless(self) -> bool:
        """Every answer was right, and nothing was left behind."""
        return self.exact == self.asked and not (self.ghosts or self.missing or self.tasks_left or self.links_left)
