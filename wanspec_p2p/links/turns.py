"""A peer's frames in turns: nobody else's work waits until all that came in one read has been looked at.

asyncio reads up to 256 KiB at once. That is 43,690 frames of six bytes, which `websockets` would parse to the last one,
and answer each ping among them, before anything else on the event loop has its turn. Both its own connections and
uvicorn's are built on its `Protocol`, and this is what they have in common.
"""

from __future__ import annotations

from collections.abc import Callable, Generator

from websockets.exceptions import ProtocolError
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol

from wanspec_p2p.errors import CloseCode
from wanspec_p2p.links.allowance import Allowance
from wanspec_p2p.protocol import limits

__all__ = ["FRAMES_A_TURN", "TOO_MANY_PINGS", "Turns"]

FRAMES_A_TURN = 64
"""Frames parsed before others have their turn; of empty ones, a third of a millisecond's work."""
TOO_MANY_PINGS = "more pings or pongs than the protocol allows"


class Turns:
    """Makes a protocol stop after `FRAMES_A_TURN`, and fail at a flood of control frames where it begins.

    Whoever feeds the protocol calls `begin` before, and afterwards looks whether something is `waiting`: then it stops
    reading, and feeds the protocol nothing (`b""`) when others had their turn.

    Args:
        now: monotonic seconds.
    """

    def __init__(self, protocol: Protocol, now: Callable[[], float]) -> None:
        self._protocol, self._now = protocol, now
        self._pings = Allowance(limits.PINGS_AT_ONCE, limits.PINGS_A_SECOND)
        self._left, self._ended = FRAMES_A_TURN, False
        self._at_eof, self._receive = protocol.reader.at_eof, protocol.recv_frame
        protocol.reader.at_eof = self._next  # type: ignore[method-assign]  # the parser asks it before each frame
        protocol.recv_frame = self._take  # type: ignore[method-assign]

    def begin(self) -> None:
        self._left = FRAMES_A_TURN

    @property
    def waiting(self) -> bool:
        """More has come than was to be looked at in this turn."""
        return self._left <= 0 and not self._ended and bool(self._protocol.reader.buffer)

    def end(self) -> None:
        """The connection is lost; what is waiting is not looked at any more."""
        if self.waiting:
            self._protocol.reader.discard()
        self._ended = True

    def _next(self) -> Generator[None, None, bool]:
        while self._left <= 0 and not self._ended:
            yield
        over = yield from self._at_eof()
        self._left -= 1
        return over

    def _take(self, frame: Frame) -> None:
        if frame.opcode in (Opcode.PING, Opcode.PONG) and not self._pings.take(self._now()):
            self._protocol.fail(CloseCode.POLICY_VIOLATION, TOO_MANY_PINGS)
            raise ProtocolError(TOO_MANY_PINGS)  # ends the parser, whose own failing comes too late for its code
        self._receive(frame)
