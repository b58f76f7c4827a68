from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator

import numpy as np
import pytest
from scipy import stats

from tests.support.hash_seeds import printed_under
from wanspec_p2p.simulation.laws import (
    CANDIDATES,
    REFERENCE_RANKS,
    VOCAB_SIZE,
    CalibratedLaw,
    IidLaw,
    Judged,
    Law,
    Place,
    RecordedLaw,
    Text,
    tempered,
)
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX, Sampler
from wanspec_p2p.types import Sampling

JUDGED = tuple(Judged(i, i % (CANDIDATES + 1), CANDIDATES) for i in range(40))
"""Every position with a confidence of its own, so that it can be told from the row."""


def on_path(text: Text, count: int, prompt: tuple[int, ...] = (1, 2, 3)) -> Iterator[Place]:
    place = text.after(prompt)
    for _ in range(count):
        yield place
        place = text.step(place, place.truth)


def off_path(text: Text, count: int) -> Iterator[Place]:
    """Behind prefixes that left the text one token ago and since."""
    for place in on_path(text, count):
        wrong = text.step(place, (place.truth + 1) % VOCAB_SIZE)
        yield wrong


def rank(law: Law, place: Place) -> int:
    tokens = law.guess(place).tokens
    return tokens.index(place.truth) + 1 if place.truth in tokens else 0


def position(law: Law, place: Place) -> int:
    """Of JUDGED, from the confidence that its logits stand for."""
    logits = law.guess(place).logits
    return next(judged.confidence for judged in JUDGED if tempered(judged.confidence) == logits)


def ranks_of(law: Law, places: Iterator[Place]) -> list[int]:
    counts = Counter(rank(law, place) for place in places)
    return [counts[k] for k in (1, 2, 3, 4, 0)]


def test_the_text_is_a_function_of_the_seed_and_of_what_was_said() -> None:
    answer = Text(7).continuation([1, 2, 3], 64)
    assert answer == Text(7).continuation([1, 2, 3], 64)
    assert answer[10:] == Text(7).continuation([1, 2, 3, *answer[:10]], 54)
    others = [Text(8).continuation([1, 2, 3], 64), Text(7).continuation([1, 2, 4], 64), Text(7).continuation([], 64)]
    assert all(sum(a == b for a, b in zip(answer, other, strict=True)) < 4 for other in others)
    assert answer[:6] == [419, 448, 143, 336, 71, 58]  # figures made with one version are those of the next


def test_the_text_uses_the_whole_vocabulary_evenly() -> None:
    counts = Counter(Text(0).continuation([5], 64 * VOCAB_SIZE))
    assert stats.chisquare([counts[token] for token in range(VOCAB_SIZE)]).pvalue > 0.001


@pytest.mark.parametrize("ranks", [REFERENCE_RANKS, (0.6, 0.2, 0.1, 0.05, 0.05)])
@pytest.mark.parametrize("places", [on_path, off_path])
def test_iid_ranks_have_the_chances_given_on_the_text_and_off_it(ranks: tuple[float, ...], places: object) -> None:
    text = Text(3)
    law = IidLaw(text, ranks=ranks)
    assert callable(places)
    found = ranks_of(law, places(text, 20_000))
    assert stats.chisquare(found, [20_000 * share for share in ranks]).pvalue > 0.001


def test_iid_ranks_are_independent_of_the_rank_before() -> None:
    text = Text(4)
    law = IidLaw(text, ranks=(0.6, 0.4, 0.0, 0.0, 0.0))
    right = [rank(law, place) == 1 for place in on_path(text, 20_000)]
    table = np.zeros((2, 2))
    np.add.at(table, (np.array(right[:-1], int), np.array(right[1:], int)), 1)
    assert stats.chi2_contingency(table).pvalue > 0.001


@pytest.mark.parametrize("ranks", [(1.0, 0.0, 0.0, 0.0, 0.0), (0.0, 0.0, 0.0, 0.0, 1.0)])
def test_a_drafter_may_be_always_right_or_always_wrong(ranks: tuple[float, ...]) -> None:
    text = Text(5)
    law = IidLaw(text, ranks=ranks)
    assert ranks_of(law, on_path(text, 500)) == [500 * share for share in ranks]
    assert list(law.guess(text.start).logits) == sorted(set(law.guess(text.start).logits), reverse=True)


def test_candidates_differ_and_the_wrong_ones_are_wrong() -> None:
    text = Text(6)
    for law in (IidLaw(text), CalibratedLaw(text, JUDGED), RecordedLaw(text, JUDGED)):
        for place in (*on_path(text, 500), *off_path(text, 500)):
            tokens = law.guess(place).tokens
            assert len(set(tokens)) == CANDIDATES and all(0 <= token < VOCAB_SIZE for token in tokens)


@pytest.mark.parametrize(
    ("ranks", "fault"),
    [
        ((0.8, 0.2), "5 probabilities"),
        ((1.2, -0.2, 0.0, 0.0, 0.0), "5 probabilities"),
        ((float("nan"), 0.1, 0.1, 0.1, 0.1), "5 probabilities"),
        ((0.5, 0.1, 0.1, 0.1, 0.1), "sum to 1, not to 0.9"),
        ((0.1, 0.7, 0.1, 0.05, 0.05), "likelier"),
    ],
)
def test_ranks_that_are_none_are_refused(ranks: tuple[float, ...], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        IidLaw(Text(0), ranks=ranks)


def test_the_same_drafter_guesses_alike_and_another_one_independently() -> None:
    text = Text(9)
    law, same, other = IidLaw(text, "a"), IidLaw(Text(9), "a"), IidLaw(text, "b")
    places = list(on_path(text, 2000))
    shuffled = random.Random(0).sample(places, len(places))
    asked = {place.key: same.guess(place) for place in shuffled}
    assert [law.guess(place) for place in places] == [asked[place.key] for place in places]
    both = sum(rank(law, place) == 1 == rank(other, place) for place in places)
    assert abs(both / len(places) - 0.64) < 0.03
    wrong = [place for place in places if rank(law, place) == 0 == rank(other, place)]
    assert all(law.guess(place).tokens != other.guess(place).tokens for place in wrong)


def test_guesses_do_not_depend_on_hash_randomisation() -> None:
    code = (
        "from wanspec_p2p.simulation.laws import *\n"
        "text = Text(1); law = IidLaw(text)\n"
        "print([law.guess(text.after([i])) for i in range(50)])"
    )
    said = printed_under(code, "1", "2")
    assert said[0] == said[1] and said[0].count(b"Guess") == 50


@pytest.mark.parametrize("places", [on_path, off_path])
def test_calibrated_draws_confidence_and_rank_together_and_evenly(places: object) -> None:
    text = Text(10)
    law = CalibratedLaw(text, JUDGED)
    assert callable(places)
    found: Counter[int] = Counter()
    for place in places(text, 8000):
        at = position(law, place)
        assert rank(law, place) == JUDGED[at].rank
        found[at] += 1
    assert stats.chisquare([found[at] for at in range(len(JUDGED))]).pvalue > 0.001


def test_recorded_goes_through_the_recording_in_order_and_round() -> None:
    text = Text(11)
    law = RecordedLaw(text, JUDGED)
    positions = [position(law, place) for place in on_path(text, 100)]
    assert positions == [(positions[0] + i) % len(JUDGED) for i in range(100)]
    assert [rank(law, place) for place in on_path(text, 100)] == [JUDGED[at].rank for at in positions]


def test_recorded_answers_begin_anywhere_and_prefixes_that_leave_the_text_go_on_anywhere() -> None:
    text = Text(12)
    law = RecordedLaw(text, JUDGED)
    starts = Counter(position(law, text.after([a, b])) for a in range(50) for b in range(50))
    assert stats.chisquare([starts[at] for at in range(len(JUDGED))]).pvalue > 0.001
    left = Counter(position(law, place) for place in off_path(text, 4000))
    assert stats.chisquare([left[at] for at in range(len(JUDGED))]).pvalue > 0.001
    [place] = off_path(text, 1)
    first = position(law, place)
    assert position(law, text.step(place, place.truth)) == (first + 1) % len(JUDGED)


def test_a_position_without_opinion_stays_without() -> None:
    text = Text(13)
    assert CalibratedLaw(text, [Judged(0, 0, 0)]).guess(text.start) == ((), ())
    assert len(RecordedLaw(text, [Judged(90, 1, 2)]).guess(text.start).tokens) == 2


@pytest.mark.parametrize("law", [CalibratedLaw, RecordedLaw])
def test_an_empty_recording_is_refused(law: type[CalibratedLaw]) -> None:
    with pytest.raises(ValueError, match="no position"):
        law(Text(0), [])


def test_every_confidence_has_logits_that_a_sampler_reads_as_that() -> None:
    sampler = Sampler(Sampling(), bytes(16), VOCAB_SIZE, [])
    read = []
    for confidence in range(CONFIDENCE_MAX + 1):
        row = np.zeros(VOCAB_SIZE, np.float32)
        row[[9, 3, 300, 7]] = tempered(confidence)
        ranking = sampler.rank(row, count=CANDIDATES)
        assert ranking.tokens == (9, 3, 300, 7)
        read.append(ranking.confidence)
    assert read == list(range(CONFIDENCE_MAX + 1))


def test_the_reference_law_shows_its_own_chances() -> None:
    logits = np.zeros(VOCAB_SIZE)
    logits[:CANDIDATES] = IidLaw(Text(0)).guess(Text(0).start).logits
    law = np.exp(logits) / np.exp(logits).sum()
    assert law[:CANDIDATES] == pytest.approx(REFERENCE_RANKS[:CANDIDATES])
