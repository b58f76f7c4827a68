from __future__ import annotations

import datetime

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wanspec_p2p.simulation.scenario import MAX_NODES, Adversaries, LawOf, Observed, Region, Scenario, Way
from wanspec_p2p.simulation.wan import Wan

NOW = datetime.datetime(2026, 11, 2, tzinfo=datetime.UTC)


def test_nothing_said_is_the_reference_with_two_nodes_at_no_distance() -> None:
    scenario = Scenario()
    assert scenario.ways == [Wan(), Wan()] and scenario.per_session == 2
    assert (scenario.target.pass_ms, scenario.target.nodes, scenario.drafter.pass_ms) == (30.0, 64, 5.0)


def test_regions_have_their_own_ways_and_take_what_they_do_not_say_from_the_wan() -> None:
    scenario = Scenario(
        wan=Way(jitter=0.2, stall_chance=0.01, stall_ms=400.0, rtt_ms=5.0),
        region=(Region(name="near"), Region(name="far", rtt_ms=90.0, jitter=0.0, stall_chance=0.0, nodes=2)),
    )
    near, *far = scenario.ways
    assert near == Wan(0.005, 0.2, 0.01, 0.4)
    assert far == [Wan(0.09, 0.0, 0.0, 0.4)] * 2
    assert scenario.per_session == 2


def test_observed_delays_are_replayed_at_their_hour() -> None:
    region = Region(name="west", delay_ms=60.0, jitter_ms=4.0, load=(1.0,) * 9 + (2.0,) + (1.0,) * 14)
    usual, busy = Scenario(region=(region,)), Scenario(region=(region,), hour=9)
    assert usual.ways == [Wan.observed(0.06, 0.004)]
    assert busy.ways == [Wan.observed(0.12, 0.004)]
    assert usual.per_session == 1


def test_adversaries_come_first_in_a_fixed_order() -> None:
    assert Adversaries(flapping=1, lying=2).kinds == ["lying", "lying", "flapping"]


@given(st.integers(0, MAX_NODES), st.none() | st.integers(0, 16))
def test_an_answer_never_has_more_drafters_than_there_are_nodes(nodes: int, drafters: int | None) -> None:
    try:
        scenario = Scenario(nodes=nodes, drafters=drafters)
    except ValueError as error:
        assert drafters is not None and drafters > nodes and "`drafters`" in str(error)
    else:
        assert scenario.per_session <= len(scenario.ways) == nodes


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: LawOf(ranks=(0.9, 0.9, 0.0, 0.0, 0.0)), "`ranks`: the probabilities of ranks sum to 1, not to 1.8"),
        (lambda: LawOf(kind="recorded", ranks=(1.0,)), "`ranks`: only for kind = 'iid'"),
        (lambda: LawOf(kind="recorded", recording="a\0b"), "`recording`: holds characters that cannot be printed"),
        (lambda: LawOf(recording="pair.jsonl"), "`recording`: only for kind = 'calibrated' or 'recorded'"),
        (lambda: LawOf(temperature=0.8), "`temperature`: only for kind = 'calibrated' or 'recorded'"),
        (
            lambda: LawOf(kind="recorded", recording="pair.jsonl", temperature=0.8),
            "`temperature`: the recording has its own; leave one out",
        ),
        (lambda: LawOf(kind="recorded", temperature=0.5), "`temperature`: the recordings that come with the package"),
        (lambda: Region(name="x", delay_ms=1.0, rtt_ms=1.0), "`rtt_ms`: `delay_ms` says that already; leave one out"),
        (lambda: Region(name="x", jitter_ms=1.0), "`jitter_ms`: belongs to `delay_ms`"),
        (lambda: Region(name="x\ny"), "`name`: holds characters that cannot be printed"),
        (lambda: Scenario(region=(Region(name="x"), Region(name="x"))), "`region`: two are called 'x'"),
        (lambda: Scenario(region=(Region(name="x"),), nodes=1), "`nodes`: the regions say how many"),
        (lambda: Scenario(observed=Observed(True, NOW, NOW)), "`observed`: there is no `region` whose delays were"),
        (lambda: Scenario(hour=3), "`hour`: no region has a `load`"),
        (lambda: Scenario(drafters=3), "`drafters`: 3 of 2 nodes"),
        (lambda: Scenario(adversaries=Adversaries(lying=2, far=1)), "`adversaries`: 3 of 2 nodes"),
        (
            lambda: Scenario(region=(Region(name="x", nodes=200), Region(name="y", nodes=200))),
            "`region`: 400 nodes are more than 256",
        ),
    ],
)
def test_what_contradicts_itself_is_named(make: object, said: str) -> None:
    assert callable(make)
    with pytest.raises(ValueError) as caught:
        make()
    assert str(caught.value).startswith(said)


def test_scenarios_are_values() -> None:
    one = Scenario(region=(Region(name="x", rtt_ms=3.0),))
    assert one == msgspec.structs.replace(one) and hash(one) == hash(msgspec.structs.replace(one))
