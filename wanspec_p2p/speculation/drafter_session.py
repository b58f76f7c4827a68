"""One generation as a drafter sees it: run ahead along the best paths, and switch when a verdict takes another.

    NEW ──Started──▶ WAITING ──ModelFree──▶ DRAFTING ──Drafted──▶ WAITING … (credit left)
                      ▲   └──ModelFree──▶ PAUSING │ (a verdict is due)
                      │                       │   └──────▶ IDLE (credit used up, paths ended, or no opinion)
                      └─VerdictArrived, PauseOver──────────┘                        any ──SessionClosed──▶ CLOSED

It waits for no verdict while it has credit. Every token it sends stays in its tree until a verdict settles it, so that
both sides agree on what "drafted earlier by the same drafter" means. A verdict that takes a branch finds it warm: what
lies below has been run, and its tokens are with the target already or on their way.
"""

from __future__ import annotations

import enum
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.speculation.calibration import RANKS, RankTable
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    PauseOver,
    SessionClosed,
    Started,
    VerdictAnnounced,
    VerdictArrived,
    Window,
)
from wanspec_p2p.speculation.growth import Growth
from wanspec_p2p.speculation.instructions import (
    Abandon,
    DrafterInstruction,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    StartFlushTimer,
    StartPause,
)
from wanspec_p2p.speculation.rhythm import Rhythm
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.tree import ROOT, DraftTree, chain_end
from wanspec_p2p.speculation.warm import WarmCache
from wanspec_p2p.types import PeerId, Sampling, SessionId, TokenId

__all__ = ["DRAFTER_TRANSITIONS", "DrafterSession", "DrafterSpec", "DrafterState"]

_SELF = PeerId("self")
MAX_DRAFT_TOKENS = 64
"""Tokens in one frame, as the protocol bounds them (protocol.limits)."""


@dataclass(frozen=True, slots=True)
class DrafterSpec:
    """What a target opened.

    Args:
        cache: name of the model cache; unique at this node (the session's name is chosen by the target).
        prompt_len: how much of `prefix` is prompt; the rest is answer.
        context: positions the drafter's model has; it never drafts beyond them.
        lane, lanes: which of how many shares of the branches is this drafter's.
        batch: nodes run in one pass.
        rests: for a moment when a verdict is due, so that the next pass knows it.
        floor: tokens less likely than this to be on the answer's path are not drafted.
        flush_tokens, flush_seconds: a frame goes out at so many tokens, or so long after its first.
    """

    session: SessionId
    cache: str
    prefix: tuple[TokenId, ...]
    prompt_len: int
    seed: bytes
    sampling: Sampling
    vocab_size: int
    stop_tokens: tuple[TokenId, ...]
    window: Window
    context: int
    lane: int = 0
    lanes: int = 1
    batch: int = 8
    rests: bool = True
    floor: float = 0.002
    flush_tokens: int = 4
    flush_seconds: float = 0.010


class DrafterState(enum.Enum):
    NEW = enum.auto()
    WAITING = enum.auto()  # for the model
    DRAFTING = enum.auto()
    PAUSING = enum.auto()  # for a verdict that is due: a pass begun now would be stale
    IDLE = enum.auto()  # for a verdict
    CLOSED = enum.auto()


class DrafterSession:
    """The node's side of a session. Takes the target's word for nothing: a verdict that does not fit ends it.

    Args:
        table: what is known of this model's candidates, shared by all sessions of one target.
    """

    def __init__(self, spec: DrafterSpec, table: RankTable | None = None) -> None:
        self.spec = spec
        self.state = DrafterState.NEW
        self.window = spec.window
        self.tree = DraftTree(spec.session, spec.prefix)
        self.sampler = Sampler(
            spec.sampling, spec.seed, spec.vocab_size, spec.prefix[: spec.prompt_len], spec.stop_tokens
        )
        self.sampler.commit(spec.prefix[spec.prompt_len :])
        self.table = table or RankTable()
        self._growth = Growth(self.tree, _SELF, self.table, floor=spec.floor, lane=spec.lane, lanes=spec.lanes)
        self._warm = WarmCache(spec.cache, spec.prefix)
        self._unsent: list[int] = []  # parents first
        self._timer = False
        self._rhythm = Rhythm()
        self._paused = False  # since the last verdict
        self._pass_begun = self._pass_seconds = 0.0

    def handle(self, event: DrafterEvent) -> list[DrafterInstruction]:
        """The one door.

        Raises:
            LocalProtocolError: this event cannot happen in this state.
        """
        handler = DRAFTER_TRANSITIONS.get((self.state, type(event)))
        if handler is None:
            raise LocalProtocolError(f"{type(event).__name__} in state {self.state.name}")
        return handler(self, event)

    @property
    def credit(self) -> bool:
        """Whether another pass could lead to a token that may be sent."""
        return self.window.positions > 0 and self.tree.held_by(_SELF) < self.window.tokens

    def _proceed(self) -> list[DrafterInstruction]:
        """Ask for the model while there is something to run; with nothing left, what is unsent goes out at once."""
        if self.credit and self._runs_something():
            self.state = DrafterState.WAITING
            return [RequestModel()]
        self.state = DrafterState.IDLE
        return self._flush()

    def _runs_something(self) -> bool:
        if not self._growth.root_known:
            return self.tree.committed_len < self.spec.context
        return self._growth.waiting(self._may_run)

    def _start(self, event: Started) -> list[DrafterInstruction]:
        if any(token >= self.spec.vocab_size for token in self.spec.prefix):
            return self._abandon("the prefix holds a token outside the vocabulary")
        return self._proceed()

    def _run(self, event: ModelFree) -> list[DrafterInstruction]:
        rests = self.spec.rests and not self._paused
        pause = self._rhythm.pause(event.at, self._pass_seconds) if rests else 0.0
        if pause > 0.0:
            self._paused = True
            self.state = DrafterState.PAUSING
            return [*self._flush(), StartPause(pause)]
        nodes: list[int] = []
        if self.credit:
            rows = self.spec.batch if event.share is None else min(event.share, self.spec.batch)
            room = rows - (0 if self._growth.root_known else 1)  # its own row
            nodes = self._growth.take(room, self._may_run)
        if not nodes and (self._growth.root_known or not self.credit or not self._runs_something()):
            self.state = DrafterState.IDLE  # a verdict took the credit back meanwhile, or nothing may be run
            return self._flush()
        self.state = DrafterState.DRAFTING
        self._pass_begun = event.at
        return [RunPass(self._warm.segment(self.tree, nodes))]

    def _resume(self, event: PauseOver) -> list[DrafterInstruction]:
        return self._proceed()

    def _may_run(self, node: int) -> bool:
        """What follows this node could be sent: it ends nothing and lies within the window and the context."""
        place = self.tree[node]
        beyond = place.length - self.tree.committed_len
        return (
            place.token not in self.spec.stop_tokens
            and beyond < self.window.positions
            and place.length < self.spec.context
        )

    def _admit(self) -> None:
        """Take into the tree what may be sent: within the window and the context."""
        reach = min(self.tree.committed_len + self.window.positions, self.spec.context)
        self._unsent.extend(self._growth.admit(self.window.tokens - self.tree.held_by(_SELF), reach))

    def _extend(self, event: Drafted) -> list[DrafterInstruction]:
        self._pass_seconds = event.at - self._pass_begun
        for node, row in self._warm.ran(self.tree, event.rows):
            self._growth.expand(node, self.sampler.rank(row, self.tree.path(node), RANKS))
        self._admit()
        if len(self._unsent) >= self.spec.flush_tokens:
            return [*self._flush(), *self._proceed()]
        return [*self._start_timer(), *self._proceed()]

    def _expect(self, event: VerdictAnnounced) -> list[DrafterInstruction]:
        self._rhythm.announced(event.at + event.seconds)
        return []

    def _learn(self, event: VerdictArrived) -> list[DrafterInstruction]:
        fork = self._locate(event)
        if fork is None:
            return self._abandon("the verdict does not fit what was drafted")
        tokens = [*self.tree.path(fork), *event.tail]
        told = () if event.outlook is None else event.outlook.tokens
        if any(token >= self.spec.vocab_size for token in (*tokens, *told)):
            return self._abandon("the verdict holds a token outside the vocabulary")
        if event.committed_len >= self.spec.context:
            return self._abandon("the answer has outgrown the drafter's context")
        self.window = event.window
        self._rhythm.heard(event.at)
        self._paused = False
        self._growth.settle(tokens)
        self._warm.commit(self.tree, tokens)
        nodes = self.tree.along(tokens)
        self.tree.commit(tokens)
        self.sampler.commit(tokens)
        if tokens:
            self._growth.moved(nodes[-1] if len(nodes) == len(tokens) else None)
        if tokens and event.outlook is not None:  # or what is told of would pile up, verdict upon verdict
            self._growth.told(event.outlook, self._may_run)
        self._unsent = [node for node in self._unsent if node in self.tree]
        self._admit()
        if self.state in (DrafterState.IDLE, DrafterState.PAUSING):
            return [*self._start_timer(), *self._proceed()] if self._unsent else self._proceed()
        return []

    def _locate(self, event: VerdictArrived) -> int | None:
        """The node where the path this drafter had drafted itself ends and `event.tail` begins."""
        length = event.committed_len - len(event.tail)
        for node in itertools.chain((ROOT,), self.tree):
            if self.tree.length(node) == length:
                if chain_end(*self.tree.place(node), event.tail) == (event.committed_len, event.hash):
                    return node
        return None

    def _flush_due(self, event: FlushDue) -> list[DrafterInstruction]:
        self._timer = False
        return self._flush()

    def _start_timer(self) -> list[DrafterInstruction]:
        if self._timer or not self._unsent:
            return []
        self._timer = True
        return [StartFlushTimer(self.spec.flush_seconds)]

    def _flush(self) -> list[DrafterInstruction]:
        unsent, self._unsent = self._unsent, []
        frames = [unsent[at : at + MAX_DRAFT_TOKENS] for at in range(0, len(unsent), MAX_DRAFT_TOKENS)]
        return [self._frame(nodes) for nodes in frames]

    def _frame(self, nodes: Sequence[int]) -> SendDraft:
        index: dict[int, int] = {}
        bases: list[int] = []
        parents: list[int] = []
        for number, node in enumerate(nodes):
            parent = self.tree[node].parent
            if parent not in index:
                if parent not in bases:
                    bases.append(parent)
                parents.append(-1 - bases.index(parent))
            else:
                parents.append(index[parent])
            index[node] = number
        (base_len, base_hash), *others = (self.tree.place(base) for base in bases)
        chain = all(parent == number - 1 for number, parent in enumerate(parents))
        return SendDraft(
            base_len,
            base_hash,
            tuple(self.tree[node].token for node in nodes),
            () if chain else tuple(parents),
            tuple(self.tree[node].confidence or 0 for node in nodes),
            tuple(others),
        )

    def _abandon(self, reason: str) -> list[DrafterInstruction]:
        self.state = DrafterState.CLOSED
        return [Abandon(reason), Release()]

    def _fail(self, event: ModelFailed) -> list[DrafterInstruction]:
        return self._abandon(event.reason)

    def _close(self, event: SessionClosed) -> list[DrafterInstruction]:
        self.state = DrafterState.CLOSED
        return [Release()]

    def _ignore(self, event: DrafterEvent) -> list[DrafterInstruction]:
        return []


_Handler = Callable[[DrafterSession, Any], list[DrafterInstruction]]
_OPEN = (DrafterState.WAITING, DrafterState.DRAFTING, DrafterState.PAUSING, DrafterState.IDLE)

DRAFTER_TRANSITIONS: dict[tuple[DrafterState, type[DrafterEvent]], _Handler] = {
    (DrafterState.NEW, Started): DrafterSession._start,
    (DrafterState.NEW, SessionClosed): DrafterSession._close,
    (DrafterState.WAITING, ModelFree): DrafterSession._run,
    (DrafterState.DRAFTING, Drafted): DrafterSession._extend,
    (DrafterState.DRAFTING, ModelFailed): DrafterSession._fail,
    (DrafterState.PAUSING, PauseOver): DrafterSession._resume,
    **{(state, PauseOver): DrafterSession._ignore for state in _OPEN if state is not DrafterState.PAUSING},
    **{(state, VerdictAnnounced): DrafterSession._expect for state in _OPEN},
    **{(state, VerdictArrived): DrafterSession._learn for state in _OPEN},
    **{(state, FlushDue): DrafterSession._flush_due for state in _OPEN},
    **{(state, SessionClosed): DrafterSession._close for state in _OPEN},
    # What was under way when the session ended.
    (DrafterState.CLOSED, ModelFree): DrafterSession._ignore,
    (DrafterState.CLOSED, Drafted): DrafterSession._ignore,
    (DrafterState.CLOSED, ModelFailed): DrafterSession._ignore,
    (DrafterState.CLOSED, VerdictAnnounced): DrafterSession._ignore,
    (DrafterState.CLOSED, VerdictArrived): DrafterSession._ignore,
    (DrafterState.CLOSED, FlushDue): DrafterSession._ignore,
    (DrafterState.CLOSED, PauseOver): DrafterSession._ignore,
    (DrafterState.CLOSED, SessionClosed): DrafterSession._ignore,
}
