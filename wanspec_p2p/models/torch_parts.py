"""How the rows of segments are cut into forward passes: long ones into several, short ones of many into one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from wanspec_p2p.models.torch_cache import SessionCache
from wanspec_p2p.types import TokenId

__all__ = ["PASS_ROWS", "Part", "Work", "parts_of", "together"]

PASS_ROWS = 128
"""Rows of one prefill pass, and most of a joined one: enough to keep the cores busy, few enough to share the model
between sessions. Joined passes have row counts that passes of one segment have as well."""
TREE_ROWS = 64
"""Up to this many rows, tokens before a tree run in the tree's own pass."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one session wants of a batch: append `tokens`, run `tree` below the last of them.

    Args:
        parents: of every provisional node: first of the `cache.held` held ones, then of `tree`.
    """

    cache: SessionCache
    tokens: Sequence[TokenId]
    tree: Sequence[TokenId] = ()
    parents: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """Those rows of a `Work` that run in one pass, from slot `start` on: `tokens` chained ones, then a tree's.

    Attributes:
        held: how many slots before `start` hold nodes; `parents` names those of them first, then of the tree's rows.
        wanted: logits are wanted of this many rows, the last ones.
    """

    cache: SessionCache
    start: int
    ids: Sequence[TokenId]
    tokens: int
    parents: tuple[int, ...]
    held: int
    wanted: int


def parts_of(work: Work) -> Iterator[Part]:
    """In order. All but the last are chains that have nothing before them but what is committed, or chained as well."""
    ids = [*work.tokens, *work.tree]
    parents = tuple(work.parents)
    held = work.cache.held
    start = work.cache.length + held
    first = max(len(work.tokens) - 1, 0)  # the first row whose logits are wanted
    if all(parent == node - 1 for node, parent in enumerate(parents)):
        # Held nodes and tree lie one below the other: every slot is its position, as if all were committed.
        done = (len(ids) - 1) // PASS_ROWS * PASS_ROWS
        chained, parents, held = len(ids), (), 0
    else:
        done = 0 if len(ids) <= TREE_ROWS else first
        chained = len(work.tokens)
    for at in range(0, done, PASS_ROWS):
        end = min(at + PASS_ROWS, done)
        yield Part(work.cache, start + at, ids[at:end], end - at, (), 0, max(0, end - max(at, first)))
    yield Part(work.cache, start + done, ids[done:], chained - done, parents, held, len(ids) - max(done, first))


def together(parts: Sequence[Part], rows: int) -> Iterator[Sequence[Part]]:
    """Groups of parts, in order, that have at most `rows` rows; a part of more is alone."""
    group: list[Part] = []
    free = 0
    for part in parts:
        if group and len(part.ids) > free:
            yield group
            group = []
        if not group:
            free = rows
        group.append(part)
        free -= len(part.ids)
    if group:
        yield group
