"""The rule that decides a token, against a slow and obvious one written from its definition."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import msgspec
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from wanspec_p2p.errors import EngineError
from wanspec_p2p.speculation.noise import uniform_row
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX, Choice, Ranking, Row, Sampler, kept_by_law, logprobs
from wanspec_p2p.speculation.verify import Candidates, walk
from wanspec_p2p.types import GREEDY_BELOW, Sampling

SEED = bytes(range(16))
INF = math.inf
NEAR = 1e-9
"""Closer than this, two ways of adding the same numbers may disagree; such examples are left out."""


@dataclass(frozen=True)
class Case:
    """One position: everything its token depends on."""

    sampling: Sampling
    logits: tuple[float, ...]
    vocab_size: int
    prompt: tuple[int, ...] = (0,)
    answer: tuple[int, ...] = ()
    path: tuple[int, ...] = ()
    stop_tokens: tuple[int, ...] = ()
    seed: bytes = SEED

    @property
    def row(self) -> Row:
        return np.array(self.logits, dtype=np.float32)

    def sampler(self) -> Sampler:
        sampler = Sampler(self.sampling, self.seed, self.vocab_size, self.prompt, self.stop_tokens)
        sampler.commit(self.answer)
        return sampler

    def choose(self) -> Choice:
        return self.sampler().choose(self.row, self.path)


# The reference: plain Python floats, one step of the definition a line.


def processed(case: Case) -> list[float]:
    s = case.sampling
    z = [float(x) for x in case.row[: case.vocab_size]]
    answer = [*case.answer, *case.path]
    for token in {*case.prompt, *answer}:
        if token < case.vocab_size:
            z[token] = z[token] / s.repetition_penalty if z[token] > 0 else z[token] * s.repetition_penalty
    for token, times in Counter(answer).items():
        z[token] -= s.presence_penalty + s.frequency_penalty * times
    for token, bias in s.logit_bias:
        if token < case.vocab_size:
            z[token] += bias
    if len(answer) < s.min_tokens:
        for token in case.stop_tokens:
            z[token] = -INF
    return z


def nucleus(w: Sequence[float], top_k: int, top_p: float) -> list[int]:
    """Ids left by top-k, then top-p, in the order (-w, id); exact sums, so only the exponentials are rounded."""
    order = sorted(range(len(w)), key=lambda token: (-w[token], token))
    order = order[: top_k or len(w)]
    if top_p == 1.0:
        return order
    mass = [Fraction(float(np.exp(w[token] - w[order[0]]))) for token in order]
    wanted = Fraction(top_p) * sum(mass)
    reached = Fraction(0)
    for count, share in enumerate(mass, start=1):
        reached += share
        if abs(reached - wanted) < NEAR and count < len(order):
            # Sums of equal numbers are exact either way; anything else so close is left to nobody's judgement.
            assume(len(set(mass[:count])) == 1 and reached == wanted)
        if reached >= wanted:
            return order[:count]
    return order


def scores_of(case: Case) -> dict[int, float]:
    z = processed(case)
    if case.sampling.temperature == 0.0:
        return dict(enumerate(z))
    w = [x / case.sampling.temperature for x in z]
    position = len(case.prompt) + len(case.answer) + len(case.path)
    e = [-math.log(u) for u in uniform_row(case.seed, position, case.vocab_size).tolist()]
    return {token: w[token] - math.log(e[token]) for token in nucleus(w, case.sampling.top_k, case.sampling.top_p)}


def reference(case: Case) -> Choice:
    ranked = sorted(((-score, token) for token, score in scores_of(case).items()))
    if len(ranked) == 1:
        return Choice(ranked[0][1], INF)
    return Choice(ranked[0][1], ranked[1][0] - ranked[0][0])


logit = st.integers(-3, 3).map(float) | st.floats(-8, 8, width=32)


@st.composite
def cases(draw: st.DrawFn, *, greedy: bool | None = None) -> Case:
    """Small vocabularies, whole-number logits (many ties), everything that touches a logit at once."""
    vocab_size = draw(st.integers(2, 9))
    token = st.integers(0, vocab_size - 1)
    padded = draw(st.integers(0, 3))
    if greedy is None:
        greedy = draw(st.booleans())
    sampling = Sampling(
        temperature=0.0 if greedy else draw(st.sampled_from([0.3, 0.8, 1.0, 2.5])),
        top_k=draw(st.integers(0, vocab_size + 2)),
        top_p=draw(st.sampled_from([1.0, 0.9, 0.5, 0.25, 0.01]) | st.floats(0.01, 1.0)),
        repetition_penalty=draw(st.sampled_from([1.0, 1.3, 2.0, 0.5])),
        presence_penalty=draw(st.sampled_from([0.0, 1.0, -0.5])),
        frequency_penalty=draw(st.sampled_from([0.0, 0.25, -1.0])),
        logit_bias=tuple(draw(st.lists(st.tuples(st.integers(0, 11), st.integers(-2, 2).map(float)), max_size=3))),
        min_tokens=draw(st.integers(0, 4)),
    )
    return Case(
        sampling=sampling,
        logits=tuple(draw(st.lists(logit, min_size=vocab_size, max_size=vocab_size))) + (100.0,) * padded,
        vocab_size=vocab_size,
        prompt=tuple(draw(st.lists(st.integers(0, 12), min_size=1, max_size=4))),
        answer=tuple(draw(st.lists(token, max_size=3))),
        path=tuple(draw(st.lists(token, max_size=3))),
        stop_tokens=tuple(draw(st.lists(token, max_size=1))),
        seed=draw(st.binary(min_size=16, max_size=16)),
    )


@settings(max_examples=300, deadline=None)
@given(cases())
def test_the_token_and_its_margin_are_those_of_the_definition(case: Case) -> None:
    expected = reference(case)
    choice = case.choose()
    if not case.sampling.greedy:
        assume(expected.margin > NEAR)
    assert choice.token == expected.token
    assert choice.token < case.vocab_size
    assert choice.margin == pytest.approx(expected.margin, abs=NEAR)


@settings(max_examples=150, deadline=None)
@given(cases(), st.integers(1, 6))
def test_a_drafter_ranks_by_the_same_scores(case: Case, count: int) -> None:
    assume(len(set(case.logits)) > 1)
    ranked = sorted(((-score, token) for token, score in scores_of(case).items() if score > -INF))
    if not case.sampling.greedy:
        assume(all(b[0] - a[0] > NEAR for a, b in zip(ranked, ranked[1:], strict=False)))
    ranking = case.sampler().rank(case.row, case.path, count)
    assert ranking.tokens == tuple(token for _, token in ranked[:count])
    assert 0 <= ranking.confidence <= CONFIDENCE_MAX


@settings(max_examples=100, deadline=None)
@given(cases(), st.data())
def test_committing_at_once_or_one_by_one_or_walking_there_is_the_same(case: Case, data: st.DataObject) -> None:
    tokens = (*case.answer, *case.path)
    cut = data.draw(st.integers(0, len(tokens)))
    step_by_step = Sampler(case.sampling, case.seed, case.vocab_size, case.prompt, case.stop_tokens)
    for token in tokens[:cut]:
        step_by_step.choose(case.row)
        step_by_step.commit([token])
    assert step_by_step.choose(case.row, tokens[cut:]) == case.choose()


# Each rule alone, in numbers one can check by eye.


def greedy_choice(logits: Sequence[float], sampling: Sampling | None = None, **context: Any) -> Choice:
    return Case(sampling or Sampling(), tuple(logits), len(logits), **context).choose()


def test_greedy_takes_the_largest_and_says_by_how_much() -> None:
    assert greedy_choice([1.0, 4.0, 3.5]) == Choice(1, 0.5)


def test_ties_go_to_the_lowest_id_with_no_margin() -> None:
    assert greedy_choice([1.0, 4.0, 4.0, 4.0]) == Choice(1, 0.0)


def test_padding_is_never_chosen_and_never_counts_for_the_margin() -> None:
    assert Case(Sampling(), (1.0, 3.0, 9.0, 9.0), vocab_size=2).choose() == Choice(1, 2.0)
    assert Case(Sampling(temperature=1.0), (1.0, 3.0, 999.0), vocab_size=2).choose().token < 2


@settings(max_examples=50, deadline=None)
@given(case=cases(greedy=True), temperature=st.floats(5e-324, GREEDY_BELOW, exclude_max=True))
def test_next_to_no_temperature_is_greedy_for_target_and_drafter_alike(case: Case, temperature: float) -> None:
    cold = dataclasses.replace(case, sampling=msgspec.structs.replace(case.sampling, temperature=temperature))
    assert cold.choose() == case.choose()
    assert cold.sampler().rank(case.row, case.path, 3) == case.sampler().rank(case.row, case.path, 3)


@pytest.mark.parametrize("nucleus", [{}, {"top_p": 0.9}, {"top_k": 2}])
def test_the_least_temperature_there_is_has_room_for_the_largest_logits(nucleus: dict[str, Any]) -> None:
    most = float(np.finfo(np.float32).max)
    coldest = Sampling(temperature=GREEDY_BELOW, repetition_penalty=0.01, **nucleus)
    assert greedy_choice([1.0, most, -most], coldest, prompt=(1,)).token == 1
    assert greedy_choice([1.0, most, -most], coldest, prompt=(0, 2)).token == 1


def test_the_least_temperature_there_is_still_draws() -> None:
    """Logits 10⁻⁵ apart are a gap of 1 there: both tokens come."""
    coldest = Sampling(temperature=GREEDY_BELOW)
    chosen = {
        Case(coldest, (0.0, float(np.float32(1e-5))), 2, seed=number.to_bytes(16, "little")).choose().token
        for number in range(64)
    }
    assert chosen == {0, 1}


def test_repetition_penalty_covers_prompt_answer_and_path_once_each() -> None:
    sampling = Sampling(repetition_penalty=2.0)
    logits = [8.0, 7.0, 6.0, 5.0, -1.0]
    assert greedy_choice(logits, sampling, prompt=(0, 0)) == Choice(1, 1.0)
    assert greedy_choice(logits, sampling, prompt=(0,), answer=(1,)) == Choice(2, 1.0)
    assert greedy_choice(logits, sampling, prompt=(0,), answer=(1,), path=(2, 2)) == Choice(3, 1.0)
    assert greedy_choice([-1.0, -1.5], sampling, prompt=(0,)) == Choice(1, 0.5)  # a negative logit is multiplied


def test_presence_and_frequency_penalties_cover_the_answer_and_the_path_alone() -> None:
    presence, frequency = Sampling(presence_penalty=1.0), Sampling(frequency_penalty=1.0)
    logits = [5.0, 3.5, 0.0]
    assert greedy_choice(logits, presence, prompt=(0, 0)) == Choice(0, 1.5)
    assert greedy_choice(logits, presence, answer=(0, 0), path=(0,)) == Choice(0, 0.5)
    assert greedy_choice(logits, frequency, answer=(0,)) == Choice(0, 0.5)
    assert greedy_choice(logits, frequency, answer=(0,), path=(0,)) == Choice(1, 0.5)


def test_logit_bias_adds_up_and_ignores_ids_outside_the_vocabulary() -> None:
    bias = Sampling(logit_bias=((1, 2.0), (1, 2.0), (7, 100.0)))
    assert greedy_choice([3.0, 0.0], bias) == Choice(1, 1.0)


def test_end_of_sequence_is_banned_before_min_tokens() -> None:
    sampling = Sampling(min_tokens=2)
    logits = [0.0, 9.0, 1.0]
    assert greedy_choice(logits, sampling, stop_tokens=(1,)).token == 2
    assert greedy_choice(logits, sampling, stop_tokens=(1,), answer=(2,)).token == 2
    assert greedy_choice(logits, sampling, stop_tokens=(1,), answer=(2,), path=(2,)).token == 1
    assert greedy_choice(logits, sampling).token == 1  # the submitter ignores end-of-sequence: nothing to ban


def test_a_bias_cannot_bring_back_a_banned_token() -> None:
    assert greedy_choice([0.0, 9.0], Sampling(min_tokens=1, logit_bias=((1, 1000.0),)), stop_tokens=(1,)).token == 0


def test_ids_outside_the_vocabulary_in_a_prefix_are_nobodys_business() -> None:
    """A peer may send any ids as a prefix; those the model cannot choose have no logit to penalise."""
    sampling = Sampling(repetition_penalty=2.0, presence_penalty=1.0)
    assert greedy_choice([3.0, 2.0], sampling, prompt=(9,), answer=(7,), path=(8,)) == Choice(0, 1.0)


def test_the_only_token_left_has_an_infinite_margin() -> None:
    assert Case(Sampling(temperature=1.0, top_k=1), (1.0, 5.0, 2.0), 3).choose() == Choice(1, INF)
    assert greedy_choice([1.0, 9.0], Sampling(min_tokens=1), stop_tokens=(1,)) == Choice(0, INF)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9)])
@pytest.mark.parametrize("logits", [(1.0, math.nan, 2.0), (-INF, -INF, -INF), (1.0, INF, 0.0)])
def test_logits_that_leave_nothing_to_choose_from_are_an_error_of_the_engine(
    logits: tuple[float, ...], sampling: Sampling
) -> None:
    with pytest.raises(EngineError, match="nothing to choose from"):
        Case(sampling, logits, 3).choose()


# Top-k and top-p.


@settings(max_examples=200, deadline=None)
@given(
    w=st.lists(st.integers(-4, 4).map(float) | st.floats(-20, 20) | st.just(-INF), min_size=1, max_size=12),
    top_k=st.integers(0, 14),
    top_p=st.sampled_from([1.0, 0.9, 0.5, 0.25, 0.001]) | st.floats(1e-6, 1.0),
)
def test_kept_by_law_is_the_definition(w: list[float], top_k: int, top_p: float) -> None:
    assume(max(w) > -INF)
    ids = kept_by_law(np.array(w), top_k, top_p).tolist()
    expected = sorted(nucleus(w, top_k, top_p))
    if any(w[token] == -INF for token in expected):  # only ever more of what cannot be chosen
        ids, expected = ([t for t in of if w[t] > -INF] for of in (ids, expected))
    assert ids == expected


def test_ties_at_the_edge_of_top_k_keep_the_lowest_ids() -> None:
    assert kept_by_law(np.array([1.0, 2.0, 1.0, 1.0]), 3, 1.0).tolist() == [0, 1, 2]


def test_top_p_keeps_the_token_that_reaches_the_mass_and_none_after_it() -> None:
    w = np.log([0.5, 0.25, 0.125, 0.125])
    assert kept_by_law(w, 0, 0.5).tolist() == [0]
    assert kept_by_law(w, 0, 0.51).tolist() == [0, 1]
    assert kept_by_law(w, 0, 0.76).tolist() == [0, 1, 2]
    assert kept_by_law(np.zeros(10), 0, 0.9).tolist() == list(range(9))


def test_top_p_counts_the_mass_that_top_k_left() -> None:
    w = np.log([0.4, 0.3, 0.2, 0.1])
    assert kept_by_law(w, 0, 0.57).tolist() == [0, 1]
    assert kept_by_law(w, 2, 0.57).tolist() == [0]  # 0.4 of the 0.7 left


def test_at_least_one_token_is_kept() -> None:
    assert kept_by_law(np.array([0.0, 1.0]), 0, 1e-12).tolist() == [1]
    assert kept_by_law(np.full(3, -INF), 0, 0.5).tolist() == [0]


BIG = 49_152


def big_laws() -> dict[str, np.ndarray]:
    draw = np.random.default_rng(5)
    steep = draw.normal(0.0, 4.0, BIG)
    return {
        "steep": steep,
        "steep, in float32": steep.astype(np.float32).astype(np.float64),
        "whole numbers": np.round(steep),
        "nearly flat": draw.normal(0.0, 0.05, BIG),
        "flat": np.zeros(BIG),
        "one dominates": np.where(np.arange(BIG) == 77, 30.0, steep / 8),
        "half banned": np.where(np.arange(BIG) % 2 == 0, -INF, steep / 4),
    }


@pytest.mark.parametrize("law", big_laws())
def test_kept_by_law_at_full_size(law: str) -> None:
    """The short cuts taken for a large vocabulary change nothing, also where the nucleus is nearly all of it."""
    w = big_laws()[law]
    order = np.lexsort((np.arange(BIG), -w))
    for top_k in (0, 1, 40, 1024, 1025, 5000, BIG + 1):
        leading = order[: top_k or BIG]
        mass = np.cumsum(np.exp(w[leading] - w[leading[0]]))
        for top_p in (1.0, 0.999, 0.9, 0.5, 0.01):
            ids = kept_by_law(w, top_k, top_p)
            if top_p == 1.0:
                assert np.array_equal(ids, np.sort(leading))
                continue
            edge = top_p * mass[-1]
            assert np.array_equal(ids, np.sort(leading[: ids.size])), "kept ids lead the order"
            assert mass[ids.size - 1] >= edge * (1 - 1e-12), "they reach the mass"
            assert ids.size == 1 or mass[ids.size - 2] < edge * (1 + 1e-12), "and none is too many"


# In law: what comes out is the processed distribution, whatever was drafted.

P_VALUE = 1e-4
"""Seeds are fixed, so a pass is a pass for ever; by chance alone one fixed seed in 10,000 would fail."""

LAW_LOGITS = (1.0, 0.4, 0.4, 0.0, -0.5, -1.0, 2.0, -3.0, 0.9, 5.0)
LAWS = {
    "temperature": (Sampling(temperature=0.8), 100_000),
    "top-k and top-p": (Sampling(temperature=1.3, top_k=7, top_p=0.9), 10_000),
    "biased": (Sampling(temperature=0.7, logit_bias=((9, -4.5), (6, -1.0)), top_p=0.95), 10_000),
}


def settle(sampling: Sampling, count: int, candidates: Candidates) -> list[int]:
    """`count` tokens by rounds of the walk, every round against the same candidates."""
    row = np.array(LAW_LOGITS, dtype=np.float32)
    rows = [row] * (1 + len(candidates.tokens))
    sampler = Sampler(sampling, SEED, len(LAW_LOGITS), (0,))
    tokens: list[int] = []
    while len(tokens) < count:
        settled = [step.token for step in walk(candidates, rows, sampler.choose, (), limit=count - len(tokens))]
        sampler.commit(settled)
        tokens.extend(settled)
    return tokens


@pytest.mark.parametrize("law", LAWS)
def test_draws_follow_the_processed_law_with_adversarial_drafts_present(law: str) -> None:
    sampling, count = LAWS[law]
    # A liar that wants token 0 everywhere, one that offers rare tokens only, one with every branch of the first step.
    adversarial = Candidates(
        nodes=tuple(range(12)),
        tokens=(0, 0, 0, 7, 7, *range(1, 7), 9),
        parents=(-1, 0, 1, -1, 3, -1, -1, -1, -1, -1, -1, 0),
    )
    tokens = settle(sampling, count, adversarial)
    w = [z / sampling.temperature for z in processed(Case(sampling, LAW_LOGITS, len(LAW_LOGITS)))]
    kept = sorted(nucleus(w, sampling.top_k, sampling.top_p))
    weights = np.exp([w[token] for token in kept])
    seen = Counter(tokens)
    assert set(seen) <= set(kept)
    observed = np.array([seen[token] for token in kept])
    assert chisquare(observed, count * weights / weights.sum()).pvalue > P_VALUE
    assert tokens[:3000] == settle(sampling, 3000, Candidates((), (), ())), "drafts never change the choice"


def test_choices_at_different_positions_are_independent() -> None:
    """Pairs of neighbours follow the product law."""
    tokens = settle(Sampling(temperature=2.0), 20_000, Candidates((), (), ()))
    p = np.exp(np.array(LAW_LOGITS) / 2.0)
    p /= p.sum()
    pairs = Counter(zip(tokens[::2], tokens[1::2], strict=True))
    observed = np.array([[pairs[a, b] for b in range(10)] for a in range(10)])
    assert chisquare(observed.ravel(), (10_000 * np.outer(p, p)).ravel()).pvalue > P_VALUE


# What a drafter says of itself.


def ranking_of(logits: Sequence[float], sampling: Sampling | None = None, count: int = 1) -> Ranking:
    return (
        Case(sampling or Sampling(), tuple(logits), len(logits))
        .sampler()
        .rank(np.array(logits, dtype=np.float32), (), count)
    )


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, top_p=0.9)])
def test_a_flat_row_is_no_opinion(sampling: Sampling) -> None:
    assert ranking_of([0.5] * 6, sampling, 3) == Ranking((), 0)


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0), Sampling(temperature=1.0, top_p=0.9)])
def test_a_row_with_nothing_to_choose_is_no_opinion(sampling: Sampling) -> None:
    """A drafter's model may overflow; that is no reason for its node to fall over."""
    assert ranking_of([math.nan] * 4, sampling) == Ranking((), 0)
    banned = Sampler(Sampling(min_tokens=1, temperature=sampling.temperature), SEED, 2, (0,), (0, 1))
    assert banned.rank(np.array([1.0, 2.0], dtype=np.float32)) == Ranking((), 0)


def test_greedy_confidence_is_the_exponential_of_minus_the_entropy() -> None:
    p = np.array([0.7, 0.2, 0.1])
    expected = round(127 * math.exp(float((p * np.log(p)).sum())))
    assert ranking_of(np.log(p).tolist()) == Ranking((0,), expected)
    assert ranking_of([0.0, 200.0]).confidence == CONFIDENCE_MAX
    assert ranking_of([0.0, 200.0, -INF]).confidence == CONFIDENCE_MAX


def test_sampled_confidence_is_the_gap_of_the_two_best_scores() -> None:
    case = Case(Sampling(temperature=1.0), (2.0, 0.0, 1.0), 3)
    first, second, _ = sorted(scores_of(case).values(), reverse=True)
    assert case.sampler().rank(case.row).confidence == round(127 * (1 - math.exp(second - first)))
    assert ranking_of([1.0, 5.0], Sampling(temperature=1.0, top_k=1)).confidence == CONFIDENCE_MAX


# Log-probabilities.


@settings(max_examples=100, deadline=None)
@given(st.lists(logit, min_size=1, max_size=9), st.integers(0, 10), st.data())
def test_logprobs_are_the_models_own_law(logits: list[float], top: int, data: st.DataObject) -> None:
    token = data.draw(st.integers(0, len(logits) - 1))
    row = np.array([*logits, 50.0], dtype=np.float32)  # the last is padding
    total = math.log(math.fsum(math.exp(x) for x in row[:-1].tolist()))
    logprob, best = logprobs(row, len(logits), token, top)
    assert logprob == pytest.approx(float(row[token]) - total, abs=1e-12)
    order = sorted(range(len(logits)), key=lambda t: (-float(row[t]), t))[:top]
    assert [t for t, _ in best] == order
    assert [value for _, value in best] == pytest.approx([float(row[t]) - total for t in order], abs=1e-12)


def test_logprobs_leave_the_row_as_it_was() -> None:
    row = np.array([1.0, 2.0], dtype=np.float64)
    logprobs(row, 2, 0, 1)
    Case(Sampling(repetition_penalty=2.0), (1.0, 2.0), 2).sampler().choose(row)
    assert row.tolist() == [1.0, 2.0]
