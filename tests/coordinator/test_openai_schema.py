from __future__ import annotations

import hashlib
import struct
from typing import Any

import msgspec
import pytest

from coordinator.openai_schema import Asked, parse_chat, parse_completion, seed_bytes
from wanspec_p2p.errors import ContextTooLong, InvalidRequest, UnsupportedParameter
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.coordinator_to_target import ChatMessage
from wanspec_p2p.types import Privacy, Sampling

RANDOM = bytes(range(16))


def chat(**fields: Any) -> Asked:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}]} | fields
    return parse_chat(msgspec.json.encode(body), request="r", random_seed=lambda: RANDOM)


def text(**fields: Any) -> Asked:
    body = {"model": "m", "prompt": "hi"} | fields
    (asked,) = texts(**body)
    return asked


def texts(**fields: Any) -> tuple[Asked, ...]:
    body = {"model": "m"} | fields
    return parse_completion(msgspec.json.encode(body), request="r", random_seed=lambda: RANDOM)


def test_the_least_that_can_be_asked() -> None:
    asked = chat()
    assert asked == Asked("m", asked.generate, stream=False, include_usage=False, chat=True)
    assert asked.generate.messages == (ChatMessage("user", "hi"),)
    assert asked.generate.sampling == Sampling(temperature=1.0)
    assert (asked.generate.max_tokens, asked.generate.seed, asked.generate.top_logprobs) == (None, RANDOM, None)
    assert text().generate.max_tokens == 16


def test_everything_that_is_honoured() -> None:
    asked = chat(
        max_tokens=9,
        max_completion_tokens=7,
        stop=["a", "b"],
        seed=-1,
        temperature=0,
        top_p=0.5,
        top_k=40,
        presence_penalty=1,
        frequency_penalty=-1,
        repetition_penalty=1.1,
        logit_bias={"5": -100, "3": 1},
        min_tokens=2,
        ignore_eos=True,
        logprobs=True,
        top_logprobs=3,
        stream=True,
        stream_options={"include_usage": True},
        wanspec={"privacy": "trusted", "network": False, "committed": [1, 2]},
    )
    generate = asked.generate
    assert generate.sampling == Sampling(
        temperature=0.0,
        top_k=40,
        top_p=0.5,
        repetition_penalty=1.1,
        presence_penalty=1.0,
        frequency_penalty=-1.0,
        logit_bias=((3, 1.0), (5, -100.0)),
        min_tokens=2,
    )
    assert (generate.max_tokens, generate.stop, generate.seed) == (7, ("a", "b"), seed_bytes(-1))
    assert (generate.ignore_eos, generate.top_logprobs) == (True, 3)
    assert (generate.privacy, generate.network, generate.committed) == (Privacy.TRUSTED, False, (1, 2))
    assert (asked.stream, asked.include_usage) == (True, True)


def test_content_may_come_in_parts_and_roles_have_synonyms() -> None:
    asked = chat(
        messages=[
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x"},
            {"role": "assistant", "content": "c", "refusal": None, "tool_calls": None, "annotations": []},
        ]
    )
    assert asked.generate.messages == (
        ChatMessage("system", "be brief"),
        ChatMessage("user", "a\nb"),
        ChatMessage("assistant", "c"),
    )


def test_how_a_prompt_is_cached_elsewhere_changes_nothing() -> None:
    part = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}, "annotations": None}
    message = {"role": "user", "content": [part], "cache_control": {"type": "ephemeral"}}
    assert chat(messages=[message]).generate.messages == (ChatMessage("user", "a"),)


@pytest.mark.parametrize("wanted", [131_073, 200_000, 2**31 - 1, 2**63 - 1, 10**30])
def test_who_asks_for_more_than_any_context_holds_asks_for_all_there_is(wanted: int) -> None:
    most = limits.MAX_PROMPT_TOKENS
    assert chat(max_tokens=wanted).generate.max_tokens == most
    assert chat(max_completion_tokens=wanted).generate.max_tokens == most
    assert text(max_tokens=wanted).generate.max_tokens == most


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("a", ("a", ())),
        (["a"], ("a", ())),
        ([1, 2], (None, (1, 2))),
        ([[1, 2]], (None, (1, 2))),
        ("", ("", ())),
    ],
)
def test_prompts(prompt: Any, expected: tuple[str | None, tuple[int, ...]]) -> None:
    generate = text(prompt=prompt).generate
    assert (generate.prompt, generate.prompt_ids) == expected


@pytest.mark.parametrize(
    "fields",
    [
        {"user": "me", "store": True, "metadata": {"a": 1}},
        {"n": 1, "tools": [], "tool_choice": "none", "response_format": {"type": "text"}},
        {"tools": None, "n": None, "seed": None, "stop": None, "temperature": None, "logprobs": None},
        {"top_k": -1},
        {"stream_options": {"continuous_usage_stats": True}},
        {"stream_options": {"include_usage": None}},
        {"wanspec": dict.fromkeys(("privacy", "network", "seed", "committed", "fingerprint"))},
        {"function_call": "none", "functions": [], "prompt_cache_retention": "24h", "prompt_cache_key": "a"},
        {"logprobs": False, "top_logprobs": 0},
        {"top_logprobs": 0},
    ],
)
def test_what_changes_nothing_is_accepted(fields: dict[str, Any]) -> None:
    assert chat(**fields).generate.sampling == Sampling(temperature=1.0)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"tools": [{}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"reasoning_effort": "low"}, "reasoning_effort"),
        ({"no_such_thing": 1}, "no_such_thing"),
        ({"wanspec": {"privcy": "private"}}, "wanspec.privcy"),
        ({"messages": [{"role": "user", "content": "x", "audio": {}}]}, "messages[0].audio"),
        ({"messages": [{"role": "tool", "content": "x", "tool_call_id": "a"}]}, "messages[0].role"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "content": None, "tool_calls": [{}]}]}, "messages[0].tool_calls"),
        ({"messages": [{"role": "assistant", "content": None, "function_call": {}}]}, "messages[0].function_call"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url"}]}]}, "messages[0].content[0].type"),
        ({"function_call": {"name": "f"}}, "function_call"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 2}, "best_of"),
        ({"tool_choice": "required"}, "tool_choice"),
        ({"prediction": {"type": "content", "content": "x"}}, "prediction"),
        ({"modalities": ["text", "audio"]}, "modalities"),
    ],
)
def test_what_cannot_be_done_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(UnsupportedParameter, match="not supported") as error:
        chat(**fields)
    assert (error.value.code, error.value.param, error.value.status) == ("unsupported_parameter", param, 400)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"temperature": 1000}, "temperature"),
        ({"temperature": "hot"}, "temperature"),
        ({"top_p": 0}, "top_p"),
        ({"logit_bias": {"x": 1}}, "logit_bias"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"seed": 2**63}, "seed"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "messages[0].role"),
        ({"max_completion_tokens": 0}, "max_completion_tokens"),
        ({"messages": [{"role": "user", "content": None}]}, "messages[0].content"),
        ({"stop": [""]}, "stop[0]"),
        ({"wanspec": {"seed": "xyz"}}, "wanspec.seed"),
        ({"wanspec": {"privacy": "secret"}}, "wanspec.privacy"),
        ({"model": ""}, "model"),
    ],
)
def test_values_out_of_range_name_their_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(**fields)
    assert (error.value.code, error.value.status) == ("invalid_value", 400)
    assert (error.value.param or "").startswith(param)
    assert "\n" not in error.value.message


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"wanspec": {"privacy": "secret"}}, "'secret'; there are public, trusted, private"),
        ({"messages": [{"role": "pope", "content": "x"}]}, "'pope'; there are system, developer, user, assistant"),
        ({"n": 2}, "n is not supported above 1: send several requests"),
        ({"best_of": 3}, "best_of is not supported above 1: send several requests"),
        ({"n": 0}, "n is not supported"),
        ({"messages": [{"role": "assistant", "content": None}]}, "is null: a message needs a text, which may be empty"),
    ],
)
def test_what_would_be_allowed_is_said(fields: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        chat(**fields)
    assert error.value.message.endswith(says)


@pytest.mark.parametrize("prompt", [[], [1, "a"], [-1], [2**20], {"a": 1}, [[1], 2], [[]], ["a"] * 33])
def test_prompts_that_are_none(prompt: Any) -> None:
    with pytest.raises(InvalidRequest) as error:
        text(prompt=prompt)
    assert (error.value.param or "").startswith("prompt")


def test_several_prompts_are_several_requests_with_one_seed() -> None:
    one, two = texts(prompt=["a", [1, 2]], seed=7)
    assert (one.generate.request, two.generate.request) == ("r", "r-1")
    assert (one.generate.prompt, two.generate.prompt_ids) == ("a", (1, 2))
    assert one.generate.seed == two.generate.seed == seed_bytes(7)
    assert [asked.generate.prompt_ids for asked in texts(prompt=[[1], [2, 3]])] == [(1,), (2, 3)]


def test_echo_is_for_completions_and_may_be_all_that_is_wanted() -> None:
    assert text(echo=True, logprobs=1).generate.echo
    assert text(echo=True, max_tokens=0).generate.max_tokens == 0
    with pytest.raises(UnsupportedParameter):
        chat(echo=True)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"echo": True, "wanspec": {"committed": [1]}}, "echo"),
        ({"prompt": ["a", "b"], "stream": True}, "stream"),
        ({"prompt": ["a", "b"], "wanspec": {"committed": [1]}}, "wanspec.committed"),
        ({"max_tokens": 3, "wanspec": {"committed": [1] * 4}}, "wanspec.committed"),
        ({"wanspec": {"committed": [1] * 17}}, "wanspec.committed"),
    ],
)
def test_what_does_not_go_together_names_a_field(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        text(**fields)
    assert error.value.param == param


def test_an_engine_may_be_asked_for_by_its_fingerprint() -> None:
    assert chat().fingerprint is None
    assert chat(wanspec={"fingerprint": "a" * 64}).fingerprint == "a" * 64
    with pytest.raises(InvalidRequest):
        chat(wanspec={"fingerprint": "fp_1"})


@pytest.mark.parametrize(
    "content",
    ["\x00" * 300_000, "é" * 599_999, [{"type": "text", "text": "x" * 400_000}] * 2],
    ids=["escapes", "two bytes each", "parts"],
)
def test_a_prompt_that_no_frame_can_carry_is_the_submitters_fault(content: Any) -> None:
    with pytest.raises((ContextTooLong, InvalidRequest)) as error:
        chat(messages=[{"role": "user", "content": content}])
    assert error.value.status == 400
    assert len(error.value.message) < 200


def test_half_a_surrogate_pair_is_refused() -> None:
    with pytest.raises(InvalidRequest):
        parse_completion(b'{"model": "m", "prompt": "\\ud800"}', request="r", random_seed=lambda: RANDOM)


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b"null", b'"x"', b"[" * 100_000, b"\xff"])
def test_bodies_that_are_no_object(body: bytes) -> None:
    with pytest.raises(InvalidRequest):
        parse_chat(body, request="r", random_seed=lambda: RANDOM)


def test_whatever_is_accepted_fits_into_a_frame() -> None:
    asked = text(prompt=[199_999] * limits.MAX_PROMPT_TOKENS)
    assert len(msgspec.json.encode(asked.generate)) <= limits.MAX_FRAME_BYTES
    with pytest.raises(ContextTooLong):
        text(prompt=[limits.MAX_VOCABULARY - 1] * limits.MAX_PROMPT_TOKENS)


def test_the_seed_is_what_the_documentation_says() -> None:
    expected = hashlib.blake2b(b"wanspec.seed" + struct.pack("<q", 7), digest_size=16).digest()
    assert seed_bytes(7) == expected
    assert chat(wanspec={"seed": expected.hex()}, seed=1).generate.seed == expected
