"""Who is struck, and what became of the answers meanwhile."""

from __future__ import annotations

import enum
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.words import counted

__all__ = ["Outcome", "Victim", "markdown", "victim_of"]


class Victim(enum.StrEnum):
    NODE = "node"
    COORDINATOR = "coordinator"
    TARGET = "target"  # last: the first ones need no start in between


@dataclass(slots=True)
class Outcome:
    """Figures of one kind of process and one signal.

    Attributes:
        different: answers that were not those of the target alone.
        waits: seconds of the longest wait for a token from each strike on.
        back: seconds from each return of a coordinator until everybody was registered again.
    """

    victim: Victim
    signal: str
    points: int = 0
    different: int = 0
    waits: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)

    def count(self, identical: bool, wait: float, back: float | None) -> None:
        self.points += 1
        self.different += not identical
        self.waits.append(wait)
        if back is not None:
            self.back.append(back)


def victim_of(text: str) -> Victim:
    """Raises ConfigError for a word that is none."""
    try:
        return Victim(text)
    except ValueError:
        raise ConfigError(f"--victim {text!r} is none of: {', '.join(Victim)}") from None


def markdown(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| process | signal | points | identical | longest wait for a token, s | all registered again, s |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        said = "yes" if not o.different else f"no: {counted(o.different, 'answer differs', 'answers differ')}"
        lines.append(f"| {o.victim} | {o.signal} | {o.points} | {said} | {_spread(o.waits)} | {_spread(o.back)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
