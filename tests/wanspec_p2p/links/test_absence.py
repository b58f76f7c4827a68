from __future__ import annotations

import pytest

from wanspec_p2p.links import absence
from wanspec_p2p.links.absence import Absence
from wanspec_p2p.types import PeerId

OLD, NEW, OTHER = (PeerId(letter * 32) for letter in "abc")


def test_the_absent_are_forgotten_in_time_and_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(absence, "MAX_ABSENT", 2)
    absent = Absence(10.0)
    for now, name in ((0.0, OLD), (1.0, OTHER), (2.0, OLD), (3.0, NEW)):
        absent.add(name, now)
    assert absent.at(3.0) == [OLD, NEW]
    assert not absent.has(OTHER, 3.0)
    assert absent.at(12.0) == [NEW]
    assert absent.has(NEW, 12.0)
    assert absent.at(13.0) == []
    assert not absent.has(NEW, 13.0)


def test_it_is_twice_as_long_each_time_in_a_row() -> None:
    absent, now = Absence(10.0, longest=35.0), 0.0
    for seconds in (10.0, 20.0, 35.0, 35.0):
        absent.add(OLD, now)
        now += seconds
        assert absent.has(OLD, now - 0.1)
        assert absent.at(now) == []
    absent.add(OLD, now + 35.0)
    assert absent.at(now + 45.0) == [], "that was not in a row any more"


def test_who_is_forgiven_begins_anew() -> None:
    absent = Absence(10.0, longest=100.0)
    absent.add(OLD, 0.0)
    absent.add(OLD, 10.0)
    absent.forgive(OLD)
    assert absent.at(10.0) == []
    absent.add(OLD, 10.0)
    assert not absent.has(OLD, 20.0)
    absent.forgive(NEW)
