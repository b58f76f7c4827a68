from __future__ import annotations

import msgspec

from coordinator.openai_responses import Reply, error_body, model_body, several
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
    accepted_by_length={2: (0, 1, 1)},
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
    assert "metrics" not in finish, "figures that come twice are taken for those of two answers"
    (alone,) = reply(usage=False).closing(DONE, 5)
    assert alone["metrics"] == usage["metrics"]
    assert usage["metrics"]["speculative_decoding"] == {
        "mean_acceptance_length": 2.5,
        "draft_acceptance_rate": 0.5,
        "acceptance_histogram": [0, 1, 1],
        "acceptance_histogram_by_draft_length": {"2": (0, 1, 1)},
        "num_spec_steps": 2,
        "num_accepted_draft_tokens": 3,
        "num_draft_tokens": 6,
        "num_spec_tokens": 2,
    }
    assert usage["metrics"]["wanspec"]["accepted_per_round"] == 1.5
    assert usage["usage"]["completion_tokens_details"] == {
        "accepted_prediction_tokens": 3,
        "rejected_prediction_tokens": 3,
    }


def test_the_first_commit_of_a_stream_says_what_it_takes_to_resume_it() -> None:
    answer = reply()
    first, second = answer.chunk(tokens(0, "a")), answer.chunk(tokens(1, "b"))
    assert (first["wanspec"]["seed"], first["wanspec"]["fingerprint"]) == (bytes(16).hex(), SERVED.fingerprint)
    assert "seed" not in second["wanspec"]


def test_an_answer_without_a_round_divides_by_nothing() -> None:
    empty = Finished("r", FinishReason.LENGTH, Usage(0, 0, 0, 0, 0, 0))
    (finish,) = reply(usage=False).closing(empty, 0)
    assert finish["metrics"]["speculative_decoding"]["mean_acceptance_length"] == 1.0
    assert finish["metrics"]["wanspec"]["accepted_per_round"] == 0.0


def test_who_asks_for_usage_gets_the_field_in_every_chunk_and_filled_in_the_last() -> None:
    asking, other = reply(), reply(usage=False)
    chunks = [*asking.opening(), asking.chunk(tokens(0, "a")), *asking.closing(DONE, 1)]
    assert [chunk["usage"] is None for chunk in chunks] == [True, True, True, False]
    assert "usage" not in other.chunk(tokens(0, "a"))


def test_an_echo_is_text_and_scores_but_no_token_of_the_answer() -> None:
    echoing = reply(chat=False, top_logprobs=1)
    first = TokenLogprob(5, "x", None)
    second = TokenLogprob(6, "y", -1.0, ((9, "z", -0.5),))
    echo = Tokens("r", 0, (5, 6), "xy", (None, None), (first, second), echo=True)
    answer = tokens(0, "ab", TokenLogprob(7, "ab", -0.5))
    whole = reply(chat=False, top_logprobs=1).whole([echo, answer], DONE)
    assert whole["choices"][0]["text"] == "xyab"
    assert whole["choices"][0]["logprobs"] == {
        "tokens": ["x", "y", "ab"],
        "token_logprobs": [None, -1.0, -0.5],
        "top_logprobs": [None, {"z": -0.5, "y": -1.0}, {"ab": -0.5}],
        "text_offset": [0, 1, 2],
    }
    assert whole["wanspec"]["token_ids"] == [7]
    chunk = echoing.chunk(echo)
    assert (chunk["choices"][0]["text"], chunk["wanspec"]["token_ids"], chunk["wanspec"]["position"]) == ("xy", (), 0)
    assert echoing.chunk(answer)["choices"][0]["logprobs"]["text_offset"] == [2]


def test_of_tokens_that_look_alike_the_likeliest_stands_for_all() -> None:
    """Evaluation tools compare the chosen token with the best of this column."""
    entry = TokenLogprob(8, "\ufffd", -2.0, ((7, "\ufffd", -0.5), (9, "c", -1.0)))
    columns = reply(chat=False, top_logprobs=2).chunk(tokens(0, "", entry))["choices"][0]["logprobs"]
    assert columns["top_logprobs"] == [{"\ufffd": -0.5, "c": -1.0}]


def test_bytes_of_a_part_of_a_character_are_not_made_up() -> None:
    part = TokenLogprob(8, "\ufffd", -2.0, ((7, "\ufffd", -0.5), (9, "é", -1.0)))
    (entry,) = reply(top_logprobs=2).chunk(tokens(0, "", part))["choices"][0]["logprobs"]["content"]
    assert entry["bytes"] is None
    assert [other["bytes"] for other in entry["top_logprobs"]] == [None, [0xC3, 0xA9]]


def test_several_answers_are_choices_of_one_response() -> None:
    replies = [reply(chat=False), reply(chat=False)]
    body = several(replies, [[tokens(0, "a")], [tokens(0, "b")]], [DONE, DONE])
    assert [(choice["index"], choice["text"]) for choice in body["choices"]] == [(0, "a"), (1, "b")]
    assert [choice["wanspec"]["token_ids"] for choice in body["choices"]] == [[7], [7]]
    assert body["usage"] == {
        "prompt_tokens": 6,
        "completion_tokens": 10,
        "total_tokens": 16,
        "completion_tokens_details": {"accepted_prediction_tokens": 6, "rejected_prediction_tokens": 6},
    }
    assert body["metrics"] is None


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
