from __future__ import annotations

import msgspec
import pytest

from wanspec_p2p.clock import ManualClock
from wanspec_p2p.errors import CloseCode, RemoteProtocolError
from wanspec_p2p.links.pulse import OUTSTANDING_PINGS, STRAY_PONGS, Pulse
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import Ping, Pong


def test_the_first_sample_counts_whole_and_later_ones_an_eighth() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    assert pulse.rtt is None
    for seconds, smoothed in ((0.1, 0.1), (0.9, 0.2), (0.2, 0.2)):
        ping = pulse.ping()
        clock.advance(seconds)
        pulse.pong(Pong(id=ping.id, at=ping.at))
        assert pulse.rtt == pytest.approx(smoothed)


def test_jitter_starts_at_half_a_sample_and_moves_a_quarter_of_the_way() -> None:
    """RFC 6298 §2.2 and §2.3: RTTVAR is compared with SRTT as it was before the sample."""
    clock = ManualClock()
    pulse = Pulse(clock)
    assert pulse.jitter is None
    for seconds, jitter in ((0.1, 0.05), (0.9, 0.05 + (0.8 - 0.05) / 4), (0.2, 0.75 * 0.2375)):
        ping = pulse.ping()
        clock.advance(seconds)
        pulse.pong(Pong(id=ping.id, at=ping.at))
        assert pulse.jitter == pytest.approx(jitter)


def test_pongs_that_nobody_waits_for_say_nothing() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    first = pulse.ping()
    pulse.pong(Pong(id=first.id + 1, at=0.0))
    assert pulse.rtt is None
    clock.advance(0.5)
    pulse.pong(Pong(id=first.id, at=99.0))  # its own idea of the time is not asked for
    assert pulse.rtt == 0.5
    clock.advance(5.0)
    pulse.pong(Pong(id=first.id, at=first.at))
    assert pulse.rtt == 0.5


def test_many_more_pongs_than_pings_are_a_fault() -> None:
    pulse = Pulse(ManualClock())
    pings = [pulse.ping() for _ in range(2)]
    pulse.forget()
    for number in range(len(pings) + STRAY_PONGS):
        pulse.pong(Pong(id=pings[number % 2].id, at=0.0))
    with pytest.raises(RemoteProtocolError, match="more Pongs than Pings"):
        pulse.pong(Pong(id=pings[0].id, at=0.0))


def test_the_id_of_the_next_ping_cannot_be_told_from_those_before() -> None:
    """A peer that answers pings it has not seen yet would look near."""
    pulse, other = Pulse(ManualClock()), Pulse(ManualClock())
    ids = [pulse.ping().id for _ in range(100)]
    assert len({*ids, *(other.ping().id for _ in range(100))}) == 200
    assert len({after - before for before, after in zip(ids, ids[1:], strict=False)}) == 99
    assert {len(str(id)) for id in ids} == {16}  # frames of one length
    for id in ids:
        assert msgspec.convert({"type": "ping", "id": id, "at": 0.0}, Ping).id == id


def test_a_peer_that_answers_none_of_many_pings_is_at_fault_after_a_while() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    pings = []
    for _ in range(7):
        pings.append(pulse.ping(wants_pong=True))
        clock.advance(limits.PONG_SECONDS)
        pulse.check()
    pulse.pong(Pong(id=pings[0].id + 1, at=0.0))  # a guess
    pulse.ping()  # one that wants no answer
    pulse.check()
    pulse.ping(wants_pong=True)
    with pytest.raises(RemoteProtocolError, match="left unanswered for 16 s") as caught:
        pulse.check()
    assert caught.value.code == CloseCode.POLICY_VIOLATION
    pulse.pong(Pong(id=pings[3].id, at=0.0))
    pulse.check()


def test_pings_are_not_held_against_a_peer_while_we_do_not_read() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    for _ in range(20):
        pulse.ping(wants_pong=True)
        clock.advance(limits.PONG_SECONDS)
    pulse.forget()
    pulse.check()


def test_forgotten_pings_are_not_measured() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    ping = pulse.ping()
    pulse.forget()
    clock.advance(5.0)
    pulse.pong(Pong(id=ping.id, at=ping.at))
    assert pulse.rtt is None


def test_unanswered_pings_are_forgotten_in_the_end() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    pings = [pulse.ping() for _ in range(OUTSTANDING_PINGS + 1)]
    clock.advance(1.0)
    pulse.pong(Pong(id=pings[0].id, at=0.0))
    assert pulse.rtt is None
    pulse.pong(Pong(id=pings[1].id, at=0.0))
    assert pulse.rtt == 1.0
    assert OUTSTANDING_PINGS * limits.PING_SECONDS > limits.SILENCE_SECONDS


def test_pinging_more_often_than_anybody_needs_is_a_fault() -> None:
    clock = ManualClock()
    pulse = Pulse(clock)
    for id in range(1000):
        clock.advance(1.0 / limits.PINGS_A_SECOND)
        pulse.owe(Ping(id=id, at=0.0))
    clock.advance(3600.0)
    for id in range(limits.PINGS_AT_ONCE):
        pulse.owe(Ping(id=id, at=0.0))
    with pytest.raises(RemoteProtocolError, match="more Pings than the protocol allows") as caught:
        pulse.owe(Ping(id=0, at=0.0))
    assert caught.value.code is CloseCode.POLICY_VIOLATION


def test_only_the_latest_pong_is_owed() -> None:
    pulse = Pulse(ManualClock())
    assert pulse.take_owed() is None
    for i in range(3):
        pulse.owe(Ping(id=i, at=float(i)))
    assert pulse.wake.is_set()
    assert pulse.take_owed() == Pong(id=2, at=2.0)
    assert not pulse.wake.is_set()
    assert pulse.take_owed() is None
