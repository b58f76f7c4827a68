"""target → node, on a draft link: MessagePack arrays."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Count, DraftLinkMessage, Name, Reason, Token
from wanspec_p2p.protocol.node_to_target import PrefixHash, SessionHandle
from wanspec_p2p.types import Sampling

__all__ = ["Close", "Open", "TargetToNode", "Verdict", "Window"]


class Window(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A drafter's credit."""

    positions: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WINDOW)]  # beyond the committed length
    tokens: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WINDOW)]  # drafted and not yet settled


class Open(DraftLinkMessage, frozen=True, tag=1):
    session: SessionHandle
    id: Name  # the session's name; the chain of prefix hashes starts from it
    prefix: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_PROMPT_TOKENS)]
    prompt_len: Count  # of the prefix; the rest is answer (penalties tell them apart)
    seed: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    sampling: Sampling
    stop_tokens: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_STOP_TOKENS)]
    window: Window
    lane: Annotated[int, msgspec.Meta(ge=0, lt=limits.MAX_DRAFTERS)] = 0
    lanes: Annotated[int, msgspec.Meta(ge=1, le=limits.MAX_DRAFTERS)] = 1


class Verdict(DraftLinkMessage, frozen=True, tag=2):
    """What has been committed. `tail` are the ids since the last verdict that this drafter had not drafted itself.

    The drafter knows the first `committed_len - len(tail)` positions: they are its last verdict's prefix, extended by
    its own draft along the path that `hash` confirms.
    """

    session: SessionHandle
    committed_len: Count
    tail: Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_TOKENS_PER_ROUND)]
    hash: PrefixHash
    window: Window | None = None  # None: as it was


class Close(DraftLinkMessage, frozen=True, tag=3):
    session: SessionHandle
    reason: Reason = ""


TargetToNode: TypeAlias = Open | Verdict | Close
