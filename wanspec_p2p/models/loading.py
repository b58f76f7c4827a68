"""From a model's name to a `LanguageModel` or a `Tokenizer`: torch is imported only once somebody asks for one."""

from __future__ import annotations

import asyncio
from types import ModuleType
from typing import TYPE_CHECKING

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.models.catalog import TARGET, Catalog
from wanspec_p2p.models.copying import CopyingModel, CopyWeights, read_weights
from wanspec_p2p.models.directories import eos_named, named_size, read_config
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.ngram import NgramModel
from wanspec_p2p.models.pull import Progress
from wanspec_p2p.types import Device, Dtype

if TYPE_CHECKING:
    from wanspec_p2p.models.torch_engine import TorchModel

__all__ = ["load_language_model", "load_tokenizer", "needed_files"]

NGRAM = "ngram"


def needed_files(name: str) -> str:
    """The model whose files are needed for this name: an n-gram drafter has the tokenizer of another's."""
    kind, _, other = name.partition(":")
    return (other or TARGET) if kind == NGRAM else name


async def load_language_model(
    name: str,
    *,
    catalog: Catalog,
    threads: int | None,
    dtype: Dtype | None,
    progress: Progress | None = None,
    device: Device | None = None,
    fast: bool = False,
    copying: bool = True,
) -> LanguageModel:
    """Load a catalog name, a transformers directory, a hub id, or `ngram[:MODEL]`, the n-gram drafter for that model.

    Args:
        threads: for a CPU; None takes the physical cores.
        dtype: None takes what the device computes fast.
        fast: torch's fused attention: near-tie instead of bitwise.
        copying: let a drafter copy whose directory says how; a target is its model and nothing else.

    Raises:
        ModelError, DigestMismatch, ConfigError, EngineError: one line each.
    """
    if name == NGRAM or name.startswith(NGRAM + ":"):
        return await asyncio.to_thread(_load_ngram, needed_files(name), catalog)
    weights = await asyncio.to_thread(_copy_weights, name, catalog) if copying else None
    model = await _load_torch(name, catalog, threads, dtype, progress, device, fast)
    return model if weights is None else CopyingModel(model, weights)


def _copy_weights(name: str, catalog: Catalog) -> CopyWeights | None:
    return read_weights(catalog.path(name))


def _load_ngram(name: str, catalog: Catalog) -> NgramModel:
    directory = catalog.path(name)
    facts, config = tokenizer_facts(directory), read_config(directory)
    return NgramModel(
        tokenizer=facts.fingerprint,
        vocab_size=facts.vocab_size,
        context=named_size(config, "max_position_embeddings") or 4096,
        eos=eos_named(config.get("eos_token_id"), "config.json"),
    )


async def _load_torch(
    name: str,
    catalog: Catalog,
    threads: int | None,
    dtype: Dtype | None,
    progress: Progress | None,
    device: Device | None,
    fast: bool,
) -> TorchModel:
    directory = await asyncio.to_thread(catalog.path, name)
    label = f"load {name}"
    if progress is not None:
        progress(label, 0, 1)
    engine = await asyncio.to_thread(_import_engine)
    from wanspec_p2p.models.torch_device import choose_device

    placement = choose_device(device=device, dtype=dtype, threads=threads)
    digest = await asyncio.to_thread(catalog.digest, name)
    facts = await asyncio.to_thread(tokenizer_facts, directory)
    weights = engine.Weights(name, directory, digest, facts)
    model: TorchModel = await engine.TorchModel.load(weights, placement, fast=fast)
    if progress is not None:
        progress(label, 1, 1)
    return model


def _import_engine() -> ModuleType:
    """Seconds of imports, kept off the event loop."""
    try:
        from wanspec_p2p.models import torch_engine
    except ImportError as error:
        raise ModelError(
            f"running a model needs torch and transformers ({error}): install wanspec-p2p with [node] or [target]"
        ) from error
    return torch_engine


def load_tokenizer(name: str, *, catalog: Catalog) -> Tokenizer:
    """The tokenizer of a catalog name, a directory or a hub id.

    Raises:
        ModelError: transformers is missing, or there is no tokenizer it can read.
    """
    directory = catalog.path(name)
    try:
        from wanspec_p2p.models.torch_tokenizer import TorchTokenizer

        return TorchTokenizer(directory)
    except ImportError as error:
        raise ModelError(
            f"a tokenizer needs transformers ({error}): install wanspec-p2p with [node] or [target]"
        ) from error
