"""The built-in engine: `LanguageModel` over a transformers model, every pass on one thread of its own."""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from wanspec_p2p import __version__
from wanspec_p2p.errors import EngineError, ModelError
from wanspec_p2p.models.base import ModelInfo, Rows
from wanspec_p2p.models.fingerprint import TokenizerFacts
from wanspec_p2p.models.segments import CachedTokens, check_batch
from wanspec_p2p.models.templates import template_digest
from wanspec_p2p.models.torch_cache import SessionCache
from wanspec_p2p.models.torch_context import context_length
from wanspec_p2p.models.torch_device import Placement, describe_device, torch_dtype
from wanspec_p2p.models.torch_loading import eos_tokens, read_model
from wanspec_p2p.models.torch_parts import Work
from wanspec_p2p.models.torch_passes import Passes, attention_name
from wanspec_p2p.models.torch_selftest import self_test
from wanspec_p2p.types import Segment

__all__ = ["TorchModel", "Weights"]

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Weights:
    """A model directory that was checked, and what it is called."""

    name: str
    directory: Path
    digest: str
    tokenizer: TokenizerFacts


class TorchModel:
    """One loaded model. Start it with `TorchModel.load`.

    Its thread, the model thread, alone touches torch and the caches, so a pass never blocks the event loop and two
    passes never meet. A pass that has begun runs to its end, even if its caller is cancelled.
    """

    def __init__(self, info: ModelInfo, passes: Passes, thread: ThreadPoolExecutor) -> None:
        self._info = info
        self._passes = passes
        self._thread = thread
        self._tokens: dict[str, CachedTokens] = {}
        self._caches: dict[str, SessionCache] = {}

    @classmethod
    async def load(cls, weights: Weights, placement: Placement, *, fast: bool = False) -> TorchModel:
        """Read the weights and run the self-test.

        Args:
            fast: torch's fused attention instead of the exact one: near-tie, an operator's choice.

        Raises:
            ModelError: the directory cannot be loaded, or its architecture is not supported.
            EngineError: out of memory.
        """
        thread = ThreadPoolExecutor(1, thread_name_prefix="model")
        try:
            info, passes = await _on(thread, lambda: _load(weights, placement, exact=not fast))
        except BaseException:
            thread.shutdown(wait=False)
            raise
        return cls(info, passes, thread)

    @property
    def info(self) -> ModelInfo:
        return self._info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        return await _on(self._thread, lambda: self._forward(batch))

    def _forward(self, batch: Sequence[Segment]) -> list[Rows]:
        check_batch(batch, self._tokens, vocab_size=self._info.vocab_size, context=self._info.context)
        try:
            return self._passes.run_batch([self._work(segment) for segment in batch])
        except Exception as error:
            for segment in batch:
                self._forget(segment.cache)
            raise _engine_error(error, f"a pass of {len(batch)} segments") from error

    def _work(self, segment: Segment) -> Work:
        """Take a checked segment in; its pass is still to come."""
        tokens = self._tokens.setdefault(segment.cache, CachedTokens())
        cache = self._caches.get(segment.cache)
        if cache is None:
            cache = self._caches[segment.cache] = self._passes.new_cache()
        cache.crop(segment.length)
        cache.keep(segment.keep, segment.held)
        tokens.apply(segment)
        return Work(cache, segment.tokens, segment.tree, tokens.parents)

    async def release(self, cache: str) -> None:
        await _on(self._thread, lambda: self._forget(cache))

    def _forget(self, cache: str) -> None:
        self._tokens.pop(cache, None)
        self._caches.pop(cache, None)

    async def close(self) -> None:
        """Free the weights and end the model thread."""

        def clear() -> None:
            self._tokens.clear()
            self._caches.clear()
            del self._passes

        await _on(self._thread, clear)
        self._thread.shutdown(wait=True)


async def _on(thread: ThreadPoolExecutor, function: Callable[[], Result]) -> Result:
    return await asyncio.get_running_loop().run_in_executor(thread, function)


def _load(weights: Weights, placement: Placement, *, exact: bool) -> tuple[ModelInfo, Passes]:
    """On the model thread: OpenMP's number of threads belongs to the thread that sets it."""
    torch.set_num_threads(placement.threads)
    try:
        model = read_model(
            weights.directory,
            dtype=torch_dtype(placement.dtype),
            device=placement.device,
            attention=attention_name(exact=exact),
        )
        vocab_size = min(weights.tokenizer.vocab_size, int(model.get_input_embeddings().num_embeddings))
        passes = Passes(model, vocab_size=weights.tokenizer.vocab_size, exact=exact)
        verdict = self_test(passes, vocab_size)
    except ModelError:
        raise
    except Exception as error:
        raise _engine_error(error, f"loading {weights.name}") from error
    eos = eos_tokens(model)
    engine = f"wanspec-torch {__version__} / torch {torch.__version__} / {'exact' if exact else 'fast'} attention"
    facts = {
        "digest": weights.digest,
        "tokenizer": weights.tokenizer.fingerprint,
        "template": template_digest(weights.directory),
        "eos": sorted(eos),
        "dtype": placement.dtype,
        "device": describe_device(placement.device),
        "threads": placement.threads,
        "engine": f"{engine} / {passes.tail.value} tail",
        "transformers": _transformers_version(),
    }
    info = ModelInfo(
        name=weights.name,
        digest=weights.digest,
        tokenizer=weights.tokenizer.fingerprint,
        vocab_size=vocab_size,
        context=context_length(model.config),
        dtype=placement.dtype,
        device=placement.device,
        engine=engine,
        fingerprint=hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest(),
        exactness=verdict.exactness,
        eos=eos,
    )
    return info, passes


def _transformers_version() -> str:
    import transformers

    return str(transformers.__version__)


def _engine_error(error: Exception, doing: str) -> EngineError:
    text = _first_line(error)
    if isinstance(error, torch.OutOfMemoryError | MemoryError) or "allocate memory" in text:
        return EngineError(f"out of memory during {doing}: {text}")
    return EngineError(f"{doing} failed: {type(error).__name__}: {text}")


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]
