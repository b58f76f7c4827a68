"""node → target, on a draft link: MessagePack arrays."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Count, DraftLinkMessage, Lease, Reason, Token

__all__ = ["Attach", "Decline", "Detach", "Draft", "NodeToTarget", "PrefixHash", "SessionHandle"]

SessionHandle: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_SESSIONS)]
"""A session's number on one link; chosen by the target in `Open`, never used again on that link."""
PrefixHash: TypeAlias = Annotated[bytes, msgspec.Meta(min_length=8, max_length=8)]


class Attach(DraftLinkMessage, frozen=True, tag=1):
    """First message after the handshake, and again whenever the lease was renewed."""

    lease: Lease


class Draft(DraftLinkMessage, frozen=True, tag=2):
    """Token ids that may follow the prefix (base_len, base_hash).

    An empty `base_hash` says: the place where the chain of my last Draft in this session ends. Links keep their order,
    so that is no guess, and a run-ahead drafter says nothing else between two corrections.

    `parents[i]` is an earlier index, -1 (the base) or -2 - j (`bases[j]`, further places that tokens hang from); an
    empty list means a chain (`parents[i] = i - 1`).
    `confidences[i]` is the drafter's own estimate that `tokens[i]` is right if what it hangs from is, as log-odds in
    0..127 (`speculation.calibration.quantised`); an empty list means none are reported.
    """

    session: SessionHandle
    base_len: Count
    base_hash: Annotated[bytes, msgspec.Meta(max_length=8)]
    tokens: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_DRAFT_TOKENS)]
    parents: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=-limits.MAX_DRAFT_TOKENS, lt=limits.MAX_DRAFT_TOKENS)], ...],
        msgspec.Meta(max_length=limits.MAX_DRAFT_TOKENS),
    ] = ()
    confidences: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=127)], ...], msgspec.Meta(max_length=limits.MAX_DRAFT_TOKENS)
    ] = ()
    bases: Annotated[tuple[tuple[Count, PrefixHash], ...], msgspec.Meta(max_length=limits.MAX_DRAFT_TOKENS - 1)] = ()


class Decline(DraftLinkMessage, frozen=True, tag=3):
    """This session is not for me: no room, prompt too long, model gone."""

    session: SessionHandle
    reason: Reason


class Detach(DraftLinkMessage, frozen=True, tag=4):
    """The node leaves; all its sessions on this link end."""

    reason: Reason


NodeToTarget: TypeAlias = Attach | Draft | Decline | Detach
