from __future__ import annotations

import msgspec

from coordinator.openai_responses import Reply, error_body, model_body
from coordinator.openai_schema import Asked
from tests.support.fake_target import SERVED
from wanspec_p2p.errors import NoTarget
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Finished, TokenLogprob, Tokens, Usage
from wanspec_p2p.types import FinishReason, Sampling

USAGE = Usage(
    prompt_tokens=3,
    completion_tokens=5,
    rounds=2,
    drafted=6,
    accepted=3,
    late=1,
    accepted_histogram=(0, 1, 1),
    target_draft_passes=4,
    near_ties=2,
    seconds=0.5,
)
DONE = Finished("r", FinishReason.STOP, USAGE)


def reply(*, chat: bool = True, top_logprobs: int | None = None, usage: bool = True) -> Reply:
    generate = Generate("r", bytes(16), Sampling(), prompt="x", top_logprobs=top_logprobs)
    return Reply(Asked("big", generate, stream=True, include_usage=usage, chat=chat), SERVED, created=1)


def tokens(position: int, text: str, *logprobs: TokenLogprob) -> Tokens:
    return Tokens("r", position, (7,), text, (None,), logprobs)


def test_figures_of_both_conventions() -> None:
    finish, usage = reply().closing(DONE, 5)
    assert usage["metrics"] == finish["metrics"]
    assert usage["metrics"]["speculative_decoding"] == {
        "mean_acceptance_length": 2.5,
        "draft_acceptance_rate": 0.5,
        "acceptance_histogram": (0, 1, 1),
        "num_spec_steps": 2,
        "num_accepted_draft_tokens": 3,
        "num_draft_tokens": 6,
        "num_spec_tokens": 2,
    }
    assert usage["metrics"]["wanspec"] == {
        "rounds": 2,
        "drafted": 6,
        "accepted": 3,
        "accepted_per_round": 1.5,
        "target_draft_passes": 4,
        "won_by_peer": {},
        "near_ties": 2,
        "late": 1,
        "seconds": 0.5,
        "fingerprint": SERVED.fingerprint,
        "exactness": "bitwise",
    }
    assert usage["usage"]["completion_tokens_details"] == {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 3,
    }


def test_an_answer_without_a_round_divides_by_nothing() -> None:
    empty = Finished("r", FinishReason.LENGTH, Usage(0, 0, 0, 0, 0, 0))
    (finish, _) = reply().closing(empty, 0)
    assert finish["metrics"]["speculative_decoding"]["mean_acceptance_length"] == 1.0
    assert finish["metrics"]["wanspec"]["accepted_per_round"] == 0.0


def test_only_a_chat_says_who_speaks() -> None:
    assert reply(chat=False).opening() == []
    (opening,) = reply().opening()
    assert opening["choices"][0]["delta"]["role"] == "assistant"


def test_text_offsets_go_on_from_chunk_to_chunk() -> None:
    chunks = reply(chat=False, top_logprobs=1)
    entry = TokenLogprob(7, "ab", -0.5, ((7, "ab", -0.5), (8, "c", -1.0)))
    first, second = (chunks.chunk(tokens(i, "ab", entry))["choices"][0]["logprobs"] for i in range(2))
    assert (first["text_offset"], second["text_offset"]) == ([0], [2])
    assert first["top_logprobs"] == [{"ab": -0.5, "c": -1.0}]


def test_everything_can_be_written_as_json() -> None:
    entry = TokenLogprob(7, "é", -0.5)
    for body in (
        *reply(top_logprobs=0).closing(DONE, 1),
        reply(top_logprobs=0).chunk(tokens(0, "é", entry)),
        reply().whole([tokens(0, "é")], DONE),
        model_body(SERVED, created=1, targets=2),
        error_body(NoTarget("none")),
    ):
        assert isinstance(msgspec.json.decode(msgspec.json.encode(body)), dict)
