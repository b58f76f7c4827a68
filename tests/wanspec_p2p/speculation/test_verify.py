"""The walk settles exactly what decoding one token at a time would have."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.session_rows import Rows, scripted_rows
from wanspec_p2p.speculation.sampling import Choice, Row, Sampler
from wanspec_p2p.speculation.verify import Candidates, Step, walk
from wanspec_p2p.types import Sampling

VOCABULARY = 5
PREFIX = (1, 2)
SEED = bytes(16)


def rows_of(candidates: Candidates, rows: Rows) -> list[Row]:
    """What one pass returns: after the prefix, then after each candidate."""
    paths: list[tuple[int, ...]] = []
    for token, parent in zip(candidates.tokens, candidates.parents, strict=True):
        paths.append((*(paths[parent] if parent >= 0 else ()), token))
    return [rows((*PREFIX, *path)) for path in ((), *paths)]


@st.composite
def trees(draw: st.DrawFn) -> Candidates:
    """Any tree, doubled siblings included."""
    size = draw(st.integers(0, 14))
    parents = tuple(draw(st.integers(-1, i - 1)) for i in range(size))
    tokens = tuple(draw(st.integers(0, VOCABULARY - 1)) for _ in range(size))
    return Candidates(tuple(range(100, 100 + size)), tokens, parents)


@settings(max_examples=300, deadline=None)
@given(
    candidates=trees(),
    law=st.integers(0, 500),
    temperature=st.sampled_from([0.0, 0.7]),
    penalty=st.sampled_from([1.0, 1.4]),
    stop=st.sets(st.integers(0, VOCABULARY - 1), max_size=2),
    limit=st.integers(1, 9),
)
def test_a_walk_is_decoding_one_token_at_a_time(
    candidates: Candidates, law: int, temperature: float, penalty: float, stop: set[int], limit: int
) -> None:
    rows = scripted_rows(law, VOCABULARY, ties=True)
    sampling = Sampling(temperature=temperature, repetition_penalty=penalty)
    steps = walk(candidates, rows_of(candidates, rows), Sampler(sampling, SEED, VOCABULARY, PREFIX).choose, stop, limit)
    alone = Sampler(sampling, SEED, VOCABULARY, PREFIX)
    answer: list[int] = []
    for step in steps:
        choice = alone.choose(rows((*PREFIX, *answer)))
        alone.commit([choice.token])
        assert (step.token, step.margin) == (choice.token, choice.margin)
        assert np.array_equal(rows_of(candidates, rows)[step.row], rows((*PREFIX, *answer)))
        answer.append(choice.token)

    # Each step but the last descends; the last is off the tree, a stop, or the limit.
    assert 1 <= len(steps) <= limit
    at = -1
    for step in steps:
        assert step.row == at + 1
        there = [
            i
            for i, edge in enumerate(zip(candidates.parents, candidates.tokens, strict=True))
            if edge == (at, step.token)
        ]
        assert step.candidate == (there[0] if there else None)
        at = -1 if step.candidate is None else step.candidate
    assert all(step.candidate is not None and step.token not in stop for step in steps[:-1])
    assert steps[-1].candidate is None or steps[-1].token in stop or len(steps) == limit


def chosen(*tokens: int) -> Callable[[Row, Sequence[int]], Choice]:
    """A target that will say these tokens, whatever the rows hold."""

    def choose(row: Row, path: Sequence[int]) -> Choice:
        assert tuple(path) == tokens[: len(path)]
        return Choice(tokens[len(path)], 1.0)

    return choose


CHAIN = Candidates((10, 11, 12), (4, 5, 6), (-1, 0, 1))
ROWS = [np.zeros(8, dtype=np.float32)] * 4


@pytest.mark.parametrize(
    ("said", "stop", "limit", "expected"),
    [
        ((7,), (), 9, [(7, 0, None)]),
        ((4, 5, 6, 7), (), 9, [(4, 0, 0), (5, 1, 1), (6, 2, 2), (7, 3, None)]),
        ((4, 7), (), 9, [(4, 0, 0), (7, 1, None)]),
        ((4, 5, 6, 7), (5,), 9, [(4, 0, 0), (5, 1, 1)]),
        ((7,), (7,), 9, [(7, 0, None)]),
        ((4, 5, 6, 7), (), 2, [(4, 0, 0), (5, 1, 1)]),
        ((4, 5, 6, 7), (), 1, [(4, 0, 0)]),
    ],
    ids=["all wrong", "all right and a bonus", "half right", "stop inside", "stop as bonus", "limit", "limit 1"],
)
def test_where_a_walk_ends(
    said: tuple[int, ...], stop: tuple[int, ...], limit: int, expected: list[tuple[int, int, int | None]]
) -> None:
    steps = walk(CHAIN, ROWS, chosen(*said), stop, limit)
    assert steps == [Step(token, 1.0, row, candidate) for token, row, candidate in expected]


def test_without_candidates_one_token_is_settled() -> None:
    assert walk(Candidates((), (), ()), ROWS[:1], chosen(3), (), 5) == [Step(3, 1.0, 0, None)]
