from __future__ import annotations

import pytest
from websockets.frames import Frame, Opcode
from websockets.protocol import OPEN, Protocol, Side

from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.links.turns import FRAMES_A_TURN, TOO_MANY_PINGS, Turns
from wanspec_p2p.protocol import limits


class Fed:
    """A server's protocol, and what it makes of what it is fed."""

    def __init__(self) -> None:
        self.clock = ManualClock()
        self.protocol = Protocol(Side.SERVER, state=OPEN)
        self.turns = Turns(self.protocol, self.clock.monotonic)
        self.feed(count=1)  # the parser looked for this one before anybody could ask it to stop; after HTTP it does not

    def feed(self, opcode: Opcode = Opcode.TEXT, count: int = 0) -> int:
        """How many frames come out."""
        self.turns.begin()
        self.protocol.receive_data(Frame(opcode, b"").serialize(mask=True) * count)
        return len(self.protocol.events_received())


@pytest.fixture
def fed() -> Fed:
    return Fed()


def test_a_turn_is_over_after_so_many_frames(fed: Fed) -> None:
    assert fed.feed(count=2 * FRAMES_A_TURN + 1) == FRAMES_A_TURN
    assert fed.turns.waiting
    assert (fed.feed(), fed.feed()) == (FRAMES_A_TURN, 1)
    assert not fed.turns.waiting


def test_what_comes_exactly_in_a_turn_leaves_nothing_waiting(fed: Fed) -> None:
    assert fed.feed(count=FRAMES_A_TURN) == FRAMES_A_TURN
    assert not fed.turns.waiting


def test_a_flood_of_pings_is_failed_where_it_begins_and_costs_no_more_pongs(fed: Fed) -> None:
    taken = sum(fed.feed(Opcode.PING, count) for count in (1000, 0, 0))
    assert taken == limits.PINGS_AT_ONCE
    close = fed.protocol.close_sent
    assert close is not None
    assert (close.code, close.reason) == (CloseCode.POLICY_VIOLATION, TOO_MANY_PINGS)
    assert len(fed.protocol.data_to_send()) == limits.PINGS_AT_ONCE + 2  # the close frame and the end
    assert not fed.protocol.reader.buffer


def test_pings_as_often_as_anybody_needs_are_answered(fed: Fed) -> None:
    for _ in range(1000):
        fed.clock.advance(1.0 / limits.PINGS_A_SECOND)
        assert fed.feed(Opcode.PING, 1) == 1
    assert fed.protocol.state is OPEN


def test_nothing_waits_once_the_connection_is_lost(fed: Fed) -> None:
    fed.feed(count=3 * FRAMES_A_TURN)
    fed.turns.end()
    assert not fed.turns.waiting
    fed.protocol.receive_eof()
    assert fed.protocol.events_received() == []
    assert fed.protocol.state.name == "CLOSED"
