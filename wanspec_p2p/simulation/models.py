"""Models without weights, for the shipped code to run on: rows that say what a law says, after the time a pass takes.

At temperature 0 `Sampler` chooses the law's token from a target's row, and finds the law's candidates and confidence in
a drafter's. From 2 on a target says something else often enough, and a drafter, less sure, now and then the same.
"""

from __future__ import annotations

import abc
import asyncio
import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.models.segments import CachedTokens, check_batch
from wanspec_p2p.simulation.laws import VOCAB_SIZE, Law, Place, Text
from wanspec_p2p.simulation.loop import VirtualTimeLoop
from wanspec_p2p.simulation.pacing import DeviceTime
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import Device, Dtype, ExactnessClass, Segment, TokenId

__all__ = ["SIMULATED_TOKENIZER", "EndsLast", "SimulatedDrafter", "SimulatedTarget"]

SIMULATED_TOKENIZER = hashlib.sha256(b"wanspec simulated ids").hexdigest()
CONTEXT = 1 << 16
_SURE = 16.0
"""A target's logit for its token, above 0 for all others: sure beyond doubt."""


class _Cache:
    """What a model's cache holds, and the places in the text that go with it."""

    def __init__(self, text: Text) -> None:
        self.tokens = CachedTokens()
        self._text = text
        self._committed = [text.start]  # the place behind each committed token
        self._nodes: list[Place] = []  # and behind each provisional node

    def apply(self, segment: Segment) -> list[Place]:
        """Take a checked segment in. Returns the place of each row."""
        self.tokens.apply(segment)
        step, committed, before = self._text.step, self._committed, self._nodes
        del committed[segment.length + 1 :]
        committed.extend([before[node] for node in segment.keep])
        for token in segment.tokens:
            committed.append(step(committed[-1], token))
        self._nodes = nodes = [before[node] for node in segment.held]
        for token, parent in zip(segment.tree, segment.parents, strict=True):
            nodes.append(step(committed[-1] if parent == -1 else nodes[parent], token))
        ran = nodes[len(segment.held) :]
        return [committed[-1], *ran] if segment.tokens else ran


class _SimulatedModel(abc.ABC):
    """A `LanguageModel` that does at once what it is asked, and tells once the time for it is over."""

    def __init__(self, text: Text, time: DeviceTime, name: str, digest: str) -> None:
        self._text, self._time = text, time
        self._caches: dict[str, _Cache] = {}
        self._tokens: dict[str, CachedTokens] = {}
        self._info = ModelInfo(
            name=name,
            digest=digest,
            tokenizer=SIMULATED_TOKENIZER,
            vocab_size=VOCAB_SIZE,
            context=CONTEXT,
            dtype=Dtype.FLOAT32,
            device=Device.CUDA,  # what they stand in for
            engine="simulated 1",
            fingerprint=hashlib.sha256(f"simulated 1 {digest}".encode()).hexdigest(),
            exactness=ExactnessClass.BITWISE,
            eos=(),
        )

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        begun = asyncio.get_running_loop().time()
        check_batch(batch, self._tokens, vocab_size=VOCAB_SIZE, context=CONTEXT)
        places = [self._apply(segment) for segment in batch]
        found = [self._rows(own) for own in places]
        await self._time.run(sum(map(len, places)), begun)
        return found

    def _apply(self, segment: Segment) -> list[Place]:
        cache = self._caches.get(segment.cache)
        if cache is None:
            cache = self._caches[segment.cache] = _Cache(self._text)
            self._tokens[segment.cache] = cache.tokens
        return cache.apply(segment)

    def _rows(self, places: Sequence[Place]) -> Rows:
        rows = np.zeros((len(places), VOCAB_SIZE), np.float32)
        for row, place in zip(rows, places, strict=True):
            self._fill(row, place)
        return rows

    @abc.abstractmethod
    def _fill(self, row: NDArray[np.float32], place: Place) -> None:
        """Set what is not 0 in the row behind `place`."""

    async def release(self, cache: str) -> None:
        self._caches.pop(cache, None)
        self._tokens.pop(cache, None)

    async def close(self) -> None:
        self._caches.clear()
        self._tokens.clear()


class SimulatedTarget(_SimulatedModel):
    """Says `text`; after any other prefix, what `text` says there."""

    def __init__(self, text: Text, time: DeviceTime, *, name: str = "simulated-target") -> None:
        super().__init__(text, time, name, hashlib.sha256(f"{name} {text.seed}".encode()).hexdigest())

    def _fill(self, row: NDArray[np.float32], place: Place) -> None:
        row[place.truth] = _SURE

    def decoded(self, spec: SessionSpec) -> list[TokenId]:
        """The answer that it must be: token after token, by its rows and the rule alone. Without stop tokens."""
        sampler = Sampler(spec.sampling, spec.seed, spec.vocab_size, spec.prompt)
        place, answer = self._text.after(spec.prompt), list[TokenId]()
        while len(answer) < spec.max_tokens:
            [row] = self._rows([place])
            answer.append(sampler.choose(row).token)
            sampler.commit(answer[-1:])
            place = self._text.step(place, answer[-1])
        return answer


class SimulatedDrafter(_SimulatedModel):
    """Guesses by `law`. Where the law has no opinion, all entries of a row are equal."""

    def __init__(self, law: Law, time: DeviceTime, *, name: str = "simulated-drafter") -> None:
        super().__init__(law.text, time, name, hashlib.sha256(f"{name} {law.text.seed}".encode()).hexdigest())
        self._law = law

    def _fill(self, row: NDArray[np.float32], place: Place) -> None:
        for token, logit in zip(*self._law.guess(place), strict=True):
            row[token] = logit


class EndsLast:
    """A model at a target: in virtual time its passes end after everything else that happens at their last moment.

    So drafts that arrive as a verification ends are in the next one
    (docs/decisions/0030-what-arrives-comes-before-what-ends.md).
    """

    def __init__(self, model: LanguageModel) -> None:
        self._model = model

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        found = await self._model.forward(batch)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        await loop.settled()
        return found

    async def release(self, cache: str) -> None:
        await self._model.release(cache)

    async def close(self) -> None:
        await self._model.close()
