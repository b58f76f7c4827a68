"""The sessions one target has opened on one link: its messages in, our drafts out. Knows no link and awaits nothing."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

from node.drafting import DraftingEngine, Seat
from node.limits import LendingLimits, Load
from wanspec_p2p.errors import RemoteProtocolError
from wanspec_p2p.protocol.node_to_target import Decline, Draft
from wanspec_p2p.protocol.target_to_node import Close, Open, TargetToNode, Verdict, Verifying
from wanspec_p2p.protocol.target_to_node import Outlook as WireOutlook
from wanspec_p2p.protocol.target_to_node import Window as WireWindow
from wanspec_p2p.speculation.calibration import RankTable
from wanspec_p2p.speculation.drafter_session import DrafterSession, DrafterSpec
from wanspec_p2p.speculation.events import Outlook, VerdictAnnounced, VerdictArrived, Window
from wanspec_p2p.speculation.instructions import SendDraft
from wanspec_p2p.speculation.tree import chain_end
from wanspec_p2p.types import SessionId

__all__ = ["LinkSessions"]

REMEMBERED_DECLINES = 1024
"""What a target sends before it has read our Decline is no fault of its own."""

log = structlog.get_logger(__name__)


class LinkSessions:
    """Args:
    say: takes a message for the target; must not block.
    table: what is known of the model's candidates at this target. Others have their own: what one target says came
        true is its word, and says nothing of another's model.

    Attributes:
        opened: sessions taken on so far.
        drafted: tokens drafted so far.
    """

    def __init__(
        self,
        engine: DraftingEngine,
        limits: LendingLimits,
        say: Callable[[Draft | Decline], None],
        table: RankTable | None = None,
    ) -> None:
        self.table = table or RankTable()
        self._engine, self._limits, self._say = engine, limits, say
        self.opened = self.drafted = 0
        self._seats: dict[int, Seat] = {}
        self._wire: dict[int, _Wire] = {}
        self._declined: deque[int] = deque(maxlen=REMEMBERED_DECLINES)

    def __len__(self) -> int:
        return len(self._seats)

    def handle(self, message: TargetToNode) -> None:
        """One message of the target.

        Raises:
            RemoteProtocolError: it speaks of a session that it has not opened, or has opened already.
        """
        match message:
            case Open():
                self._open(message)
            case Verdict():
                if (seat := self._seat(message.session)) is not None:
                    wire = self._wire[message.session]
                    wire.window = message.window or wire.window
                    window = Window(wire.window.positions, wire.window.tokens)
                    event = VerdictArrived(
                        message.committed_len,
                        message.tail,
                        message.hash,
                        window,
                        self._engine.now(),
                        None if message.outlook is None else _outlook(message.outlook),
                    )
                    seat.feed(event)
            case Verifying():
                if (seat := self._seat(message.session)) is not None:
                    seat.feed(VerdictAnnounced(message.microseconds / 1e6, self._engine.now()))
            case Close():
                if (seat := self._seat(message.session)) is not None:
                    del self._seats[message.session], self._wire[message.session]
                    seat.close()

    def close(self) -> None:
        """The link is gone, and so are its sessions."""
        seats, self._seats = self._seats, {}
        self._wire.clear()
        for seat in seats.values():
            seat.close()

    def decline(self, handle: int, reason: str) -> None:
        self._seats.pop(handle, None)
        self._wire.pop(handle, None)
        self._declined.append(handle)
        self._say(Decline(session=handle, reason=reason))
        log.debug("session declined", session=handle, reason=reason)

    def draft(self, handle: int, draft: SendDraft) -> None:
        self.drafted += len(draft.tokens)
        self._say(
            Draft(
                session=handle,
                base_len=draft.base_len,
                base_hash=self._wire[handle].base_hash(draft),
                tokens=draft.tokens,
                parents=draft.parents,
                confidences=draft.confidences,
                bases=draft.bases,
            )
        )

    def _seat(self, handle: int) -> Seat | None:
        """The session of this number; None where we had declined it."""
        seat = self._seats.get(handle)
        if seat is None and handle not in self._declined:
            raise RemoteProtocolError(f"session {handle} is not open on this link")
        return seat

    def _open(self, message: Open) -> None:
        if message.session in self._seats:
            raise RemoteProtocolError(f"session {message.session} is already open on this link")
        if message.prompt_len > len(message.prefix):
            raise RemoteProtocolError("open: prompt_len is longer than the prefix")
        info = self._engine.model.info
        load = Load(sessions=self._engine.sessions, paused=self._engine.paused)
        refusal = self._limits.refuse_session(load, len(message.prefix))
        if refusal is None and max(message.prefix) >= info.vocab_size:
            refusal = "the prefix holds a token outside this drafter's vocabulary"
        if refusal is not None:
            self.decline(message.session, refusal)
            return
        cache = self._engine.cache_name()
        spec = DrafterSpec(
            session=SessionId(message.id),
            cache=cache,
            prefix=message.prefix,
            prompt_len=message.prompt_len,
            seed=message.seed,
            sampling=message.sampling,
            vocab_size=info.vocab_size,
            stop_tokens=message.stop_tokens,
            window=Window(message.window.positions, message.window.tokens),
            context=info.context,
            lane=message.lane % message.lanes,
            lanes=message.lanes,
            batch=self._engine.batch,
            floor=self._engine.floor,
        )
        outlet = _Outlet(self, message.session)
        self.opened += 1
        self._wire[message.session] = _Wire(message.window)
        self._seats[message.session] = self._engine.seat(DrafterSession(spec, self.table), cache, outlet)


def _outlook(outlook: WireOutlook) -> Outlook:
    parents = outlook.parents or tuple(range(-1, len(outlook.tokens) - 1))
    return Outlook(outlook.tokens, parents, outlook.confidences)


class _Wire:
    """What need not be said again about one session: its window, and where our last draft ended."""

    def __init__(self, window: WireWindow) -> None:
        self.window = window
        self._end: tuple[int, bytes] | None = None

    def base_hash(self, draft: SendDraft) -> bytes:
        base = (draft.base_len, draft.base_hash)
        goes_on = base == self._end
        self._end = None if draft.parents else chain_end(*base, draft.tokens)
        return b"" if goes_on else draft.base_hash


class _Outlet:
    """What one session says, under its number."""

    def __init__(self, sessions: LinkSessions, handle: int) -> None:
        self._sessions, self._handle = sessions, handle

    def draft(self, draft: SendDraft) -> None:
        self._sessions.draft(self._handle, draft)

    def decline(self, reason: str) -> None:
        self._sessions.decline(self._handle, reason)
