"""target → node, on a draft link: MessagePack arrays."""

from __future__ import annotations

from typing import Annotated, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Count, DraftLinkMessage, Name, Reason, Token
from wanspec_p2p.protocol.node_to_target import PrefixHash, SessionHandle
from wanspec_p2p.types import Sampling

__all__ = ["Close", "Open", "Outlook", "TargetToNode", "Verdict", "Verifying", "Window"]


class Window(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """A drafter's credit."""

    positions: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WINDOW)]  # beyond the committed length
    tokens: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_WINDOW)]  # drafted and not yet settled


class Outlook(msgspec.Struct, frozen=True, array_like=True, forbid_unknown_fields=True):
    """What the target holds likeliest after `committed_len`, as far as others drafted it: nobody has to find it again.

    `parents[i]` is an earlier index or -1, the end of what is committed; an empty list means a chain. `confidences` are
    the target's own, as in `Draft`. A drafter may run these tokens and hang drafts from them; it need not send them.
    """

    tokens: Annotated[tuple[Token, ...], msgspec.Meta(min_length=1, max_length=limits.MAX_OUTLOOK)]
    parents: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=-1, lt=limits.MAX_OUTLOOK)], ...],
        msgspec.Meta(max_length=limits.MAX_OUTLOOK),
    ]
    confidences: Annotated[
        tuple[Annotated[int, msgspec.Meta(ge=0, le=127)], ...], msgspec.Meta(max_length=limits.MAX_OUTLOOK)
    ]


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
    outlook: Outlook | None = None  # None: nothing but what this drafter drafted


class Close(DraftLinkMessage, frozen=True, tag=3):
    session: SessionHandle
    reason: Reason = ""


class Verifying(DraftLinkMessage, frozen=True, tag=4):
    """A verification has begun: its verdict is to be expected `microseconds` after this.

    A drafter may let its model rest for the moment before. Nothing else depends on it, and a target whose verdicts come
    at an even pace need not say it.
    """

    session: SessionHandle
    microseconds: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_VERIFYING_MICROSECONDS)]


TargetToNode: TypeAlias = Open | Verdict | Close | Verifying
