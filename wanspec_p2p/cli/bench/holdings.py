"""What services hold, and whether it grows: tasks, files and memory before a load, under it, and after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

__all__ = ["Holdings", "Usage", "Watched", "slope"]


@dataclass(frozen=True, slots=True)
class Usage:
    """What a process holds."""

    tasks: int
    files: int
    rss: int

    def exceeds(self, other: Usage) -> bool:
        return self.tasks > other.tasks or self.files > other.files


@dataclass
class Watched:
    """RSS over time of the services, sampled while it runs: (seconds, bytes)."""

    rss: dict[str, list[tuple[float, float]]] = field(default_factory=dict)


def slope(samples: Sequence[tuple[float, float]]) -> float:
    """Of a straight line through the samples (least squares), in units per second; 0 where there is none."""
    if len(samples) < 2:
        return 0.0
    mean_x = sum(x for x, _ in samples) / len(samples)
    mean_y = sum(y for _, y in samples) / len(samples)
    spread = sum((x - mean_x) ** 2 for x, _ in samples)
    return sum((x - mean_x) * (y - mean_y) for x, y in samples) / spread if spread else 0.0


@dataclass(kw_only=True)
class Holdings:
    """By service. Outcomes of benches are of this kind, and add what they count themselves."""

    before: dict[str, Usage] = field(default_factory=dict)
    after: dict[str, Usage] = field(default_factory=dict)
    rss_per_hour: dict[str, float] = field(default_factory=dict)

    @property
    def leaked(self) -> bool:
        return any(after.exceeds(self.before[name]) for name, after in self.after.items())

    def grew(self, watched: Watched) -> None:
        """Take in how memory grew, in bytes an hour."""
        for name, samples in watched.rss.items():
            self.rss_per_hour[name] = slope(samples[len(samples) // 3 :]) * 3600.0  # without the climb to the load

    def report(self) -> dict[str, Any]:
        """For people and machines alike."""
        return {
            **{f"rss_mib_per_hour_{name}": round(rss / 2**20, 1) for name, rss in self.rss_per_hour.items()},
            **{
                f"{what}_{name}": f"{getattr(self.before[name], what)} → {getattr(after, what)}"
                for name, after in self.after.items()
                for what in ("tasks", "files")
            },
        }
