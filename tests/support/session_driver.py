"""One target session and any drafters, driven without an event loop: every order of events can be had, at no wait.

`Drive` owns the links and the models and offers, at every moment, the list of things that could happen next; whoever
drives picks one. Links stay FIFO, each on its own; between links any order may come out. While it runs it checks what
must hold after every event: the tree's invariants, the answer's continuity, the credit seen from the wire.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import TypeAlias

from tests.support.session_peers import Message, Peer
from tests.support.session_rows import PassModel, Rows, check_tree
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    DrafterJoined,
    DrafterLeft,
    LocalDrafted,
    ModelFree,
    Started,
    TargetEvent,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    AnnounceVerdict,
    CloseDraft,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    RequestModel,
    RunLocalPass,
    RunPass,
    SendDraft,
    SendVerdict,
)
from wanspec_p2p.speculation.local import Reach
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession, TargetState
from wanspec_p2p.target.engine import MAX_ROWS
from wanspec_p2p.types import FinishReason, PeerId, Segment, TokenId

__all__ = ["SMALL", "Drive", "Link", "Pick", "chosen", "drafters_first", "seeded", "turn_of_one"]

Pick: TypeAlias = Callable[[int], int]
"""Which of so many things happens next."""


def seeded(seed: int) -> Pick:
    """A random schedule, kind to the target (listed first), to the drafters (listed last) or to nobody."""
    draw = random.Random(seed)
    skew = (1.0, 0.25, 4.0)[seed % 3]
    return lambda count: int(count * draw.random() ** skew)


def chosen(order: Sequence[int], then: Pick) -> Pick:
    """A schedule spelt out, for hypothesis to shrink; where it ends, another goes on."""
    left = iter(order)

    def pick(count: int) -> int:
        choice = next(left, None)
        return then(count) if choice is None else choice % count

    return pick


def drafters_first(count: int) -> int:
    """The schedule in which the target waits until nobody else can do anything."""
    return count - 1


SMALL = Policy(width=8, window=Window(positions=16, tokens=64))
"""Small enough that everything is checked after every event."""


@dataclass(slots=True)
class Link:
    """Two FIFO queues between a target and one peer.

    Args:
        copies: how often each draft is delivered, one after the other.
        delay: rounds of the target that each draft is held back.
        replay: with every draft, deliver all those before it once more.
    """

    peer: Peer
    copies: int = 1
    delay: int = 0
    replay: bool = False
    down: deque[Message] = field(default_factory=deque)
    up: deque[tuple[int, SendDraft]] = field(default_factory=deque)
    delivered: list[SendDraft] = field(default_factory=list)


def turn_of_one(session: TargetSession, at: float) -> ModelFree:
    """As the engine makes it up for a session that is alone."""
    wish = session.wish(at)
    [places] = session.knowledge.draft_places([wish], MAX_ROWS)
    if places:
        return ModelFree(at, drafting=True, share=places)
    [rows] = session.knowledge.verification_rows([wish], MAX_ROWS - 1)
    return ModelFree(at, share=rows)


AMPLE = Reach(1 << 16, 1 << 16)
"""Of a drafter at the target: more than any answer here has."""


class Drive:
    """Runs one answer to its end under a schedule of the caller's choosing.

    Args:
        local: what the target's own drafter computes, if it has one.
    """

    def __init__(
        self, spec: SessionSpec, rows: Rows, pick: Pick, policy: Policy | None = None, *, local: Rows | None = None
    ) -> None:
        self.spec = spec
        self.target = TargetSession(spec, policy or SMALL, local=None if local is None else AMPLE)
        self.links: dict[PeerId, Link] = {}
        self.tokens: list[TokenId] = list(spec.committed)
        self.finished: FinishReason | None = None
        self.events = 0
        self._pick = pick
        self._model = PassModel(rows)
        self._wants_model = False
        self._running: Segment | None = None
        self._local_model = None if local is None else PassModel(local)
        self._local_running: Segment | None = None
        self.feed(Started(self.now))

    @property
    def bound(self) -> int:
        """Events after which an answer of this length must be over, whatever the schedule."""
        per_peer = 16 * self.target.policy.window.tokens + 64
        return (self.spec.max_tokens + 2) * (4 + per_peer * (1 + len(self.links)))

    @property
    def now(self) -> float:
        """Time that the target measures its passes by: so much for each event."""
        return 0.001 * self.events

    def has_seen(self, events: int) -> bool:
        return self.events >= events

    def join(
        self, name: str, peer: Peer, *, copies: int = 1, delay: int = 0, replay: bool = False, lane: int = 0
    ) -> None:
        drafter = PeerId(name)
        self.links[drafter] = Link(peer, copies, delay, replay)
        self.feed(DrafterJoined(drafter, lane, self.now))

    def leave(self, name: str) -> None:
        """The link breaks: what is in flight on it is lost."""
        if self.links.pop(PeerId(name), None) is not None:
            self.feed(DrafterLeft(PeerId(name), self.now))

    def cancel(self) -> None:
        self.feed(Cancelled(self.now))

    def run(self, until: Callable[[], bool] = lambda: False) -> list[TokenId]:
        """Let things happen until `until` holds or the answer is finished, then hand back the answer so far.

        A finished answer is followed by everything still in flight, which must change nothing.
        """
        while self.finished is None and not until():
            assert self._target_choices(), "the target waits for somebody"
            self._happen()
        if self.finished is not None:
            answer = list(self.tokens)
            while self._choices():
                self._happen()
            assert self.tokens == answer
        return self.tokens

    def feed(self, event: TargetEvent) -> None:
        for instruction in self.target.handle(event):
            match instruction:
                case RequestModel():
                    assert not self._wants_model and not self._busy, "asked for the model twice"
                    self._wants_model = True
                case RunPass(segment):
                    assert not self._busy
                    self._running = segment
                case RunLocalPass(segment):
                    assert not self._busy
                    self._local_running = segment
                case PrepareNoise(positions):
                    for position in positions:
                        self.target.sampler.noise.row(position)
                case OpenDraft(drafter) | AnnounceVerdict(drafter) | SendVerdict(drafter) | CloseDraft(drafter):
                    self.links[drafter].down.append(instruction)
                case Emit(position, committed):
                    assert position == len(self.tokens), "the answer has a gap"
                    self.tokens.extend(c.token for c in committed)
                case Finish(reason):
                    assert self.finished is None
                    self.finished = reason
                case Fail(reason):
                    raise AssertionError(reason)
        check_tree(self.target.tree, self.spec.session)
        assert list(self.target.tree.committed) == [*self.spec.prompt, *self.tokens]

    def _happen(self) -> None:
        self.events += 1
        assert self.events <= self.bound, "never ends"
        choices = self._choices()
        choices[self._pick(len(choices))]()
        for link in self.links.values():
            while link.peer.outbox:
                link.up.append((self.target.stats.rounds + link.delay, link.peer.outbox.popleft()))

    def _choices(self) -> list[Callable[[], None]]:
        choices = self._target_choices()
        for drafter, link in self.links.items():
            choices.extend(link.peer.choices())
            if link.down:
                choices.append(partial(self._receive, link))
            if link.up and (self.finished is not None or link.up[0][0] <= self.target.stats.rounds):
                choices.append(partial(self._deliver, drafter, link))
        return choices

    def _target_choices(self) -> list[Callable[[], None]]:
        if self._wants_model:
            return [self._grant]
        if self._local_running is not None:
            return [self._finish_local_pass]
        return [self._finish_pass] if self._running is not None else []

    @property
    def _busy(self) -> bool:
        return self._running is not None or self._local_running is not None

    def _grant(self) -> None:
        self._wants_model = False
        self.feed(turn_of_one(self.target, self.now))
        assert self._busy or self.finished is not None, "a turn was not taken"

    def _finish_pass(self) -> None:
        segment, self._running = self._running, None
        assert segment is not None
        rows = self._model.run(segment)
        if self.target.state is TargetState.VERIFYING:
            assert self._model.cached == list(self.target.tree.committed), "the cache is not the committed prefix"
        self.feed(Verified(rows, self.now))

    def _finish_local_pass(self) -> None:
        segment, self._local_running = self._local_running, None
        assert segment is not None and self._local_model is not None
        rows = self._local_model.run(segment)
        if self.target.state is TargetState.DRAFTING:
            committed = self.target.tree.committed
            assert self._local_model.cached == list(committed), "the cache is not the committed prefix"
        self.feed(LocalDrafted(rows, self.now))

    def _receive(self, link: Link) -> None:
        link.peer.receive(link.down.popleft())

    def _deliver(self, drafter: PeerId, link: Link) -> None:
        _, draft = link.up.popleft()
        frames = [draft] * link.copies
        if link.replay:
            frames.extend(link.delivered)
            link.delivered.append(draft)
        for frame in frames:
            self.feed(
                DraftArrived(
                    drafter,
                    frame.base_len,
                    frame.base_hash,
                    frame.tokens,
                    frame.parents,
                    frame.confidences,
                    at=self.now,
                    bases=frame.bases,
                )
            )
