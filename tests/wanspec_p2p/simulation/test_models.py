from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import LocalProtocolError
from wanspec_p2p.links.memory import Path, memory_transports
from wanspec_p2p.models.base import LanguageModel, Rows
from wanspec_p2p.simulation.laws import CANDIDATES, VOCAB_SIZE, CalibratedLaw, IidLaw, Judged, Law, RecordedLaw, Text
from wanspec_p2p.simulation.models import EndsLast, SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.site import question
from wanspec_p2p.speculation.sampling import Row, Sampler
from wanspec_p2p.types import Sampling, Segment, TokenId

PROMPT = (3, 1, 4, 1, 5)
JUDGED = tuple(Judged(3 * i, i % (CANDIDATES + 1), CANDIDATES) for i in range(40))


def target(text: Text) -> SimulatedTarget:
    return SimulatedTarget(text, DeviceTime(flat(0.030, 64)))


def drafter(law: Law) -> SimulatedDrafter:
    return SimulatedDrafter(law, DeviceTime(Steps(0.005, 8)))


async def run(model: LanguageModel, segment: Segment) -> Rows:
    [rows] = await model.forward([segment])
    assert rows.shape == (segment.rows, VOCAB_SIZE) and rows.dtype == np.float32
    return rows


@in_virtual_time
async def test_a_sampler_finds_the_text_in_a_targets_rows() -> None:
    text = Text(0)
    model = target(text)
    sampler = Sampler(Sampling(), bytes(16), VOCAB_SIZE, PROMPT)
    answer: list[int] = []
    segment = Segment("a", 0, (), PROMPT)
    while len(answer) < 20:
        [row] = await run(model, segment)
        answer.append(sampler.choose(row).token)
        segment = Segment("a", len(PROMPT) + len(answer) - 1, (), (answer[-1],))
    assert answer == text.continuation(PROMPT, 20)
    assert asyncio.get_running_loop().time() == pytest.approx(20 * 0.030)


TEXT = Text(1)
SAMPLINGS = (
    Sampling(),
    Sampling(presence_penalty=20.0),
    Sampling(temperature=2.0),
    Sampling(temperature=2.5, top_k=100, top_p=0.9),
    Sampling(temperature=3.0, repetition_penalty=1.3, frequency_penalty=1.0),
)


@pytest.mark.parametrize("sampling", SAMPLINGS)
async def test_a_target_decodes_plainly_what_comes_of_its_passes(sampling: Sampling) -> None:
    model = SimulatedTarget(TEXT, DeviceTime(flat(1e-9, 64)))
    spec = question("a", PROMPT, 64, sampling, b"sixteen bytes, s")

    async def row(prefix: Sequence[TokenId]) -> Row:
        await model.release("fresh")
        return (await run(model, Segment("fresh", 0, (), tuple(prefix))))[0]

    answer: list[TokenId] = []
    while len(answer) < 64:
        sampler = Sampler(sampling, spec.seed, VOCAB_SIZE, PROMPT)
        sampler.commit(answer)
        answer.append(sampler.choose(await row((*PROMPT, *answer))).token)
    assert model.decoded(spec) == answer
    assert (answer == TEXT.continuation(PROMPT, 64)) is (sampling == Sampling())


def test_a_target_at_a_temperature_says_its_own_token_as_often_as_its_law_has_it() -> None:
    for temperature, chance in ((2.0, 0.854), (2.5, 0.541), (3.0, 0.288)):
        spec = question("a", PROMPT, 2000, Sampling(temperature=temperature))
        place, own = TEXT.after(PROMPT), 0
        for token in target(TEXT).decoded(spec):
            own += token == place.truth
            place = TEXT.step(place, token)
        assert own / 2000 == pytest.approx(chance, abs=0.05)


@pytest.mark.parametrize("law", [IidLaw(TEXT), CalibratedLaw(TEXT, JUDGED), RecordedLaw(TEXT, JUDGED)])
async def test_a_sampler_finds_a_laws_ranks_in_a_drafters_rows(law: Law) -> None:
    text = TEXT
    model = SimulatedDrafter(law, DeviceTime(Steps(1e-9, 1)))
    answer = text.continuation(PROMPT, 200)
    chain = tuple(range(-1, 199))
    rows = await run(model, Segment("a", 0, (), PROMPT, tuple(answer), chain))
    sampler = Sampler(Sampling(), bytes(16), VOCAB_SIZE, PROMPT)
    place = text.after(PROMPT)
    found = []
    for row, token in zip(rows, [*answer, 0], strict=True):
        ranking = sampler.rank(row, count=CANDIDATES)
        assert ranking.tokens == law.guess(place).tokens
        rank = ranking.tokens.index(place.truth) + 1 if place.truth in ranking.tokens else 0
        found.append(Judged(ranking.confidence, rank, CANDIDATES))
        place = text.step(place, token)
    if isinstance(law, IidLaw):
        assert {judged.confidence for judged in found} == {58}  # 127 times exp(-entropy) of the reference law
    else:
        assert set(found) <= set(JUDGED)


async def test_no_opinion_is_a_row_without_preference() -> None:
    model = drafter(CalibratedLaw(Text(2), [Judged(0, 0, 0)]))
    rows = await run(model, Segment("a", 0, (), PROMPT))
    assert Sampler(Sampling(), bytes(16), VOCAB_SIZE, PROMPT).rank(rows[0]).tokens == ()


async def test_rows_follow_the_prefix_however_it_came_into_the_cache() -> None:
    """Crop, keep, hold and tree, each row against the same prefix run at once."""
    law = IidLaw(Text(3))
    for model, fresh in ((drafter(law), drafter(law)), (target(law.text), target(law.text))):

        async def at_once(prefix: list[int], fresh: LanguageModel = fresh) -> Rows:
            await fresh.release("b")
            return await run(fresh, Segment("b", 0, (), tuple(prefix)))

        rows = await run(model, Segment("a", 0, (), PROMPT, (10, 11, 12, 13), (-1, 0, 0, -1)))
        for row, path in zip(rows, ([], [10], [10, 11], [10, 12], [13]), strict=True):
            assert np.array_equal([row], await at_once([*PROMPT, *path]))
        rows = await run(model, Segment("a", 5, (0,), (), (20, 21), (1, 2), held=(1, 2)))
        for row, path in zip(rows, ([10, 12, 20], [10, 12, 20, 21]), strict=True):
            assert np.array_equal([row], await at_once([*PROMPT, *path]))
        rows = await run(model, Segment("a", 6, (1, 2), (7,)))
        assert np.array_equal(rows[:1], await at_once([*PROMPT, 10, 12, 20, 7]))
        rows = await run(model, Segment("a", 4, (), (9,), (8,), (-1,)))
        assert np.array_equal(rows[:1], await at_once([*PROMPT[:4], 9]))
        assert np.array_equal(rows[1:], await at_once([*PROMPT[:4], 9, 8]))


@in_virtual_time
async def test_a_pass_takes_the_time_of_its_rows_over_all_sessions() -> None:
    time = asyncio.get_running_loop().time
    model = drafter(IidLaw(Text(4)))
    await model.forward([Segment("a", 0, (), PROMPT), Segment("b", 0, (), PROMPT, (1,) * 8, (-1,) * 8)])
    assert time() == pytest.approx(0.010)
    segments = [Segment(name, 5, (), (), (1,) * 4, (-1,) * 4) for name in "ab"]
    await asyncio.gather(*(model.forward([segment]) for segment in segments))
    assert time() == pytest.approx(0.020), "passes of one model do not overlap"
    await model.forward(segments)
    assert time() == pytest.approx(0.025)


@in_virtual_time
async def test_a_batch_that_does_not_fit_changes_nothing_and_takes_no_time() -> None:
    model = target(Text(5))
    await model.forward([Segment("a", 0, (), PROMPT)])
    before = asyncio.get_running_loop().time()
    with pytest.raises(LocalProtocolError, match="holds 5 positions"):
        await model.forward([Segment("b", 0, (), PROMPT), Segment("a", 6, (), (1,))])
    with pytest.raises(LocalProtocolError, match="vocabulary of 512"):
        await model.forward([Segment("b", 0, (), (VOCAB_SIZE,))])
    with pytest.raises(LocalProtocolError, match="holds 0 positions"):
        await model.forward([Segment("b", 5, (), (1,))])
    assert asyncio.get_running_loop().time() == before


@in_virtual_time
async def test_released_and_closed_caches_are_gone() -> None:
    model = target(Text(6))
    for forget in (model.release("a"), model.close()):
        await model.forward([Segment("a", 0, (), PROMPT)])
        await forget
        with pytest.raises(LocalProtocolError):
            await model.forward([Segment("a", 5, (), (1,))])
        await model.release("a")


def test_what_the_models_say_of_themselves() -> None:
    text = Text(7)
    a, b = target(text).info, drafter(IidLaw(text)).info
    assert a.tokenizer == b.tokenizer and a.vocab_size == b.vocab_size == VOCAB_SIZE
    assert a.fingerprint == target(Text(7)).info.fingerprint != target(Text(8)).info.fingerprint
    assert len({a.digest, b.digest, a.fingerprint}) == 3 and all(len(x) == 64 for x in (a.digest, a.tokenizer))


@in_virtual_time
async def test_a_pass_that_ends_last_meets_what_arrives_as_it_ends() -> None:
    verifying, drafting = EndsLast(target(TEXT)), drafter(IidLaw(TEXT))
    there, back = memory_transports(Path(delay=0.010), Path(delay=0.010))
    order: list[str] = []

    async def verify() -> None:
        await run(verifying, Segment("a", 0, (), PROMPT))
        order.append("verified")

    async def draft() -> None:
        for length in range(4):
            await run(drafting, Segment("a", length, (), PROMPT[length : length + 1]))
        await there.send(b"draft")

    async def receive() -> None:
        await back.receive()
        order.append("a draft arrived")

    await asyncio.gather(verify(), draft(), receive())
    assert order == ["a draft arrived", "verified"]
    assert asyncio.get_running_loop().time() == 0.030
