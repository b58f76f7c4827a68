"""One generation as the target sees it: merge what has arrived, verify when the model is free, commit, tell everyone.

    NEW ──Started──▶ WAITING ──ModelFree──▶ VERIFYING ──Verified──▶ WAITING … ──▶ FINISHED

All state changes go through `handle`. `TRANSITIONS` lists what is legal; anything else is a bug of ours.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    DrafterJoined,
    DrafterLeft,
    ModelFailed,
    ModelFree,
    Started,
    TargetEvent,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    CloseDraft,
    Committed,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunPass,
    SendVerdict,
    TargetInstruction,
    TokenScores,
)
from wanspec_p2p.speculation.policy import Policy, select
from wanspec_p2p.speculation.sampling import Row, Sampler, logprobs
from wanspec_p2p.speculation.stats import SessionStats
from wanspec_p2p.speculation.tree import DraftTree
from wanspec_p2p.speculation.verify import Candidates, Step, walk
from wanspec_p2p.types import FinishReason, PeerId, Sampling, Segment, SessionId, TokenId

__all__ = ["TRANSITIONS", "SessionSpec", "TargetSession", "TargetState"]


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
    FINISHED = enum.auto()


class TargetSession:
    """Exact whatever arrives: drafts, in any order and from anybody, only decide how many tokens a round settles."""

    def __init__(self, spec: SessionSpec, policy: Policy | None = None) -> None:
        self.spec = spec
        self.policy = policy or Policy()
        self.state = TargetState.NEW
        self.stats = SessionStats()
        self.tree = DraftTree(spec.session, (*spec.prompt, *spec.committed))
        self.sampler = Sampler(spec.sampling, spec.seed, spec.vocab_size, spec.prompt, spec.stop_tokens)
        self.sampler.commit(spec.committed)
        self.drafters: dict[PeerId, int] = {}  # to their lane
        self._answer_len = len(spec.committed)
        self._candidates = Candidates((), (), ())
        self._cached = 0  # positions in the model's cache that belong to the committed prefix
        self._keep: tuple[int, ...] = ()  # candidates of the last pass to add to them
        self._pending: tuple[TokenId, ...] = (*spec.prompt, *spec.committed)  # committed, not in the cache

    def handle(self, event: TargetEvent) -> list[TargetInstruction]:
        """The one door.

        Raises:
            LocalProtocolError: this event cannot happen in this state.
        """
        handler = TRANSITIONS.get((self.state, type(event)))
        if handler is None:
            raise LocalProtocolError(f"{type(event).__name__} in state {self.state.name}")
        return handler(self, event)

    @property
    def answer_len(self) -> int:
        return self._answer_len

    @property
    def remaining(self) -> int:
        return self.spec.max_tokens - self._answer_len

    def _start(self, event: Started) -> list[TargetInstruction]:
        self.state = TargetState.WAITING
        return [RequestModel()]

    def _verify(self, event: ModelFree) -> list[TargetInstruction]:
        # A pass emits one token more than it accepts: the last remaining one needs no candidate.
        self._candidates = select(
            self.tree, lambda p: self.stats.of(p).acceptance, self.policy, self.stats.rounds, self.remaining - 1
        )
        segment = Segment(
            cache=self.spec.session,
            length=self._cached,
            keep=self._keep,
            tokens=self._pending,
            tree=self._candidates.tokens,
            parents=self._candidates.parents,
        )
        self.state = TargetState.VERIFYING
        instructions: list[TargetInstruction] = [RunPass(segment)]
        if not self.spec.sampling.greedy:
            first = self.tree.committed_len
            deepest = max((self.tree[n].length for n in self._candidates.nodes), default=first)
            instructions.append(PrepareNoise(range(first, deepest + 1)))
        return instructions

    def _settle(self, event: Verified) -> list[TargetInstruction]:
        candidates = self._candidates
        try:
            steps = walk(candidates, event.rows, self.sampler.choose, self.spec.stop_tokens, self.remaining)
        except EngineError as error:  # logits that are no numbers: better no answer than a wrong one
            return self._fail(ModelFailed(str(error), event.at))
        tokens = tuple(step.token for step in steps)
        committed = tuple(self._committed(step, candidates, event.rows) for step in steps)
        emit = Emit(self._answer_len, committed)
        self.stats.verified_round(self.tree, candidates, steps)
        tails = {drafter: self._tail(drafter, tokens) for drafter in self.drafters}

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
        verdicts = [SendVerdict(d, length, tail, prefix_hash, self._credit(d)) for d, tail in tails.items()]
        return [emit, RequestModel(), *verdicts]

    def _committed(self, step: Step, candidates: Candidates, rows: Sequence[Row]) -> Committed:
        origin = None if step.candidate is None else self.tree[candidates.nodes[step.candidate]].origin
        scores = None
        if self.spec.top_logprobs is not None:
            logprob, top = logprobs(rows[step.row], self.spec.vocab_size, step.token, self.spec.top_logprobs)
            scores = TokenScores(logprob, tuple(top))
        return Committed(step.token, origin, step.margin, scores)

    def _tail(self, drafter: PeerId, tokens: Sequence[TokenId]) -> tuple[TokenId, ...]:
        """What of `tokens`, about to be committed, this drafter has not drafted itself."""
        at = -1
        for known, token in enumerate(tokens):
            child = self.tree.children(at).get(token)
            if child is None or drafter not in self.tree[child].holders:
                return tuple(tokens[known:])
            at = child
        return ()

    def _join(self, event: DrafterJoined) -> list[TargetInstruction]:
        if event.drafter in self.drafters:
            return []
        self.drafters[event.drafter] = event.lane
        self.tree.disown(event.drafter)  # of an earlier stay, if any: it no longer knows what it drafted then
        return [OpenDraft(event.drafter, tuple(self.tree.committed), self._credit(event.drafter), event.lane)]

    def _credit(self, drafter: PeerId) -> Window:
        return self.policy.credit(self.stats.of(drafter).acceptance)

    def _leave(self, event: DrafterLeft) -> list[TargetInstruction]:
        self.drafters.pop(event.drafter, None)
        return []

    def _merge(self, event: DraftArrived) -> list[TargetInstruction]:
        if event.drafter in self.drafters:
            merge = self.tree.merge(
                event.drafter,
                event.base_len,
                event.base_hash,
                event.tokens,
                event.parents,
                event.confidences,
                vocab_size=self.spec.vocab_size,
                # Drafts under an earlier, larger credit may still be on their way.
                max_positions=self.policy.window.positions,
                max_tokens=self.policy.window.tokens,
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
    (TargetState.WAITING, ModelFree): TargetSession._verify,
    (TargetState.WAITING, DrafterJoined): TargetSession._join,
    (TargetState.WAITING, DrafterLeft): TargetSession._leave,
    (TargetState.WAITING, DraftArrived): TargetSession._merge,
    (TargetState.WAITING, Cancelled): TargetSession._cancel,
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
    (TargetState.FINISHED, DrafterJoined): TargetSession._ignore,
    (TargetState.FINISHED, DrafterLeft): TargetSession._ignore,
    (TargetState.FINISHED, DraftArrived): TargetSession._ignore,
    (TargetState.FINISHED, Cancelled): TargetSession._ignore,
}
