"""Models without weights: rows are a hash of the true prefix, so that any mistake with a cache or a tree shows."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Awaitable, Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.models.base import ModelInfo, Rows
from wanspec_p2p.models.segments import CachedTokens, check_batch
from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment, TokenId

__all__ = ["SCRIPTED_TOKENIZER", "ByteTokenizer", "ScriptedModel"]

SCRIPTED_TOKENIZER = hashlib.sha256(b"one token per byte").hexdigest()
MEMORY = 3  # tokens a row looks back on, besides its position


class ScriptedModel:
    """A `LanguageModel` whose logits after a prefix follow from (seed, position, the last three tokens) alone.

    Logits are normal with standard deviation `scale`. With `drift` d, noise d times as strong, private to the model
    and just as deterministic, is added: d = 0 is the target itself; d = 0.1, 0.3 and 1 agree with it at about 86, 62
    and 18 % of greedy positions.

    Attributes:
        batches: every batch run, in order.
        before_forward: awaited at the start of each pass; a test may delay, count or raise there.
    """

    def __init__(
        self,
        seed: int,
        *,
        vocab_size: int = 256,
        context: int = 4096,
        drift: float = 0.0,
        scale: float = 3.0,
        eos: tuple[TokenId, ...] = (),
        name: str = "scripted",
        before_forward: Callable[[Sequence[Segment]], Awaitable[None]] | None = None,
    ) -> None:
        self._seed, self._drift, self._scale = seed, drift, scale
        self._caches: dict[str, CachedTokens] = {}
        self.batches: list[tuple[Segment, ...]] = []
        self.before_forward = before_forward
        self.closed = False
        digest = hashlib.sha256(f"{seed} {vocab_size} {drift} {scale}".encode()).hexdigest()
        self._info = ModelInfo(
            name=name,
            digest=digest,
            tokenizer=SCRIPTED_TOKENIZER,
            vocab_size=vocab_size,
            context=context,
            dtype=Dtype.FLOAT32,
            device=Device.CPU,
            engine="scripted 1",
            fingerprint=hashlib.sha256(f"scripted 1 {digest}".encode()).hexdigest(),
            exactness=ExactnessClass.BITWISE,
            eos=eos,
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    @property
    def caches(self) -> dict[str, tuple[TokenId, ...]]:
        """The committed tokens of every live cache."""
        return {name: tuple(cache.tokens) for name, cache in self._caches.items()}

    def row(self, prefix: Sequence[TokenId]) -> NDArray[np.float32]:
        """The logits after `prefix`, shape (vocab_size,); what a correct pass returns for that position."""
        seen = " ".join(map(str, (self._seed, len(prefix), *prefix[-MEMORY:])))
        row = _normal(seen, self._info.vocab_size)
        if self._drift:
            row = row + self._drift * _normal("drift " + seen, self._info.vocab_size)
        return (self._scale * row).astype(np.float32)

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        if self.closed:
            raise RuntimeError("forward after close")
        check_batch(batch, self._caches, vocab_size=self._info.vocab_size, context=self._info.context)
        self.batches.append(tuple(batch))
        if self.before_forward is not None:
            await self.before_forward(batch)
        await asyncio.sleep(0)  # a real model never answers without giving up the loop
        return [self._run(segment) for segment in batch]

    def _run(self, segment: Segment) -> Rows:
        cache = self._caches.setdefault(segment.cache, CachedTokens())
        cache.apply(segment)
        return np.stack([self.row(cache.tokens + path) for path in cache.row_paths(segment)])

    async def release(self, cache: str) -> None:
        self._caches.pop(cache, None)

    async def close(self) -> None:
        self.closed = True
        self._caches.clear()


def _normal(key: str, size: int) -> NDArray[np.float64]:
    digest = hashlib.blake2b(key.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).standard_normal(size)


class ByteTokenizer:
    """A `Tokenizer` of one token per UTF-8 byte, for scripted models of 256 tokens or more."""

    @property
    def fingerprint(self) -> str:
        return SCRIPTED_TOKENIZER

    def encode(self, text: str) -> list[TokenId]:
        return list(text.encode())

    def encode_chat(self, messages: Sequence[tuple[str, str]]) -> list[TokenId]:
        turns = [f"<{role}>{content}\n" for role, content in messages]
        return self.encode("".join(turns) + "<assistant>")

    def decode(self, ids: Sequence[TokenId]) -> str:
        return bytes(token for token in ids if token < 256).decode(errors="replace")

    def piece(self, token: TokenId) -> str:
        return self.decode([token])
