from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import httpx2
import pytest

from tests.support.fake_coordinator import FINGERPRINT, NODE_A, NODE_B, FakeCoordinator, serving
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.errors import LinkClosed, NoTarget, TargetLost, Unreachable


@pytest.fixture
def fake() -> FakeCoordinator:
    return FakeCoordinator()


@pytest.fixture
async def client(fake: FakeCoordinator) -> AsyncIterator[AsyncClient]:
    transport = httpx2.ASGITransport(app=fake.app())
    async with asyncio.timeout(10), AsyncClient("http://127.0.0.1", transport=transport) as client:
        yield client


async def test_generate_returns_text_tokens_and_who_drafted_them(client: AsyncClient, fake: FakeCoordinator) -> None:
    answer = await client.generate([("user", "Why?")], seed=1)
    assert (answer.text, answer.token_ids) == ("The sky is blue.", fake.ids)
    assert answer.origins == (None, NODE_A, NODE_B, NODE_A, None)


async def test_stream_yields_pieces_then_the_answer(client: AsyncClient) -> None:
    async with client.stream("Why?", model="smollm2-135m") as stream:
        with pytest.raises(LinkClosed):
            _ = stream.answer
        assert [piece.text async for piece in stream] == ["The", " sky is", " blue."]
        assert stream.answer.speculation.rounds == 3


async def test_answers_at_the_same_time(client: AsyncClient, fake: FakeCoordinator) -> None:
    answers = await asyncio.gather(*(client.generate(f"{i}?") for i in range(4)))
    assert {answer.text for answer in answers} == {fake.text}
    assert {request["messages"][0]["content"] for request in fake.requests} == {"0?", "1?", "2?", "3?"}


async def test_a_stream_may_be_left_early_on_a_real_connection(fake: FakeCoordinator) -> None:
    with serving(fake) as url:
        async with asyncio.timeout(10), AsyncClient(url) as client:
            async with client.stream("Why?") as stream:
                assert (await anext(aiter(stream))).text == "The"
                with pytest.raises(LinkClosed, match="the stream was left after 1 token"):
                    _ = stream.answer
            assert (await client.generate("Why?")).text == fake.text


async def test_errors_are_typed_before_and_in_mid_stream(client: AsyncClient, fake: FakeCoordinator) -> None:
    fake.fail_after, fake.error = 1, {"message": "the target is gone", "code": "target_lost"}
    with pytest.raises(TargetLost):
        await client.generate("Why?")
    fake.status, fake.error = 503, {"message": "no target serves it", "code": "no_target"}
    with pytest.raises(NoTarget) as caught:
        await client.generate("Why?", model="smollm2-135m")
    assert caught.value.retry_after == 7.0


async def test_a_stream_that_breaks_goes_on_where_it_was(client: AsyncClient, fake: FakeCoordinator) -> None:
    fake.seed, fake.breaks = "0" * 32, [1, 2]
    async with client.stream("Why?", seed=5) as stream:
        pieces = [piece async for piece in stream]
    assert [(piece.position, piece.text) for piece in pieces] == [(0, "The"), (1, " sky is"), (3, " blue.")]
    assert (stream.answer.text, stream.answer.token_ids) == (fake.text, fake.ids)
    assert stream.answer.usage.completion_tokens == 5
    committed = [request.get("wanspec", {}).get("committed", []) for request in fake.requests]
    assert committed == [[], [504], [504, 6376, 314]]
    assert {request["wanspec"]["fingerprint"] for request in fake.requests[1:]} == {FINGERPRINT}


async def test_whoever_wants_no_second_attempt_has_the_error_at_once(fake: FakeCoordinator) -> None:
    fake.seed, fake.breaks = "0" * 32, [1]
    transport = httpx2.ASGITransport(app=fake.app())
    async with AsyncClient("http://127.0.0.1", transport=transport, resume_seconds=0.0) as client:
        with pytest.raises(LinkClosed, match="broke off after 1 token$"):
            await client.generate("Why?")
    assert len(fake.requests) == 1


async def test_something_that_is_no_coordinator_is_said_so(client: AsyncClient) -> None:
    with pytest.raises(Unreachable, match="not as a coordinator does"):
        await client._get("/not-ours")


async def test_models_and_state(client: AsyncClient) -> None:
    assert [model.name for model in await client.models()] == ["smollm2-135m"]
    assert [node["name"] for node in (await client.state())["nodes"]] == ["lab-a", "lab-b"]


async def test_a_refused_connection_is_one_clear_line(fake: FakeCoordinator) -> None:
    with serving(fake) as url:
        pass
    async with asyncio.timeout(10), AsyncClient(url) as client:
        with pytest.raises(Unreachable, match="is the coordinator running"):
            await client.generate("Why?")


async def test_close_may_be_called_twice(client: AsyncClient) -> None:
    await client.aclose()
    await client.aclose()
    with pytest.raises(RuntimeError):
        await client.models()
