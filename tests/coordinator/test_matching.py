from __future__ import annotations

import random
from dataclasses import replace

import pytest

from coordinator.acceptance import Positions
from coordinator.matching import Candidate, Want, _expected, _novelty, fitting_model, misfit, rank, refusal
from tests.support.fake_target import SERVED, drafter
from wanspec_p2p.types import PeerId, Privacy

WANT = Want(pool="p", model=SERVED, privacy=Privacy.PUBLIC, trusted=False, exclude=frozenset())


def node(name: str = "n", **changes: object) -> Candidate:
    candidate = Candidate(
        peer=PeerId(name), pool="p", owner=name, site=name, models=(drafter(),), slots=4, free=4, available=True
    )
    return replace(candidate, **changes)  # type: ignore[arg-type]  # the changes are fields of it


def order(candidates: list[Candidate], want: Want = WANT) -> list[str]:
    return [match.node for match in rank(want, candidates, random.Random(0))[0]]


def test_a_model_fits_by_tokenizer_and_vocabulary() -> None:
    other = drafter(tokenizer="b" * 64)
    assert fitting_model([other, drafter()], SERVED) == drafter()
    assert fitting_model([other, drafter(vocab_size=99)], SERVED) is None


def test_a_misfit_names_both_fingerprints() -> None:
    reason = misfit([drafter(tokenizer="b" * 64)], [SERVED])
    assert reason is not None
    assert "b" * 64 in reason
    assert SERVED.tokenizer in reason
    assert misfit([drafter(vocab_size=99)], [SERVED]) == (
        "vocabulary mismatch: the node's has 99 entries, the target's 100"
    )
    assert misfit([drafter()], [SERVED]) is None
    assert misfit([drafter(tokenizer="b" * 64)], []) is None


@pytest.mark.parametrize(
    ("want", "candidate", "words"),
    [
        (replace(WANT, privacy=Privacy.PRIVATE), node(), "private"),
        (replace(WANT, privacy=Privacy.TRUSTED), node(), "trusted"),
        (WANT, node(pool="q"), "another pool"),
        (WANT, node(available=False), "left an offer unanswered"),
        (replace(WANT, exclude=frozenset({PeerId("n")})), node(), "does not want it"),
        (WANT, node(models=(drafter(tokenizer="b" * 64),)), "tokenizer mismatch"),
        (WANT, node(free=0), "slots"),
    ],
)
def test_refusals_say_why(want: Want, candidate: Candidate, words: str) -> None:
    assert words in (refusal(want, candidate) or "")
    ranked, reason = rank(want, [candidate], random.Random(0))
    assert ranked == []
    assert reason.startswith("none of 1 registered nodes suits")
    assert words in reason


def test_trusted_prompts_go_to_trusted_pools() -> None:
    assert refusal(replace(WANT, privacy=Privacy.TRUSTED, trusted=True), node()) is None


def test_nobody_there_is_said_so() -> None:
    assert rank(WANT, [], random.Random(0)) == ([], "no node is registered in pool p")


def test_nodes_without_a_free_slot_need_not_be_candidates() -> None:
    reason = "none of 3 registered nodes suits; 2 of them: all its slots are leased"
    assert rank(WANT, [node(available=False)], random.Random(0), full=2) == ([], reason)
    assert len(rank(WANT, [node()], random.Random(0), full=2)[0]) == 1


@pytest.mark.parametrize(
    ("better", "worse"),
    [
        ({"models": (drafter(speed=100.0),)}, {"models": (drafter(speed=50.0),)}),
        ({"rtt": 0.01}, {"rtt": 0.3}),
        ({"free": 4}, {"free": 1}),
        ({"positions": Positions(1000, 900)}, {"positions": Positions(1000, 100)}),
        ({"usual": 0.8}, {"usual": 0.3}),
        ({"rtt": 0.05}, {"rtt": 0.05, "doubt": 0.6}),
        ({"rtt": 0.05, "jitter": 0.001}, {"rtt": 0.05, "jitter": 0.05}),
        ({"rtt": 0.01}, {}),
        ({}, {"rtt": 0.2}),
        ({"rtt": 0.03, "models": (drafter(speed=40.0),)}, {"rtt": 0.4, "models": (drafter(speed=400.0),)}),
        ({"positions": Positions(200, 160), "usual": 0.2}, {"positions": Positions(2, 0), "usual": 0.6}),
    ],
    ids=[
        "speed",
        "round trip",
        "load",
        "acceptance",
        "acceptance of the models elsewhere",
        "doubt",
        "jitter",
        "near against unknown",
        "unknown against far",
        "speed does not outrun the deadline",
        "own record first",
    ],
)
def test_who_brings_more_accepted_tokens_comes_first(better: dict[str, object], worse: dict[str, object]) -> None:
    assert order([node("w", **worse), node("b", **better)]) == ["b", "w"]


@pytest.mark.parametrize("speed", [5e-324, 1e-300, 1e12, 1e308])
def test_whatever_a_node_says_of_its_speed_the_others_are_ranked(speed: float) -> None:
    boaster = node(
        "boaster", models=(drafter(speed=speed),), rtt=1e12, usual=1.0, positions=Positions(9, 9), slots=4096
    )
    assert order([boaster, node("b", rtt=0.1)]) == ["b", "boaster"]
    near = replace(boaster, rtt=0.0, jitter=0.0)
    assert sorted(order([near, node("b", rtt=0.1)])) == ["b", "boaster"]


def test_another_owner_is_worth_a_longer_way() -> None:
    near, twin, far = node("a1", owner="A", rtt=0.02), node("a2", owner="A", rtt=0.02), node("b", owner="B", rtt=0.15)
    assert order([near, twin, far])[1] == "b"


def test_a_hopelessly_late_node_is_last_whatever_is_known_of_it() -> None:
    late = node("late", rtt=2.0, doubt=9.0, jitter=2.0)
    assert order([late, node("b", rtt=0.1, positions=Positions(1000, 0))]) == ["b", "late"]


def test_a_choice_makes_its_owner_and_site_less_attractive() -> None:
    fast = (drafter(speed=60.0),)
    candidates = [
        node("a1", owner="A", site="x", models=fast),
        node("a2", owner="A", site="x", models=fast),
        node("b", owner="B", site="y"),
    ]
    assert order(candidates)[1] == "b"
    taken = replace(WANT, company=(("A", "x"),))
    assert order(candidates, taken)[0] == "b"


def test_equal_nodes_come_in_an_order_drawn_from_the_rng() -> None:
    candidates = [node(name, owner="o", site="s") for name in "abcdef"]
    firsts = {rank(WANT, candidates, random.Random(seed))[0][0].node for seed in range(20)}
    assert len(firsts) > 1
    assert sorted(order(candidates)) == list("abcdef")


def naively(candidates: list[Candidate], want: Want, rng: random.Random) -> list[str]:
    """The rule, word for word: again and again the best of all that are left."""
    left = [(_expected(c, c.models[0]), rng.random(), c) for c in candidates if refusal(want, c) is None]
    owners, sites = {owner for owner, _ in want.company}, {site for _, site in want.company}
    ranked: list[str] = []
    while left:
        best = max(left, key=lambda entry: (entry[0] * _novelty(entry[2], owners, sites), entry[1]))
        left.remove(best)
        ranked.append(best[2].peer)
        owners.add(best[2].owner)
        sites.add(best[2].site)
    return ranked


@pytest.mark.parametrize("seed", range(20))
def test_the_order_is_that_of_the_rule_word_for_word(seed: int) -> None:
    rng = random.Random(seed)
    candidates = [
        node(
            str(number),
            owner=rng.choice("ABCDE"),
            site=rng.choice("vwxyz"),
            rtt=rng.choice([None, 0.01, 0.02, 0.2]),
            free=rng.randint(0, 4),
        )
        for number in range(rng.randint(1, 60))
    ]
    want = replace(WANT, company=(("A", "x"),) if seed % 2 else ())
    ranked, _ = rank(want, candidates, random.Random(seed))
    assert [match.node for match in ranked] == naively(candidates, want, random.Random(seed))


def test_a_thousand_nodes_are_ranked_without_a_thousand_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    looks = 0

    def counted(candidate: Candidate, owners: set[str], sites: set[str]) -> float:
        nonlocal looks
        looks += 1
        return _novelty(candidate, owners, sites)

    monkeypatch.setattr("coordinator.matching._novelty", counted)
    assert (
        len(order([node(str(number), owner=f"o{number % 50}", site=f"s{number % 70}") for number in range(1000)]))
        == 1000
    )
    assert looks <= 5 * 1000
