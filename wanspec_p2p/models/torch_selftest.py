"""What an engine may call itself: compares passes of one token with passes of many, on the model that was loaded.

Where those agree it tries passes that several sessions share, and lets the engine run such if no bit differs.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from wanspec_p2p.errors import ModelError
from wanspec_p2p.models.base import Rows
from wanspec_p2p.models.torch_attention import CHUNK, Tail
from wanspec_p2p.models.torch_cache import SessionCache
from wanspec_p2p.models.torch_context import context_length, rotates_by_length
from wanspec_p2p.models.torch_parts import PASS_ROWS, Work
from wanspec_p2p.models.torch_passes import Passes
from wanspec_p2p.types import ExactnessClass, TokenId

__all__ = ["Verdict", "self_test"]

STEPS = 10
PROMPT = CHUNK - STEPS // 2  # so that the steps cross a chunk's end
WIDTHS = (7, 59, 90)  # few rows; as many as share one product; more than that
SHARED_ROWS = (4, 12, 64, PASS_ROWS)  # of passes that sessions share: the fewest and the most there are, and between
DEPTH = 5
KNOWN = 48  # tokens that transformers reads too
WRONG_MODEL = 0.01  # of the spread of a row's logits, for every row in float32: rounding differs by 0.000003
WRONG_ROUNDED = 0.05  # for most rows in 16 bits: rounding differs by 0.02, and by anything where it changes the expert


@dataclass(frozen=True, slots=True)
class Verdict:
    exactness: ExactnessClass
    compared: int  # rows
    largest: float  # difference of two logits that should be equal


def self_test(passes: Passes, vocab_size: int) -> Verdict:
    """About 30 passes. Sets `passes.tail` to a way of summing that is bit-equal, where there is one, and
    `passes.joins` where sessions that share a pass have the bits they would have alone.

    Raises:
        ModelError: our passes do not compute what transformers does: the architecture is not supported; or no numbers.
    """
    draw = random.Random(0)
    text = [draw.randrange(vocab_size) for _ in range(PROMPT + STEPS)]
    config = passes.model.config
    _check_against_transformers(passes, text[: min(KNOWN, context_length(config))])
    if not passes.exact or (rotates_by_length(config) and context_length(config) < len(text)):
        return Verdict(ExactnessClass.NEAR_TIE, 0, 0.0)
    cache, other = passes.new_cache(), passes.new_cache()
    passes.run(cache, text[:PROMPT])
    single = np.concatenate([passes.run(cache, [token]) for token in text[PROMPT:]])
    verdict = Verdict(ExactnessClass.NEAR_TIE, 0, 0.0)
    for tail in Tail:
        passes.tail = tail
        verdict = _compare(np.concatenate([single, single]), _trees(passes, other, text, draw, vocab_size))
        if verdict.exactness is ExactnessClass.BITWISE:
            passes.joins = True
            passes.joins = np.array_equal(
                np.concatenate([single, single[:1], single]), _shared(passes, other, cache, text, draw, vocab_size)
            )
            return verdict
    passes.tail = Tail.SHARED
    return verdict


def _check_against_transformers(passes: Passes, text: Sequence[TokenId]) -> None:
    theirs = passes.reference(text)
    first, *chain = text
    ours = passes.run(passes.new_cache(), [first], chain, range(-1, len(chain) - 1))
    known = np.isfinite(theirs[0])
    if not known.any():
        raise ModelError("the model's logits are no numbers: its weights are damaged, fetch it again")
    ours, theirs = ours[:, known], theirs[:, known]
    apart = np.abs(ours - theirs).max(1) / np.ptp(theirs, 1)
    alike = apart.max() <= WRONG_MODEL if passes.model.dtype == torch.float32 else np.median(apart) <= WRONG_ROUNDED
    if not alike:
        kind = passes.model.config.model_type
        raise ModelError(f"models of type {kind} are not supported: our attention computes other logits for them")


def _trees(passes: Passes, cache: SessionCache, text: list[TokenId], draw: random.Random, vocab_size: int) -> Rows:
    """The same rows twice, between junk, over a cache that blocks and a tree wrote: out of trees of several widths, and
    out of one that grows."""
    cache.crop(0)
    passes.run(cache, text[:37])
    passes.run(cache, text[37:PROMPT])
    rows: list[Rows] = []
    at = PROMPT
    for width in WIDTHS:
        depth = min(DEPTH, PROMPT + STEPS - at - 1)
        tree, parents, path = _hide(text[at + 1 : at + 1 + depth], width, draw, vocab_size)
        found = passes.run(cache, [text[at]], tree, parents)
        kept = depth // 2
        rows.append(found[[0, *(node + 1 for node in path)]][: kept + 1])
        cache.keep(path[:kept])
        at += 1 + kept
    rows.append(np.concatenate([passes.run(cache, [token]) for token in text[at:]]))
    cache.crop(PROMPT)
    rows.append(_grown(passes.run, cache, text[PROMPT:], draw, vocab_size))
    return np.concatenate(rows)


def _shared(
    passes: Passes,
    cache: SessionCache,
    neighbour: SessionCache,
    text: list[TokenId],
    draw: random.Random,
    vocab_size: int,
) -> Rows:
    """The rows of `neighbour`, which goes through the text a token a pass, and those of `cache`, which grows a tree in
    the same passes. A stranger fills these up. At last `neighbour` goes on alone."""
    cache.crop(PROMPT)
    neighbour.crop(PROMPT)
    beside: list[Rows] = []
    totals = iter(SHARED_ROWS)

    def run(
        cache: SessionCache, tokens: Sequence[TokenId], tree: Sequence[TokenId] = (), parents: Sequence[int] = ()
    ) -> Rows:
        others = next(totals) - len(tokens) - len(tree) - 1
        first, *chain = (draw.randrange(vocab_size) for _ in range(others))
        stranger = Work(passes.new_cache(), [first], chain, range(-1, others - 2))
        own = Work(cache, tokens, tree, parents)
        _, rows, theirs = passes.run_batch([stranger, own, Work(neighbour, [text[PROMPT + len(beside)]])])
        beside.append(theirs)
        return rows

    first = run(cache, [text[PROMPT]])
    cache.crop(PROMPT)
    grown = _grown(run, cache, text[PROMPT:], draw, vocab_size)
    token, *rest = text[PROMPT + len(beside) :]
    alone = passes.run(neighbour, [token], rest, range(-1, len(rest) - 1))
    return np.concatenate([*beside, alone, first, grown])


def _grown(
    run: Callable[[SessionCache, Sequence[TokenId], Sequence[TokenId], Sequence[int]], Rows],
    cache: SessionCache,
    path: Sequence[TokenId],
    draw: random.Random,
    vocab_size: int,
) -> Rows:
    """The rows after each of `path`, run in three passes that hold the tree of the one before below its first node."""
    rows: list[Rows] = []
    nodes: list[int] = []  # of the path, as the last pass numbers them
    parents: list[int] = []
    for start, stop in itertools.pairwise((0, 3, 7, len(path))):
        keep = nodes[:1]
        number = {keep[0] if keep else -1: -1}  # of the new root and all below it: the node's number from now on
        for node, parent in enumerate(parents):
            if parent in number:
                number[node] = len(number) - 1
        _, *held = number
        cache.keep(keep, held)
        parents = [number[parents[node]] for node in held]
        nodes = [number[node] for node in nodes[1:]]
        tree, below, slots = _hide(path[start:stop], WIDTHS[0], draw, vocab_size)
        tip = nodes[-1] if nodes else -1
        parents += [len(held) + parent if parent >= 0 else tip for parent in below]
        rows.append(run(cache, (), tree, parents)[slots])
        nodes += [len(held) + slot for slot in slots]
    return np.concatenate(rows)


def _hide(
    path: Sequence[TokenId], width: int, draw: random.Random, vocab_size: int
) -> tuple[list[TokenId], list[int], list[int]]:
    """A tree of `width` nodes with `path` at random slots among random nodes: its tokens, parents, the path's nodes."""
    slots = sorted(draw.sample(range(width), len(path)))
    tree = [draw.randrange(vocab_size) for _ in range(width)]
    parents = [draw.randrange(-1, node) for node in range(width)]
    for depth, node in enumerate(slots):
        tree[node], parents[node] = path[depth], slots[depth - 1] if depth else -1
    return tree, parents, slots


def _compare(single: Rows, many: Rows) -> Verdict:
    difference = float(np.abs(np.nan_to_num(single, neginf=0.0) - np.nan_to_num(many, neginf=0.0)).max())
    exactness = ExactnessClass.BITWISE if np.array_equal(single, many) else ExactnessClass.NEAR_TIE
    return Verdict(exactness, len(single), difference)
