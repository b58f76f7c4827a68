"""The draft tree: whatever is sent, it stays a tree, the counts add up, and nothing in it contradicts the prefix."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from hashlib import blake2b

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from tests.support.session_rows import check_tree, prefix_hash
from wanspec_p2p.speculation import tree as tree_module
from wanspec_p2p.speculation.tree import ROOT, DraftTree, Merge, chain_hash, session_hash
from wanspec_p2p.types import PeerId, SessionId

SESSION = SessionId("5e5510")
A, B = PeerId("a"), PeerId("b")
PROMPT = (1, 2, 3)
NOWHERE = bytes(8)


def tree_of(*prefix: int) -> DraftTree:
    return DraftTree(SESSION, prefix or PROMPT)


def draft(
    tree: DraftTree,
    peer: PeerId,
    base: Sequence[int],
    tokens: Sequence[int],
    parents: Sequence[int] = (),
    *,
    confidences: Sequence[int] = (),
    bases: Sequence[Sequence[int]] = (),
    vocab_size: int = 100,
    max_positions: int = 8,
    max_tokens: int = 16,
    max_children: int = 8,
) -> Merge:
    """Merge a draft whose base is the prefix `base`."""
    return tree.merge(
        peer,
        len(base),
        prefix_hash(SESSION, base),
        tokens,
        parents,
        confidences,
        vocab_size=vocab_size,
        max_positions=max_positions,
        max_tokens=max_tokens,
        max_children=max_children,
        bases=[(len(other), prefix_hash(SESSION, other)) for other in bases],
    )


def branches(tree: DraftTree) -> set[tuple[int, ...]]:
    return {tuple(tree.path(node)) for node in tree}


def test_paths_of_one_hash_break_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Eight bytes are few enough for a node that searches."""
    monkeypatch.setattr(tree_module, "chain_hash", lambda before, token: bytes(8))
    tree = tree_of()
    for token in range(4):
        node, _ = tree.add(ROOT, token, A)
        tree.add(node, token, B)
    tree.shed((), 3)
    assert len(tree) == 3
    tree.commit((0,))
    tree.shed((), 0)
    assert len(tree) == 0


def test_hashes_are_the_published_chain() -> None:
    """h_0 = H(session), h_{i+1} = H(h_i || token): BLAKE2b-64, the token as four little-endian bytes."""

    def h(data: bytes) -> bytes:
        return blake2b(data, digest_size=8, person=b"wanspec.prefix").digest()

    assert session_hash(SESSION) == h(b"5e5510")
    assert chain_hash(session_hash(SESSION), 258) == h(h(b"5e5510") + b"\x02\x01\x00\x00")
    assert session_hash(SESSION).hex() == "5bd59efb3043a9a0"
    assert tree_of().place(ROOT) == (3, prefix_hash(SESSION, PROMPT))


def test_a_chain_hangs_off_the_root_in_order() -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, (4, 5, 6), confidences=(7, 8)) == Merge(added=3)
    assert branches(tree) == {(4,), (4, 5), (4, 5, 6)}
    nodes = [tree[node] for node in tree]
    assert [(n.origin, n.confidence, n.holders) for n in nodes] == [(A, 7, {A}), (A, 8, {A}), (A, None, {A})]
    assert tree.held_by(A) == 3


def test_of_some_nodes_those_that_live_are_told_in_their_order() -> None:
    tree = tree_of()
    first, _ = tree.add(ROOT, 4, A)
    second, _ = tree.add(ROOT, 5, A)
    third, _ = tree.add(second, 6, A)
    tree.commit([5])
    assert tree.living([third, first, second, ROOT]) == [third]


def test_parents_make_a_tree_of_one_frame() -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, (4, 5, 6, 7), (-1, 0, 0, -1)) == Merge(added=4)
    assert branches(tree) == {(4,), (4, 5), (4, 6), (7,)}


def test_a_copy_costs_nothing_and_the_first_arrival_keeps_the_credit() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5))
    assert draft(tree, B, PROMPT, (4, 5, 6)) == Merge(added=1, duplicate=2)
    assert draft(tree, A, PROMPT, (4, 5)) == Merge(duplicate=2)
    assert [(tree[n].origin, tree[n].holders) for n in tree] == [(A, {A, B}), (A, {A, B}), (B, {B})]
    assert (tree.held_by(A), tree.held_by(B)) == (2, 3)


def test_a_draft_may_hang_off_whatever_was_drafted_and_holds_no_more_for_it() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5))
    assert draft(tree, A, (*PROMPT, 4, 5), (6,)) == Merge(added=1)
    assert draft(tree, B, (*PROMPT, 4, 5), (7, 8)) == Merge(added=2)
    assert (tree.held_by(A), tree.held_by(B)) == (3, 2)
    check_tree(tree, SESSION)


def test_an_unknown_base_is_dropped_and_counted() -> None:
    tree = tree_of()
    assert draft(tree, A, (1, 2, 9), (4, 5)) == Merge(unknown=2)  # as long as the prefix, but another
    assert draft(tree, A, (1, 9), (4,)) == Merge(unknown=1)
    assert draft(tree, A, (*PROMPT, 4), (5,)) == Merge(unknown=1)
    assert len(tree) == 0


def test_a_late_draft_is_trimmed_along_the_committed_tokens() -> None:
    tree = tree_of()
    tree.commit((4, 5))
    assert draft(tree, A, PROMPT, (4, 5, 6, 7)) == Merge(late=2, added=2)
    assert branches(tree) == {(6,), (6, 7)}
    assert tree[next(iter(tree))].length == 6


def test_a_late_draft_that_disagrees_is_dropped_from_there_on() -> None:
    tree = tree_of()
    tree.commit((4, 5))
    assert draft(tree, A, PROMPT, (4, 9, 6)) == Merge(late=3)
    assert draft(tree, A, PROMPT, (4, 9, 5, 6), (-1, 0, 0, 2)) == Merge(late=3, added=1)  # one branch agrees
    assert branches(tree) == {(6,)}


def test_a_draft_wholly_settled_is_late() -> None:
    tree = tree_of()
    tree.commit((4, 5))
    assert draft(tree, A, PROMPT, (4, 5)) == Merge(late=2)
    assert len(tree) == 0


def test_the_windows_bound_depth_and_number_of_what_one_peer_holds() -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, (4, 5, 6, 7), max_positions=2) == Merge(added=2, surplus=2)
    assert draft(tree, A, PROMPT, (8, 9, 10), (-1, -1, -1), max_tokens=3) == Merge(added=1, surplus=2)
    assert draft(tree, A, PROMPT, (4, 5), max_positions=2, max_tokens=3) == Merge(duplicate=2)  # held already
    assert draft(tree, B, PROMPT, (4, 5), max_tokens=1) == Merge(duplicate=1, surplus=1)  # a copy counts as held
    assert draft(tree, B, PROMPT, (4,), max_positions=0) == Merge(duplicate=1)
    assert draft(tree, PeerId("c"), PROMPT, (4,), max_positions=0) == Merge(surplus=1)


def test_a_peer_is_the_first_to_bring_so_many_children_of_a_place_and_no_more() -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, range(10, 15), (-1,) * 5, max_children=3) == Merge(added=3, surplus=2)
    assert draft(tree, B, PROMPT, range(10, 17), (-1,) * 7, max_children=3) == Merge(added=3, duplicate=3, surplus=1)
    assert draft(tree, A, (*PROMPT, 10), range(4), (-1,) * 4, max_children=3) == Merge(added=3, surplus=1)
    tree.disown(A)
    assert draft(tree, A, PROMPT, (10, 30), (-1, -1), max_children=3) == Merge(duplicate=1, surplus=1)
    assert len(tree) == 9


def test_what_hangs_below_a_token_left_out_is_left_out_for_the_same_reason() -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, (100, 5, 6), vocab_size=100) == Merge(surplus=3)
    assert draft(tree, A, PROMPT, (-1, 5), vocab_size=100) == Merge(surplus=2)


@pytest.mark.parametrize(
    ("parents", "expected"),
    [
        ((0,), Merge(unknown=3)),
        ((-1, 5, 1), Merge(added=1, unknown=2)),
        ((-1,), Merge(added=1, unknown=2)),
        ((-1, 1, 0), Merge(added=2, unknown=1)),
        ((-1, -1, -1, -9, -9), Merge(added=3)),
        ((-9, -2, -1), Merge(added=1, unknown=2)),
    ],
    ids=["itself", "not there", "too few", "itself, then fine", "too many", "no such base"],
)
def test_parents_that_are_no_earlier_token_are_unknown(parents: tuple[int, ...], expected: Merge) -> None:
    tree = tree_of()
    assert draft(tree, A, PROMPT, (4, 5, 6), parents) == expected
    check_tree(tree, SESSION)


def test_one_draft_may_hang_off_several_places() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5), (-1, -1))
    bases = [(*PROMPT, 5), (*PROMPT, 7), PROMPT]
    merge = draft(tree, A, (*PROMPT, 4), (6, 6, 6, 6, 8), (-1, -2, -3, -4, 1), bases=bases)
    assert merge == Merge(added=4, unknown=1), "nobody drafted 7"
    assert branches(tree) == {(4,), (5,), (4, 6), (5, 6), (5, 6, 8), (6,)}
    check_tree(tree, SESSION)


def test_a_further_base_is_in_the_tree_or_unknown_and_may_be_late() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5))
    bases = [(*PROMPT, 4), (*PROMPT, 5)]
    assert draft(tree, B, PROMPT, (9, 6, 6), (-1, -2, -3), bases=bases) == Merge(added=2, unknown=1)
    assert branches(tree) == {(4,), (4, 5), (4, 6), (9,)}
    tree.commit((4,))
    merge = draft(tree, A, (*PROMPT, 4), (7, 4, 8), (-1, -2, 1), bases=[PROMPT])
    assert merge == Merge(added=2, late=1)
    assert branches(tree) == {(5,), (6,), (7,), (8,)}


def test_commit_moves_the_root_and_removes_what_it_contradicts() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5, 6, 7, 8, 9), (-1, 0, 1, 0, -1, 4))
    kept = tree.find(6, prefix_hash(SESSION, (*PROMPT, 4, 5, 6)))
    tree.commit((4, 5))
    assert branches(tree) == {(6,)}
    assert list(tree.committed) == [1, 2, 3, 4, 5]
    assert list(tree) == [kept], "a node keeps its id for as long as it lives"
    assert tree.held_by(A) == 1
    tree.commit((9,))
    assert len(tree) == 0
    assert tree.held_by(A) == 0


def test_committing_a_token_nobody_drafted_clears_the_tree_even_if_the_next_was() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5))
    tree.commit((9, 4))
    assert len(tree) == 0


def test_find_names_a_place_by_length_and_hash_together() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4,))
    node = next(iter(tree))
    assert tree.find(3, tree.hash) == ROOT
    assert tree.find(4, tree[node].hash) == node
    assert tree.find(5, tree[node].hash) is None
    assert tree.find(3, NOWHERE) is None
    assert tree.find(2, prefix_hash(SESSION, (1, 2))) is None  # settled places are no nodes


def test_one_who_begins_anew_holds_nothing_and_what_it_drafted_stays() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5))
    draft(tree, B, PROMPT, (4,))
    tree.disown(A)
    assert branches(tree) == {(4,), (4, 5)}
    assert (tree.held_by(A), tree.held_by(B)) == (0, 1)
    assert [set(tree[node].drafters) for node in tree] == [{B}, {A}], "its work is still its own"
    assert draft(tree, A, PROMPT, (4, 5, 6)) == Merge(duplicate=2, added=1)
    check_tree(tree, SESSION)


def test_of_what_nobody_present_holds_the_oldest_is_kept() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5, 6, 7, 8), (-1, 0, 1, -1, 3))
    draft(tree, B, (*PROMPT, 4, 5), (9,))
    tree.shed({A, B}, 0)
    assert len(tree) == 6
    tree.shed({B}, 1)
    assert branches(tree) == {(4,), (4, 5), (4, 5, 9), (4, 5, 6)}, "B's hangs from the first two"
    assert (tree.held_by(A), tree.held_by(B)) == (3, 1)
    tree.shed((), 2)
    assert branches(tree) == {(4,), (4, 5)}
    assert draft(tree, B, (*PROMPT, 4, 5, 9), (1,)) == Merge(unknown=1)
    check_tree(tree, SESSION)


def test_nodes_that_are_spared_stay_and_what_they_hang_from() -> None:
    tree = tree_of()
    draft(tree, A, PROMPT, (4, 5, 6, 7), (-1, 0, 1, -1))
    tree.shed((), 0, [tree.along((4, 5))[1], 99])
    assert branches(tree) == {(4,), (4, 5)}
    check_tree(tree, SESSION)


VOCABULARY = 4
PEERS = [A, B, PeerId("c")]


class AnyTraffic(RuleBasedStateMachine):
    """Honest, late, doubled, misplaced and senseless drafts between commits, in any order."""

    @initialize(prefix=st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=4))
    def begin(self, prefix: list[int]) -> None:
        self.tree = DraftTree(SESSION, prefix)
        self.committed = list(prefix)
        self.sent: list[tuple[PeerId, tuple[int, ...]]] = []

    def send(
        self,
        peer: PeerId,
        base: Sequence[int],
        tokens: Sequence[int],
        parents: Sequence[int],
        limits: tuple[int, int, int],
        bases: Sequence[Sequence[int]] = (),
    ) -> Merge:
        before = {node: set(self.tree[node].holders) for node in self.tree}
        merge = draft(
            self.tree,
            peer,
            base,
            tokens,
            parents,
            vocab_size=VOCABULARY,
            max_positions=limits[0],
            max_tokens=limits[1],
            max_children=limits[2],
            bases=bases,
        )
        assert sum(dataclasses.astuple(merge)) == len(tokens)
        gained = {node for node in self.tree if peer in self.tree[node].holders - before.get(node, set())}
        assert len(self.tree) == len(before) + merge.added
        assert merge.added <= len(gained) <= merge.added + merge.duplicate
        for node in gained:
            assert self.tree[node].length - self.tree.committed_len <= limits[0]
            assert self.tree[node].token < VOCABULARY
        assert not gained or self.tree.held_by(peer) <= limits[1]
        for place in {self.tree[node].parent for node in self.tree if node not in before}:
            assert sum(self.tree[child].origin == peer for child in self.tree.children(place).values()) <= limits[2]
        for node, holders in before.items():
            assert self.tree[node].holders - {peer} == holders - {peer}, "nobody drafts on another's account"
        self.sent.append((peer, tuple(tokens)))
        return merge

    limits = st.tuples(st.integers(0, 6), st.integers(0, 10), st.integers(0, VOCABULARY))
    peers = st.sampled_from(PEERS)
    chain = st.lists(st.integers(0, VOCABULARY - 1), min_size=1, max_size=6)

    @rule(peer=peers, tokens=chain, limits=limits)
    def draft_at_the_root(self, peer: PeerId, tokens: list[int], limits: tuple[int, int, int]) -> None:
        merge = self.send(peer, self.committed, tokens, (), limits)
        assert merge.late == merge.unknown == 0

    @rule(peer=peers, tokens=chain, limits=limits, data=st.data())
    def draft_late(self, peer: PeerId, tokens: list[int], limits: tuple[int, int, int], data: st.DataObject) -> None:
        cut = data.draw(st.integers(0, len(self.committed)))
        agree = data.draw(st.integers(0, len(self.committed) - cut))
        tokens = [*self.committed[cut : cut + agree], *tokens]
        merge = self.send(peer, self.committed[:cut], tokens, (), limits)
        settled = self.committed[cut:]
        same = tokens[: len(settled)] == settled
        assert merge.late == (len(settled) if same else len(tokens))
        assert merge.unknown == 0

    @rule(peer=peers, tokens=chain, limits=limits, data=st.data())
    def draft_below_a_node(
        self, peer: PeerId, tokens: list[int], limits: tuple[int, int, int], data: st.DataObject
    ) -> None:
        if not len(self.tree):
            return
        node = data.draw(st.sampled_from(sorted(self.tree)))
        merge = self.send(peer, [*self.committed, *self.tree.path(node)], tokens, (), limits)
        assert merge.unknown == 0

    @rule(
        peer=peers,
        base=st.lists(st.integers(0, VOCABULARY - 1), max_size=7),
        tokens=st.lists(st.integers(-1, VOCABULARY + 1), min_size=1, max_size=8),
        parents=st.lists(st.integers(-4, 9), max_size=9),
        limits=limits,
        bases=st.lists(st.lists(st.integers(0, VOCABULARY - 1), max_size=7), max_size=2),
    )
    def send_junk(
        self,
        peer: PeerId,
        base: list[int],
        tokens: list[int],
        parents: list[int],
        limits: tuple[int, int, int],
        bases: list[list[int]],
    ) -> None:
        self.send(peer, base, tokens, parents, limits, bases)

    @rule(peer=peers)
    def begin_anew(self, peer: PeerId) -> None:
        size = len(self.tree)
        self.tree.disown(peer)
        assert (len(self.tree), self.tree.held_by(peer)) == (size, 0)

    @rule(present=st.sets(peers), most=st.integers(0, 10), data=st.data())
    def shed(self, present: set[PeerId], most: int, data: st.DataObject) -> None:
        spared = data.draw(st.sets(st.sampled_from([*self.tree, 10_000])))
        needed = {node for node in self.tree if node in spared or self.tree[node].holders & present}
        paths = {self.path(node) for node in needed}
        held = {node for node in self.tree if any(path[: len(p)] == p for path in paths for p in [self.path(node)])}
        expected = held | set(sorted(set(self.tree) - held)[:most])
        self.tree.shed(present, most, spared)
        assert set(self.tree) == expected

    def path(self, node: int) -> tuple[int, ...]:
        return tuple(self.tree.path(node))

    @rule(tokens=st.lists(st.integers(0, VOCABULARY - 1), max_size=4), data=st.data())
    def commit(self, tokens: list[int], data: st.DataObject) -> None:
        if len(self.tree) and data.draw(st.booleans()):  # along a branch, as a target would
            tokens = self.tree.path(data.draw(st.sampled_from(sorted(self.tree)))) + tokens[:1]
        expected = {path[len(tokens) :] for path in branches(self.tree) if path[: len(tokens)] == tuple(tokens)} - {()}
        self.tree.commit(tokens)
        self.committed += tokens
        assert branches(self.tree) == expected

    @invariant()
    def everything_adds_up(self) -> None:
        if hasattr(self, "tree"):
            assert list(self.tree.committed) == self.committed
            check_tree(self.tree, SESSION)


AnyTraffic.TestCase.settings = settings(max_examples=60, deadline=None)
TestAnyTraffic = AnyTraffic.TestCase
