"""How a drafter's tree grows: which candidates are worth sending, which nodes are worth running next.

Both go by the chance that the answer passes through a node: the product of the chances along its path. The same
candidates serve twice, as drafts beside the likeliest one and as corrections drafted before they are needed. With
F candidates at a place missing with a probability that falls as F^-r, best first spends F_k ~ P(k)^(1/(1+r))
(Saguaro, arXiv 2603.03251, calls it geometric fan-out) without having to know r.

Drafters of one session run different branches: everyone runs the likeliest path, and what leaves it belongs to the
lane that its position and rank name, which any two drafters agree on without a word.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Sequence
from typing import NamedTuple

from wanspec_p2p.speculation.calibration import RankTable, chance, quantised
from wanspec_p2p.speculation.events import Outlook
from wanspec_p2p.speculation.sampling import Ranking
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import PeerId, TokenId

__all__ = ["Growth"]

TARGET = PeerId("target")
"""Holder of what others drafted and a verdict told of; no peer has this name."""
MAIN = -1
"""Owner of the likeliest path: everyone."""


class _Candidate(NamedTuple):
    parent: int  # when it was found; a commit may have made it the root since
    token: TokenId
    chance: float  # that it is right if its parent is
    rank: int  # among its parent's candidates, from 0


class Growth:
    """Scores of one drafter's tree. The tree itself is the session's; nodes enter it here and leave it by commits.

    Args:
        floor: candidates less likely than this to be on the answer's path are not sent.
        lane, lanes: which of how many shares of the branches this drafter runs.
    """

    def __init__(self, tree: DraftTree, me: PeerId, table: RankTable, *, floor: float, lane: int, lanes: int) -> None:
        self._tree, self._me, self._table = tree, me, table
        self._floor, self._lane, self._lanes = floor, lane, lanes
        self._places: dict[int, _Candidate] = {}  # what each node was as a candidate
        self._scores: dict[int, float] = {ROOT: 1.0}
        self._owners: dict[int, int] = {ROOT: MAIN}
        self._expanded: dict[int, Ranking] = {}  # run, with what came of it
        self._taken: set[int] = set()  # being run
        self._frontier: list[tuple[float, int]] = []
        self._candidates: list[tuple[float, int, _Candidate]] = []
        self._count = 0  # numbers candidates as they are found: of two with equal scores the older one comes first

    def take(self, count: int, allowed: Callable[[int], bool]) -> list[int]:
        """The next nodes to run, best first, at most `count`; what is not `allowed` waits for another time."""
        nodes: list[int] = []
        later: list[tuple[float, int]] = []
        while self._frontier and len(nodes) < count:
            entry = heapq.heappop(self._frontier)
            if entry[1] not in self._tree:
                continue
            if allowed(entry[1]):
                nodes.append(entry[1])
            else:
                later.append(entry)
        for entry in later:
            heapq.heappush(self._frontier, entry)
        self._taken.update(nodes)
        nodes.sort()  # parents have the smaller ids
        return nodes

    def expand(self, node: int, ranking: Ranking) -> None:
        """What the model says after `node` (or ROOT)."""
        self._taken.discard(node)
        self._expanded[node] = ranking
        chances = self._table.chances(ranking.confidence)
        for rank, token in enumerate(ranking.tokens):
            self._count += 1
            heapq.heappush(self._candidates, self._entry(self._count, _Candidate(node, token, chances[rank], rank)))

    def admit(self, most: int, reach: int) -> list[int]:
        """Move candidates into the tree, best first. Returns the new nodes.

        Args:
            most: so many.
            reach: none ends a longer prefix; what would waits for another time.
        """
        nodes: list[int] = []
        later: list[tuple[float, int, _Candidate]] = []
        while self._candidates and -self._candidates[0][0] >= self._floor and len(nodes) < most:
            entry = heapq.heappop(self._candidates)
            candidate = entry[2]
            if candidate.parent not in self._tree or candidate.token in self._tree.children(candidate.parent):
                continue  # contradicted, or told of before it was found: the target has it
            if self._tree.length(candidate.parent) >= reach:
                later.append(entry)
                if len(later) > self._lanes + 3:  # what is next to best does not fit either
                    break
                continue
            nodes.append(self._enter(candidate, self._me))
        for entry in later:
            heapq.heappush(self._candidates, entry)
        return nodes

    def settle(self, tokens: Sequence[TokenId]) -> None:
        """Learn from `tokens`, about to be committed in the tree."""
        self._table.settle(self._tree, self._expanded, tokens)

    def moved(self, root: int | None) -> None:
        """The tree has been committed to `root`, a node it had, or to one it had not (None)."""
        expanded = self._expanded
        self._expanded = {node: ranking for node, ranking in expanded.items() if node != ROOT and node in self._tree}
        if root is not None and root in expanded:
            self._expanded[ROOT] = expanded[root]
        self._taken = {node for node in self._taken if node in self._tree}
        self._places = {node: self._places[node] for node in self._tree}
        self._scores, self._owners, self._frontier = {ROOT: 1.0}, {ROOT: MAIN}, []
        for node in self._tree:  # parents first
            self._score(node)
        waiting, self._candidates = self._candidates, []
        for _, number, candidate in waiting:
            if candidate.parent == root:
                self._candidates.append(self._entry(number, candidate._replace(parent=ROOT)))
            elif candidate.parent in self._scores and candidate.parent != ROOT:
                self._candidates.append(self._entry(number, candidate))
        heapq.heapify(self._candidates)

    def told(self, outlook: Outlook, allowed: Callable[[int], bool]) -> None:
        """What others drafted after the root, to be run as what was drafted here.

        A node that is not `allowed` to be run has nothing below it here, whatever was said.
        """
        places: list[int | None] = []
        for token, parent, confidence in zip(outlook.tokens, outlook.parents, outlook.confidences, strict=True):
            above = ROOT if parent < 0 else places[parent]
            if above is None or (above != ROOT and not allowed(above)):
                places.append(None)
                continue
            siblings = self._tree.children(above)
            node = siblings.get(token)
            if node is None:
                ranking = self._expanded.get(above)
                ranked = ranking is not None and token in ranking.tokens
                rank = ranking.tokens.index(token) if ranking is not None and ranked else len(siblings)
                node = self._enter(_Candidate(above, token, chance(confidence), rank), TARGET)
            places.append(node)

    @property
    def root_known(self) -> bool:
        return ROOT in self._expanded

    def waiting(self, allowed: Callable[[int], bool]) -> bool:
        """Whether there is a node to run that is `allowed`."""
        return any(node in self._tree and allowed(node) for _, node in self._frontier)

    def _entry(self, number: int, candidate: _Candidate) -> tuple[float, int, _Candidate]:
        # Also of those below the floor: a verdict may make them likely.
        return -self._scores[candidate.parent] * candidate.chance, number, candidate

    def _enter(self, candidate: _Candidate, holder: PeerId) -> int:
        node, _ = self._tree.add(candidate.parent, candidate.token, holder, quantised(candidate.chance))
        self._places[node] = candidate
        self._score(node)
        return node

    def _score(self, node: int) -> None:
        place, drafted = self._places[node], self._tree[node]
        self._scores[node] = score = self._scores[drafted.parent] * place.chance
        owner = self._owners[drafted.parent]
        if owner == MAIN and place.rank:
            owner = (drafted.length + place.rank) % self._lanes
        self._owners[node] = owner
        if (owner == MAIN or owner == self._lane) and node not in self._expanded and node not in self._taken:
            heapq.heappush(self._frontier, (-score, node))
