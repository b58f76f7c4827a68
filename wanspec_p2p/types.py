"""The value types everything else is written in: no behaviour beyond validation, nothing imported but msgspec."""

from __future__ import annotations

import enum
import math
from dataclasses import dataclass
from typing import Annotated, NewType, TypeAlias

import msgspec

__all__ = [
    "GREEDY_BELOW",
    "Device",
    "Dtype",
    "ExactnessClass",
    "FinishReason",
    "PeerId",
    "Privacy",
    "RequestId",
    "Role",
    "Sampling",
    "Segment",
    "SessionId",
    "TokenId",
    "TokenOrigin",
]

PeerId = NewType("PeerId", str)
"""Name of a peer: 32 lower-case base32 characters of the BLAKE2b-160 of its Ed25519 public key."""
SessionId = NewType("SessionId", str)
"""One generation, as target and node both see it. Chosen by the target, unique for ever (128 random bits, hex)."""
RequestId = NewType("RequestId", str)
"""One request of a submitter, as coordinator and target both see it."""
TokenId: TypeAlias = int
TokenOrigin: TypeAlias = "PeerId | None"
"""Whose draft settled a position; None where the target decoded it without one."""


class Role(enum.StrEnum):
    """What a peer is; part of the signed transcript, so that a node's key cannot pose as a target's."""

    NODE = "node"
    TARGET = "target"
    COORDINATOR = "coordinator"


class Privacy(enum.StrEnum):
    """Who may see a prompt. A drafter sees all of it."""

    PUBLIC = "public"  # any enrolled node
    TRUSTED = "trusted"  # nodes of a pool the coordinator's operator marked trusted
    PRIVATE = "private"  # nobody: the target decodes alone


class Dtype(enum.StrEnum):
    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


class Device(enum.StrEnum):
    CPU = "cpu"
    CUDA = "cuda"
    MPS = "mps"


class ExactnessClass(enum.StrEnum):
    """How far an engine's logits depend on the company they are computed in (docs/topics/exactness.md)."""

    BITWISE = "bitwise"  # not at all: bit-equal in every slot, width, batch and cache history
    NEAR_TIE = "near-tie"  # only where the two best scores lie closer than a stated margin
    IN_LAW = "exact in law"  # an engine we do not own: the law is right, the realised tokens may differ


class FinishReason(enum.StrEnum):
    STOP = "stop"  # an end-of-sequence token or a stop string
    LENGTH = "length"  # max_tokens or the context is used up
    CANCELLED = "cancelled"


GREEDY_BELOW = 1e-5
"""Temperatures below this are as good as 0 (docs/decisions/0009-next-to-no-temperature-is-none.md)."""


class Sampling(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """How a token is chosen from logits (docs/topics/exactness.md). The defaults are greedy decoding.

    Travels as it is in `Generate` and `Open`, hence a struct.

    Raises:
        ValueError: a value outside its range; the message names the field and the range.
    """

    temperature: float = 0.0  # below GREEDY_BELOW: greedy
    top_k: int = 0  # 0: off
    top_p: float = 1.0
    repetition_penalty: float = 1.0  # over prompt and answer
    presence_penalty: float = 0.0  # over the answer
    frequency_penalty: float = 0.0  # over the answer, per occurrence
    logit_bias: Annotated[tuple[tuple[TokenId, float], ...], msgspec.Meta(max_length=1024)] = ()
    min_tokens: int = 0  # end-of-sequence is banned before this many tokens

    def __post_init__(self) -> None:
        _check_range("temperature", self.temperature, 0.0, 100.0)
        _check_range("top_p", self.top_p, 0.0, 1.0)
        _check_range("repetition_penalty", self.repetition_penalty, 0.01, 100.0)
        _check_range("presence_penalty", self.presence_penalty, -100.0, 100.0)
        _check_range("frequency_penalty", self.frequency_penalty, -100.0, 100.0)
        if self.top_p == 0.0:
            raise ValueError("top_p must be above 0")
        if not 0 <= self.top_k <= _MAX_INT:
            raise ValueError("top_k must be 0 (off) or more")
        if not 0 <= self.min_tokens <= _MAX_INT:
            raise ValueError("min_tokens must be 0 or more")
        for token, bias in self.logit_bias:
            if not 0 <= token <= _MAX_INT:
                raise ValueError("logit_bias must name token ids of 0 or more")
            _check_range("logit_bias", bias, -1000.0, 1000.0)

    @property
    def greedy(self) -> bool:
        """Peers ask this, never the number, so that target and drafter draw the line at the same place."""
        return self.temperature < GREEDY_BELOW

    @property
    def plain(self) -> bool:
        """Nothing but temperature touches the logits."""
        return (
            self.repetition_penalty == 1.0
            and self.presence_penalty == 0.0
            and self.frequency_penalty == 0.0
            and not self.logit_bias
            and self.min_tokens == 0
        )


_MAX_INT = 2**31 - 1  # what a peer names must fit an array index everywhere


def _check_range(name: str, value: float, low: float, high: float) -> None:
    if not (math.isfinite(value) and low <= value <= high):
        raise ValueError(f"{name} must be between {low:g} and {high:g}, not {value}")


@dataclass(frozen=True, slots=True)
class Segment:
    """One session's share of a forward pass, over a cache of committed tokens and provisional nodes below them.

    In this order: the cache is cropped to `length` committed positions; the nodes `keep` become committed and the nodes
    `held` stay provisional, neither being computed again, and every other node of the previous pass is gone; `tokens`
    are run and appended; `tree` is run below the root or held nodes and is provisional until the next pass.

    After a pass the provisional nodes are numbered: its `held` nodes 0..H-1 in the order of `held`, then its `tree`
    nodes H..H+T-1. Of these numbers

    - `keep` and `held` name nodes in the numbering of the *previous* pass. `keep` is a path from a child of its root
      downwards. `held` ascends strictly, shares no node with `keep`, and each of its nodes hangs below an earlier one
      of `held` or below the new root: the last of `keep`, or the old root where `keep` is empty;
    - `parents[i]` names, in the numbering of *this* pass, the held or earlier tree node above tree node i, or is -1:
      the root, which is the last of `tokens` or, where there are none, the last committed token.

    `tokens` would move the root, so nodes are held without them only, and over an uncropped cache. Without `tokens`
    there must be a committed token and a `tree`. A node's position follows from its depth below the root, whichever
    pass ran it (docs/decisions/0012-a-tree-may-grow-over-passes.md).

    The pass returns `rows` rows of logits: after the last of `tokens` if there are any, then after each tree node.

    Raises:
        ValueError: a segment that contradicts itself. Whether it fits a cache is for `CachedTokens.check` to say.
    """

    cache: str
    length: int
    keep: tuple[int, ...]
    tokens: tuple[TokenId, ...]
    tree: tuple[TokenId, ...] = ()
    parents: tuple[int, ...] = ()
    held: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.tokens and not self.tree:
            raise ValueError("a segment runs at least one token or tree node")
        if len(self.tree) != len(self.parents):
            raise ValueError("tree and parents differ in length")
        if any(not -1 <= parent < len(self.held) + i for i, parent in enumerate(self.parents)):
            raise ValueError("a parent must come before its child")
        if self.length < 0:
            raise ValueError("length must be 0 or more")
        if not self.tokens and self.length == 0:
            raise ValueError("a tree without tokens hangs below a committed one: length must be 1 or more")
        if self.held:
            self._check_held()

    def _check_held(self) -> None:
        if self.tokens:
            raise ValueError("nodes are held without tokens only: tokens move the root")
        if sorted(set(self.held)) != list(self.held):
            raise ValueError("held nodes must ascend strictly")
        if not set(self.held).isdisjoint(self.keep):
            raise ValueError("a node is either kept or held, not both")

    @property
    def rows(self) -> int:
        """Rows of logits the pass returns."""
        return (1 if self.tokens else 0) + len(self.tree)
