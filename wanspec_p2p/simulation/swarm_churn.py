"""How the nodes of a swarm come and go, in numbers: as it is asked for, and as it was."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Churn", "Counts", "Departure"]


@dataclass(frozen=True, slots=True)
class Churn:
    """How nodes come and go: exponential stays, then exponential absences, then the same node again.

    Args:
        stay, away: means, in seconds.
        polite: share of departures that are announced; in the others a process dies, and its links break.
        silent: share of those others in which the machine is cut off with it: nobody is told, and links just go quiet.

    Raises:
        ValueError: a value outside its range; the message names it.
    """

    stay: float
    away: float
    polite: float = 0.5
    silent: float = 0.0

    def __post_init__(self) -> None:
        for name in ("stay", "away"):
            if not 0.0 < getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be above 0, not {getattr(self, name)}")
        for name in ("polite", "silent"):
            if not 0.0 <= getattr(self, name) <= 1.0:
                raise ValueError(f"{name} must be from 0 to 1, not {getattr(self, name)}")


@dataclass(slots=True)
class Counts:
    """How often nodes came, left with a word, and died without one; and how many of those went silent."""

    came: int = 0
    left: int = 0
    died: int = 0
    silent: int = 0


@dataclass(frozen=True, slots=True)
class Departure:
    """When and how a node went."""

    at: float  # virtual seconds
    how: str  # "left", "died" or "silent"
