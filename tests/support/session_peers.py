"""The far ends of draft links, without an event loop: honest, silent, lying and senseless ones.

The honest one is a real `DrafterSession` with a model of its own, audited from the frames on its link.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Protocol, TypeAlias

from tests.support.session_rows import PassModel, Rows, check_tree, prefix_hash
from wanspec_p2p.speculation.calibration import RankTable
from wanspec_p2p.speculation.drafter_session import DrafterSession, DrafterSpec, DrafterState
from wanspec_p2p.speculation.events import (
    Drafted,
    DrafterEvent,
    FlushDue,
    ModelFree,
    PauseOver,
    SessionClosed,
    Started,
    VerdictAnnounced,
    VerdictArrived,
    Window,
)
from wanspec_p2p.speculation.instructions import (
    Abandon,
    AnnounceVerdict,
    CloseDraft,
    OpenDraft,
    Release,
    RequestModel,
    RunPass,
    SendDraft,
    SendVerdict,
    StartFlushTimer,
    StartPause,
)
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.speculation.tree import session_hash
from wanspec_p2p.types import Segment, SessionId, TokenId

__all__ = ["CreditAudit", "HonestPeer", "JunkPeer", "LyingPeer", "Message", "Peer", "SilentPeer"]

Message: TypeAlias = OpenDraft | AnnounceVerdict | SendVerdict | CloseDraft


class CreditAudit:
    """What a drafter has outstanding, counted from the frames on its link alone."""

    def __init__(self, session: SessionId, opened: OpenDraft) -> None:
        self._session = session
        self._committed = opened.prefix
        self._outstanding: set[tuple[TokenId, ...]] = set()
        self._told: set[tuple[TokenId, ...]] = set()
        self._granted = opened.window
        self.most_positions = self.most_tokens = 0

    def verdict(self, verdict: SendVerdict) -> None:
        known = verdict.committed_len - len(verdict.tail)
        places = {self._committed, *self._outstanding}
        ends = [(*p, *verdict.tail) for p in places if len(p) == known]
        [self._committed] = [p for p in ends if prefix_hash(self._session, p) == verdict.hash]
        length = len(self._committed)
        self._outstanding, self._told = (
            {p for p in paths if p[:length] == self._committed and len(p) > length}
            for paths in (self._outstanding, self._told)
        )
        if (outlook := verdict.outlook) is not None:
            news: list[tuple[TokenId, ...]] = []
            for token, parent in zip(outlook.tokens, outlook.parents, strict=True):
                news.append((*(self._committed if parent < 0 else news[parent]), token))
            self._told.update(news)
        # Credit once given is not taken back from what was drafted under it.
        self._granted = Window(
            max(self._granted.positions, verdict.window.positions), max(self._granted.tokens, verdict.window.tokens)
        )

    def draft(self, draft: SendDraft) -> None:
        bases = [self._base(*base) for base in ((draft.base_len, draft.base_hash), *draft.bases)]
        assert len(draft.confidences) == len(draft.tokens)
        paths: list[tuple[TokenId, ...]] = []
        for i, token in enumerate(draft.tokens):
            parent = draft.parents[i] if draft.parents else i - 1
            assert parent < i, "a token hangs off a later one"
            paths.append((*(bases[-1 - parent] if parent < 0 else paths[parent]), token))
        assert self._outstanding.isdisjoint(paths) and len(set(paths)) == len(paths), "a token went out twice"
        self._outstanding.update(paths)
        self.most_positions = max(self.most_positions, *(len(p) - len(self._committed) for p in paths))
        self.most_tokens = max(self.most_tokens, len(self._outstanding))
        assert self.most_positions <= self._granted.positions, "window of positions exceeded"
        assert self.most_tokens <= self._granted.tokens, "window of tokens exceeded"

    def _base(self, length: int, chained: bytes) -> tuple[TokenId, ...]:
        places = [p for p in (*self._prefixes(), *(self._outstanding | self._told)) if len(p) == length]
        [base] = [p for p in places if prefix_hash(self._session, p) == chained]
        return base

    def _prefixes(self) -> Iterator[tuple[TokenId, ...]]:
        return (self._committed[:length] for length in range(len(self._committed) + 1))


class Peer(Protocol):
    """The far end of a draft link."""

    outbox: deque[SendDraft]

    def receive(self, message: Message) -> None: ...

    def choices(self) -> list[Callable[[], None]]:
        """What this peer could do now, of itself; finitely often between two messages."""
        ...


class HonestPeer:
    """A real drafter session with a model of its own. Any `Abandon` is a failure unless a test expects it.

    Args:
        lanes: how many drafters share the branches; which share is this one's, the target says.
        batch: nodes it runs in one pass.
        table: what its model's candidates are worth; by default it knows nothing of them yet.
    """

    def __init__(
        self,
        spec: SessionSpec,
        rows: Rows,
        *,
        context: int = 4096,
        flush_tokens: int = 4,
        lanes: int = 1,
        batch: int = 8,
        table: RankTable | None = None,
    ) -> None:
        self._spec, self._rows = spec, rows
        self._context, self._flush_tokens = context, flush_tokens
        self._lanes, self._batch, self._table = lanes, batch, table
        self.outbox: deque[SendDraft] = deque()
        self.session: DrafterSession | None = None
        self.audit: CreditAudit | None = None
        self.abandoned: str | None = None
        self._model = PassModel(rows)
        self._wants_model = self._timer = self._pausing = False
        self._now = 0.0
        self._running: Segment | None = None

    def receive(self, message: Message) -> None:
        match message:
            case OpenDraft():
                self._open(message)
            case SendVerdict():
                assert self.audit is not None
                self.audit.verdict(message)
                self._feed(
                    VerdictArrived(
                        message.committed_len, message.tail, message.hash, message.window, self._at(), message.outlook
                    )
                )
            case AnnounceVerdict(_, seconds):
                self._feed(VerdictAnnounced(seconds, self._at()))
            case CloseDraft():
                self._feed(SessionClosed(self._at()))

    def choices(self) -> list[Callable[[], None]]:
        choices: list[Callable[[], None]] = []
        if self._wants_model:
            choices.append(self._grant)
        if self._running is not None:
            choices.append(self._finish_pass)
        if self._timer:
            choices.append(self._fire)
        if self._pausing:
            choices.append(self._end_pause)
        return choices

    def _at(self) -> float:
        """Time goes on by one with everything that happens here, so that verdicts have a rhythm to learn."""
        self._now += 1.0
        return self._now

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
                lane=opened.lane % self._lanes,
                lanes=self._lanes,
                batch=self._batch,
                flush_tokens=self._flush_tokens,
            ),
            self._table,
        )
        self._feed(Started(self._at()))

    def _grant(self) -> None:
        self._wants_model = False
        self._feed(ModelFree(self._at()))

    def _finish_pass(self) -> None:
        segment, self._running = self._running, None
        assert segment is not None
        rows = self._model.run(segment)
        assert len(rows) <= max(1, self._batch), "a pass wider than the batch"
        self._feed(Drafted(rows, self._at()))

    def _fire(self) -> None:
        self._timer = False
        self._feed(FlushDue(self._at()))

    def _end_pause(self) -> None:
        self._pausing = False
        self._feed(PauseOver(self._at()))

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
                case StartPause():
                    self._pausing = True
                case Abandon(reason):
                    self.abandoned = reason
                case Release():
                    assert self.session.state is DrafterState.CLOSED
        check_tree(self.session.tree, self._spec.session)


class SilentPeer:
    """Takes everything, answers nothing."""

    def __init__(self) -> None:
        self.outbox: deque[SendDraft] = deque()
        self.received: list[Message] = []

    def receive(self, message: Message) -> None:
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

    def receive(self, message: Message) -> None:
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
    """Sends frames that no drafter would: bases out of thin air, parents and bases that are not there, far too much."""

    def __init__(self, spec: SessionSpec, seed: int, frames: int = 3) -> None:
        super().__init__()
        self._spec, self._pick, self._frames = spec, random.Random(seed).randrange, frames
        self._places: list[tuple[int, bytes]] = [(0, session_hash(spec.session)), (3, bytes(8))]
        self._left = 0

    def receive(self, message: Message) -> None:
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
            tuple(self._pick(i + 3) - 3 for i in range(count)),
            tuple(self._pick(count + 4) - 4 for _ in range(1 + self._pick(count))),
        )[self._pick(3)]
        bases = tuple(self._places[self._pick(len(self._places))] for _ in range(self._pick(3)))
        base_len = length + (self._pick(8) == 0)  # now and then of a length that does not go with the hash
        self.outbox.append(SendDraft(base_len, chained, tokens, parents, (), bases))
