"""Everything a session can ask for. The runner carries it out; what comes of it returns as an event."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeAlias

from wanspec_p2p.speculation.events import Outlook, Window
from wanspec_p2p.types import FinishReason, PeerId, Segment, TokenId, TokenOrigin

__all__ = [
    "AnnounceVerdict",
    "Abandon",
    "CloseDraft",
    "Committed",
    "DrafterInstruction",
    "Emit",
    "Finish",
    "Fail",
    "OpenDraft",
    "PrepareNoise",
    "Release",
    "RequestModel",
    "RunLocalPass",
    "RunPass",
    "SendDraft",
    "SendVerdict",
    "StartFlushTimer",
    "StartPause",
    "TargetInstruction",
    "TokenScores",
]


# Both sessions


@dataclass(frozen=True, slots=True)
class RequestModel:
    """Answer with `ModelFree` when it is this session's turn. Asked for at most once until it is answered."""


@dataclass(frozen=True, slots=True)
class RunPass:
    """Answer with `Verified` (target), `Drafted` (drafter) or `ModelFailed`."""

    segment: Segment


# The target's session


@dataclass(frozen=True, slots=True)
class RunLocalPass:
    """On the target's own drafter. Answer with `LocalDrafted` or `LocalFailed`; the target's model may go to others."""

    segment: Segment


@dataclass(frozen=True, slots=True)
class OpenDraft:
    drafter: PeerId
    prefix: tuple[TokenId, ...]
    window: Window
    lane: int


@dataclass(frozen=True, slots=True)
class AnnounceVerdict:
    """The pass that begins should take so many seconds."""

    drafter: PeerId
    seconds: float


@dataclass(frozen=True, slots=True)
class SendVerdict:
    drafter: PeerId
    committed_len: int
    tail: tuple[TokenId, ...]
    hash: bytes
    window: Window
    outlook: Outlook | None = None


@dataclass(frozen=True, slots=True)
class CloseDraft:
    drafter: PeerId


@dataclass(frozen=True, slots=True)
class TokenScores:
    """Log-probabilities under the model's own law: of the token, and of the likeliest ids, best first."""

    logprob: float
    top: tuple[tuple[TokenId, float], ...]


@dataclass(frozen=True, slots=True)
class Committed:
    token: TokenId
    origin: TokenOrigin
    margin: float
    scores: TokenScores | None = None
    drafted: bool = False  # by its origin, or by the target's own drafter, which is nobody's


@dataclass(frozen=True, slots=True)
class Emit:
    """Tokens of the answer, final; `position` counts from its first token."""

    position: int
    tokens: tuple[Committed, ...]


@dataclass(frozen=True, slots=True)
class PrepareNoise:
    """Draw these rows while the model runs; a matter of speed alone."""

    positions: range


@dataclass(frozen=True, slots=True)
class Finish:
    reason: FinishReason


@dataclass(frozen=True, slots=True)
class Fail:
    """The answer cannot go on at this target."""

    reason: str


# The drafter's session


@dataclass(frozen=True, slots=True)
class SendDraft:
    """`parents[i]` is an earlier index, -1 (the base) or -2 - j (`bases[j]`); empty for a chain."""

    base_len: int
    base_hash: bytes
    tokens: tuple[TokenId, ...]
    parents: tuple[int, ...]
    confidences: tuple[int, ...]
    bases: tuple[tuple[int, bytes], ...] = ()


@dataclass(frozen=True, slots=True)
class StartFlushTimer:
    """Answer with `FlushDue` after this many seconds. At most one runs at a time."""

    seconds: float


@dataclass(frozen=True, slots=True)
class StartPause:
    """Answer with `PauseOver` after this many seconds; an earlier pause that still runs ends without a word."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Release:
    """The cache of this session may go; nothing follows."""


@dataclass(frozen=True, slots=True)
class Abandon:
    """This session cannot go on: tell the target (Decline). `Release` follows."""

    reason: str


TargetInstruction: TypeAlias = (
    RequestModel
    | RunPass
    | RunLocalPass
    | OpenDraft
    | AnnounceVerdict
    | SendVerdict
    | CloseDraft
    | Emit
    | PrepareNoise
    | Finish
    | Fail
)
DrafterInstruction: TypeAlias = RequestModel | RunPass | SendDraft | StartFlushTimer | StartPause | Release | Abandon
