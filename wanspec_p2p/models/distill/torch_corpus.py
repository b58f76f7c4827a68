"""From a target to a corpus of so many tokens, a shard at a time; what is already there is kept."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from wanspec_p2p.errors import ModelError
from wanspec_p2p.locking import file_lock
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.directories import named_size, read_config
from wanspec_p2p.models.distill.corpus import Corpus, Recipe
from wanspec_p2p.models.distill.dialogues import Dialogues, Frame, chat_frame
from wanspec_p2p.models.distill.torch_decoder import read_batched
from wanspec_p2p.models.distill.torch_writer import CONTEXT, write_dialogues
from wanspec_p2p.models.fingerprint import tokenizer_facts
from wanspec_p2p.models.pull import Progress
from wanspec_p2p.models.torch_device import Placement
from wanspec_p2p.models.torch_loading import eos_tokens
from wanspec_p2p.models.torch_tokenizer import TorchTokenizer
from wanspec_p2p.types import Device

__all__ = ["Source", "cache_bytes", "context_of", "fill_corpus", "find_source", "recipe_for"]

ROWS = {Device.CPU: 128, Device.MPS: 256, Device.CUDA: 2048}
"""Sequences side by side, at most: enough to read the weights rarely."""
CACHES_SHARE = 0.5
"""Of the device's memory: as much as the rows' caches may take, were they in float32."""
DIALOGUES_PER_ROW = 4
"""At most, in one shard: what a killed run loses against how long the last rows run alone."""
LONGEST_PROMPT = 384
"""Tokens of a prompt that is brought: it leaves the answer its room."""
SHORTEST = 128
"""Tokens a dialogue brings, at least about: no more of them are begun than are still needed."""


@dataclass(frozen=True, slots=True)
class Source:
    """A target to be distilled."""

    name: str  # without the folders above it
    directory: Path
    digest: str
    tokenizer: str  # fingerprint


def find_source(name: str, catalog: Catalog) -> Source:
    """Raises:
    ModelError: no such model, or it has no tokenizer that can be told apart.
    """
    directory = catalog.path(name)
    shown = Path(name).expanduser().resolve().name if Path(name).expanduser().is_dir() else name
    return Source(shown, directory, catalog.digest(name), tokenizer_facts(directory).fingerprint)


def recipe_for(source: Source, *, seed: int, device: Device, prompts: Sequence[str] = ()) -> Recipe:
    """The same on every run on this machine, whatever else uses its memory meanwhile."""
    config = read_config(source.directory)
    context = min(CONTEXT, context_of(config))
    rows = int(CACHES_SHARE * _memory(device) / cache_bytes(config, rows=1, context=context))
    return Recipe(
        target=source.digest,
        tokenizer=source.tokenizer,
        seed=seed,
        rows=min(ROWS[device], 1 << max(rows, 1).bit_length() - 1),
        context=context,
        prompts=hashlib.sha256("\0".join(prompts).encode()).hexdigest() if prompts else "",
    )


def context_of(config: Mapping[str, Any]) -> int:
    """Positions; within a sliding window, sliding and full attention are the same."""
    positions = named_size(config, "max_position_embeddings") or CONTEXT
    return min(positions, named_size(config, "sliding_window") or positions)


def cache_bytes(config: Mapping[str, Any], *, rows: int, context: int) -> int:
    """What keys and values of `rows` sequences of `context` tokens take in float32."""
    heads = named_size(config, "num_attention_heads") or 1
    kv_heads = named_size(config, "num_key_value_heads") or heads
    head = named_size(config, "head_dim") or max((named_size(config, "hidden_size") or 1) // heads, 1)
    return rows * context * (named_size(config, "num_hidden_layers") or 1) * kv_heads * head * 2 * 4


def _memory(device: Device) -> int:
    if device is Device.CUDA:
        return int(torch.cuda.get_device_properties(0).total_memory)
    return int(psutil.virtual_memory().total)


def fill_corpus(
    corpus: Corpus, source: Source, *, tokens: int, placement: Placement, prompts: Sequence[str], progress: Progress
) -> None:
    """Let the target write until the corpus holds `tokens` tokens of its own. Another run that fills it is waited for.

    Raises:
        ModelError: the target has no chat template that will do or one that leaves no room, no end token that ends its
            turns, a tokenizer that is not its own, or cannot be loaded.
        ConfigError: the disk is full, or a shard is damaged.
    """
    label = f"{source.name} writes"
    tokenizer = TorchTokenizer(source.directory)
    frame = chat_frame(tokenizer, source.name)
    longest = LONGEST_PROMPT * corpus.recipe.context // CONTEXT
    if (given := len(frame.before) + len(frame.middle)) > corpus.recipe.context * 3 // 4:
        raise ModelError(
            f"{source.name} cannot be distilled: its chat template alone takes {given} of the {corpus.recipe.context} "
            "tokens that a dialogue has"
        )
    dialogues = Dialogues(tokenizer, seed=corpus.recipe.seed, prompts=prompts, longest=longest)
    highest = max(dialogues.highest, *frame.before, *frame.middle, *frame.between)
    if highest >= (held := named_size(read_config(source.directory), "vocab_size") or 0):
        raise ModelError(
            f"{source.name} cannot be distilled: its tokenizer makes id {highest}, its vocabulary has {held}"
        )
    corpus.begin()
    with file_lock(corpus.directory / ".lock", lambda: progress(f"wait for another run: {label}", 0, 0)):
        have = corpus.generated()
        progress(label, min(have, tokens), tokens)
        if have < tokens:
            _write(
                corpus, source, dialogues, frame, have, tokens, placement, lambda done: progress(label, done, tokens)
            )


def _write(
    corpus: Corpus,
    source: Source,
    dialogues: Dialogues,
    frame: Frame,
    have: int,
    tokens: int,
    placement: Placement,
    tell: Callable[[int], None],
) -> None:
    torch.set_num_threads(placement.threads)
    recipe = corpus.recipe
    model = read_batched(source.directory, placement)
    eos, vocab_size = frozenset(eos_tokens(model)), tokenizer_facts(source.directory).vocab_size
    if eos.isdisjoint(frame.between):
        raise ModelError(
            f"{source.name} cannot be distilled: no turn of its chat template ends with one of its end tokens "
            f"{sorted(eos)}: name that token as eos_token_id in generation_config.json"
        )
    while have < tokens:
        begun = have
        first, shard = len(corpus), len(corpus.shards)
        count = min(recipe.rows * DIALOGUES_PER_ROW, -(-(tokens - have) // SHORTEST))
        written = write_dialogues(
            model,
            [dialogues.script(index) for index in range(first, first + count)],
            frame=frame,
            eos=eos,
            vocab_size=vocab_size,
            rows=recipe.rows,
            context=recipe.context,
            seed=(recipe.seed << 24) + shard,
            progress=lambda more, begun=begun: tell(min(begun + more, tokens)),  # type: ignore[misc]
        )
        corpus.append(written)
        have += sum(dialogue.generated for dialogue in written)
    tell(tokens)
