"""How a drafter's tree grows, against a model of which every candidate and every chance is known beforehand."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from hashlib import blake2b

import pytest

from wanspec_p2p.speculation.calibration import RANKS, RankTable, quantised
from wanspec_p2p.speculation.growth import Growth
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX, Ranking
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.types import PeerId, SessionId, TokenId

Path = tuple[TokenId, ...]
PROMPT = (1, 2)
FLOOR = 0.02
DEEPEST = 9


class Fixed(RankTable):
    """Learns nothing, so that every chance is known beforehand."""

    def learn(self, sureness: int, rank: int | None) -> None:
        pass


TABLE = Fixed()


def opinion(prefix: Path) -> Ranking:
    """What the model says after `prefix`: nothing once that is long enough."""
    if len(prefix) >= DEEPEST:
        return Ranking((), 0)
    digest = blake2b(repr(prefix).encode(), digest_size=2).digest()
    return Ranking(tuple((digest[0] + 7 * rank) % 64 for rank in range(RANKS)), digest[1] // 2)


def flat(prefix: Path) -> Ranking:
    """The same four candidates everywhere, of the same chances."""
    return Ranking((10, 11, 12, 13), 64)


FIRST, SECOND, THIRD, _ = TABLE.chances(64)


class Grower:
    """A drafter without a session: everything it has run and sent, by its tokens from the start of the text."""

    def __init__(
        self,
        says: Callable[[Path], Ranking] = opinion,
        *,
        floor: float = FLOOR,
        lane: int = 0,
        lanes: int = 1,
        table: RankTable = TABLE,
    ) -> None:
        self.tree = DraftTree(SessionId("s"), PROMPT)
        self.growth = Growth(self.tree, PeerId("me"), table, floor=floor, lane=lane, lanes=lanes)
        self.says = says
        self.run: list[Path] = []
        self.sent: list[Path] = []

    def prefix(self, node: int) -> Path:
        return (*self.tree.committed, *self.tree.path(node))

    def take(self, count: int, allowed: Callable[[int], bool] = lambda node: True) -> list[int]:
        nodes = self.growth.take(count, allowed)
        assert all(self.tree[node].parent not in nodes[i:] for i, node in enumerate(nodes)), "a child before its parent"
        self.run.extend(self.prefix(node) for node in nodes)
        return nodes

    def expand(self, nodes: Iterable[int]) -> None:
        for node in nodes:
            self.growth.expand(node, self.says(self.prefix(node)))

    def admit(self, most: int = 1_000, reach: int = 1_000) -> list[int]:
        nodes = self.growth.admit(most, reach)
        self.sent.extend(self.prefix(node) for node in nodes)
        return nodes

    @property
    def waiting(self) -> bool:
        return self.growth.waiting(lambda node: True)

    def exhaust(self, batch: int = 8) -> None:
        """Until there is nothing left to run or send."""
        if not self.growth.root_known:
            self.run.append(self.prefix(ROOT))
            self.expand([ROOT])
        self.admit()
        while nodes := self.take(batch):
            self.expand(nodes)
            self.admit()
        assert not self.waiting

    def commit(self, *tokens: TokenId) -> None:
        self.growth.settle(tokens)
        root: int | None = ROOT
        for token in tokens:
            root = None if root is None else self.tree.children(root).get(token)
        self.tree.commit(tokens)
        self.growth.moved(root)

    def score(self, prefix: Path) -> float:
        """The product of the chances along the path from the root, from nothing but the model."""
        product = 1.0
        for length in range(self.tree.committed_len, len(prefix)):
            says = self.says(prefix[:length])
            product *= TABLE.chances(says.confidence)[says.tokens.index(prefix[length])]
        return product

    def worthwhile(self) -> set[Path]:
        """Every path below the root that is likely enough."""
        found: set[Path] = set()
        todo: list[Path] = [tuple(self.tree.committed)]
        while todo:
            prefix = todo.pop()
            longer = [(*prefix, token) for token in self.says(prefix).tokens]
            likely = [path for path in longer if self.score(path) >= self.growth_floor]
            found.update(likely)
            todo.extend(likely)
        return found

    growth_floor = FLOOR

    def main_path(self) -> set[Path]:
        prefix, found = tuple(self.tree.committed), set[Path]()
        while (says := self.says(prefix)).tokens:
            prefix = (*prefix, says.tokens[0])
            if self.score(prefix) < self.growth_floor:
                break
            found.add(prefix)
        return found


def in_order(scores: Sequence[float]) -> bool:
    return list(scores) == sorted(scores, reverse=True)


def test_everything_likely_enough_is_sent_and_nothing_else() -> None:
    drafter = Grower()
    drafter.exhaust()
    assert {drafter.prefix(node) for node in drafter.tree} == drafter.worthwhile()
    assert len(drafter.sent) == len(set(drafter.sent)) == len(drafter.tree) > 30


def test_the_best_is_run_first() -> None:
    drafter = Grower()
    drafter.exhaust(batch=1)
    assert in_order([drafter.score(prefix) for prefix in drafter.run])
    assert len(drafter.run) == 1 + len(drafter.tree)


def test_the_best_is_sent_first() -> None:
    drafter = Grower()
    drafter.expand([ROOT])
    scores = [drafter.score(drafter.prefix(node)) for node in drafter.admit()]
    assert len(scores) >= 3
    assert in_order(scores)


def test_a_batch_is_the_best_of_what_waits() -> None:
    drafter = Grower(flat)
    drafter.expand([ROOT])
    first, second, *_ = drafter.admit()
    assert drafter.take(2) == [first, second]


def test_a_token_goes_out_with_its_chance() -> None:
    drafter = Grower(flat)
    drafter.expand([ROOT])
    drafter.admit()
    assert [drafter.tree[node].confidence for node in drafter.tree] == [quantised(c) for c in TABLE.chances(64)]


@pytest.mark.parametrize("lanes", [1, 2, 3, 4])
def test_lanes_share_the_branches_and_all_run_the_likeliest_path(lanes: int) -> None:
    alone = Grower()
    alone.exhaust()
    drafters = [Grower(lane=lane, lanes=lanes) for lane in range(lanes)]
    for drafter in drafters:
        drafter.exhaust()
    run = [set(drafter.run) for drafter in drafters]
    assert set.union(*run) == set(alone.run)
    trunk = {PROMPT} | alone.main_path()
    for lane, own in enumerate(run):
        assert trunk <= own
        for other in run[:lane]:
            assert own & other == trunk, "two drafters have run the same branch"
    assert min(len(own - trunk) for own in run) > 0, "a lane without branches"
    assert {prefix for drafter in drafters for prefix in drafter.sent} == set(alone.sent)


@pytest.mark.parametrize("lanes", [2, 3, 4])
@pytest.mark.parametrize("rank", range(RANKS))
def test_lanes_together_run_everything_after_a_verdict_too(lanes: int, rank: int) -> None:
    drafters = [Grower(lane=lane, lanes=lanes) for lane in range(lanes)]
    taken = opinion(PROMPT).tokens[rank]
    for drafter in drafters:
        drafter.exhaust()
        drafter.commit(taken)
        drafter.exhaust()
        assert drafter.main_path() <= set(drafter.run)
        assert len(drafter.run) == len(set(drafter.run)), "run twice"
    assert drafters[0].worthwhile() <= {prefix for drafter in drafters for prefix in drafter.run}


def test_a_verdict_makes_likely_what_lay_below_the_floor() -> None:
    assert SECOND * FIRST < 0.15 < SECOND
    drafter = Grower(flat, floor=0.15)
    drafter.expand([ROOT])
    _, second = drafter.admit()
    drafter.take(2)
    drafter.expand([second])
    assert drafter.admit() == []
    drafter.commit(11)
    assert [drafter.tree.path(node) for node in drafter.admit()] == [[10], [11]]
    assert drafter.growth.root_known, "the root had been run when it was a branch"


def test_a_node_that_a_verdict_makes_the_root_keeps_what_was_run_below_it() -> None:
    drafter = Grower()
    drafter.exhaust()
    before = set(drafter.run)
    main = opinion(PROMPT).tokens[0]
    drafter.run.clear()
    drafter.commit(main)
    assert drafter.growth.root_known
    drafter.exhaust(batch=1)
    assert before.isdisjoint(drafter.run)
    assert drafter.run, "what was below the floor has come up"
    assert in_order([drafter.score(prefix) for prefix in drafter.run])
    assert {drafter.prefix(node) for node in drafter.tree} == drafter.worthwhile()


def test_what_a_verdict_contradicts_never_comes_back() -> None:
    drafter = Grower()
    drafter.exhaust()
    nodes = set(drafter.tree)
    drafter.commit(99)
    assert (drafter.growth.root_known, drafter.waiting, len(drafter.tree)) == (False, False, 0)
    assert drafter.admit() == []
    assert drafter.take(9) == []
    drafter.exhaust()
    assert nodes.isdisjoint(drafter.tree)
    assert {drafter.prefix(node) for node in drafter.tree} == drafter.worthwhile()


def test_candidates_without_credit_wait() -> None:
    drafter = Grower(flat)
    drafter.expand([ROOT])
    assert drafter.admit(most=0) == drafter.admit(most=-1) == drafter.admit(reach=len(PROMPT)) == []
    assert not drafter.waiting
    assert [drafter.tree[node].token for node in drafter.admit(most=1)] == [10]
    assert [drafter.tree[node].token for node in drafter.admit(reach=len(PROMPT) + 1)] == [11, 12, 13]


def test_what_lies_too_deep_waits_and_what_is_less_likely_does_not() -> None:
    drafter = Grower(lambda prefix: Ranking((10, 11), CONFIDENCE_MAX))
    drafter.expand([ROOT])
    first, second = drafter.admit()
    drafter.expand([first, second])
    reach = drafter.tree.committed_len + 1
    assert drafter.admit(reach=reach) == []
    assert [drafter.tree.path(node) for node in drafter.admit(most=1, reach=reach + 1)] == [[10, 10]]


def test_of_equally_likely_candidates_the_older_comes_first_after_a_verdict_too() -> None:
    drafter = Grower(flat)
    drafter.expand([ROOT])
    drafter.expand([drafter.admit()[0]])
    likeliest, next_to_it = [node for node in drafter.admit() if len(drafter.tree.path(node)) == 2][:2]
    drafter.expand([next_to_it, likeliest])  # below it the likeliest, and below that one the next, are equal
    drafter.commit(10)
    found = [drafter.tree.path(node) for node in drafter.admit()]
    assert found.index([11, 10]) + 1 == found.index([10, 11])


def test_nodes_that_may_not_be_run_wait() -> None:
    drafter = Grower(flat)
    drafter.expand([ROOT])
    first, second, *_ = drafter.admit()
    assert drafter.take(1, lambda node: node != first) == [second]
    assert drafter.growth.waiting(lambda node: node == first)
    assert not drafter.growth.waiting(lambda node: node == second), "it is being run"
    assert drafter.take(1) == [first]


class Ledger(RankTable):
    """A table that also lists what it is taught."""

    def __init__(self) -> None:
        super().__init__()
        self.learned: list[tuple[int, int | None]] = []

    def learn(self, sureness: int, rank: int | None) -> None:
        self.learned.append((sureness, rank))
        super().learn(sureness, rank)


def test_a_verdict_teaches_every_place_it_passes_that_was_run() -> None:
    table = Ledger()
    drafter = Grower(flat, table=table)
    drafter.expand([ROOT])
    _, second, *_ = drafter.admit()
    drafter.take(9)
    drafter.expand([second])
    drafter.admit()
    drafter.commit(11, 10, 12, 13)  # nothing has been run after 11 10
    assert table.learned == [(64, 1), (64, 0)]
    drafter.expand([ROOT])
    drafter.admit()
    drafter.commit(99)
    assert table.learned[2:] == [(64, None)]


def test_a_row_without_an_opinion_teaches_nothing() -> None:
    table = Ledger()
    drafter = Grower(lambda prefix: Ranking((), 0), table=table)
    drafter.expand([ROOT])
    drafter.commit(10)
    assert table.learned == []


@pytest.mark.parametrize("seed", range(120))
def test_any_history_ends_with_all_that_is_worthwhile_run_once(seed: int) -> None:
    """Verdicts come at any time, in the middle of a pass too; credit comes and goes."""
    draw = random.Random(seed)
    drafter = Grower()
    for _ in range(12):
        running = [] if drafter.growth.root_known else [ROOT]
        drafter.run.extend(drafter.prefix(node) for node in running)
        running += drafter.take(draw.randint(1, 6), lambda node: draw.random() < 0.8)
        places = {drafter.prefix(node) for node in running}
        if draw.random() < 0.4 and drafter.tree.committed_len < DEEPEST - 3:
            drafter.commit(*verdict(drafter, draw))
        for node in (ROOT, *list(drafter.tree)):
            if drafter.prefix(node) in places:
                drafter.expand([node])
        drafter.admit(draw.randint(0, 8), drafter.tree.committed_len + draw.randint(0, 3))
        assert all(drafter.score(drafter.prefix(node)) >= FLOOR for node in drafter.tree)
    drafter.exhaust()
    assert {drafter.prefix(node) for node in drafter.tree} == drafter.worthwhile()
    assert drafter.worthwhile() <= set(drafter.run)
    assert len(drafter.run) == len(set(drafter.run)), "run twice"
    assert len(drafter.sent) == len(set(drafter.sent)), "sent twice"


def verdict(drafter: Grower, draw: random.Random) -> list[TokenId]:
    tokens: list[TokenId] = []
    at = ROOT
    for _ in range(draw.randint(1, 3)):
        children = drafter.tree.children(at)
        if not children or draw.random() < 0.2:
            return [*tokens, 99]
        tokens.append(draw.choice(list(children)))
        at = children[tokens[-1]]
    return tokens
