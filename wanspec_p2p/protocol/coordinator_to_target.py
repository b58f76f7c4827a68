"""coordinator → target."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

import msgspec

from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import (
    CommonMessage,
    ControlMessage,
    LeaseRevoked,
    Name,
    Peer,
    Reason,
    Registered,
    Token,
)
from wanspec_p2p.types import Privacy, Sampling

__all__ = ["Cancel", "ChatMessage", "CoordinatorToTarget", "Drafters", "Generate", "GrantedDrafter", "ReceiptsStored"]

Text: TypeAlias = Annotated[str, msgspec.Meta(max_length=limits.MAX_TEXT)]
Ids: TypeAlias = Annotated[tuple[Token, ...], msgspec.Meta(max_length=limits.MAX_PROMPT_TOKENS)]


class ChatMessage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    role: Literal["system", "user", "assistant"]
    content: Text


class Generate(ControlMessage, frozen=True):
    """Answer a prompt. Exactly one of `messages`, `prompt` and `prompt_ids` is given.

    `committed` are token ids of the answer that another target has already emitted: the answer goes on after them
    and only what follows is sent, with the same tokens as an answer that was never interrupted.

    With `echo` the tokens of the prompt are sent first, unless there are `committed` ones: then they have been.
    `max_tokens` of 0 asks for nothing else.
    """

    request: Name
    seed: Annotated[bytes, msgspec.Meta(min_length=16, max_length=16)]
    sampling: Sampling
    max_tokens: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_PROMPT_TOKENS)] | None = None
    messages: Annotated[tuple[ChatMessage, ...], msgspec.Meta(max_length=limits.MAX_MESSAGES)] = ()
    prompt: Text | None = None
    prompt_ids: Ids = ()
    stop: Annotated[
        tuple[Annotated[str, msgspec.Meta(min_length=1, max_length=limits.MAX_STOP_TEXT)], ...],
        msgspec.Meta(max_length=limits.MAX_STOPS),
    ] = ()
    ignore_eos: bool = False
    top_logprobs: Annotated[int, msgspec.Meta(ge=0, le=limits.MAX_TOP_LOGPROBS)] | None = None
    privacy: Privacy = Privacy.PUBLIC
    committed: Ids = ()
    network: bool = True  # False: this request is decoded by the target alone
    echo: bool = False


class Cancel(ControlMessage, frozen=True):
    request: Name
    reason: Reason = ""


class GrantedDrafter(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A node that holds a lease for this target and will dial it."""

    node: Peer
    jti: Name
    model: Name
    tokens_per_second: Annotated[float, msgspec.Meta(ge=0.0, le=1e9)]


class Drafters(ControlMessage, frozen=True):
    """Answer to `DraftersWanted`; empty where nobody suits, with the reason in words."""

    want: Name
    drafters: Annotated[tuple[GrantedDrafter, ...], msgspec.Meta(max_length=limits.MAX_DRAFTERS)]
    reason: Reason = ""


class ReceiptsStored(ControlMessage, frozen=True):
    """The batch is on disk and will survive a crash."""

    batch: Name


CoordinatorToTarget: TypeAlias = (
    CommonMessage | Registered | Drafters | Generate | Cancel | ReceiptsStored | LeaseRevoked
)
