from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.session_rows import prefix_hash
from tests.support.target_kit import Mint, Said, names, request, target_alone
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import EngineError, RemoteProtocolError
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_TARGET
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage, Generate
from wanspec_p2p.protocol.target_to_coordinator import Receipt, Receipts, Tokens
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.events import DraftArrived
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.requests import KEPT_SECONDS, RequestDesk
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import FinishReason, PeerId, Privacy, Sampling, Segment, TokenId

NODE = PeerId("n" * 32)
WRITER = "one<|> two STOP three"


class Pool(DrafterPool):
    """A pool with one node, which knows every answer and drafts it as soon as a session begins."""

    def __init__(self, model: ScriptedModel, clock: LoopClock) -> None:
        target = Identity.generate()
        mint = Mint(clock, target)
        super().__init__(
            me=target.peer_id,
            coordinator=mint.identity.public_key,
            per_session=1,
            clock=clock,
            arrived=lambda: None,
            short=lambda: None,
        )
        self._model = model
        self.seen = 0

    def begin(self, runner: SessionRunner) -> None:
        super().begin(runner)
        self.seen += 1
        runner.join(NODE, 0, "lease-1")
        spec = runner.session.spec
        prefix = (*spec.prompt, *spec.committed)
        draft = target_alone(self._model, prefix, 8, Sampling())
        runner.feed(DraftArrived(NODE, len(prefix), prefix_hash(spec.session, prefix), tuple(draft), (), (), at=0.0))


class Bench:
    """A desk on a model whose passes take a second; `gate` holds them back, `failure` is what they fail with."""

    def __init__(
        self, model: ScriptedModel | None = None, *, slots: int = 2, queue: int = 1, local: ScriptedModel | None = None
    ) -> None:
        self.model = model or ScriptedModel(seed=1, context=64)
        self.model.before_forward = self._before
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.said = Said()
        self.receipts: list[Receipt] = []
        clock = LoopClock()
        self.pool = Pool(self.model, clock)
        self.engine = Engine(self.model, slots)
        self.desk = RequestDesk(
            engine=self.engine,
            tokenizer=ByteTokenizer(),
            pool=self.pool,
            policy=Policy(),
            queue=queue,
            say=self.said,
            receipts=self.receipts.extend,
            new_id=names("id"),
            clock=clock,
            local=None if local is None else Engine(local, slots),
        )

    async def _before(self, batch: Sequence[Segment]) -> None:
        await self.gate.wait()
        await asyncio.sleep(1)
        if self.failure is not None:
            raise self.failure

    async def answer(self, asked: Generate) -> list[TokenId]:
        self.desk.generate(asked)
        await self.said.finished(asked.request)
        await asyncio.sleep(0)
        self.nothing_is_left()
        return self.said.tokens(asked.request)

    def nothing_is_left(self) -> None:
        assert self.desk.active == self.engine.serving == self.engine.queued == self.pool.sessions == 0
        assert self.model.caches == {}


class Writer(ScriptedModel):
    """Writes its text over and over; the last byte of it is end-of-sequence."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        super().__init__(seed=1, context=256, eos=(self._text[-1],))

    def row(self, prefix: Sequence[TokenId]) -> NDArray[np.float32]:
        """The prompt has three tokens."""
        row = np.zeros(256, dtype=np.float32)
        row[self._text[(len(prefix) - 3) % len(self._text)]] = 10.0
        return row


# Good requests --------------------------------------------------------------------------------------------------------


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
async def test_the_length_is_what_the_context_leaves() -> None:
    bench = Bench()
    assert len(await bench.answer(request(max_tokens=None))) == 61
    assert len(await bench.answer(request("r2", max_tokens=1000))) == 61
    assert (await bench.said.finished("r2")).reason is FinishReason.LENGTH
    assert len(await bench.answer(request("r3", ids=(1,) * 63))) == 1


@pytest.mark.parametrize(
    ("asked", "prompt"),
    [
        (request(prompt="héllo"), "héllo".encode()),
        (request(messages=(ChatMessage("user", "hi"),)), b"<user>hi\n<assistant>"),
    ],
)
@in_virtual_time
async def test_text_and_messages_become_the_tokenizers_ids(asked: Generate, prompt: bytes) -> None:
    bench = Bench()
    assert await bench.answer(asked) == target_alone(bench.model, prompt, 12, Sampling())
    assert (await bench.said.finished()).usage.prompt_tokens == len(prompt)


@in_virtual_time
async def test_end_of_sequence_ends_it_unless_the_submitter_ignores_it() -> None:
    bench = Bench(Writer("abc"))
    assert await bench.answer(request()) == list(b"abc")
    assert (await bench.said.finished()).reason is FinishReason.STOP
    assert await bench.answer(request("r2", ignore_eos=True)) == list(b"abcabcabcabc")


@in_virtual_time
async def test_log_probabilities_are_the_models_own() -> None:
    bench = Bench()
    tokens = await bench.answer(request(top_logprobs=3))
    scores = [score for part in bench.said.of("r1") if isinstance(part, Tokens) for score in part.logprobs]
    assert [score.token for score in scores] == tokens
    row = bench.model.row((1, 2, 3)).astype(np.float64)
    law = row - math.log(np.exp(row - row.max()).sum()) - row.max()
    best = np.argsort(-law)[:3]
    assert scores[0].logprob == pytest.approx(law[tokens[0]])
    assert [token for token, _, _ in scores[0].top] == best.tolist()
    assert [logprob for _, _, logprob in scores[0].top] == pytest.approx(law[best].tolist())
    assert scores[0].text == ByteTokenizer().piece(tokens[0])


@in_virtual_time
async def test_without_top_tokens_the_chosen_one_alone_has_a_log_probability() -> None:
    bench = Bench()
    await bench.answer(request(top_logprobs=0))
    scores = [score for part in bench.said.of("r1") if isinstance(part, Tokens) for score in part.logprobs]
    assert len(scores) == 12
    assert all(score.top == () for score in scores)


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


# Stop strings ---------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_nothing_after_a_stop_string_is_sent_or_counted() -> None:
    bench = Bench(Writer(WRITER))
    tokens = await bench.answer(request(stop=("STOP",), max_tokens=100, ignore_eos=True))
    assert bytes(tokens) == b"one<|> two STOP"
    assert bench.said.text() == "one<|> two "
    end = await bench.said.finished()
    assert end.reason is FinishReason.STOP
    assert end.usage.completion_tokens == len(tokens)
    origins = [o for part in bench.said.of("r1") if isinstance(part, Tokens) for o in part.origins]
    assert end.usage.accepted == sum(end.usage.won_by_peer.values()) == sum(o is not None for o in origins)


@in_virtual_time
async def test_a_round_that_goes_on_past_the_stop_string_is_cut() -> None:
    bench = Bench(Writer(WRITER))
    assert bytes(await bench.answer(request(stop=("ne",), max_tokens=100, ignore_eos=True))) == b"one"
    assert bench.said.text() == "o"
    usage = (await bench.said.finished()).usage
    assert (usage.completion_tokens, usage.rounds) == (3, 1)
    assert usage.accepted == usage.won_by_peer[NODE] == 3
    assert bench.receipts[0].won > 3, "what came after was the node's work all the same"


@in_virtual_time
async def test_held_back_text_is_shown_when_the_answer_ends_without_the_stop_string() -> None:
    bench = Bench(Writer(WRITER))
    tokens = await bench.answer(request(stop=("STOPPED",), max_tokens=15, ignore_eos=True))
    assert bytes(tokens) == b"one<|> two STOP"
    assert bench.said.text() == "one<|> two STOP"
    assert (await bench.said.finished()).reason is FinishReason.LENGTH


@in_virtual_time
async def test_a_broken_last_character_is_shown_as_such() -> None:
    bench = Bench(Writer("a✓"))
    await bench.answer(request(max_tokens=3))
    assert bench.said.text() == "a\ufffd"


# Resuming -------------------------------------------------------------------------------------------------------------


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
async def test_a_resumed_answer_shows_only_what_was_not_shown() -> None:
    bench = Bench(Writer("✓✓ STOP."))
    committed = "✓✓".encode()[:4]
    await bench.answer(request(stop=("STOP",), committed=tuple(committed), max_tokens=100))
    assert bench.said.text() == "✓ "


@in_virtual_time
async def test_a_long_answer_that_is_resumed_does_not_keep_everybody_else_waiting() -> None:
    bench = Bench(ScriptedModel(seed=1, context=4096))
    turns = 0

    async def somebody_else() -> None:
        nonlocal turns
        while not bench.model.batches:
            turns += 1
            await asyncio.sleep(0)

    bench.desk.generate(request(committed=(65,) * 4000, max_tokens=4001))
    await somebody_else()
    assert turns > 4000 / 100
    assert (await bench.said.finished()).usage.completion_tokens == 4001
    await bench.desk.idle(60)


@pytest.mark.parametrize(
    ("committed", "fields", "reason"),
    [
        (b"abcabcabcabc", {}, FinishReason.LENGTH),
        (b"abcabcabcabcabc", {}, FinishReason.LENGTH),
        (b"abc", {"ignore_eos": False}, FinishReason.STOP),
        (b"ab", {"stop": ("b",)}, FinishReason.STOP),
    ],
)
@in_virtual_time
async def test_an_answer_that_was_over_when_its_target_was_lost_is_over(
    committed: bytes, fields: dict[str, object], reason: FinishReason
) -> None:
    bench = Bench(Writer("abc"))
    assert await bench.answer(request(committed=tuple(committed), **({"ignore_eos": True} | fields))) == []
    end = await bench.said.finished()
    assert end.reason is reason
    assert end.usage.completion_tokens == len(committed)
    assert bench.model.batches == []


# Bad requests ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked", "code", "words"),
    [
        (request(prompt=""), "invalid_value", "the prompt is empty"),
        (request(ids=()), "invalid_value", "exactly one of"),
        (request(prompt="a", prompt_ids=(1,)), "invalid_value", "exactly one of"),
        (request(prompt="a", messages=(ChatMessage("user", "b"),)), "invalid_value", "exactly one of"),
        (request(ids=(1, 256)), "invalid_value", "token ids must be below 256"),
        (request(committed=(300,)), "invalid_value", "token ids must be below 256"),
        (request(ids=(1,) * 64), "context_length_exceeded", "the prompt has 64 tokens"),
        (request(prompt="x" * 65), "context_length_exceeded", "context holds 64"),
    ],
)
@in_virtual_time
async def test_a_bad_request_fails_in_words(asked: Generate, code: str, words: str) -> None:
    bench = Bench()
    bench.desk.generate(asked)
    failed = await bench.said.failed()
    assert failed.code == code
    assert words in failed.message
    await asyncio.sleep(0)
    bench.nothing_is_left()
    assert bench.model.batches == []


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
async def test_no_queue_at_all() -> None:
    bench = Bench(slots=1, queue=0)
    bench.desk.generate(request("r1"))
    bench.desk.generate(request("r2"))
    assert (await bench.said.failed("r2")).code == "overloaded"
    await bench.said.finished("r1")


@in_virtual_time
async def test_a_name_that_is_taken_is_the_coordinators_fault() -> None:
    bench = Bench()
    bench.desk.generate(request())
    with pytest.raises(RemoteProtocolError, match="of this name"):
        bench.desk.generate(request())
    assert (await bench.said.finished()).usage.completion_tokens == 12
    await asyncio.sleep(0)
    assert len(await bench.answer(request("r2"))) == 12


# Ends -----------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_cancelled_request_says_nothing_more_and_leaves_nothing() -> None:
    bench = Bench()
    bench.desk.generate(request())
    bench.desk.generate(request("queued-1"))
    await bench.said.until(lambda: bool(bench.said.tokens("r1")))
    bench.gate.clear()
    await asyncio.sleep(0.5)
    said = list(bench.said.all)
    for name in ("r1", "queued-1", "never heard of"):
        bench.desk.cancel(name)
    await asyncio.sleep(5)
    assert bench.desk.active > 0, "a pass cannot be interrupted"
    bench.gate.set()
    await bench.desk.idle(5)
    await asyncio.sleep(0)
    bench.nothing_is_left()
    assert bench.said.all == said


@in_virtual_time
async def test_all_are_cancelled_at_once_and_waited_for() -> None:
    bench = Bench(slots=1, queue=8)
    for number in range(4):
        bench.desk.generate(request(f"r{number}"))
    await bench.said.until(lambda: bool(bench.said.tokens("r0")))
    await bench.desk.cancel_all()
    bench.nothing_is_left()
    await bench.desk.cancel_all()
    assert bench.receipts, "what a node did for an answer that nobody heard the end of counts all the same"


@in_virtual_time
async def test_idle_does_not_wait_for_ever() -> None:
    bench = Bench()
    await bench.desk.idle(5)
    bench.gate.clear()
    bench.desk.generate(request())
    await bench.desk.idle(5)
    assert bench.desk.active == 1
    bench.gate.set()
    await bench.desk.idle(60)
    assert bench.desk.active == 0


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


# Who may see a prompt, and what they are owed -------------------------------------------------------------------------


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


# Unheard --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_what_nobody_hears_goes_on_and_is_said_to_who_asks_again() -> None:
    bench = Bench()
    bench.desk.generate(request("before", max_tokens=6))
    await bench.said.until(lambda: bool(bench.said.tokens("before")))
    had = bench.said.tokens("before")
    bench.desk.unhear()
    assert (bench.desk.active, bench.desk.unheard) == (0, 1)
    await asyncio.sleep(8)  # it has come to its end, and has let go of its slot
    assert bench.engine.serving == 0
    assert bench.said.tokens("before") == had
    bench.desk.generate(request("after", max_tokens=6, committed=tuple(had)))
    end = await bench.said.finished("after")
    assert end.reason is FinishReason.LENGTH
    assert had + bench.said.tokens("after") == target_alone(bench.model, (1, 2, 3), 6, Sampling())
    assert bench.desk.unheard == 0
    bench.nothing_is_left()
    await asyncio.sleep(2 * KEPT_SECONDS)  # its deadline is off


@in_virtual_time
async def test_who_asks_again_may_cancel_under_the_new_name() -> None:
    bench = Bench()
    bench.desk.generate(request("before"))
    await bench.said.until(lambda: bool(bench.said.tokens("before")))
    bench.desk.unhear()
    bench.desk.generate(request("after", committed=tuple(bench.said.tokens("before"))))
    assert bench.desk.active == 1
    bench.desk.cancel("before")  # nothing is called so any more
    assert bench.desk.active == 1
    bench.desk.cancel("after")
    await asyncio.sleep(3)
    bench.nothing_is_left()


@in_virtual_time
async def test_what_nobody_asks_for_again_ends() -> None:
    bench = Bench()
    bench.model.before_forward = lambda batch: asyncio.sleep(4)
    for name in ("r1", "r2", "r3"):  # the third waits for a slot
        bench.desk.generate(request(name, ids=(1, 2, 3)))
    await asyncio.sleep(1)
    bench.desk.unhear()
    await asyncio.sleep(KEPT_SECONDS - 0.5)
    assert bench.desk.unheard == 3
    await asyncio.sleep(5)
    assert bench.desk.unheard == 0
    bench.nothing_is_left()


@in_virtual_time
async def test_another_request_does_not_find_it() -> None:
    bench = Bench()
    bench.desk.generate(request("before"))
    await asyncio.sleep(2.5)
    bench.desk.unhear()
    bench.desk.generate(request("another", ids=(3, 2, 1)))
    assert (bench.desk.active, bench.desk.unheard) == (1, 1)
    await bench.desk.cancel_all()
    bench.nothing_is_left()
    assert bench.desk.unheard == 0
