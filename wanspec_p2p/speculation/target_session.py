"""One generation as the target sees it: merge what has arrived, verify when the model is free, commit, tell everyone.

    NEW ──Started──▶ WAITING ──ModelFree──▶ VERIFYING ──Verified──▶ WAITING … ──▶ FINISHED
                        ▲ └────ModelFree──▶ DRAFTING, in a turn of the target's own drafter
                        └────LocalDrafted──────┘

All state changes go through `handle`. `TRANSITIONS` lists what is legal; anything else is a bug of ours.
"""

from __future__ import annotations

import enum
import itertools
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.calibration import RANKS, chance, quantised
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    DrafterJoined,
    DrafterLeft,
    LocalDrafted,
    LocalFailed,
    ModelFailed,
    ModelFree,
    Outlook,
    Started,
    TargetEvent,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    AnnounceVerdict,
    CloseDraft,
    Committed,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunLocalPass,
    RunPass,
    SendVerdict,
    TargetInstruction,
    TokenScores,
)
from wanspec_p2p.speculation.local import LOCAL, LocalDrafter, Reach
from wanspec_p2p.speculation.pace import LONG_PROMPT, Knowledge, SharedPass
from wanspec_p2p.speculation.policy import NEGLIGIBLE, Policy, select
from wanspec_p2p.speculation.sampling import Row, Sampler, logprobs
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.tree import DraftTree
from wanspec_p2p.speculation.verify import Candidates, Step, walk
from wanspec_p2p.types import FinishReason, PeerId, Sampling, Segment, SessionId, TokenId

__all__ = ["TRANSITIONS", "SessionSpec", "TargetSession", "TargetState"]

PROGRESS_MEMORY = 0.95
TELLING = 64
"""Outlooks that may be on their way to a drafter; older ones are settled before it has heard of them."""
RECENT_WINDOWS = 16
"""Windows of a drafter that count: drafts under an earlier, larger one may still be on their way."""
MAX_CHILDREN = 2 * RANKS
"""New candidates that one drafter may name at one place: those of a pass, and others should it begin anew."""
UNSURE = quantised(0.5)
"""What a token counts for whose drafter says nothing about it."""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """What a generation is. The answer is a function of these fields and the engine alone.

    Args:
        committed: tokens of the answer that are already out; the session goes on after them.
        stop_tokens: end-of-sequence ids that end the answer (empty where the submitter ignores them).
        max_tokens: length of the whole answer, `committed` included.
        top_logprobs: None for no log-probabilities.
    """

    session: SessionId
    prompt: tuple[TokenId, ...]
    seed: bytes
    sampling: Sampling
    vocab_size: int
    max_tokens: int
    committed: tuple[TokenId, ...] = ()
    stop_tokens: tuple[TokenId, ...] = ()
    top_logprobs: int | None = None

    def __post_init__(self) -> None:
        if not self.prompt:
            raise ValueError("a prompt has at least one token")
        if len(self.committed) >= self.max_tokens:
            raise ValueError("nothing is left to generate")
        if not set(self.stop_tokens).isdisjoint(self.committed):
            raise ValueError("the answer has already ended: it holds an end-of-sequence token")


class TargetState(enum.Enum):
    NEW = enum.auto()
    WAITING = enum.auto()  # for the model
    VERIFYING = enum.auto()
    DRAFTING = enum.auto()  # at the target's own drafter
    FINISHED = enum.auto()


class TargetSession:
    """Exact whatever arrives: drafts, in any order and from anybody, only decide how many tokens a round settles.

    Args:
        knowledge: what the target has learned so far, shared by its sessions.
        local: what the target's own drafter can take in; None where there is none.
    """

    def __init__(
        self,
        spec: SessionSpec,
        policy: Policy | None = None,
        knowledge: Knowledge | None = None,
        *,
        local: Reach | None = None,
    ) -> None:
        self.spec = spec
        self.policy = policy or Policy()
        self.state = TargetState.NEW
        self.stats = SessionStats()
        self.tree = DraftTree(spec.session, (*spec.prompt, *spec.committed))
        self.sampler = Sampler(spec.sampling, spec.seed, spec.vocab_size, spec.prompt, spec.stop_tokens)
        self.sampler.commit(spec.committed)
        self.drafters: dict[PeerId, int] = {}  # to their lane
        self._windows: dict[PeerId, deque[Window]] = {}  # that they were given of late
        self.knowledge = knowledge or Knowledge()
        self._shared: SharedPass | None = None  # that pass, where it is one of many alike
        self._answer_len = len(spec.committed)
        self._candidates = Candidates((), (), ())
        self._offered: Candidates | None = None  # of which the next pass may have a share
        self._telling: dict[PeerId, deque[tuple[float, list[int]]]] = {}  # nodes told of, by when, to be heard yet
        self._beliefs: dict[int, float] = {}  # by node, within one look at the tree
        self._progress = 1.0  # tokens of a pass, lately
        self._cached = 0  # positions in the model's cache that belong to the committed prefix
        self._keep: tuple[int, ...] = ()  # candidates of the last pass to add to them
        self._pending: tuple[TokenId, ...] = (*spec.prompt, *spec.committed)  # committed, not in the cache
        self._local = None if local is None else LocalDrafter(self, self.policy.local, local)

    def handle(self, event: TargetEvent) -> list[TargetInstruction]:
        """The one door.

        Raises:
            LocalProtocolError: this event cannot happen in this state.
        """
        handler = TRANSITIONS.get((self.state, type(event)))
        if handler is None:
            raise LocalProtocolError(f"{type(event).__name__} in state {self.state.name}")
        self._beliefs.clear()
        instructions = handler(self, event)
        self._offered = None  # something has happened since
        return instructions

    @property
    def answer_len(self) -> int:
        return self._answer_len

    @property
    def cache(self) -> str:
        """Its caches' name, at the target's model and at its own drafter."""
        return self.spec.session

    @property
    def stop_tokens(self) -> tuple[TokenId, ...]:
        return self.spec.stop_tokens

    @property
    def remaining(self) -> int:
        return self.spec.max_tokens - self._answer_len

    def _start(self, event: Started) -> list[TargetInstruction]:
        self.state = TargetState.WAITING
        return [RequestModel()]

    def wish(self, at: float) -> Wish:
        """What it could do with the pass that is made up now; nothing unless it waits for one.

        Args:
            at: when this turn began.
        """
        if self.state is not TargetState.WAITING:
            return Wish()
        if self._shared is not None:
            self.knowledge.resumed(self._shared, at)
        self._beliefs.clear()  # other sessions have learned something, maybe
        self._offered = self._choose()
        local, policy = self._local, self.policy
        chances, progress = self._offered.chances, self._progress
        if local is None:
            return Wish(chances, policy.width, progress=progress)
        dearer = policy.local.dearer(self.stats.remote_share)
        return Wish(chances, policy.width, local.places(), dearer, local.held, progress)

    def _choose(self) -> Candidates:
        return self._select(self.policy.width, NEGLIGIBLE, self._retries)

    def _select(self, width: int, floor: float, retry: bool) -> Candidates:
        return select(
            self.tree,
            self.belief,
            width=width,
            floor=floor,
            retry=retry,
            # A pass emits one token more than it accepts: the last remaining one needs no candidate.
            positions=self.remaining - 1,
            stop_tokens=self.spec.stop_tokens,
        )

    @property
    def _retries(self) -> bool:
        """One candidate that does not pay is to be verified all the same."""
        return self.stats.rounds % self.policy.retry_rounds == 0

    def _take_turn(self, event: ModelFree) -> list[TargetInstruction]:
        """Verify what there is; in a turn of the target's own drafter, draft or go on waiting."""
        if not event.drafting:
            return self._verify(event)
        segment = None if self._local is None else self._local.segment(event.share)
        if segment is None:
            return []
        self.state = TargetState.DRAFTING
        self._shared = self.knowledge.drafting.join(event.turn, event.at, segment)
        return [RunLocalPass(segment)]

    def belief(self, node: int) -> float:
        """The chance that a node of the tree is right if its parent is.

        Of all who brought it, the one believed most counts: a peer that comes first and claims little hides nothing.
        """
        known = self._beliefs.get(node)
        if known is None:
            known = self._beliefs[node] = max(
                [
                    self._believed(peer, UNSURE if claim is None else claim)
                    for peer, claim in self.tree[node].claims.items()
                ]
            )
        return known

    def _believed(self, peer: PeerId, claim: int) -> float:
        """Our own drafter's claims are what we have learned of it already: to judge them again adds noise alone."""
        return chance(claim) if peer == LOCAL else self.knowledge.reliability(peer).believed(claim)

    def _verify(self, event: ModelFree) -> list[TargetInstruction]:
        offered = self._offered or self._choose()
        self._candidates = offered if event.share is None else offered.first(event.share + self._retries)
        segment = Segment(
            cache=self.spec.session,
            length=self._cached,
            keep=self._keep,
            tokens=self._pending,
            tree=self._candidates.tokens,
            parents=self._candidates.parents,
        )
        self.state = TargetState.VERIFYING
        alone = len(segment.tokens) > LONG_PROMPT  # not in this turn's pass, but in one of its own
        self._shared = None if alone else self.knowledge.verifying.join(event.turn, event.at, segment)
        instructions: list[TargetInstruction] = [RunPass(segment)]
        if not self.spec.sampling.greedy:
            first = self.tree.committed_len
            deepest = max((self.tree[n].length for n in self._candidates.nodes), default=first)
            instructions.append(PrepareNoise(range(first, deepest + 1)))
        return [*instructions, *self._announcements()]

    def _announcements(self) -> list[TargetInstruction]:
        """Rounds of a target that drafts as well are uneven; others need not be told when theirs end."""
        if self._local is None or self._shared is None:
            return []
        seconds = self.knowledge.verifying_takes(self._shared)
        return [AnnounceVerdict(drafter, seconds) for drafter in self.drafters] if seconds > 0.0 else []

    def _settle(self, event: Verified) -> list[TargetInstruction]:
        candidates = self._candidates
        try:
            steps = walk(candidates, event.rows, self.sampler.choose, self.spec.stop_tokens, self.remaining)
        except EngineError as error:  # logits that are no numbers: better no answer than a wrong one
            return self._fail(ModelFailed(str(error), event.at))
        tokens = tuple(step.token for step in steps)
        committed = tuple(self._committed(step, candidates, event.rows) for step in steps)
        emit = Emit(self._answer_len, committed)
        brought = self.stats.verified_round(self.tree, candidates, steps)
        for drafter in self.drafters:
            self.stats.of(drafter).rounds += 1
            self.knowledge.contributed(drafter, brought[drafter], event.at)
            crossed = self._crossed(drafter, candidates, steps)
            self.knowledge.originality(drafter).brought(brought[drafter] - crossed, crossed)
        self._learn(candidates, steps, event.at)
        self._progress = PROGRESS_MEMORY * self._progress + (1.0 - PROGRESS_MEMORY) * len(steps)
        tails = {drafter: self._tail(drafter, tokens) for drafter in self.drafters}
        if self._local is not None:
            self._local.settle(tokens)

        self._cached += len(self._keep) + len(self._pending)
        self._keep = tuple(step.candidate for step in steps if step.candidate is not None)
        self._pending = tokens[len(self._keep) :]
        self._answer_len += len(tokens)
        self.tree.commit(tokens)
        self.sampler.commit(tokens)

        if tokens[-1] in self.spec.stop_tokens:
            return [emit, *self._finish(FinishReason.STOP)]
        if self.remaining == 0:
            return [emit, *self._finish(FinishReason.LENGTH)]
        self.state = TargetState.WAITING
        length, prefix_hash = self.tree.committed_len, self.tree.hash
        likeliest = self._likeliest()
        verdicts = [
            SendVerdict(d, length, tail, prefix_hash, self._credit(d), self._outlook(likeliest, d, event.at))
            for d, tail in tails.items()
        ]
        return [emit, RequestModel(), *verdicts]

    def _likeliest(self) -> Candidates:
        """What drafters are told of, as far as they lack it."""
        return self._select(self.policy.outlook if self.drafters else 0, 0.0, False)

    def _outlook(self, likeliest: Candidates, drafter: PeerId, at: float) -> Outlook | None:
        """What this drafter has not drafted of them, and what that hangs from."""
        nodes = [self.tree[node] for node in likeliest.nodes]
        told = [drafter not in node.holders for node in nodes]
        for i in reversed(range(len(nodes))):
            if told[i] and likeliest.parents[i] >= 0:
                told[likeliest.parents[i]] = True
        chosen = [i for i, tell in enumerate(told) if tell]
        if not chosen:
            return None
        new = [likeliest.nodes[i] for i in chosen if drafter not in nodes[i].holders]
        self._telling.setdefault(drafter, deque(maxlen=TELLING)).append((at, new))
        for node in map(self.tree.__getitem__, new):
            node.named |= {drafter}
        index = {i: number for number, i in enumerate(chosen)} | {-1: -1}
        return Outlook(
            tuple(likeliest.tokens[i] for i in chosen),
            tuple(index[likeliest.parents[i]] for i in chosen),
            tuple(quantised(self.belief(likeliest.nodes[i])) for i in chosen),
        )

    def _crossed(self, drafter: PeerId, candidates: Candidates, steps: Sequence[Step]) -> int:
        """Of the tokens that count as this drafter's own, those that we told it of before they came."""
        right = (self.tree[candidates.nodes[step.candidate]] for step in steps if step.candidate is not None)
        return sum(drafter in node.drafters and drafter in node.named - node.told for node in right)

    def _learn(self, candidates: Candidates, steps: Sequence[Step], at: float) -> None:
        if self._shared is not None:
            self.knowledge.verified(self._shared, len(steps), at)
        right = {step.candidate for step in steps}
        walked = {step.row - 1 for step in steps}
        for i, (node_id, parent) in enumerate(zip(candidates.nodes, candidates.parents, strict=True)):
            if parent in walked:
                claims = self.tree[node_id].claims
                for peer, claim in ((peer, claim) for peer, claim in claims.items() if peer != LOCAL):
                    self.knowledge.reliability(peer).decided(UNSURE if claim is None else claim, i in right)

    def _drafted(self, event: LocalDrafted) -> list[TargetInstruction]:
        assert self._local is not None and self._shared is not None
        self.knowledge.drafted(self._shared, event.at)
        self.stats.local_passes += 1
        self._local.drafted(event.rows)
        self.state = TargetState.WAITING
        return [RequestModel()]

    def _undrafted(self, event: LocalFailed) -> list[TargetInstruction]:
        self._local = None
        self.state = TargetState.WAITING
        return [RequestModel()]

    def _committed(self, step: Step, candidates: Candidates, rows: Sequence[Row]) -> Committed:
        origin = None if step.candidate is None else self.tree[candidates.nodes[step.candidate]].origin
        if origin == LOCAL:
            origin = None
        scores = None
        if self.spec.top_logprobs is not None:
            logprob, top = logprobs(rows[step.row], self.spec.vocab_size, step.token, self.spec.top_logprobs)
            scores = TokenScores(logprob, tuple(top))
        return Committed(step.token, origin, step.margin, scores, drafted=step.candidate is not None)

    def _tail(self, drafter: PeerId, tokens: tuple[TokenId, ...]) -> tuple[TokenId, ...]:
        """What of `tokens`, about to be committed, this drafter has not drafted itself."""
        own = itertools.takewhile(lambda node: drafter in self.tree[node].holders, self.tree.along(tokens))
        return tokens[len(list(own)) :]

    def _join(self, event: DrafterJoined) -> list[TargetInstruction]:
        if event.drafter in self.drafters:
            return []
        self.drafters[event.drafter] = event.lane
        self.tree.disown(event.drafter)  # of an earlier stay, if any: it no longer knows what it drafted then
        # Drafters that come and go leave no more behind, together, than one may have outstanding.
        self.tree.shed({LOCAL, *self.drafters}, self.policy.window.tokens, self._candidates.nodes)
        return [OpenDraft(event.drafter, tuple(self.tree.committed), self._credit(event.drafter), event.lane)]

    def _credit(self, drafter: PeerId) -> Window:
        """What this drafter is given from now on; it is held to that."""
        window = self.policy.credit(self.stats.of(drafter).acceptance)
        self._windows.setdefault(drafter, deque(maxlen=RECENT_WINDOWS)).append(window)
        return window

    def _leave(self, event: DrafterLeft) -> list[TargetInstruction]:
        self.drafters.pop(event.drafter, None)
        self._telling.pop(event.drafter, None)
        self._windows.pop(event.drafter, None)
        return []

    def _heard(self, drafter: PeerId, before: float) -> None:
        """What it was told before then is none of its own from now on: it may be an echo of our words."""
        telling = self._telling.get(drafter)
        while telling and telling[0][0] < before:
            for node in map(self.tree.__getitem__, self.tree.living(telling.popleft()[1])):
                if drafter not in node.holders:
                    node.told |= {drafter}

    def _merge(self, event: DraftArrived) -> list[TargetInstruction]:
        if event.drafter in self.drafters:
            doubtful = self.knowledge.originality(event.drafter).doubtful
            self._heard(event.drafter, event.at if doubtful else event.heard)
            windows = self._windows[event.drafter]
            merge = self.tree.merge(
                event.drafter,
                event.base_len,
                event.base_hash,
                event.tokens,
                event.parents,
                event.confidences,
                vocab_size=self.spec.vocab_size,
                max_positions=max([window.positions for window in windows]),
                max_tokens=max([window.tokens for window in windows]),
                max_children=MAX_CHILDREN,
                bases=event.bases,
            )
            self.stats.arrived(event.drafter, merge)
        return []

    def _cancel(self, event: Cancelled) -> list[TargetInstruction]:
        return self._finish(FinishReason.CANCELLED)

    def _fail(self, event: ModelFailed) -> list[TargetInstruction]:
        *closing, _ = self._finish(FinishReason.CANCELLED)
        return [*closing, Fail(event.reason)]

    def _finish(self, reason: FinishReason) -> list[TargetInstruction]:
        self.state = TargetState.FINISHED
        closing = [CloseDraft(drafter) for drafter in self.drafters]
        self.drafters.clear()
        return [*closing, Finish(reason)]

    def _ignore(self, event: TargetEvent) -> list[TargetInstruction]:
        return []


_Handler = Callable[[TargetSession, Any], list[TargetInstruction]]

TRANSITIONS: dict[tuple[TargetState, type[TargetEvent]], _Handler] = {
    (TargetState.NEW, Started): TargetSession._start,
    (TargetState.NEW, Cancelled): TargetSession._cancel,
    (TargetState.WAITING, ModelFree): TargetSession._take_turn,
    (TargetState.WAITING, DrafterJoined): TargetSession._join,
    (TargetState.WAITING, DrafterLeft): TargetSession._leave,
    (TargetState.WAITING, DraftArrived): TargetSession._merge,
    (TargetState.WAITING, Cancelled): TargetSession._cancel,
    (TargetState.DRAFTING, LocalDrafted): TargetSession._drafted,
    (TargetState.DRAFTING, LocalFailed): TargetSession._undrafted,
    (TargetState.DRAFTING, DrafterJoined): TargetSession._join,
    (TargetState.DRAFTING, DrafterLeft): TargetSession._leave,
    (TargetState.DRAFTING, DraftArrived): TargetSession._merge,
    (TargetState.DRAFTING, Cancelled): TargetSession._cancel,
    (TargetState.VERIFYING, Verified): TargetSession._settle,
    (TargetState.VERIFYING, ModelFailed): TargetSession._fail,
    (TargetState.VERIFYING, DrafterJoined): TargetSession._join,
    (TargetState.VERIFYING, DrafterLeft): TargetSession._leave,
    (TargetState.VERIFYING, DraftArrived): TargetSession._merge,
    (TargetState.VERIFYING, Cancelled): TargetSession._cancel,
    # What was under way when the session ended.
    (TargetState.FINISHED, ModelFree): TargetSession._ignore,
    (TargetState.FINISHED, Verified): TargetSession._ignore,
    (TargetState.FINISHED, ModelFailed): TargetSession._ignore,
    (TargetState.FINISHED, LocalDrafted): TargetSession._ignore,
    (TargetState.FINISHED, LocalFailed): TargetSession._ignore,
    (TargetState.FINISHED, DrafterJoined): TargetSession._ignore,
    (TargetState.FINISHED, DrafterLeft): TargetSession._ignore,
    (TargetState.FINISHED, DraftArrived): TargetSession._ignore,
    (TargetState.FINISHED, Cancelled): TargetSession._ignore,
}
