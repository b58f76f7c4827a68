from __future__ import annotations

from wanspec_p2p.links.allowance import Allowance


def test_so_many_at_once_and_so_many_a_second() -> None:
    allowance = Allowance(3, 2.0)
    assert [allowance.take(100.0) for _ in range(4)] == [True, True, True, False]
    assert [allowance.take(101.0) for _ in range(3)] == [True, True, False]
    assert [allowance.take(101.25), allowance.take(101.5)] == [False, True]


def test_no_more_is_saved_up_than_may_come_at_once() -> None:
    allowance = Allowance(2, 1.0)
    assert allowance.take(0.0)
    assert [allowance.take(1000.0) for _ in range(3)] == [True, True, False]


def test_what_was_not_read_for_long_may_come_at_once() -> None:
    allowance = Allowance(2, 1.0)
    allowance.refill(0.0)
    allowance.refill(10.0, unread=True)
    assert [allowance.take(10.0) for _ in range(13)] == [True] * 12 + [False]
    allowance.refill(1000.0)
    assert [allowance.take(1000.0) for _ in range(3)] == [True, True, False]
