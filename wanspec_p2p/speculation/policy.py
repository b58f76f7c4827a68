"""What is worth verifying. Pure functions of measured acceptance; no constant is tuned to a workload.

First form: the likeliest candidates up to a fixed width. Draft length, fan-out, hedging and the gate come here.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from dataclasses import dataclass

from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.tree import ROOT, DraftTree
from wanspec_p2p.speculation.verify import Candidates
from wanspec_p2p.types import PeerId

__all__ = ["Policy", "select"]


MIN_POSITIONS = 2
"""Even a drafter that was always wrong gets so much, to show that it is right again."""


@dataclass(frozen=True, slots=True)
class Policy:
    """Knobs of a target session.

    Args:
        width: candidates in one pass. With the root's row they fill a multiple of four rows.
        window: the most credit any drafter gets.
        floor: a candidate less likely than this to be walked is not worth its row, nor is drafting it.
        retry_rounds: every so many rounds one candidate below the floor is verified all the same, so that a drafter
            that was wrong for a while can show that it is right again.
    """

    width: int = 7
    window: Window = Window(positions=16, tokens=32)
    floor: float = 0.02
    retry_rounds: int = 16

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


def select(
    tree: DraftTree, acceptance: Callable[[PeerId], float], policy: Policy, round_number: int, positions: int
) -> Candidates:
    """The candidates most likely to be walked, parents first, best first.

    A node's chance is its parent's times the acceptance of its best drafter; siblings share what is left by those
    before them.

    Args:
        positions: how many candidates deep a path may go; beyond it the answer is at its end anyway.
    """
    nodes: list[int] = []
    parents: list[int] = []
    index = {ROOT: -1}
    floor = 0.0 if round_number % policy.retry_rounds == 0 else policy.floor
    heap: list[tuple[float, int]] = []

    def offer_children(of: int, chance: float) -> None:
        for child in tree.children(of).values():
            alpha = max(acceptance(peer) for peer in tree[child].drafters)
            heapq.heappush(heap, (-chance * alpha, child))
            chance *= 1.0 - alpha

    if positions > 0:
        offer_children(ROOT, 1.0)
    spared = 0
    while heap and len(nodes) < policy.width:
        chance, node_id = heapq.heappop(heap)
        if -chance < policy.floor:
            if -chance < floor or spared:
                break
            spared += 1
        node = tree[node_id]
        index[node_id] = len(nodes)
        nodes.append(node_id)
        parents.append(index[node.parent])
        if node.length - tree.committed_len < positions:
            offer_children(node_id, -chance)
    return Candidates(tuple(nodes), tuple(tree[n].token for n in nodes), tuple(parents))
