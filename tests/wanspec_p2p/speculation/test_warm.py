"""What a cache holds, pass after pass, against a model that keeps to the letter of `Segment`."""

from __future__ import annotations

import random
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.session_rows import PassModel, Row
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.warm import WarmCache
from wanspec_p2p.types import PeerId, Segment, SessionId, TokenId

ME = PeerId("me")
PROMPT = (1, 2, 3)
TOKENS = 5


class Kept:
    """One session's cache and what must hold of it. The row after a prefix is that prefix, so that no two are equal."""

    def __init__(self, prefix: Sequence[TokenId] = PROMPT) -> None:
        self.tree = DraftTree(SessionId("s"), prefix)
        self.warm = WarmCache("c", prefix)
        self.model = PassModel(lambda tokens: np.array(tokens, dtype=np.float32))
        self.computed: set[tuple[TokenId, ...]] = set()  # prefixes whose last token the cache holds or will hold
        self._at_segment: list[TokenId] = []

    def add(self, parent: int, *chain: TokenId) -> int:
        for token in chain:
            parent, _ = self.tree.add(parent, token, ME)
        return parent

    def prefix(self, node: int) -> tuple[TokenId, ...]:
        return (*self.tree.committed, *self.tree.path(node))

    def begin(self, *nodes: int) -> Segment:
        segment = self.warm.segment(self.tree, nodes)
        self._at_segment = list(self.tree.committed)
        committed = tuple(self._at_segment)
        before = len(committed) - len(segment.tokens)
        run = [committed[: before + i + 1] for i in range(len(segment.tokens))] + [self.prefix(node) for node in nodes]
        assert self.computed.isdisjoint(run), "something that is in the cache is run again"
        assert len(set(run)) == len(run)
        self.computed.update(run)
        return segment

    def end(self, segment: Segment) -> list[int]:
        rows: list[Row] = self.model.run(segment)
        assert self.model.cached == self._at_segment, "the cache is not the committed prefix"
        places = []
        for node, row in self.warm.ran(self.tree, rows):
            assert tuple(int(token) for token in row) == self.prefix(node), "a row of another place"
            places.append(node)
        self.check()
        return places

    def run(self, *nodes: int) -> Segment:
        segment = self.begin(*nodes)
        assert self.end(segment) == ([ROOT, *nodes] if segment.tokens else list(nodes))
        return segment

    def commit(self, *tokens: TokenId) -> None:
        self.warm.commit(self.tree, tokens)
        self.tree.commit(tokens)
        committed = tuple(self.tree.committed)
        self.computed = {p for p in self.computed if p == committed[: len(p)] or p[: len(committed)] == committed}

    def check(self) -> None:
        """What is said to be in the cache is what has been computed, and still stands."""
        assert {self.prefix(node) for node in self.tree if node in self.warm} == {
            prefix for prefix in self.computed if len(prefix) > self.tree.committed_len
        }
        assert self.warm.root_is_run == (tuple(self.tree.committed) in self.computed)


def test_the_prefix_is_run_once_with_the_first_nodes_behind_it() -> None:
    kept = Kept()
    assert not kept.warm.root_is_run
    a = kept.add(ROOT, 4)
    b = kept.add(a, 5)
    assert kept.run(a, b) == Segment("c", 0, (), PROMPT, (4, 5), (-1, 0))
    assert kept.warm.root_is_run
    c = kept.add(b, 6)
    assert kept.run(c) == Segment("c", 3, (), (), (6,), (1,), held=(0, 1))


def test_a_promoted_branch_costs_no_row() -> None:
    kept = Kept()
    left, right = kept.add(ROOT, 4), kept.add(ROOT, 5)
    deeper = kept.add(right, 6)
    below, beside = kept.add(deeper, 7), kept.add(left, 8)
    kept.run(left, right, deeper, below, beside)
    kept.commit(5, 6)
    assert kept.warm.root_is_run
    assert (below in kept.warm, left in kept.tree) == (True, False)
    new = kept.add(below, 9)
    assert kept.run(new) == Segment("c", 3, (1, 2), (), (9,), (0,), held=(3,))


def test_what_a_verdict_takes_and_the_cache_lacks_is_run_after_what_it_holds() -> None:
    kept = Kept()
    a = kept.add(ROOT, 4)
    b = kept.add(a, 5)
    kept.run(a)
    kept.commit(4, 5)
    assert (b in kept.tree, kept.warm.root_is_run) == (False, False)
    assert kept.run() == Segment("c", 3, (0,), (5,))


def test_a_contradicted_tree_is_dropped() -> None:
    kept = Kept()
    a = kept.add(ROOT, 4)
    kept.run(a)
    kept.commit(7, 8)
    new = kept.add(ROOT, 4)
    assert kept.run(new) == Segment("c", 3, (), (7, 8), (4,), (-1,))


def test_a_commit_during_a_pass_finds_its_nodes_warm_afterwards() -> None:
    kept = Kept()
    a, other = kept.add(ROOT, 4), kept.add(ROOT, 5)
    b = kept.add(a, 6)
    running = kept.begin(a, other, b)
    kept.commit(4)
    assert kept.end(running) == [ROOT, b]  # the root's row now, that of node a; `other` is contradicted
    assert kept.warm.root_is_run
    assert kept.run(kept.add(b, 7)) == Segment("c", 3, (0,), (), (7,), (0,), held=(2,))


def test_a_commit_that_contradicts_a_running_pass_wastes_it() -> None:
    kept = Kept()
    kept.run()
    running = kept.begin(kept.add(ROOT, 4))
    kept.commit(9)
    kept.commit(8)
    assert kept.end(running) == []
    assert kept.run() == Segment("c", 3, (), (9, 8))


def runnable(kept: Kept, draw: random.Random, most: int) -> list[int]:
    nodes: list[int] = []
    for node in kept.tree:
        parent = kept.tree[node].parent
        ready = parent == ROOT or parent in kept.warm or parent in nodes
        if ready and node not in kept.warm and len(nodes) < most and draw.random() < 0.7:
            nodes.append(node)
    return nodes


def random_commit(kept: Kept, draw: random.Random) -> None:
    tokens: list[TokenId] = []
    at = ROOT
    for _ in range(draw.randint(1, 4)):
        children = kept.tree.children(at)
        if not children or draw.random() < 0.2:
            break
        token = draw.choice(list(children))
        at = children[token]
        tokens.append(token)
    if not tokens or draw.random() < 0.3:  # the target's own token, now and then one that was drafted as well
        tokens.append(draw.randrange(TOKENS))
    kept.commit(*tokens)


def random_growth(kept: Kept, draw: random.Random) -> None:
    for _ in range(draw.randint(0, 6)):
        kept.add(draw.choice([ROOT, *kept.tree]), draw.randrange(TOKENS))


@pytest.mark.parametrize("seed", range(150))
def test_any_history_of_growth_and_commits(seed: int) -> None:
    draw = random.Random(seed)
    kept = Kept(tuple(draw.randrange(TOKENS) for _ in range(draw.randint(1, 4))))
    passes = 0
    for _ in range(60):
        random_growth(kept, draw)
        if draw.random() < 0.3:
            random_commit(kept, draw)
            kept.check()
        nodes = runnable(kept, draw, draw.randint(0, 6))
        if not nodes and kept.warm.root_is_run:
            continue
        segment = kept.begin(*nodes)
        assert segment.rows == len(nodes) + (not kept.warm.root_is_run)
        while draw.random() < 0.35:
            random_commit(kept, draw)
            random_growth(kept, draw)
        kept.end(segment)
        passes += 1
    assert passes > 30
