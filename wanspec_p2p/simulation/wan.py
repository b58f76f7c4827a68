"""What lies between a node and its target, in the words of a scenario."""

from __future__ import annotations

from dataclasses import dataclass

from wanspec_p2p.links.memory import Path

__all__ = ["Wan"]

LEAST_RECOVERY = 0.2
"""Seconds; RFC 6298 §2.4 says a second, every system's retransmission time-out starts at 200 ms."""


@dataclass(frozen=True, slots=True)
class Wan:
    """Both directions of a link, alike.

    Args:
        rtt: seconds there and back, without jitter.
        jitter: a uniform share of so much of the delay is added to each frame, e.g. 0.2; frames do not overtake.
        loss: chance that a frame's segment is lost.
        recovery: seconds a loss holds a direction back; None: max(200 ms, 2 · RTT).
        bandwidth: bytes per second; None: unlimited.

    Raises:
        ValueError: a value outside its range; the message names it.
    """

    rtt: float = 0.0
    jitter: float = 0.0
    loss: float = 0.0
    recovery: float | None = None
    bandwidth: float | None = None

    def __post_init__(self) -> None:
        for name in ("rtt", "jitter"):
            if not 0.0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {getattr(self, name)}")
        if not 0.0 <= self.loss < 1.0:
            raise ValueError(f"loss must be from 0 to below 1, not {self.loss}")
        if self.recovery is not None and not 0.0 <= self.recovery < float("inf"):
            raise ValueError(f"recovery must be 0 or more, not {self.recovery}")
        if self.bandwidth is not None and not self.bandwidth > 0.0:
            raise ValueError(f"bandwidth must be above 0, not {self.bandwidth}")

    @classmethod
    def observed(
        cls,
        median: float,
        deviation: float,
        *,
        loss: float = 0.0,
        recovery: float | None = None,
        bandwidth: float | None = None,
    ) -> Wan:
        """A link whose round trips have this median, and as far as can be this mean distance from it, both in seconds.

        The jitter of two directions adds up to a triangle of width w, whose mean distance from its middle is w / 6.
        Where `deviation` is more than a quarter of `median`, a link that never overtakes cannot spread so far: the
        median is kept.

        Raises:
            ValueError: a value outside its range; the message names it.
        """
        for name, value in (("median", median), ("deviation", deviation)):
            if not 0.0 <= value < float("inf"):
                raise ValueError(f"{name} must be 0 or more, not {value}")
        least = max(median - 3.0 * deviation, median / 4.0)
        jitter = 2.0 * (median / least - 1.0) if least > 0.0 else 0.0
        return cls(least, jitter, loss, recovery, bandwidth)

    def path(self) -> Path:
        """One direction of it."""
        recovery = max(LEAST_RECOVERY, 2.0 * self.rtt) if self.recovery is None else self.recovery
        delay = self.rtt / 2.0
        return Path(delay, delay * self.jitter, self.loss, recovery, self.bandwidth)
