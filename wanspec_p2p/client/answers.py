"""What a submitter gets back, as plain values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from wanspec_p2p.types import FinishReason, TokenId, TokenOrigin

__all__ = ["Answer", "Model", "Piece", "Speculation", "Usage"]


@dataclass(frozen=True, slots=True)
class Piece:
    """Committed tokens, in order. `text` is what they add: an incomplete character waits for its last byte."""

    text: str
    token_ids: tuple[TokenId, ...]
    origins: tuple[TokenOrigin, ...]
    """One entry a token: the peer id of the node whose draft settled it, None where the target decoded it alone."""
    position: int
    """Of the first token, counted from the first token of the answer."""


@dataclass(frozen=True, slots=True)
class Usage:
    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True, slots=True)
class Speculation:
    """What drafting did for one answer (docs/reference/http-api.md)."""

    rounds: int = 0
    """Verification passes of the target."""
    drafted: int = 0
    accepted: int = 0
    late: int = 0
    """Draft tokens that came after their position was settled."""
    accepted_per_round: float = 0.0
    target_draft_passes: int = 0
    """Draft passes the target ran itself."""
    won_by_peer: Mapping[str, int] = field(default_factory=dict)
    """Positions each node was first with, by peer id."""
    near_ties: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class Answer:
    text: str
    token_ids: tuple[TokenId, ...]
    origins: tuple[TokenOrigin, ...]
    finish_reason: FinishReason
    usage: Usage
    speculation: Speculation
    model: str
    request: str
    """The coordinator's name for the request; give it when you report a problem."""
    seed: str
    """What the answer was drawn with; ask with it again to have the answer repeated."""
    fingerprint: str
    """Of the engine: the same prompt, sampling, seed and fingerprint give the same tokens."""


@dataclass(frozen=True, slots=True)
class Model:
    """One entry of `/v1/models`."""

    name: str
    details: Mapping[str, object]
    """The entry as the coordinator sent it: context, dtype, fingerprint, exactness."""
