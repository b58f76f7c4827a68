from __future__ import annotations

import asyncio
from collections.abc import Sequence

import pytest

from tests.support.desk_bench import NODE, Bench
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_kit import request, target_alone
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import EngineError, LocalProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_TARGET
from wanspec_p2p.protocol.target_to_coordinator import Receipts, Tokens
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import Privacy, Sampling, Segment


@in_virtual_time
async def test_an_answer_its_origins_and_its_counts() -> None:
    bench = Bench()
    expected = target_alone(bench.model, (1, 2, 3), 12, Sampling())
    assert await bench.answer(request()) == expected
    parts = [part for part in bench.said.of("r1") if isinstance(part, Tokens)]
    origins = [origin for part in parts for origin in part.origins]
    assert NODE in origins and None in origins
    usage = (await bench.said.finished()).usage
    assert (usage.prompt_tokens, usage.completion_tokens) == (3, 12)
    assert usage.rounds == sum(map(sum, usage.accepted_by_length.values())) == len(bench.model.batches)
    assert usage.accepted == origins.count(NODE) == usage.won_by_peer[NODE]
    assert usage.accepted + usage.rounds == usage.completion_tokens
    assert usage.drafted == sum(len(batch[0].tree) for batch in bench.model.batches)
    assert usage.seconds == pytest.approx(usage.rounds)
    assert usage.target_draft_passes == 0


@in_virtual_time
async def test_draft_passes_at_the_target_are_counted() -> None:
    local = ScriptedModel(seed=1, context=64)
    bench = Bench(local=local)
    assert await bench.answer(request(network=False)) == target_alone(bench.model, (1, 2, 3), 12, Sampling())
    usage = (await bench.said.finished()).usage
    assert usage.target_draft_passes == len(local.batches) > 0


@in_virtual_time
async def test_where_the_drafter_at_the_target_has_no_positions_left_the_answer_goes_on_without_it() -> None:
    local = ScriptedModel(seed=1, context=8)
    bench = Bench(local=local)
    assert await bench.answer(request(network=False)) == target_alone(bench.model, (1, 2, 3), 12, Sampling())
    assert len(local.batches) > 0


@in_virtual_time
async def test_whatever_goes_wrong_at_the_targets_own_drafter_costs_no_answer() -> None:
    async def fails(batch: Sequence[Segment]) -> None:
        raise LocalProtocolError("a bug")

    local = ScriptedModel(seed=1, context=64, before_forward=fails)
    bench = Bench(local=local)
    assert await bench.answer(request(network=False)) == target_alone(bench.model, (1, 2, 3), 12, Sampling())
    assert (await bench.said.finished()).usage.target_draft_passes == 0


@in_virtual_time
async def test_rows_of_the_targets_own_drafter_that_cannot_be_ranked_cost_no_answer() -> None:
    sampling = Sampling(temperature=1.0)
    bench = Bench(local=ScriptedModel(seed=1, vocab_size=100, context=64))  # a row has a number for each id, or should
    assert await bench.answer(request(network=False, sampling=sampling)) == target_alone(
        bench.model, (1, 2, 3), 12, sampling
    )


@pytest.mark.parametrize("network", [False, True])
@in_virtual_time
async def test_the_targets_own_drafts_are_accepted_as_nodes_are_and_won_by_nobody(network: bool) -> None:
    bench = Bench(local=ScriptedModel(seed=1, context=64))
    await bench.answer(request(network=network))
    usage = (await bench.said.finished()).usage
    by_round = [accepted for rounds in usage.accepted_by_length.values() for accepted in _each(rounds)]
    assert usage.accepted == sum(by_round) == usage.completion_tokens - usage.rounds
    origins = [o for part in bench.said.of("r1") if isinstance(part, Tokens) for o in part.origins]
    assert usage.won_by_peer == ({NODE: origins.count(NODE)} if network else {})
    assert sum(usage.won_by_peer.values()) < usage.accepted <= usage.drafted
    assert usage.lost == 0, "the only node was first with what it had"
    assert len(bench.receipts) == network, "the target owes itself nothing"


def _each(rounds: Sequence[int]) -> list[int]:
    """What each of the rounds accepted."""
    return [accepted for accepted, count in enumerate(rounds) for _ in range(count)]


@in_virtual_time
async def test_the_prompt_is_echoed_before_the_answer() -> None:
    bench = Bench()
    tokens = await bench.answer(request(echo=True, top_logprobs=0))
    parts = [part for part in bench.said.of("r1") if isinstance(part, Tokens)]
    assert [part.ids for part in parts if part.echo] == [(1, 2, 3)]
    assert parts[0].echo and not any(part.echo for part in parts[1:])
    assert [token for part in parts[1:] for token in part.ids] == tokens
    assert tokens == target_alone(bench.model, (1, 2, 3), 12, Sampling())


@in_virtual_time
async def test_an_echo_may_be_all_that_is_wanted() -> None:
    bench = Bench()
    await bench.answer(request(echo=True, max_tokens=0))
    assert [part.ids for part in bench.said.of("r1") if isinstance(part, Tokens)] == [(1, 2, 3)]
    usage = (await bench.said.finished()).usage
    assert (usage.completion_tokens, usage.rounds, bench.pool.seen) == (0, 0, 0)


@in_virtual_time
async def test_an_answer_that_goes_on_does_not_echo_again() -> None:
    bench = Bench()
    await bench.answer(request(echo=True, committed=(5,)))
    assert not any(part.echo for part in bench.said.of("r1") if isinstance(part, Tokens))


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, frequency_penalty=0.5)])
@pytest.mark.parametrize("at", [1, 5, 11])
@in_virtual_time
async def test_a_resumed_answer_goes_on_with_the_same_tokens(sampling: Sampling, at: int) -> None:
    bench = Bench()
    whole = target_alone(bench.model, (1, 2, 3), 12, sampling)
    assert await bench.answer(request(sampling=sampling, committed=tuple(whole[:at]))) == whole[at:]
    first = bench.said.of("r1")[0]
    assert isinstance(first, Tokens) and first.position == at
    assert (await bench.said.finished()).usage.completion_tokens == 12


@in_virtual_time
async def test_a_queue_that_is_full_says_so() -> None:
    bench = Bench(slots=2, queue=1)
    bench.gate.clear()
    for number in range(4):
        bench.desk.generate(request(f"r{number}"))
    assert (await bench.said.failed("r3")).code == "overloaded"
    assert (bench.engine.serving, bench.engine.queued) == (2, 1)
    bench.gate.set()
    for number in range(3):
        assert (await bench.said.finished(f"r{number}")).usage.completion_tokens == 12
    await asyncio.sleep(0)
    bench.nothing_is_left()


@in_virtual_time
async def test_a_full_queue_is_seen_before_the_prompt_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = Bench(slots=1, queue=0)
    bench.gate.clear()
    bench.desk.generate(request("r1"))
    await asyncio.sleep(0)
    read: list[str] = []
    monkeypatch.setattr(ByteTokenizer, "encode", lambda self, text: read.append(text))
    bench.desk.generate(request("r2", prompt="hello"))
    assert (await bench.said.failed("r2")).code == "overloaded"
    assert read == []
    bench.gate.set()
    await bench.said.finished("r1")


@in_virtual_time
async def test_an_answer_that_is_over_needs_no_room() -> None:
    bench = Bench(slots=1, queue=0)
    bench.gate.clear()
    bench.desk.generate(request("r1"))
    await asyncio.sleep(0)
    bench.desk.generate(request("r2", committed=tuple(range(12))))
    assert (await bench.said.finished("r2")).usage.completion_tokens == 12
    bench.gate.set()
    await bench.said.finished("r1")


@in_virtual_time
async def test_no_queue_at_all() -> None:
    bench = Bench(slots=1, queue=0)
    bench.desk.generate(request("r1"))
    bench.desk.generate(request("r2"))
    assert (await bench.said.failed("r2")).code == "overloaded"
    await bench.said.finished("r1")


@pytest.mark.parametrize(
    ("failure", "words"),
    [(EngineError("CUDA: /secret/path"), "the target's model failed"), (RuntimeError("a bug"), "the target failed")],
)
@in_virtual_time
async def test_a_failing_model_fails_the_request_and_not_the_target(failure: Exception, words: str) -> None:
    bench = Bench()
    bench.failure = failure
    bench.desk.generate(request())
    failed = await bench.said.failed()
    assert (failed.code, failed.message) == ("internal_error", words)
    bench.failure = None
    await asyncio.sleep(0)
    assert len(await bench.answer(request("r2"))) == 12


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({}, 1),
        ({"privacy": Privacy.PRIVATE}, 0),
        ({"privacy": Privacy.TRUSTED}, 0),
        ({"network": False}, 0),
    ],
)
@in_virtual_time
async def test_only_a_public_prompt_is_shown_to_drafters(fields: dict[str, object], seen: int) -> None:
    bench = Bench()
    assert await bench.answer(request(**fields)) == target_alone(bench.model, (1, 2, 3), 12, Sampling())
    assert bench.pool.seen == seen
    assert len(bench.receipts) == seen


@in_virtual_time
async def test_a_drafter_gets_one_receipt_a_session_under_its_lease() -> None:
    bench = Bench()
    await bench.answer(request())
    await bench.answer(request("r2"))
    assert len(bench.receipts) == 2
    for receipt in bench.receipts:
        assert (receipt.node, receipt.jti, receipt.drafted) == (NODE, "lease-1", 8)
        assert 0 < receipt.won == receipt.accepted <= receipt.verified <= receipt.drafted
        assert all(reached == right > 0 for reached, right in receipt.by_depth), "it knows the answer"
        assert sum(right for _, right in receipt.by_depth) == receipt.accepted
    assert len({receipt.id for receipt in bench.receipts}) == 2
    assert len({receipt.session for receipt in bench.receipts}) == 2


@pytest.mark.parametrize(("count", "told"), [(limits.FIRST_DRAFT_ROUNDS - 1, 0), (limits.FIRST_DRAFT_ROUNDS, 1)])
@in_virtual_time
async def test_a_node_that_says_nothing_gets_a_receipt_as_well(count: int, told: int) -> None:
    bench = Bench()
    bench.pool.mute = True
    await bench.answer(request(max_tokens=count))
    assert [(receipt.node, receipt.jti, receipt.drafted, receipt.rounds) for receipt in bench.receipts] == [
        (NODE, "lease-1", 0, count)
    ] * told


@in_virtual_time
async def test_a_node_that_floods_a_session_does_not_make_the_target_say_what_the_coordinator_refuses() -> None:
    bench = Bench()
    begin = bench.pool.begin

    def flooded(runner: SessionRunner) -> None:
        begin(runner)
        sent = runner.session.stats.of(NODE)
        sent.drafted += 2**40
        sent.late += 2**40

    bench.pool.begin = flooded  # type: ignore[method-assign]  # of this one alone
    await bench.answer(request())
    (receipt,) = bench.receipts
    finished = await bench.said.finished()
    assert (receipt.drafted, finished.usage.late) == (limits.MAX_DRAFTED, limits.MAX_DRAFTED)
    for message in (Receipts("b", (receipt,)), finished):
        frame = AT_COORDINATOR_FROM_TARGET.encode(message)
        assert AT_COORDINATOR_FROM_TARGET.decode(frame) == message
