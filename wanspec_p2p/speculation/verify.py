"""The walk: what one verification pass settles.

    walk from the root; while the target's own token is a child, descend; emit the first that is not, and stop.

Every emitted token is the target's own sample. The draft tree only decides how many of them one pass can settle.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass, field

from wanspec_p2p.speculation.sampling import Choice, Row
from wanspec_p2p.types import TokenId

__all__ = ["Candidates", "Step", "walk"]


@dataclass(frozen=True, slots=True)
class Candidates:
    """The part of a draft tree that one pass verifies: a snapshot, parents before children.

    `nodes[i]` is the tree's id of candidate i; `parents[i]` is -1 (the root) or < i; `chances[i]`, where they were
    weighed, how likely it is to be walked.
    """

    nodes: tuple[int, ...]
    tokens: tuple[TokenId, ...]
    parents: tuple[int, ...]
    chances: tuple[float, ...] = field(default=(), compare=False)

    def first(self, count: int) -> Candidates:
        return Candidates(self.nodes[:count], self.tokens[:count], self.parents[:count], self.chances[:count])


@dataclass(frozen=True, slots=True)
class Step:
    """One settled position."""

    token: TokenId
    margin: float
    row: int  # of the pass's logits, the row it was chosen from: 0 is the root
    candidate: int | None  # the candidate that was right, if one was


def walk(
    candidates: Candidates,
    rows: Sequence[Row],
    choose: Callable[[Row, Sequence[TokenId]], Choice],
    stop: Container[TokenId],
    limit: int,
) -> list[Step]:
    """Settle at least one position and at most `limit`; a token of `stop` ends the walk.

    Args:
        rows: logits after the root, then after each candidate: 1 + len(candidates.tokens) of them.
        choose: (row, tokens of this walk so far) to the target's token.
    """
    children: dict[tuple[int, TokenId], int] = {}
    for i, (parent, token) in enumerate(zip(candidates.parents, candidates.tokens, strict=True)):
        children.setdefault((parent, token), i)
    steps: list[Step] = []
    path: list[TokenId] = []
    at = -1
    while True:
        choice = choose(rows[at + 1], path)
        child = children.get((at, choice.token))
        steps.append(Step(choice.token, choice.margin, at + 1, child))
        path.append(choice.token)
        if child is None or choice.token in stop or len(steps) == limit:
            return steps
        at = child
