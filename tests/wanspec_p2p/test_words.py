from __future__ import annotations

from wanspec_p2p.words import counted


def test_only_one_is_not_many() -> None:
    assert [counted(count, "row") for count in (0, 1, 2, 11)] == ["0 rows", "1 row", "2 rows", "11 rows"]
    assert [counted(count, "pass", "passes") for count in (1, 2)] == ["1 pass", "2 passes"]
