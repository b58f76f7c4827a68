"""Rows of sessions that share a pass."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from node.row_shares import RowShares
from wanspec_p2p.speculation.pace import SHORT_DRAFT_PROMPT
from wanspec_p2p.types import Segment


def segment(rows: int, *, read: int = 0) -> Segment:
    return Segment("a", 1, (), (1,) * read, (2,) * rows, (-1,) * rows)


def used(shares: RowShares, seconds: Callable[[int], float], *sessions: int, passes: int = 20) -> list[int]:
    """Rows of the last passes with so many sessions, after as many again in which it could learn."""
    widths: list[int] = []
    for number in range(2 * passes):
        rows = shares.of(sessions[number % len(sessions)])
        shares.measured([segment(own) for own in rows], seconds(sum(rows)))
        widths.append(sum(rows))
    return widths[passes:]


def by_eights(rows: int) -> float:
    """Eight rows in the time of one, the next eight in as much again."""
    return 0.005 * -(-rows // 8)


def test_before_anything_is_known_everyone_has_all_it_could_use() -> None:
    assert RowShares(8).of(3) == [8, 8, 8]
    assert RowShares(8).of(0) == []


def test_who_is_alone_keeps_all_it_could_use() -> None:
    assert set(used(RowShares(8), by_eights, 1)) == {8}


def test_sessions_share_the_rows_that_take_no_longer_than_one_for_each() -> None:
    shares = RowShares(8)
    used(shares, by_eights, 1, 2, 3, 8)
    assert shares.of(8) == [1] * 8
    assert sorted(shares.of(3)) == [2, 3, 3]
    assert shares.of(2) == [4, 4]


def test_where_rows_cost_nothing_company_takes_none_away() -> None:
    assert set(used(RowShares(8), lambda rows: 0.005, 1, 4, 8)) == {8, 32, 64}


@pytest.mark.parametrize("sessions", [1, 3, 8])
def test_nobody_has_fewer_than_cost_as_much(sessions: int) -> None:
    shares = RowShares(4, least=4)
    used(shares, lambda rows: 0.02 * rows, 1, 3, 8)
    assert shares.of(sessions) == [4] * sessions


def test_what_becomes_faster_is_found_out() -> None:
    shares = RowShares(8)
    used(shares, by_eights, 1, 2, 8)
    assert sum(shares.of(8)) == 8
    assert max(used(shares, lambda rows: 0.005, 2, 8, passes=200)) > 32


def test_a_pass_that_reads_a_prompt_tells_nothing_of_rows() -> None:
    shares = RowShares(8)
    for rows in (1, 8, 16):
        shares.measured([segment(rows), segment(1, read=SHORT_DRAFT_PROMPT + 1)], 1.0 * rows)
    assert shares.of(2) == [8, 8]
