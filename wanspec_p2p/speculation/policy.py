"""What is worth verifying, and what is worth drafting at the target. Pure functions of what was measured.

Every candidate has a chance to be on the answer's path: the product, along its path, of what its drafters are believed.
Every decision compares tokens expected with tokens that the same time makes at the session's own pace (the marginal
value theorem; with the rate learned as one goes it converges on the best rate, Dinkelbach 1967). No constant belongs
to a workload, a model or a distance.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass

from wanspec_p2p.speculation.allotment import Place
from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.verify import Candidates
from wanspec_p2p.types import TokenId

__all__ = ["MAX_PRICE", "LocalDrafting", "Policy", "places", "select"]

MAX_PRICE = 1000
"""Of a pass at the target: nothing it could bring is worth so much."""

MIN_POSITIONS = 2
"""Even a drafter that was always wrong gets so much, to show that it is right again."""
SIBLINGS = 0.999
"""Chances of one place's candidates add up to no more."""
NEGLIGIBLE = 1e-4


@dataclass(frozen=True, slots=True)
class LocalDrafting:
    """How a target uses a drafter of its own.

    Args:
        rows: nodes in one pass of it.
        candidates: kept of each node's; 1 drafts a chain.
        price: how much dearer than its time a pass is held to be, where passes at the target are to be spared.
        reliance: how much dearer still, where nodes bring all that is accepted: they will bring much of what it would.
        passes: exactly so many before each verification, whatever it brings; None lets the gate decide.
    """

    rows: int = 8
    candidates: int = 4
    price: float = 0.25
    reliance: float = 0.5
    passes: int | None = None

    def dearer(self, share: float) -> float:
        """Than its time, where nodes brought this share of what was accepted lately.

        Squared, because a few tokens from afar say nothing of the next verification
        (docs/decisions/0027-nodes-that-bring-much-are-relied-on.md).
        """
        return (1.0 + self.price) * (1.0 + self.reliance * share * share) - 1.0


@dataclass(frozen=True, slots=True)
class Policy:
    """Knobs of a target session.

    Args:
        width: candidates in one pass. With the root's row they fill a multiple of four rows.
        window: the most credit any drafter gets.
        outlook: each verdict tells a drafter what of so many likeliest candidates others drafted.
        floor: where a drafter's paths have less chance than this, its credit ends.
        retry_rounds: every so many rounds one candidate not worth its row is verified all the same, so that a drafter
            that was wrong for a while can show that it is right again.
        local: how the target's own drafter is used, if it has one.
    """

    width: int = 63
    window: Window = Window(positions=64, tokens=1024)
    outlook: int = 16
    floor: float = 0.001
    retry_rounds: int = 16
    local: LocalDrafting = LocalDrafting()

    def credit(self, acceptance: float) -> Window:
        """How far a drafter of this acceptance may run ahead: as deep as a path still has a chance above the floor.

        What lies deeper will be thrown away, at whatever distance the drafter is: it only warms its processor.
        """
        most = self.window
        if acceptance >= 1.0 or self.floor <= 0.0:
            return most
        deep = math.ceil(math.log(self.floor) / math.log(acceptance))
        positions = min(most.positions, max(MIN_POSITIONS, deep))
        return Window(positions, -(-most.tokens * positions // max(1, most.positions)))


def _shared(tree: DraftTree, of: int, belief: Callable[[int], float]) -> list[tuple[int, float]]:
    """The children of a place with their chances, which add up to less than one."""
    children = [(child, belief(child)) for child in tree.children(of).values()]
    total = sum(chance for _, chance in children)
    if total <= SIBLINGS:
        return children
    return [(child, chance * SIBLINGS / total) for child, chance in children]


def select(
    tree: DraftTree,
    belief: Callable[[int], float],
    *,
    width: int,
    floor: float,
    retry: bool,
    positions: int,
    stop_tokens: Container[TokenId] = (),
) -> Candidates:
    """The candidates most likely to be walked, parents first, best first.

    Args:
        belief: the chance that a node is right if its parent is.
        width: at most so many.
        floor: candidates less likely than this to be walked are left alone.
        retry: but for one of them.
        positions: how many candidates deep a path may go; beyond it the answer is at its end anyway.
        stop_tokens: no path goes beyond one of them.
    """
    nodes: list[int] = []
    parents: list[int] = []
    chances: list[float] = []
    index = {ROOT: -1}
    heap: list[tuple[float, int]] = []

    def offer_children(of: int, chance: float) -> None:
        for child, share in _shared(tree, of, belief):
            heapq.heappush(heap, (-chance * share, child))

    if positions > 0:
        offer_children(ROOT, 1.0)
    while heap and len(nodes) < width:
        chance, node_id = heapq.heappop(heap)
        if -chance < floor:
            if not retry:
                break
            retry = False
        node = tree[node_id]
        index[node_id] = len(nodes)
        nodes.append(node_id)
        parents.append(index[node.parent])
        chances.append(-chance)
        if node.length - tree.committed_len < positions and node.token not in stop_tokens:
            offer_children(node_id, -chance)
    return Candidates(tuple(nodes), tuple(tree[n].token for n in nodes), tuple(parents), tuple(chances))


def places(
    tree: DraftTree,
    belief: Callable[[int], float],
    *,
    rows: int,
    chances: Sequence[float],
    expanded: Container[int],
    warm: Container[int],
    runnable: Callable[[int], bool],
) -> list[Place]:
    """Where a local draft would add most, best first, in at most `rows` rows.

    A place whose candidates already hold what its ranks would gains nothing.

    Args:
        chances: that the target's token is candidate number 1, 2, … of a place that is run.
        expanded: places that the local drafter has run.
        warm: those in its cache, maybe the root; a place below others that are not has them run too.
        runnable: whether anything may follow a node.
    """
    heap: list[tuple[float, int, tuple[float, ...]]] = []
    mass = sum(chances)

    def offer(of: int, chance: float) -> None:
        children = _shared(tree, of, belief)
        if of not in expanded:
            # Which of its ranks others have drafted is not known; what they leave open counts as one candidate.
            ranks = (mass - sum(share for _, share in children),) if children else chances
            worth = tuple(chance * rank for rank in ranks if rank > 0.0)
            heapq.heappush(heap, (-sum(worth), of, worth))
        for child, share in children:
            if chance * share > NEGLIGIBLE and runnable(child):
                offer(child, chance * share)

    offer(ROOT, 1.0)
    room = rows
    found: list[Place] = []
    chosen: dict[int, None] = {}
    while heap and room > 0:
        worth, node, candidates = heapq.heappop(heap)
        if -worth <= NEGLIGIBLE:
            break
        if node in warm or node in chosen:
            continue  # no pass returns a row again whose keys the cache has; or it is run already, for one below it
        place = Place(tuple(sorted(_cold_path(tree, node, warm, chosen))), candidates)
        if place.rows > room:
            continue
        room -= place.rows
        chosen.update(dict.fromkeys(place.nodes))
        found.append(place)
    return found


def _cold_path(tree: DraftTree, node: int, warm: Container[int], chosen: Container[int]) -> list[int]:
    """`node` and what lies above it, the root included, that would have to be run for it."""
    path: list[int] = []
    while node not in warm and node not in chosen:
        path.append(node)
        if node == ROOT:
            break
        node = tree[node].parent
    return path
