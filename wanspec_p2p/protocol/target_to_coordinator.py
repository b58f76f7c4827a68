"""target → coordinator."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import (
    CommonMessage,
    ControlMessage,
    Count,
    Digest,
    Enrol,
    Name,
    Peer,
    Reason,
    Seconds,
    Token,
    Url,
)
from wanspec_p2p.types import Dtype, ExactnessClass, FinishReason, Privacy

__all__ = [
    "DraftersWanted",
    "Failed",
    "Finished",
    "Receipt",
    "Receipts",
    "RegisterTarget",
    "ServedModel",
    "TargetDrain",
    "TargetHeartbeat",
    "TargetMessage",
    "TokenLogprob",
    "Tokens",
    "Usage",
]


class ServedModel(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a target serves. `fingerprint` is the engine fingerprint: equal fingerprints emit equal tokens."""

    name: Name
    digest: Digest
    tokenizer: Digest
    vocab_size: Annotated[int, msgspec.Meta(ge=2, le=limits.MAX_VOCABULARY)]
    context: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_PROMPT_TOKENS)]
    dtype: Dtype
    fingerprint: Digest
    exactness: ExactnessClass


class RegisterTarget(ControlMessage, frozen=True):
    name: Name
    model: ServedModel
    addresses: Annotated[
        tuple[Url, ...],
        msgspec.Meta(min_length=1, max_length=limits.MAX_ADDRESSES),
    ]  # where nodes dial: ws:// on loopback, wss:// elsewhere
    certificate: Digest | None  # SHA-256 of its certificate (DER); None on loopback
    slots: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_TARGET_SLOTS)]
    queue: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_QUEUE)] = 64
    owner: Name = "unknown"
    site: Name = "unknown"
    join_secret: Annotated[str, msgspec.Meta(max_length=limits.MAX_SECRET)] = ""


class TargetHeartbeat(ControlMessage, frozen=True):
    sessions: Count
    queued: Count
    drafters: Count
    rtt: Seconds | None = None


class DraftersWanted(ControlMessage, frozen=True):
    """`count` more drafters, none of `exclude`, each from another owner where possible."""

    want: Name
    count: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_DRAFTERS)]
    privacy: Privacy = Privacy.PUBLIC
    exclude: Annotated[tuple[Peer, ...], msgspec.Meta(max_length=limits.MAX_PEERS)] = ()


Positions: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_PROMPT_TOKENS)]
"""Positions, tokens or rounds of one session: a context has no more positions, and a round settles at least one."""
Drafted: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_DRAFTED)]
"""Draft tokens of one session. A target that is sent more, by a node that floods it, counts no further."""


class Receipt(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What one drafter did for one session, counted from the target's own samples. `by_depth[k - 1]` counts
    positions that lay k tokens beyond what was committed when they were verified: those it had drafted for below a
    right token, and of these, those it was right about. A drafter that sent nothing has a receipt as well, if there was
    time enough.
    """

    id: Name  # unique; a receipt sent twice is stored once
    node: Peer
    jti: Name
    session: Name
    drafted: Drafted
    verified: Drafted
    accepted: Positions  # positions it drafted rightly, whoever came first
    won: Positions  # of these, and of what it drafted before it left and came back, those it was first with
    rtt: Seconds | None = None
    by_depth: Annotated[
        tuple[tuple[Positions, Positions], ...], msgspec.Meta(max_length=limits.MAX_TOKENS_PER_ROUND)
    ] = ()  # deeper than a round can settle, nothing is decided
    rounds: Positions = 0  # that were settled while it drafted for the session, or was to


class Receipts(ControlMessage, frozen=True):
    batch: Name
    receipts: Annotated[tuple[Receipt, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_RECEIPTS)]


TokenText: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_TOKEN_TEXT)]


class TokenLogprob(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: Token
    text: TokenText
    logprob: float | None  # null: the first token of a prompt, which follows nothing
    top: Annotated[tuple[tuple[Token, TokenText, float], ...], msgspec.Meta(max_length=limits.MAX_TOP_LOGPROBS)] = ()


class Tokens(ControlMessage, frozen=True):
    """Committed tokens of a request, in order; `position` counts from the first token of the answer.

    `text` is what these tokens add to the answer: an incomplete character waits for its last byte.
    `origins` has an entry a token: the node whose draft settled it, or null. So has `logprobs` where the request asked
    for them; elsewhere it is empty.

    With `echo` these are tokens of the prompt, which the request asked for; then `position` counts from its first.
    """

    request: Name
    position: Count
    ids: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_TOKENS_PER_ROUND)]
    text: Annotated[str, msgspec.Meta(max_length=limits.MAX_TEXT)]
    origins: Annotated[tuple[Peer | None, ...], msgspec.Meta(max_length=limits.MAX_TOKENS_PER_ROUND)]
    logprobs: Annotated[tuple[TokenLogprob, ...], msgspec.Meta(max_length=limits.MAX_TOKENS_PER_ROUND)] = ()
    echo: bool = False


DraftLength: TypeAlias = Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WINDOW)]
ByAccepted: TypeAlias = Annotated[tuple[Positions, ...], msgspec.Meta(max_length=limits.MAX_WINDOW + 1)]


class Usage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Counts of one answer. `accepted_by_length[k][j]` is the number of rounds that verified drafts up to k tokens deep
    and accepted j of them; k = 0 are the rounds that had no draft.
    """

    prompt_tokens: Positions
    completion_tokens: Positions
    rounds: Positions
    drafted: Drafted  # draft tokens that entered a verification pass, the target's own among them
    accepted: Positions  # of these, tokens of the answer that were sent
    late: Drafted  # draft tokens that arrived after their position was settled
    accepted_by_length: Annotated[dict[DraftLength, ByAccepted], msgspec.Meta(max_length=limits.MAX_WINDOW + 1)] = {}
    won_by_peer: Annotated[dict[Peer, Positions], msgspec.Meta(max_length=limits.MAX_PEERS)] = {}
    drafters: Count = 0  # nodes that were asked
    lost: Drafted = 0  # right tokens of theirs that another had brought before
    invalid: Drafted = 0  # draft tokens that fit nowhere: below an unknown prefix, or beyond the credit
    target_draft_passes: Drafted = 0
    near_ties: Positions = 0
    seconds: Seconds = 0.0


class Finished(ControlMessage, frozen=True):
    request: Name
    reason: FinishReason
    usage: Usage


class Failed(ControlMessage, frozen=True):
    """The request cannot be answered; `code` is one of `wanspec_p2p.errors` (an OpenAI error code)."""

    request: Name
    code: Name
    message: Reason
    param: Name | None = None


class TargetDrain(ControlMessage, frozen=True):
    reason: Reason = ""


TargetMessage: TypeAlias = (
    CommonMessage
    | Enrol
    | RegisterTarget
    | TargetHeartbeat
    | DraftersWanted
    | Receipts
    | Tokens
    | Finished
    | Failed
    | TargetDrain
)
