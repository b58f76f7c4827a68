"""Everything that can happen to a session. One class per outcome; `at` is monotonic seconds of the owner's clock."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

from wanspec_p2p.speculation.sampling import Row
from wanspec_p2p.types import PeerId, TokenId

__all__ = [
    "Cancelled",
    "DraftArrived",
    "Drafted",
    "DrafterEvent",
    "DrafterJoined",
    "DrafterLeft",
    "FlushDue",
    "LocalDrafted",
    "LocalFailed",
    "ModelFailed",
    "ModelFree",
    "Outlook",
    "PauseOver",
    "SessionClosed",
    "Started",
    "TargetEvent",
    "VerdictAnnounced",
    "VerdictArrived",
    "Verified",
    "Window",
]


@dataclass(frozen=True, slots=True)
class Window:
    """A drafter's credit."""

    positions: int  # beyond the committed length
    tokens: int  # drafted and not settled


@dataclass(frozen=True, slots=True)
class Outlook:
    """What a target believes likeliest after what it has committed, parents first: what others drafted, for a drafter
    that has not. `parents[i]` is an earlier index or -1, the end of what is committed; `confidences` as in a draft."""

    tokens: tuple[TokenId, ...]
    parents: tuple[int, ...]
    confidences: tuple[int, ...]


# Both sessions


@dataclass(frozen=True, slots=True)
class Started:
    at: float


@dataclass(frozen=True, slots=True)
class ModelFree:
    """A model can run a pass for this session now; `turn` names that pass, which other sessions may share.

    `drafting`: it is the target's own drafter. Who has nothing for it goes on waiting for the target's model.
    `share`: so much of what it could run is to be in it: candidates, places to draft at, rows of a node's drafter. None
    is as much as it likes.
    """

    at: float
    turn: int = 0
    drafting: bool = False
    share: int | None = None


@dataclass(frozen=True, slots=True)
class ModelFailed:
    """The pass that was asked for failed; its cache is gone."""

    reason: str
    at: float


# The target's session


@dataclass(frozen=True, slots=True)
class DrafterJoined:
    drafter: PeerId
    lane: int
    at: float


@dataclass(frozen=True, slots=True)
class DrafterLeft:
    """Lost, declined or taken away. What it drafted stays: the target verifies every token anyway."""

    drafter: PeerId
    at: float


@dataclass(frozen=True, slots=True)
class DraftArrived:
    """Args:
    heard: what was said to it before this time it had heard when it sent this.
    """

    drafter: PeerId
    base_len: int
    base_hash: bytes
    tokens: tuple[TokenId, ...]
    parents: tuple[int, ...]
    confidences: tuple[int, ...]
    at: float
    bases: tuple[tuple[int, bytes], ...] = ()
    heard: float = -math.inf


@dataclass(frozen=True, slots=True)
class Verified:
    """Logits of the pass: after the committed prefix, then after each candidate."""

    rows: Sequence[Row]
    at: float


@dataclass(frozen=True, slots=True)
class LocalDrafted:
    """Logits of a pass of the target's own drafter: after its tokens, if it had any, then after each tree node."""

    rows: Sequence[Row]
    at: float


@dataclass(frozen=True, slots=True)
class LocalFailed:
    """That pass failed; the session goes on without the drafter."""

    reason: str
    at: float


@dataclass(frozen=True, slots=True)
class Cancelled:
    at: float


# The drafter's session


@dataclass(frozen=True, slots=True)
class Drafted:
    """Logits of the pass: one row after its tokens, if it had any, then one after each tree node."""

    rows: Sequence[Row]
    at: float


@dataclass(frozen=True, slots=True)
class VerdictArrived:
    committed_len: int
    tail: tuple[TokenId, ...]
    hash: bytes
    window: Window
    at: float
    outlook: Outlook | None = None


@dataclass(frozen=True, slots=True)
class VerdictAnnounced:
    """A verification has begun that should take so many seconds."""

    seconds: float
    at: float


@dataclass(frozen=True, slots=True)
class FlushDue:
    at: float


@dataclass(frozen=True, slots=True)
class PauseOver:
    """The verdict that was due has not come."""

    at: float


@dataclass(frozen=True, slots=True)
class SessionClosed:
    at: float


TargetEvent: TypeAlias = (
    Started
    | ModelFree
    | ModelFailed
    | DrafterJoined
    | DrafterLeft
    | DraftArrived
    | Verified
    | LocalDrafted
    | LocalFailed
    | Cancelled
)
DrafterEvent: TypeAlias = (
    Started
    | ModelFree
    | ModelFailed
    | Drafted
    | VerdictAnnounced
    | VerdictArrived
    | FlushDue
    | PauseOver
    | SessionClosed
)
