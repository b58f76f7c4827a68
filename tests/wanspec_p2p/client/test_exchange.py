from __future__ import annotations

import json

import pytest

from wanspec_p2p.client.answers import Speculation, Usage
from wanspec_p2p.client.exchange import (
    AnswerBuilder,
    Options,
    check_stream,
    error_from_response,
    models_from_response,
    request_body,
)
from wanspec_p2p.errors import (
    InvalidRequest,
    LinkClosed,
    Overloaded,
    RemoteProtocolError,
    RequestError,
    TargetLost,
    Unauthenticated,
    Unreachable,
)
from wanspec_p2p.types import FinishReason

NODE = "n" * 32


def event(**fields: object) -> str:
    return json.dumps({"id": "chatcmpl-1", "model": "m", "choices": []} | fields)


def tokens(position: int, ids: list[int], text: str, origin: list[str | None] | None = None) -> str:
    extension = {"request": "r", "position": position, "token_ids": ids, "origin": origin or [None] * len(ids)}
    return event(choices=[{"delta": {"content": text}}], wanspec=extension)


def finish(reason: str = "stop") -> str:
    return event(choices=[{"delta": {}, "finish_reason": reason}])


def test_a_prompt_is_a_users_message_in_a_streamed_chat() -> None:
    path, body = request_body("Why?", "m", Options(max_tokens=5, temperature=0.8, seed=3), raw=False)
    assert path == "/v1/chat/completions"
    assert body == {
        "model": "m",
        "messages": [{"role": "user", "content": "Why?"}],
        "stream": True,
        "stream_options": {"include_usage": True},
        "max_tokens": 5,
        "temperature": 0.8,
        "seed": 3,
    }


def test_a_conversation_comes_as_mappings_or_pairs() -> None:
    messages = [("system", "Be brief."), {"role": "user", "content": "Why?"}]
    _, body = request_body(messages, "m", Options(), raw=False)
    assert body["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Why?"}]


def test_raw_text_is_continued_as_it_stands() -> None:
    path, body = request_body("Once upon", "m", Options(), raw=True)
    assert (path, body["prompt"]) == ("/v1/completions", "Once upon")
    assert "messages" not in body


def test_our_own_options_travel_in_an_object_of_their_own() -> None:
    _, body = request_body("Why?", "m", Options(privacy="trusted", network=False, logit_bias={3: -1.5}), raw=False)
    assert body["wanspec"] == {"privacy": "trusted", "network": False}
    assert body["logit_bias"] == {"3": -1.5}
    assert "privacy" not in body and "network" not in body


@pytest.mark.parametrize("prompt", [[{"role": "user"}], [("user",)]])
def test_a_message_without_role_or_content_is_refused_here(prompt: list[object]) -> None:
    with pytest.raises(InvalidRequest, match="a message needs a role and a content"):
        request_body(prompt, "m", Options(), raw=False)  # type: ignore[arg-type]  # what is tested


def test_raw_completion_of_a_conversation_is_refused_here() -> None:
    with pytest.raises(InvalidRequest, match="takes text"):
        request_body([("user", "Why?")], "m", Options(), raw=True)


@pytest.mark.parametrize(
    ("prompt", "options", "param"),
    [
        ("Why?", Options(temperature=float("nan")), "temperature"),
        ("Why?", Options(top_p=float("inf")), "top_p"),
        ("Why?", Options(logit_bias={3: float("nan")}), "logit_bias"),
        ("Why?", Options(stop=["\ud800"]), "stop"),
        ("Why?", Options(privacy="\ud800"), "privacy"),
        ("Why?", Options(seed=b"0"), "seed"),  # type: ignore[typeddict-item]  # what is tested
        ("\ud800", Options(), "messages"),
    ],
)
def test_what_json_has_no_form_for_is_refused_by_name(prompt: str, options: Options, param: str) -> None:
    with pytest.raises(InvalidRequest) as error:
        request_body(prompt, "m", options, raw=False)
    assert error.value.param == param and error.value.message.startswith(param)


def test_raw_text_that_is_no_unicode_is_refused_by_name() -> None:
    with pytest.raises(InvalidRequest, match="prompt is not valid Unicode: it holds half of a surrogate pair"):
        request_body("\ud800", "m", Options(), raw=True)


def test_an_answer_is_built_from_its_events() -> None:
    builder = AnswerBuilder()
    first = builder.feed(tokens(0, [1, 2], "The sky", [None, NODE]))
    assert first is not None
    assert (first.text, first.token_ids, first.origins, first.position) == ("The sky", (1, 2), (None, NODE), 0)
    second = builder.feed(tokens(2, [3], " is"))
    assert second is not None and second.position == 2
    assert builder.feed(finish("length")) is None
    usage = {"prompt_tokens": 4, "completion_tokens": 3, "total_tokens": 7}
    metrics = {"wanspec": {"rounds": 2, "accepted_per_round": 0.5, "won_by_peer": {NODE: 1}, "something_new": 1}}
    assert builder.feed(event(usage=usage, metrics=metrics, system_fingerprint="fp")) is None
    assert builder.feed("[DONE]") is None

    answer = builder.answer
    assert (answer.text, answer.token_ids, answer.origins) == ("The sky is", (1, 2, 3), (None, NODE, None))
    assert answer.finish_reason is FinishReason.LENGTH
    assert answer.usage == Usage(4, 3)
    assert answer.speculation == Speculation(rounds=2, accepted_per_round=0.5, won_by_peer={NODE: 1})
    assert (answer.model, answer.request, answer.fingerprint) == ("m", "r", "fp")


def test_a_coordinator_without_our_extension_still_gives_text() -> None:
    builder = AnswerBuilder()
    piece = builder.feed(event(choices=[{"text": "hello"}]))
    assert piece is not None and (piece.text, piece.token_ids) == ("hello", ())
    builder.feed(event(choices=[{"text": "", "finish_reason": "stop"}]))
    builder.feed("[DONE]")
    assert builder.answer.text == "hello"


def test_a_stream_that_ends_early_is_not_a_short_answer() -> None:
    builder = AnswerBuilder()
    builder.feed(tokens(0, [1], "The"))
    with pytest.raises(LinkClosed, match="the stream was left after 1 token:"):
        _ = builder.answer
    with pytest.raises(LinkClosed, match="broke off after 1 token$"):
        builder.end()
    with pytest.raises(LinkClosed, match="broke off after 1 token$"):
        _ = builder.answer


def test_an_error_in_mid_stream_is_the_typed_exception() -> None:
    builder = AnswerBuilder()
    builder.feed(tokens(0, [1], "The"))
    with pytest.raises(TargetLost, match="the target is gone"):
        builder.feed(json.dumps({"error": {"message": "the target is gone", "code": "target_lost"}}))


@pytest.mark.parametrize(
    ("data", "says"),
    [
        ("{", "does not follow the API"),
        ("[]", "Expected `object`"),
        (tokens(1, [5], "x"), "token 0 was due, token 1 came"),
        (tokens(0, [5, 6], "x", [None]), "2 tokens came with 1 origins"),
        (finish("tired"), "'tired' is not a valid FinishReason"),
    ],
)
def test_what_does_not_follow_the_api_is_the_coordinators_fault(data: str, says: str) -> None:
    with pytest.raises(RemoteProtocolError, match=says):
        AnswerBuilder().feed(data)


def test_refusals_become_typed_errors_with_their_details() -> None:
    body = json.dumps({"error": {"message": "no", "code": "overloaded", "param": "model"}}).encode()
    error = error_from_response("http://c", 503, body, {"Retry-After": "7"})
    assert isinstance(error, Overloaded)
    assert (error.message, error.param, error.retry_after) == ("no", "model", 7.0)
    body = json.dumps(
        {"error": {"message": "key?", "code": "invalid_api_key", "type": "authentication_error"}}
    ).encode()
    assert isinstance(error_from_response("http://c", 401, body, {}), Unauthenticated)


def test_an_unknown_code_is_still_an_error_of_the_request() -> None:
    error = error_from_response("http://c", 418, b'{"error": {"message": "teapot", "code": "teapot"}}', {})
    assert type(error) is RequestError and error.message == "teapot"


def test_a_refusal_by_something_else_says_so() -> None:
    error = error_from_response("http://c", 403, b"<html>Forbidden</html>", {})
    assert str(error) == "http://c answered 403, and not as a coordinator does; is the address right?"
    assert isinstance(error, RequestError)


@pytest.mark.parametrize("status", [502, 503, 504])
def test_a_proxy_with_nobody_behind_is_an_address_where_nobody_answers(status: int) -> None:
    error = error_from_response("http://c", status, b"<html>Bad Gateway</html>", {})
    assert isinstance(error, Unreachable)
    assert "is the coordinator running?" in str(error)


# Resumed --------------------------------------------------------------------------------------------------------------


def commit(position: int, *ids: int, text: str = "x", **more: object) -> str:
    progress = {"request": "r", "position": position, "token_ids": ids, "origin": [None] * len(ids)} | more
    return json.dumps({"choices": [{"delta": {"content": text}}], "wanspec": progress})


def test_an_answer_of_two_streams_is_one() -> None:
    builder = AnswerBuilder()
    assert not builder.begun and builder.resumable
    builder.feed(commit(0, 5, 6, seed="0" * 32, fingerprint="f" * 64))
    assert builder.begun and builder.resumable
    builder.resume()
    builder.feed(json.dumps({"choices": [{"delta": {"role": "assistant"}}], "wanspec": {"position": 2}}))
    piece = builder.feed(commit(2, 7, fingerprint="f" * 64))
    assert piece is not None and piece.position == 2
    usage = {"prompt_tokens": 1, "completion_tokens": 1}
    builder.feed(json.dumps({"choices": [{"finish_reason": "stop"}], "usage": usage}))
    builder.feed("[DONE]")
    assert (builder.answer.token_ids, builder.answer.text) == ((5, 6, 7), "xx")
    assert builder.answer.usage.completion_tokens == 3


def test_another_engine_must_not_go_on_with_an_answer() -> None:
    builder = AnswerBuilder()
    builder.feed(commit(0, 5, seed="0" * 32, fingerprint="f" * 64))
    with pytest.raises(RemoteProtocolError, match="another fingerprint"):
        builder.feed(commit(1, 6, fingerprint="e" * 64))


def test_the_end_of_the_text_is_not_shown_twice() -> None:
    """The first stream broke between the text the target had held back and the end of the answer."""
    builder = AnswerBuilder()
    builder.feed(commit(0, 5, text="a", seed="0" * 32, fingerprint="f" * 64))
    assert builder.feed(commit(1, text="rest")) is not None
    builder.resume()
    assert builder.feed(commit(1, text="rest")) is None
    builder.feed(json.dumps({"choices": [{"finish_reason": "length"}]}))
    builder.feed("[DONE]")
    assert builder.answer.text == "arest"


def test_only_an_event_stream_is_read_as_one() -> None:
    check_stream("http://c", {"Content-Type": "text/event-stream; charset=utf-8"})
    with pytest.raises(RemoteProtocolError, match="answered with text/html, not with a stream"):
        check_stream("http://c", {"Content-Type": "text/html"})


def test_models_keep_what_the_coordinator_said_of_them() -> None:
    models = models_from_response(b'{"object": "list", "data": [{"id": "m", "context": 8192}]}')
    assert [(model.name, model.details["context"]) for model in models] == [("m", 8192)]
    with pytest.raises(RemoteProtocolError, match="the list of models is not one"):
        models_from_response(b"[]")


def test_before_its_first_token_any_engine_may_go_on_with_an_answer() -> None:
    builder = AnswerBuilder()
    opening = {"choices": [{"delta": {"role": "assistant"}}], "wanspec": {"request": "r"}}
    builder.feed(json.dumps(opening | {"system_fingerprint": "fp_" + "f" * 16}))
    builder.resume()
    assert builder.feed(commit(0, 5, seed="0" * 32, fingerprint="e" * 64)) is not None
    assert builder.fingerprint == "e" * 64
