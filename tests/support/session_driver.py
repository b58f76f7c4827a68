"""One target session and any drafters, driven without an event loop: every order of events can be had, at no wait.

`Drive` owns the links and the models and offers, at every moment, the list of things that could happen next; whoever
drives picks one. Links stay FIFO, each on its own; between links any order may come out. While it runs it checks what
must hold after every event: the tree's invariants, the answer's continuity, the credit seen from the wire.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from hashlib import blake2b
from typing import Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from wanspec_p2p.speculation.drafter_session import DrafterSession, DrafterSpec, DrafterState
from wanspec_p2p.speculation.events import (
    Cancelled,
    DraftArrived,
    Drafted,
    DrafterEvent,
    DrafterJoined,
    DrafterLeft,
    FlushDue,
    ModelFree,
    SessionClosed,
    Started,
    TargetEvent,
    VerdictArrived,
    Verified,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Abandon,
    CloseDraft,
    Emit,
    Fail,
    Finish,
    OpenDraft,
    PrepareNoise,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    SendVerdict,
    StartFlushTimer,
)
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession, TargetState
from wanspec_p2p.speculation.tree import ROOT, DraftTree, chain_hash, session_hash
from wanspec_p2p.types import FinishReason, PeerId, Segment, SessionId, TokenId

__all__ = [
    "CreditAudit",
    "Drive",
    "HonestPeer",
    "JunkPeer",
    "LyingPeer",
    "PassModel",
    "Peer",
    "Rows",
    "SilentPeer",
    "check_tree",
    "chosen",
    "decode_alone",
    "drafters_first",
    "prefix_hash",
    "scripted_rows",
    "seeded",
]

Row: TypeAlias = NDArray[np.float32]
Rows: TypeAlias = Callable[[Sequence[TokenId]], Row]
"""The logits after a prefix."""
Pick: TypeAlias = Callable[[int], int]
"""Which of so many things happens next."""
Downward: TypeAlias = OpenDraft | SendVerdict | CloseDraft


def scripted_rows(seed: int, vocab_size: int, *, drift: float = 0.0, scale: float = 2.0, ties: bool = False) -> Rows:
    """Logits that follow from the length and the last two tokens of the true prefix alone.

    Args:
        drift: strength of noise private to a drafter, added to the target's law; 0 is the target itself.
        ties: round to whole numbers, so that equal logits are common.
    """
    memory: dict[tuple[int, ...], Row] = {}

    def row(prefix: Sequence[TokenId]) -> Row:
        key = (len(prefix), *prefix[-2:])
        if key not in memory:
            z = _normal("target", seed, key, vocab_size)
            if drift:
                z = z + drift * _normal("drift", seed, key, vocab_size)
            memory[key] = (np.round(scale * z) if ties else scale * z).astype(np.float32)
        return memory[key]

    return row


def _normal(kind: str, seed: int, key: tuple[int, ...], size: int) -> NDArray[np.float64]:
    digest = blake2b(f"{kind} {seed} {key}".encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little"))).standard_normal(size)


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


def decode_alone(spec: SessionSpec, rows: Rows) -> list[TokenId]:
    """The answer of the target alone, one token at a time, every sampler fresh. `spec.committed` is part of it."""
    answer = list(spec.committed)
    while len(answer) < spec.max_tokens:
        sampler = Sampler(spec.sampling, spec.seed, spec.vocab_size, spec.prompt, spec.stop_tokens)
        sampler.commit(answer)
        answer.append(sampler.choose(rows((*spec.prompt, *answer))).token)
        if answer[-1] in spec.stop_tokens:
            break
    return answer


def prefix_hash(session: SessionId, tokens: Sequence[TokenId]) -> bytes:
    """h_n, from nothing but the definition."""
    chained = session_hash(session)
    for token in tokens:
        chained = chain_hash(chained, token)
    return chained


def check_tree(tree: DraftTree, session: SessionId) -> None:
    """Everything that must hold of a draft tree between two calls, recomputed from its nodes."""
    committed = list(tree.committed)
    assert tree.hash == prefix_hash(session, committed)
    assert tree.place(ROOT) == (len(committed), tree.hash)
    held: dict[PeerId, int] = {}
    reached: set[int] = set()
    todo = [(ROOT, child, token) for token, child in tree.children(ROOT).items()]
    while todo:
        parent, node_id, token = todo.pop()
        length, chained = tree.place(parent)
        node = tree[node_id]
        assert (node.parent, node.token) == (parent, token)
        assert node_id not in reached
        reached.add(node_id)
        assert tree.path(node_id) == [*tree.path(parent), token]
        assert (node.length, node.hash) == (length + 1, chain_hash(chained, token))
        assert tree.find(node.length, node.hash) == node_id
        for holder in node.holders:
            held[holder] = held.get(holder, 0) + 1
        todo.extend((node_id, child, token) for token, child in node.children.items())
    assert reached == set(tree), "a node hangs off nothing"
    assert len(tree) == len(reached)
    peers = {tree[node].origin for node in tree} | held.keys()
    assert {peer: tree.held_by(peer) for peer in peers} == {peer: held.get(peer, 0) for peer in peers}


class PassModel:
    """Runs segments as `LanguageModel.forward` promises to; every row follows from the true prefix."""

    def __init__(self, rows: Rows) -> None:
        self._rows = rows
        self.cached: list[TokenId] = []
        self._tree: tuple[TokenId, ...] = ()
        self._parents: tuple[int, ...] = ()
        self.passes = 0

    def run(self, segment: Segment) -> list[Row]:
        """Logits after the last of `segment.tokens`, then after each node of its tree."""
        assert segment.length <= len(self.cached)
        assert not segment.keep or segment.length == len(self.cached), "kept nodes hang below the last token"
        parent = -1
        for index in segment.keep:
            assert self._parents[index] == parent, "kept nodes are a path from the root"
            parent = index
        kept = [self._tree[index] for index in segment.keep]
        self.cached = [*self.cached[: segment.length], *kept, *segment.tokens]
        self._tree, self._parents = segment.tree, segment.parents
        self.passes += 1
        paths: list[list[TokenId]] = []
        for token, parent in zip(segment.tree, segment.parents, strict=True):
            paths.append([*(paths[parent] if parent >= 0 else []), token])
        return [self._rows([*self.cached, *path]) for path in ([], *paths)]


class CreditAudit:
    """What a drafter has outstanding, counted from the frames on its link alone."""

    def __init__(self, session: SessionId, opened: OpenDraft) -> None:
        self._session = session
        self._committed = opened.prefix
        self._outstanding: set[tuple[TokenId, ...]] = set()
        self._window = opened.window
        self.most_positions = self.most_tokens = 0

    def verdict(self, verdict: SendVerdict) -> None:
        known = verdict.committed_len - len(verdict.tail)
        places = {self._committed, *self._outstanding}
        ends = [(*p, *verdict.tail) for p in places if len(p) == known]
        [self._committed] = [p for p in ends if prefix_hash(self._session, p) == verdict.hash]
        length = len(self._committed)
        self._outstanding = {p for p in self._outstanding if p[:length] == self._committed and len(p) > length}
        self._window = verdict.window

    def draft(self, draft: SendDraft) -> None:
        places = [p for p in (*self._prefixes(), *self._outstanding) if len(p) == draft.base_len]
        [base] = [p for p in places if prefix_hash(self._session, p) == draft.base_hash]
        assert len(draft.confidences) == len(draft.tokens)
        paths: list[tuple[TokenId, ...]] = []
        for i, token in enumerate(draft.tokens):
            parent = draft.parents[i] if draft.parents else i - 1
            paths.append((*(base if parent < 0 else paths[parent]), token))
        assert self._outstanding.isdisjoint(paths), "a token went out twice"
        self._outstanding.update(paths)
        self.most_positions = max(self.most_positions, *(len(p) - len(self._committed) for p in paths))
        self.most_tokens = max(self.most_tokens, len(self._outstanding))
        assert self.most_positions <= self._window.positions, "window of positions exceeded"
        assert self.most_tokens <= self._window.tokens, "window of tokens exceeded"

    def _prefixes(self) -> Iterator[tuple[TokenId, ...]]:
        return (self._committed[:length] for length in range(len(self._committed) + 1))


class Peer(Protocol):
    """The far end of a draft link."""

    outbox: deque[SendDraft]

    def receive(self, message: Downward) -> None: ...

    def choices(self) -> list[Callable[[], None]]:
        """What this peer could do now, of itself; finitely often between two messages."""
        ...


class HonestPeer:
    """A real drafter session with a model of its own. Any `Abandon` is a failure unless a test expects it."""

    def __init__(self, spec: SessionSpec, rows: Rows, *, context: int = 4096, flush_tokens: int = 4) -> None:
        self._spec, self._rows = spec, rows
        self._context, self._flush_tokens = context, flush_tokens
        self.outbox: deque[SendDraft] = deque()
        self.session: DrafterSession | None = None
        self.audit: CreditAudit | None = None
        self.abandoned: str | None = None
        self._model = PassModel(rows)
        self._wants_model = self._timer = False
        self._running: Segment | None = None

    def receive(self, message: Downward) -> None:
        match message:
            case OpenDraft():
                self._open(message)
            case SendVerdict():
                assert self.audit is not None
                self.audit.verdict(message)
                self._feed(VerdictArrived(message.committed_len, message.tail, message.hash, message.window, at=0.0))
            case CloseDraft():
                self._feed(SessionClosed(0.0))

    def choices(self) -> list[Callable[[], None]]:
        choices: list[Callable[[], None]] = []
        if self._wants_model:
            choices.append(self._grant)
        if self._running is not None:
            choices.append(self._finish_pass)
        if self._timer:
            choices.append(self._fire)
        return choices

    def _open(self, opened: OpenDraft) -> None:
        spec = self._spec
        self.audit = CreditAudit(spec.session, opened)
        self.session = DrafterSession(
            DrafterSpec(
                session=spec.session,
                cache="draft-1",
                prefix=opened.prefix,
                prompt_len=len(spec.prompt),
                seed=spec.seed,
                sampling=spec.sampling,
                vocab_size=spec.vocab_size,
                stop_tokens=spec.stop_tokens,
                window=opened.window,
                context=self._context,
                flush_tokens=self._flush_tokens,
            )
        )
        self._feed(Started(0.0))

    def _grant(self) -> None:
        self._wants_model = False
        self._feed(ModelFree(0.0))

    def _finish_pass(self) -> None:
        segment, self._running = self._running, None
        assert segment is not None
        [row] = self._model.run(segment)
        self._feed(Drafted(row, 0.0))

    def _fire(self) -> None:
        self._timer = False
        self._feed(FlushDue(0.0))

    def _feed(self, event: DrafterEvent) -> None:
        assert self.session is not None and self.audit is not None
        for instruction in self.session.handle(event):
            match instruction:
                case RequestModel():
                    assert not self._wants_model and self._running is None, "asked for the model twice"
                    self._wants_model = True
                case RunPass(segment):
                    assert self._running is None
                    self._running = segment
                case SendDraft():
                    self.audit.draft(instruction)
                    self.outbox.append(instruction)
                case StartFlushTimer():
                    assert not self._timer, "two timers at once"
                    self._timer = True
                case Abandon(reason):
                    self.abandoned = reason
                case Release():
                    assert self.session.state is DrafterState.CLOSED
        check_tree(self.session.tree, self._spec.session)


class SilentPeer:
    """Takes everything, answers nothing."""

    def __init__(self) -> None:
        self.outbox: deque[SendDraft] = deque()
        self.received: list[Downward] = []

    def receive(self, message: Downward) -> None:
        self.received.append(message)

    def choices(self) -> list[Callable[[], None]]:
        return []


class LyingPeer(SilentPeer):
    """Knows the right answer and drafts anything but: chains and stars of wrong tokens, all in good form."""

    def __init__(self, spec: SessionSpec, answer: Sequence[TokenId], lies: int = 2) -> None:
        super().__init__()
        self._spec, self._answer, self._lies = spec, answer, lies
        self._place = (0, b"")
        self._window = Window(0, 0)
        self._left = 0

    def receive(self, message: Downward) -> None:
        super().receive(message)
        self._left = self._lies
        match message:
            case OpenDraft(prefix=prefix, window=window):
                self._place, self._window = (len(prefix), prefix_hash(self._spec.session, prefix)), window
            case SendVerdict(committed_len=length, hash=chained, window=window):
                self._place, self._window = (length, chained), window
            case CloseDraft():
                self._left = 0

    def choices(self) -> list[Callable[[], None]]:
        return [self._lie] if self._left else []

    def _lie(self) -> None:
        self._left -= 1
        length, chained = self._place
        if self._left % 2:  # a chain, wrong from its first token on
            depths = range(self._window.positions)
            tokens = tuple(self._wrong(length + i, 1 + i) for i in depths)
            parents: tuple[int, ...] = ()
        else:  # every wrong continuation of the prefix at once
            tokens = tuple(self._wrong(length, i) for i in range(1, self._spec.vocab_size))
            parents = (-1,) * len(tokens)
        if tokens:
            self.outbox.append(SendDraft(length, chained, tokens, parents, (127,) * len(tokens)))

    def _wrong(self, position: int, by: int) -> TokenId:
        at = position - len(self._spec.prompt)
        right = self._answer[at] if at < len(self._answer) else 0
        return (right + 1 + by % (self._spec.vocab_size - 1)) % self._spec.vocab_size


class JunkPeer(SilentPeer):
    """Sends frames that no drafter would: bases out of thin air, parents that are not there, far too much."""

    def __init__(self, spec: SessionSpec, seed: int, frames: int = 3) -> None:
        super().__init__()
        self._spec, self._pick, self._frames = spec, random.Random(seed).randrange, frames
        self._places: list[tuple[int, bytes]] = [(0, session_hash(spec.session)), (3, bytes(8))]
        self._left = 0

    def receive(self, message: Downward) -> None:
        super().receive(message)
        self._left = self._frames
        match message:
            case OpenDraft(prefix=prefix):
                self._places.append((len(prefix), prefix_hash(self._spec.session, prefix)))
            case SendVerdict(committed_len=length, hash=chained):
                self._places.append((length, chained))
            case CloseDraft():
                self._left = 0

    def choices(self) -> list[Callable[[], None]]:
        return [self._send] if self._left else []

    def _send(self) -> None:
        self._left -= 1
        count = 1 + self._pick(40)
        length, chained = self._places[-1 if self._pick(2) else self._pick(len(self._places))]
        tokens = tuple(self._pick(self._spec.vocab_size + 2) for _ in range(count))
        parents: tuple[int, ...] = (
            (),
            tuple(self._pick(i + 1) - 1 for i in range(count)),
            tuple(self._pick(count + 1) - 1 for _ in range(1 + self._pick(count))),
        )[self._pick(3)]
        base_len = length + (self._pick(8) == 0)  # now and then of a length that does not go with the hash
        self.outbox.append(SendDraft(base_len, chained, tokens, parents, ()))


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
    down: deque[Downward] = field(default_factory=deque)
    up: deque[tuple[int, SendDraft]] = field(default_factory=deque)
    delivered: list[SendDraft] = field(default_factory=list)


class Drive:
    """Runs one answer to its end under a schedule of the caller's choosing."""

    def __init__(self, spec: SessionSpec, rows: Rows, pick: Pick, policy: Policy | None = None) -> None:
        self.spec = spec
        self.target = TargetSession(spec, policy)
        self.links: dict[PeerId, Link] = {}
        self.tokens: list[TokenId] = list(spec.committed)
        self.finished: FinishReason | None = None
        self.events = 0
        self._pick = pick
        self._model = PassModel(rows)
        self._wants_model = False
        self._running: Segment | None = None
        self.feed(Started(0.0))

    @property
    def bound(self) -> int:
        """Events after which an answer of this length must be over, whatever the schedule."""
        per_peer = 16 * self.target.policy.window.tokens + 64
        return (self.spec.max_tokens + 2) * (4 + per_peer * (1 + len(self.links)))

    def has_seen(self, events: int) -> bool:
        return self.events >= events

    def join(
        self, name: str, peer: Peer, *, copies: int = 1, delay: int = 0, replay: bool = False, lane: int = 0
    ) -> None:
        drafter = PeerId(name)
        self.links[drafter] = Link(peer, copies, delay, replay)
        self.feed(DrafterJoined(drafter, lane, 0.0))

    def leave(self, name: str) -> None:
        """The link breaks: what is in flight on it is lost."""
        if self.links.pop(PeerId(name), None) is not None:
            self.feed(DrafterLeft(PeerId(name), 0.0))

    def cancel(self) -> None:
        self.feed(Cancelled(0.0))

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
                    assert not self._wants_model and self._running is None, "asked for the model twice"
                    self._wants_model = True
                case RunPass(segment):
                    assert self._running is None
                    self._running = segment
                case PrepareNoise(positions):
                    self.target.sampler.noise.prepare(positions)
                case OpenDraft(drafter) | SendVerdict(drafter) | CloseDraft(drafter):
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
        return [self._finish_pass] if self._running is not None else []

    def _grant(self) -> None:
        self._wants_model = False
        self.feed(ModelFree(0.0))

    def _finish_pass(self) -> None:
        segment, self._running = self._running, None
        assert segment is not None
        rows = self._model.run(segment)
        if self.target.state is TargetState.VERIFYING:
            assert self._model.cached == list(self.target.tree.committed), "the cache is not the committed prefix"
        self.feed(Verified(rows, 0.0))

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
                    drafter, frame.base_len, frame.base_hash, frame.tokens, frame.parents, frame.confidences, at=0.0
                )
            )
