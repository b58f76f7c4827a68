"""Acceptance figures of one session, in the terms the literature and vLLM use."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from wanspec_p2p.speculation.local import LOCAL
from wanspec_p2p.speculation.tree import DraftTree, Merge
from wanspec_p2p.speculation.verify import Candidates, Step
from wanspec_p2p.types import PeerId

__all__ = ["DrafterStats", "SessionStats"]

NEAR_TIE_MARGIN = 1e-4
"""Below this gap of the two best scores, an engine of class near-tie might have chosen the other."""
DECAY = 0.95
"""Weight that past decisions keep at each new one: acceptance is judged on about the last twenty."""
TRUST = 2.0
"""Right decisions that each drafter is given: one that went wrong is not yet a reason to wait for the next."""


@dataclass(slots=True)
class DrafterStats:
    rounds: int = 0  # settled while it drafted for the session, or was to
    drafted: int = 0  # tokens it sent
    verified: int = 0  # of these, tokens that entered a pass
    accepted: int = 0  # of these, tokens of the answer that it was not told of
    won: int = 0  # of these, tokens nobody brought earlier
    winning: float = 0.0  # of these, by rounds since: what it brings of late
    late: int = 0
    unknown: int = 0
    surplus: int = 0
    hits: float = 0.0
    decisions: float = 0.0
    reached: Counter[int] = field(default_factory=Counter)  # by depth: positions it drafted for below a right token
    right: Counter[int] = field(default_factory=Counter)  # by depth: of these, positions it was right about

    def decided(self, hit: bool) -> None:
        self.hits = DECAY * self.hits + hit
        self.decisions = DECAY * self.decisions + 1.0

    def undecided(self) -> None:
        """A round told nothing of it: what was known counts for less."""
        self.hits *= DECAY
        self.decisions *= DECAY

    @property
    def acceptance(self) -> float:
        """Recent share of positions, below a right token, where one of its candidates was right; 1.0 at first.

        Whoever is not heard of is trusted again by and by. From far away, less credit than what is settled meanwhile
        lets nothing arrive in time, so that nothing would be decided, for ever.
        """
        return (self.hits + TRUST) / (self.decisions + TRUST)

    def judged(self, depth: int, right: bool) -> None:
        """Count a position that lay `depth` tokens beyond the committed prefix (1: the very next) when it was decided.

        right / reached is vLLM's acceptance per position, given that the position before it was right.
        """
        self.reached[depth] += 1
        self.right[depth] += right

    def passed(self) -> None:
        """A round is over."""
        self.winning *= DECAY

    @property
    def by_depth(self) -> tuple[tuple[int, int], ...]:
        """(reached, right) for depths 1, 2, … down to the deepest that was reached."""
        return tuple((self.reached[k], self.right[k]) for k in range(1, max(self.reached, default=0) + 1))


@dataclass(slots=True)
class SessionStats:
    rounds: int = 0
    local_passes: int = 0  # of the target's own drafter
    verified: int = 0
    accepted: int = 0
    near_ties: int = 0
    by_length: Counter[tuple[int, int]] = field(default_factory=Counter)  # rounds by (deepest draft, accepted)
    drafters: dict[PeerId, DrafterStats] = field(default_factory=dict)  # the target's own, `LOCAL`, is one of them

    def of(self, drafter: PeerId) -> DrafterStats:
        own = self.drafters.get(drafter)
        if own is None:
            own = self.drafters[drafter] = DrafterStats()
        return own

    @property
    def peers(self) -> dict[PeerId, DrafterStats]:
        """Of nodes: the target's own drafter is in no race with them, and is owed nothing."""
        return {drafter: own for drafter, own in self.drafters.items() if drafter != LOCAL}

    @property
    def remote_share(self) -> float:
        """Of the tokens accepted lately, those that nodes brought first; 0 before the first."""
        brought = sum(own.winning for own in self.peers.values())
        return brought / (1.0 + sum(own.winning for own in self.drafters.values()))

    @property
    def late(self) -> int:
        return sum(d.late for d in self.drafters.values())

    @property
    def won_by_peer(self) -> dict[PeerId, int]:
        return {peer: d.won for peer, d in self.peers.items() if d.won}

    @property
    def lost(self) -> int:
        """Right tokens of nodes that another drafter had brought before."""
        return sum(max(d.accepted - d.won, 0) for d in self.peers.values())

    @property
    def invalid(self) -> int:
        """Draft tokens that fitted nowhere."""
        return sum(d.unknown + d.surplus for d in self.drafters.values())

    @property
    def accepted_by_length(self) -> dict[int, tuple[int, ...]]:
        """vLLM's `acceptance_histogram_by_draft_length`, where a tree is as long as it is deep: [k][j] rounds accepted
        j tokens of drafts k deep. Rounds without drafts are under 0.
        """
        lengths = sorted({length for length, _ in self.by_length})
        return {k: tuple(self.by_length[k, j] for j in range(k + 1)) for k in lengths}

    @property
    def accepted_per_round(self) -> float:
        return self.accepted / self.rounds if self.rounds else 0.0

    def arrived(self, drafter: PeerId, merge: Merge) -> None:
        own = self.of(drafter)
        own.drafted += merge.added + merge.duplicate + merge.late + merge.unknown + merge.surplus
        own.late += merge.late
        own.unknown += merge.unknown
        own.surplus += merge.surplus

    def verified_round(self, tree: DraftTree, candidates: Candidates, steps: Sequence[Step]) -> Counter[PeerId]:
        """Count a round, before the tree moves on. Only a node whose parent was right tells about its drafter.

        Returns:
            How many of its tokens each drafter had drafted. What it was told of before is no merit of its own.
        """
        right = {step.candidate for step in steps if step.candidate is not None}
        self.rounds += 1
        self.verified += len(candidates.nodes)
        self.accepted += len(right)
        self.by_length[_deepest(candidates), len(right)] += 1
        self.near_ties += sum(step.margin < NEAR_TIE_MARGIN for step in steps)
        for own in self.drafters.values():
            own.passed()
        depths = {step.row - 1: depth for depth, step in enumerate(steps, 1)}  # of what hangs below that candidate
        positions: dict[tuple[PeerId, int], bool] = {}  # one, however many candidates a drafter had for it
        merits: dict[tuple[PeerId, int], bool] = {}  # of these, those it was not told of
        for i, (node_id, parent) in enumerate(zip(candidates.nodes, candidates.parents, strict=True)):
            node = tree[node_id]
            for drafter in node.drafters:
                own = self.of(drafter)
                own.verified += 1
                if (depth := depths.get(parent)) is not None:
                    positions[drafter, depth] = i in right or positions.get((drafter, depth), False)
                    if drafter not in node.told:
                        merits[drafter, depth] = i in right or merits.get((drafter, depth), False)
            if i in right and node.origin not in node.told:
                self.of(node.origin).won += 1
                self.of(node.origin).winning += 1.0
        for (drafter, _), hit in positions.items():
            self.of(drafter).decided(hit)
        for (drafter, depth), hit in merits.items():
            self.of(drafter).judged(depth, hit)
            self.of(drafter).accepted += hit
        for drafter in self.drafters.keys() - {drafter for drafter, _ in positions}:
            self.drafters[drafter].undecided()
        return Counter(drafter for (drafter, _), hit in merits.items() if hit)


def _deepest(candidates: Candidates) -> int:
    depths: list[int] = []
    for parent in candidates.parents:
        depths.append(1 if parent < 0 else depths[parent] + 1)
    return max(depths, default=0)
