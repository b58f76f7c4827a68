"""What a model is to everybody above it: token ids in, rows of logits out, never on the event loop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment, TokenId

__all__ = ["LanguageModel", "ModelInfo", "Rows", "Tokenizer"]

Rows: TypeAlias = NDArray[np.float32]
"""Logits, shape (segment.rows, vocab_size), in float32 whatever the model computes in: after the last of
`segment.tokens` if there are any, then after each node of `segment.tree`; held nodes had their rows in an earlier pass.

The columns are the ids the tokenizer can produce: padding of the model's vocabulary beyond them is cut off, and an id
that the model has no column for is minus infinity, so models with equal tokenizers give rows of equal width.

A drafter that has no opinion returns a row whose entries are all equal.
"""


@dataclass(frozen=True, slots=True)
class ModelInfo:
    name: str
    digest: str  # SHA-256 over the weights
    tokenizer: str  # SHA-256 over what decides token ids
    vocab_size: int  # ids that the tokenizer can produce and the model can read; those from here on are never chosen
    context: int  # positions
    dtype: Dtype
    device: Device
    engine: str  # name and version, e.g. "wanspec-torch 0.1.0 / torch 2.13.0"
    fingerprint: str  # SHA-256 over all of the above that can change a token, threads included
    exactness: ExactnessClass
    eos: tuple[TokenId, ...]


class LanguageModel(Protocol):
    @property
    def info(self) -> ModelInfo: ...

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        """Run one pass; an unknown cache name starts an empty cache.

        Raises:
            EngineError: the pass failed; the caches of the batch are gone.
            LocalProtocolError: a segment that does not fit its cache or the context.
        """
        ...

    async def release(self, cache: str) -> None:
        """Forget a cache; unknown names are ignored."""
        ...

    async def close(self) -> None:
        """Free the weights and the thread. No pass may be running."""
        ...


class Tokenizer(Protocol):
    """Text to token ids and back; only targets need one."""

    @property
    def fingerprint(self) -> str: ...

    def encode(self, text: str) -> list[TokenId]:
        """No special tokens are added; those written in the text are read as text, never as special tokens."""
        ...

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[TokenId]:
        """(role, content) pairs through the chat template, generation prompt included.

        Raises:
            InvalidRequest: the model has no chat template, or refuses these roles.
        """
        ...

    def decode(self, ids: Sequence[TokenId]) -> str:
        """Special tokens are left out; an incomplete UTF-8 sequence at the end becomes U+FFFD."""
        ...

    def piece(self, token: TokenId) -> str:
        """The text of one token alone, for logprobs."""
        ...
