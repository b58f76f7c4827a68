from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.links.backoff import CAP_SECONDS, COORDINATOR_CAP_SECONDS, FIRST_SECONDS, MAX_RETRY_AFTER, Backoff


class Highest(random.Random):
    """Draws the upper end, so that a test sees the ceiling."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_ceiling_doubles_up_to_the_cap() -> None:
    backoff = Backoff(Highest())
    assert [backoff.next() for _ in range(7)] == [1.0, 2.0, 4.0, 8.0, 16.0, 30.0, 30.0]


def test_a_coordinator_that_returns_has_everybody_back_within_ten_seconds() -> None:
    """Two of them are for dialling, the handshake and the registration."""
    backoff = Backoff(Highest(), cap=COORDINATOR_CAP_SECONDS)
    assert max(backoff.next() for _ in range(50)) <= 8.0


def test_success_starts_over() -> None:
    backoff = Backoff(Highest())
    for _ in range(5):
        backoff.next()
    backoff.reset()
    assert backoff.next() == FIRST_SECONDS


def test_jitter_is_full() -> None:
    """A thousand that failed together come back spread over the whole interval, not in a crowd at its end."""
    delays = []
    for seed in range(1000):
        backoff = Backoff(random.Random(seed))
        for _ in range(3):
            backoff.next()
        delays.append(backoff.next())
    assert max(delays) <= 8.0
    quarters = [sum(low <= delay < low + 2.0 for delay in delays) for low in (0.0, 2.0, 4.0, 6.0)]
    assert min(quarters) > 150


@given(st.integers(0, 200), st.integers())
def test_a_delay_is_never_negative_and_never_beyond_the_cap(failures: int, seed: int) -> None:
    backoff = Backoff(random.Random(seed))
    for _ in range(failures):
        backoff.next()
    assert 0.0 <= backoff.next() <= CAP_SECONDS


def test_years_of_failure_do_not_overflow() -> None:
    backoff = Backoff(Highest())
    backoff._failures = 10**6
    assert backoff.next() == CAP_SECONDS


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [(7.0, 7.0, 8.0), (-5.0, 0.0, 1.0), (1e9, MAX_RETRY_AFTER, MAX_RETRY_AFTER + 1.0)],
)
def test_what_the_peer_asks_for_is_not_undercut_and_not_endless(asked: float, least: float, most: float) -> None:
    assert least <= Backoff(random.Random(1)).next(asked) <= most


def test_own_ceilings() -> None:
    backoff = Backoff(Highest(), first=0.1, cap=0.3)
    assert [backoff.next() for _ in range(3)] == pytest.approx([0.1, 0.2, 0.3])
