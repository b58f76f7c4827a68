from __future__ import annotations

import random
from collections import Counter

import pytest

from wanspec_p2p.models import repeats
from wanspec_p2p.models.repeats import LONGEST, OCCURRENCES, Repeat, RepeatIndex


def scanned(text: list[int]) -> Repeat | None:
    """The same from the definition, with every occurrence compared."""

    def common(at: int) -> int:
        length = 0
        while length < min(at, LONGEST) and text[at - 1 - length] == text[-1 - length]:
            length += 1
        return length

    lengths = {at: common(at) for at in range(1, len(text))}
    longest = max(lengths.values(), default=0)
    if not longest:
        return None
    followed = Counter(text[at] for at, length in lengths.items() if length == longest)
    return Repeat(longest, {token: count / sum(followed.values()) for token, count in followed.items()})


def index_of(text: list[int]) -> RepeatIndex:
    index = RepeatIndex()
    index.extend(text)
    return index


@pytest.mark.parametrize(
    ("text", "length", "shares"),
    [
        ([1, 2, 9, 1, 2], 2, {9: 1.0}),
        ([1, 2, 8, 1, 2, 9, 1, 2], 2, {8: 0.5, 9: 0.5}),
        ([5, 1, 2, 8, 1, 2, 9, 5, 1, 2], 3, {8: 1.0}),
        ([1, 3, 2, 3, 1, 4, 3], 1, {2: 0.5, 1: 0.5}),
        ([1, 1, 1], 2, {1: 1.0}),
    ],
    ids=["one", "two that part", "longer before later", "a single token", "overlap"],
)
def test_what_followed_the_longest_match(text: list[int], length: int, shares: dict[int, float]) -> None:
    assert index_of(text).repeat() == Repeat(length, shares)


@pytest.mark.parametrize("text", [[], [7], [7, 8, 9]])
def test_nothing_where_the_last_token_is_new(text: list[int]) -> None:
    assert index_of(text).repeat() is None


@pytest.mark.parametrize("alphabet", [2, 3, 8, 40])
def test_the_index_finds_what_a_scan_finds_as_its_text_grows_and_shrinks(
    alphabet: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(repeats, "OCCURRENCES", 1000)
    rng = random.Random(alphabet)
    index = RepeatIndex()
    text: list[int] = []
    for _ in range(200):
        length = rng.randint(max(len(text) - 6, 0), len(text))
        more = [rng.randrange(alphabet) for _ in range(rng.randint(0, 8))]
        text = text[:length] + more
        index.truncate(length)
        index.extend(more)
        assert len(index) == len(text)
        assert index.repeat() == scanned(text)
    index.truncate(0)
    assert index._followers == {}


def test_matches_count_up_to_a_length() -> None:
    text = [*range(3 * LONGEST), 999, *range(3 * LONGEST)]
    assert index_of(text).repeat() == Repeat(LONGEST, {999: 1.0})


def test_the_latest_occurrences_are_compared() -> None:
    early, late = [1, 2], [1, 3] * OCCURRENCES
    assert index_of([*early, *late, 9, 1]).repeat() == Repeat(1, {3: 1.0})
