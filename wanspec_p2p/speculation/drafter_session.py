"""One generation as a drafter sees it: run ahead along the best path, roll back when a verdict disagrees.

    NEW ──Started──▶ WAITING ──ModelFree──▶ DRAFTING ──Drafted──▶ WAITING … (credit left)
                        ▲                       └──────▶ IDLE (credit used up, path ended, or no opinion)
                        └──────VerdictArrived──────────────┘                        any ──SessionClosed──▶ CLOSED

It waits for no verdict while it has credit. Every token it sends stays in its tree until a verdict settles it, so that
both sides agree on what "drafted earlier by the same drafter" means.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFailed,
    ModelFree,
    SessionClosed,
    Started,
    VerdictArrived,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Abandon,
    DrafterInstruction,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    StartFlushTimer,
)
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.tree import ROOT, DraftTree, chain_end
from wanspec_p2p.types import PeerId, Sampling, Segment, SessionId, TokenId

__all__ = ["DRAFTER_TRANSITIONS", "DrafterSession", "DrafterSpec", "DrafterState"]

_SELF = PeerId("self")


@dataclass(frozen=True, slots=True)
class DrafterSpec:
    """What a target opened.

    Args:
        cache: name of the model cache; unique at this node (the session's name is chosen by the target).
        prompt_len: how much of `prefix` is prompt; the rest is answer.
        context: positions the drafter's model has; it never drafts beyond them.
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
    flush_tokens: int = 4
    flush_seconds: float = 0.010


class DrafterState(enum.Enum):
    NEW = enum.auto()
    WAITING = enum.auto()  # for the model
    DRAFTING = enum.auto()
    IDLE = enum.auto()  # for a verdict
    CLOSED = enum.auto()


class DrafterSession:
    """The node's side of a session. Takes the target's word for nothing: a verdict that does not fit ends it."""

    def __init__(self, spec: DrafterSpec) -> None:
        self.spec = spec
        self.state = DrafterState.NEW
        self.window = spec.window
        self.tree = DraftTree(spec.session, spec.prefix)
        self.sampler = Sampler(
            spec.sampling, spec.seed, spec.vocab_size, spec.prefix[: spec.prompt_len], spec.stop_tokens
        )
        self.sampler.commit(spec.prefix[spec.prompt_len :])
        self._tip = ROOT  # end of the path being extended
        self._exhausted = False  # nothing sensible follows the tip
        self._cached: list[TokenId] = []  # what the model's cache holds
        self._running: tuple[int, bytes] | None = None  # the place whose next token the pass computes
        self._unsent: list[int] = []  # a chain of nodes
        self._timer = False

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
        """Whether one more token may be drafted at the tip."""
        length, _ = self.tree.place(self._tip)
        return (
            length - self.tree.committed_len < self.window.positions
            and self.tree.held_by(_SELF) < self.window.tokens
            and length < self.spec.context
            and not self._exhausted
        )

    def _proceed(self) -> list[DrafterInstruction]:
        """Ask for the model while there is credit; with none left, what is unsent goes out at once."""
        if self.credit:
            self.state = DrafterState.WAITING
            return [RequestModel()]
        self.state = DrafterState.IDLE
        return self._flush()

    def _start(self, event: Started) -> list[DrafterInstruction]:
        if any(token >= self.spec.vocab_size for token in self.spec.prefix):
            return self._abandon("the prefix holds a token outside the vocabulary")
        return self._proceed()

    def _run(self, event: ModelFree) -> list[DrafterInstruction]:
        if not self.credit:  # a verdict took it back meanwhile
            return self._proceed()
        sequence = [*self.tree.committed, *self.tree.path(self._tip)]
        same = _common(self._cached, sequence[:-1])  # at least the last token runs: its logits are wanted
        self._cached = sequence
        self._running = self.tree.place(self._tip)
        self.state = DrafterState.DRAFTING
        return [RunPass(Segment(self.spec.cache, same, (), tuple(sequence[same:])))]

    def _extend(self, event: Drafted) -> list[DrafterInstruction]:
        running, self._running = self._running, None
        if running != self.tree.place(self._tip) or not self.credit:  # a verdict came while the model ran
            return self._proceed()
        ranking = self.sampler.rank(event.row, self.tree.path(self._tip))
        if not ranking.tokens:
            self._exhausted = True
            return self._proceed()
        token = ranking.tokens[0]
        self._tip, _ = self.tree.add(self._tip, token, _SELF, ranking.confidence)
        self._exhausted = token in self.spec.stop_tokens
        self._unsent.append(self._tip)
        if len(self._unsent) >= self.spec.flush_tokens:
            return [*self._flush(), *self._proceed()]
        return [*self._start_timer(), *self._proceed()]

    def _learn(self, event: VerdictArrived) -> list[DrafterInstruction]:
        fork = self._locate(event)
        if fork is None:
            return self._abandon("the verdict does not fit what was drafted")
        tokens = [*self.tree.path(fork), *event.tail]
        if any(token >= self.spec.vocab_size for token in tokens):
            return self._abandon("the verdict holds a token outside the vocabulary")
        self.window = event.window
        agreed = self.tree.path(self._tip)[: len(tokens)] == tokens
        self.tree.commit(tokens)
        self.sampler.commit(tokens)
        self._unsent = [node for node in self._unsent if node in self.tree]
        if self._tip not in self.tree:  # settled or contradicted; what it drafts is one path, so nothing is left of it
            self._tip = ROOT
        self._exhausted = self._exhausted and agreed
        if self.state is DrafterState.IDLE:
            return self._proceed()
        return []

    def _locate(self, event: VerdictArrived) -> int | None:
        """The node where the path this drafter had drafted itself ends and `event.tail` begins."""
        length = event.committed_len - len(event.tail)
        for node in [ROOT, *iter(self.tree)]:
            node_length, node_hash = self.tree.place(node)
            if node_length == length:
                if chain_end(node_length, node_hash, event.tail) == (event.committed_len, event.hash):
                    return node
        return None

    def _flush_due(self, event: FlushDue) -> list[DrafterInstruction]:
        self._timer = False
        return self._flush()

    def _start_timer(self) -> list[DrafterInstruction]:
        if self._timer:
            return []
        self._timer = True
        return [StartFlushTimer(self.spec.flush_seconds)]

    def _flush(self) -> list[DrafterInstruction]:
        if not self._unsent:
            return []
        nodes = [self.tree[node] for node in self._unsent]
        base_len, base_hash = self.tree.place(nodes[0].parent)
        self._unsent = []
        return [
            SendDraft(
                base_len,
                base_hash,
                tuple(node.token for node in nodes),
                (),
                tuple(node.confidence or 0 for node in nodes),
            )
        ]

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


def _common(a: Sequence[TokenId], b: Sequence[TokenId]) -> int:
    """Length of the longest common prefix."""
    length = 0
    for x, y in zip(a, b, strict=False):
        if x != y:
            break
        length += 1
    return length


_Handler = Callable[[DrafterSession, Any], list[DrafterInstruction]]
_OPEN = (DrafterState.WAITING, DrafterState.DRAFTING, DrafterState.IDLE)

DRAFTER_TRANSITIONS: dict[tuple[DrafterState, type[DrafterEvent]], _Handler] = {
    (DrafterState.NEW, Started): DrafterSession._start,
    (DrafterState.NEW, SessionClosed): DrafterSession._close,
    (DrafterState.WAITING, ModelFree): DrafterSession._run,
    (DrafterState.DRAFTING, Drafted): DrafterSession._extend,
    (DrafterState.DRAFTING, ModelFailed): DrafterSession._fail,
    **{(state, VerdictArrived): DrafterSession._learn for state in _OPEN},
    **{(state, FlushDue): DrafterSession._flush_due for state in _OPEN},
    **{(state, SessionClosed): DrafterSession._close for state in _OPEN},
    # What was under way when the session ended.
    (DrafterState.CLOSED, ModelFree): DrafterSession._ignore,
    (DrafterState.CLOSED, Drafted): DrafterSession._ignore,
    (DrafterState.CLOSED, ModelFailed): DrafterSession._ignore,
    (DrafterState.CLOSED, VerdictArrived): DrafterSession._ignore,
    (DrafterState.CLOSED, FlushDue): DrafterSession._ignore,
    (DrafterState.CLOSED, SessionClosed): DrafterSession._ignore,
}
