from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.support.fake_coordinator import FINGERPRINT, NODE_A, NODE_B, FakeCoordinator, serving
from wanspec_p2p.client import Client
from wanspec_p2p.errors import (
    ContextTooLong,
    InvalidRequest,
    LinkClosed,
    RemoteProtocolError,
    TargetLost,
    Unauthenticated,
    Unreachable,
    UnsupportedParameter,
)
from wanspec_p2p.types import FinishReason


@pytest.fixture
def fake() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
def client(fake: FakeCoordinator) -> Iterator[Client]:
    with serving(fake) as url, Client(url, timeout=10) as client:
        yield client


def test_generate_returns_text_tokens_and_who_drafted_them(client: Client, fake: FakeCoordinator) -> None:
    answer = client.generate("Why is the sky blue?", max_tokens=5, privacy="public")
    assert answer.text == "The sky is blue."
    assert answer.token_ids == fake.ids
    assert answer.origins == (None, NODE_A, NODE_B, NODE_A, None)
    assert answer.finish_reason is FinishReason.STOP
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens) == (9, 5)
    assert answer.speculation.won_by_peer == {NODE_A: 2, NODE_B: 1}
    assert (answer.model, answer.fingerprint) == ("smollm2-135m", FINGERPRINT)
    assert fake.requests[0]["wanspec"] == {"privacy": "public"}


def test_stream_yields_pieces_as_they_are_committed(client: Client) -> None:
    with client.stream("Why?", model="smollm2-135m") as stream:
        with pytest.raises(LinkClosed):
            _ = stream.answer
        pieces = list(stream)
        assert [(piece.position, piece.text) for piece in pieces] == [(0, "The"), (1, " sky is"), (3, " blue.")]
        assert stream.answer.text == "The sky is blue."


def test_nothing_is_sent_before_the_first_piece_is_asked_for(client: Client, fake: FakeCoordinator) -> None:
    client.stream("Why?", model="smollm2-135m").close()
    assert fake.requests == []


def test_a_stream_may_be_left_early_and_the_client_used_again(client: Client) -> None:
    with client.stream("Why?") as stream:
        for piece in stream:
            assert piece.text == "The"
            break
        for _ in range(2):
            with pytest.raises(LinkClosed, match="the stream was left after 1 token"):
                _ = stream.answer
            stream.close()
    assert client.generate("Why?").text == "The sky is blue."


def test_network_off_is_the_target_alone(client: Client) -> None:
    assert client.generate("Why?", network=False).origins == (None,) * 5


def test_a_raw_completion(client: Client, fake: FakeCoordinator) -> None:
    assert client.generate("Once", raw=True).text == "The sky is blue."
    assert fake.requests[0]["prompt"] == "Once"


def test_what_cannot_be_sent_is_an_invalid_request(client: Client, fake: FakeCoordinator) -> None:
    with pytest.raises(InvalidRequest, match="temperature cannot be sent as JSON"):
        client.generate("hi", temperature=float("nan"))
    with pytest.raises(InvalidRequest, match="half of a surrogate pair"):
        client.generate("\ud800")
    assert fake.requests == []


def test_models_and_state(client: Client) -> None:
    assert [model.name for model in client.models()] == ["smollm2-135m"]
    assert [node["name"] for node in client.state()["nodes"]] == ["lab-a", "lab-b"]


def test_a_refusal_is_a_typed_error(client: Client, fake: FakeCoordinator) -> None:
    fake.status = 400
    fake.error = {"message": "9 tokens are too many", "code": "context_length_exceeded", "param": "messages"}
    with pytest.raises(ContextTooLong, match="9 tokens are too many") as caught:
        client.generate("Why?", model="smollm2-135m")
    assert caught.value.param == "messages"


def test_an_error_in_mid_stream_is_a_typed_error(client: Client, fake: FakeCoordinator) -> None:
    fake.fail_after, fake.error = 2, {"message": "the target is gone", "code": "target_lost"}
    with client.stream("Why?") as stream, pytest.raises(TargetLost, match="the target is gone"):
        list(stream)


def test_a_stream_cut_short_is_never_a_short_answer(client: Client, fake: FakeCoordinator) -> None:
    fake.fail_after = 1
    with pytest.raises(LinkClosed, match="broke off after 1 token$"):
        client.generate("Why?")


def test_a_stream_that_breaks_goes_on_where_it_was(client: Client, fake: FakeCoordinator) -> None:
    fake.seed, fake.breaks = "0" * 32, [2]
    with client.stream("Why?", temperature=0.8) as stream:
        pieces = list(stream)
    assert [(piece.position, piece.text) for piece in pieces] == [(0, "The"), (1, " sky is"), (3, " blue.")]
    assert (stream.answer.text, stream.answer.usage.completion_tokens) == (fake.text, 5)
    rest = {"committed": [504, 6376, 314], "seed": fake.seed, "fingerprint": FINGERPRINT}
    assert [request.get("wanspec") for request in fake.requests] == [None, rest]


def test_a_field_that_is_misspelt_is_a_request_that_is_wrong(client: Client, fake: FakeCoordinator) -> None:
    fake.status, fake.error = 400, {"message": "temprature is not supported", "code": "unsupported_parameter"}
    with pytest.raises(UnsupportedParameter, match="temprature") as caught:
        client.generate("Why?", model="smollm2-135m", temprature=1)  # type: ignore[call-arg]  # that is the point
    assert isinstance(caught.value, InvalidRequest)


def test_keys_are_checked(fake: FakeCoordinator) -> None:
    fake.api_key = "right"
    with serving(fake) as url:
        with Client(url, api_key="right") as client:
            assert client.generate("Why?").text == fake.text
        with Client(url, api_key="wrong") as client, pytest.raises(Unauthenticated, match="this key is not known"):
            client.models()


def test_a_refused_connection_is_one_clear_line(fake: FakeCoordinator) -> None:
    with serving(fake) as url:
        pass  # the port is free again
    with Client(url) as client, pytest.raises(Unreachable, match=f"nobody answers at {url}: is the coordinator"):
        client.generate("Why?")


def test_a_state_that_is_not_json_is_the_other_sides_fault(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "_get", lambda path: b"<html>")
    with pytest.raises(RemoteProtocolError, match="the state is not JSON"):
        client.state()


def test_close_may_be_called_twice(client: Client) -> None:
    client.close()
    client.close()
    with pytest.raises(RuntimeError):
        client.models()
