"""The target's own drafter, for one session: it drafts where nobody else has, and only when that pays.

This is one half of the gate: a draft at the target is worth its time where the candidates on hand are unlikely to hold
the next tokens. WANSpec (arXiv 2602.18931) asks the entropy of the remote drafts; here the chances that they are
believed to have say it directly. The other half is whether the time is worth it for all sessions that have to wait
meanwhile (`allotment.draft_places`), and its threshold is their own pace, so that nothing has to be tuned.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from wanspec_p2p.speculation.allotment import Place
from wanspec_p2p.speculation.calibration import quantised
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import LocalDrafting, places
from wanspec_p2p.speculation.sampling import Ranking, Row, Sampler
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.warm import WarmCache
from wanspec_p2p.types import PeerId, Segment, TokenId

__all__ = ["LOCAL", "LocalDrafter", "Reach"]

LOCAL = PeerId("local")
"""Origin of its nodes in the draft tree; no peer has this name."""


@dataclass(frozen=True, slots=True)
class Reach:
    """What a drafter's model can take in: so many positions, and ids below `vocab_size`."""

    context: int
    vocab_size: int


class _Session(Protocol):
    """What a local drafter shares with its session."""

    tree: DraftTree
    sampler: Sampler
    knowledge: Knowledge

    @property
    def belief(self) -> Callable[[int], float]: ...

    @property
    def remaining(self) -> int: ...

    @property
    def stop_tokens(self) -> Sequence[TokenId]: ...

    @property
    def cache(self) -> str: ...


class LocalDrafter:
    """Args:
    session: whose tree it drafts into.
    reach: of its model; it drafts nothing beyond.
    """

    def __init__(self, session: _Session, drafting: LocalDrafting, reach: Reach) -> None:
        self._session, self._drafting, self._reach = session, drafting, reach
        self._reads = self._readable(session.tree.committed)  # all that is committed
        self._warm = WarmCache(session.cache, session.tree.committed)
        self._expanded: dict[int, Ranking] = {}  # places it has run
        self._passes = 0  # since the last round
        self._offered: list[Place] = []

    @property
    def held(self) -> bool:
        """So many passes are to be run, whatever they bring."""
        return self._drafting.passes is not None

    def places(self) -> list[Place]:
        """Where it could go on before the next verification, best first."""
        session, drafting = self._session, self._drafting
        self._expanded = {place: ranking for place, ranking in self._expanded.items() if place in session.tree}
        self._offered = []
        if session.remaining <= 1 or not self._reads or session.tree.committed_len >= self._reach.context:
            return []
        if drafting.passes is None or self._passes < drafting.passes:
            self._offered = places(
                session.tree,
                session.belief,
                rows=drafting.rows,
                chances=session.knowledge.table.typical()[: drafting.candidates],
                expanded=self._expanded,
                warm=self._warm,
                runnable=self._runnable,
            )
        return self._offered

    def segment(self, count: int | None = None) -> Segment | None:
        """The pass over the first `count` of the places that were told last; None where there are none."""
        chosen, self._offered = self._offered[:count], []
        nodes = sorted(node for place in chosen for node in place.nodes if node != ROOT)
        return self._warm.segment(self._session.tree, nodes) if chosen else None

    def drafted(self, rows: Sequence[Row]) -> None:
        """The pass is over: its candidates join the tree."""
        session = self._session
        self._passes += 1
        for place, row in self._warm.ran(session.tree, rows):
            path = session.tree.path(place)
            ranking = session.sampler.rank(row, path, self._drafting.candidates)
            self._expanded[place] = ranking
            for chance, token in zip(session.knowledge.table.chances(ranking.confidence), ranking.tokens, strict=False):
                session.tree.add(place, token, LOCAL, quantised(chance))

    def settle(self, tokens: Sequence[TokenId]) -> None:
        """`tokens` are about to be committed in the tree."""
        tree = self._session.tree
        self._session.knowledge.table.settle(tree, self._expanded, tokens)
        self._warm.commit(tree, tokens)
        nodes = tree.along(tokens)
        root = self._expanded.get(nodes[-1]) if nodes and len(nodes) == len(tokens) else None
        self._reads = self._reads and self._readable(tokens)
        self._expanded.pop(ROOT, None)
        if root is not None:
            self._expanded[ROOT] = root
        self._passes = 0

    def _runnable(self, node: int) -> bool:
        found = self._session.tree[node]
        beyond = found.length - self._session.tree.committed_len
        return (
            found.token not in self._session.stop_tokens
            and beyond < self._session.remaining - 1
            and found.length < self._reach.context
            and found.token < self._reach.vocab_size
        )

    def _readable(self, tokens: Sequence[TokenId]) -> bool:
        return all(token < self._reach.vocab_size for token in tokens)
