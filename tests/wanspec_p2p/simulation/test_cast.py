from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.simulation.cast import Cast, Lies, drafting, law
from wanspec_p2p.simulation.laws import VOCAB_SIZE, CalibratedLaw, IidLaw, RecordedLaw, Text
from wanspec_p2p.simulation.models import SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, flat
from wanspec_p2p.simulation.scenario import Adversaries, Churn, LawOf, Scenario, Way
from wanspec_p2p.simulation.site import Site
from wanspec_p2p.simulation.trace import Trace
from wanspec_p2p.speculation.target_session import SessionSpec
from wanspec_p2p.types import Sampling, SessionId

TEXT = Text(5)


def stage(scenario: Scenario) -> tuple[Cast, Site]:
    cast = Cast(scenario, TEXT, 1)
    target = SimulatedTarget(TEXT, DeviceTime(flat(0.030, 64)))
    return cast, Site(target, cast.specs, drafters=scenario.per_session)


async def answer(cast: Cast, site: Site, tokens: int = 48) -> list[int]:
    spec = SessionSpec(SessionId("a"), (1, 2), bytes(16), Sampling(), VOCAB_SIZE, tokens)
    return list((await site.play(spec, settled=cast.after_round)).tokens)


def test_laws_are_those_of_the_scenario() -> None:
    assert isinstance(law(LawOf(), TEXT), IidLaw)
    assert type(law(LawOf(kind="calibrated"), TEXT)) is CalibratedLaw
    assert isinstance(law(LawOf(kind="recorded"), TEXT), RecordedLaw)
    sure = law(LawOf(ranks=(1.0, 0.0, 0.0, 0.0, 0.0)), TEXT)
    place = TEXT.start
    assert sure.guess(place).tokens[0] == place.truth


def test_lies_are_wrong_everywhere_and_as_sure_as_can_be() -> None:
    lies, place = Lies(TEXT), TEXT.start
    for _ in range(50):
        guess = lies.guess(place)
        assert place.truth not in guess.tokens and guess.logits[0] > guess.logits[1] + 1.0
        place = TEXT.step(place, place.truth)


def test_each_kind_is_what_it_says() -> None:
    kinds = Adversaries(lying=1, silent=1, far=1, flapping=1, stalling=1, poor=1, slow=1)
    specs = Cast(Scenario(nodes=8, adversaries=kinds, wan=Way(rtt_ms=10.0)), TEXT, 0).specs
    assert [spec.up.delay for spec in specs] == [0.005, 0.005, 1.0, *[0.005] * 5]
    assert [spec.redial is None for spec in specs] == [True, True, True, False, *[True] * 4]


def test_what_adversaries_do_in_time_is_stretched_as_the_scenario_is() -> None:
    kinds = Adversaries(far=1, flapping=1)
    far, flapping = Cast(Scenario(nodes=2, adversaries=kinds, wan=Way(rtt_ms=40.0)), TEXT, 0, 4.0).specs
    assert (far.up.delay, flapping.up.delay, flapping.redial) == (4.0, 0.02, 0.04)
    honest = law(LawOf(), TEXT)
    assert drafting("honest", honest, 0.02, 4.0) == drafting("far", honest, 0.02, 4.0) == (honest, 0.02)
    assert drafting("silent", honest, 0.02, 4.0) == (honest, 240.0)
    assert drafting("slow", honest, 0.02, 4.0) == (honest, 0.24), "its passes are part of the scenario"
    lies, seconds = drafting("lying", honest, 0.02, 4.0)
    assert isinstance(lies, Lies) and seconds == 0.002


def test_poor_drafters_are_right_one_time_in_five() -> None:
    poor, seconds = drafting("poor", law(LawOf(), TEXT), 0.005)
    place, right = TEXT.start, 0
    for _ in range(1000):
        right += poor.guess(place).tokens[0] == place.truth
        place = TEXT.step(place, place.truth)
    assert seconds == 0.005 and 150 < right < 250


@pytest.mark.parametrize("kind", Adversaries.__struct_fields__)
@in_virtual_time
async def test_the_text_is_the_targets_whatever_they_do(kind: str) -> None:
    cast, site = stage(Scenario(wan=Way(rtt_ms=10.0), adversaries=Adversaries(**{kind: 2})))
    async with site, cast.on(site):
        assert await answer(cast, site) == TEXT.continuation((1, 2), 48)


@in_virtual_time
async def test_flapping_links_break_and_stalling_ones_do_not() -> None:
    for kinds, breaks in ((Adversaries(flapping=1), True), (Adversaries(stalling=1), False)):
        lines: list[bytes] = []
        cast = Cast(Scenario(nodes=1, adversaries=kinds), TEXT, 1)
        target = SimulatedTarget(TEXT, DeviceTime(flat(0.030, 64)))
        async with Site(target, cast.specs, trace=Trace(LoopClock(), lines.append)) as site, cast.on(site):
            await asyncio.sleep(1.0)
        dialled = sum(b'"sender":"node-0"' in line and b'"event":"frame"' in line for line in lines)
        assert (dialled > 20) is breaks  # a handshake each time


@pytest.mark.parametrize("silently", [False, True])
@in_virtual_time
async def test_lost_drafters_are_replaced_after_their_time(silently: bool) -> None:
    churn = Churn(loss_per_round=1.0, replaced_after_ms=40.0, silently=silently)
    cast, site = stage(Scenario(wan=Way(rtt_ms=5.0), churn=churn))
    async with site, cast.on(site):
        assert await answer(cast, site) == TEXT.continuation((1, 2), 48)
        assert cast.lost > 2
        assert len(site.nodes) > 2


@in_virtual_time
async def test_a_share_dies_at_its_moment_for_good() -> None:
    cast, site = stage(Scenario(nodes=10, churn=Churn(kill_share=0.3, kill_at_ms=500.0)))
    async with site, cast.on(site):
        await asyncio.sleep(0.499)
        assert (cast.lost, len(site.pool.attached)) == (0, 10)
        await asyncio.sleep(0.2)
        assert (cast.lost, len(site.pool.attached), len(site.nodes)) == (3, 7, 10)
