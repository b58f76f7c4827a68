from __future__ import annotations

import pytest

from wanspec_p2p.clock import Clock, ManualClock, SystemClock


def test_a_manual_clock_moves_when_it_is_told_to() -> None:
    clock = ManualClock(start=100.0)
    assert (clock.monotonic(), clock.wall()) == (0.0, 100.0)
    clock.advance(2.5)
    clock.advance(0.0)
    assert (clock.monotonic(), clock.wall()) == (2.5, 102.5)
    with pytest.raises(ValueError, match="time does not go back"):
        clock.advance(-1.0)
    assert clock.monotonic() == 2.5


def test_the_systems_clock_goes_forward() -> None:
    clock: Clock = SystemClock()
    assert clock.monotonic() <= clock.monotonic()
    assert clock.wall() > 1_700_000_000
