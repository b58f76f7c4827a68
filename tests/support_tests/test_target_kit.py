from __future__ import annotations

import asyncio

import pytest

from tests.support.scripted_models import ScriptedModel
from tests.support.target_kit import Mint, Said, names, request, target_alone
from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.errors import RemoteProtocolError
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, Tokens, Usage
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import check
from wanspec_p2p.types import FinishReason, Sampling


def tokens(position: int, *ids: int, text: str = "") -> Tokens:
    return Tokens("r1", position, ids, text, (None,) * len(ids))


def test_the_target_alone_is_greedy_where_it_should_be_and_stops() -> None:
    model = ScriptedModel(seed=1)
    answer = target_alone(model, (1, 2), 5, Sampling())
    prefix = [1, 2]
    for token in answer:
        assert token == int(model.row(prefix).argmax())
        prefix.append(token)
    assert target_alone(model, (1, 2), 5, Sampling(), stop_tokens=answer[2:3]) == answer[:3]
    warm = target_alone(model, (1, 2), 5, Sampling(temperature=1.0))
    assert warm == target_alone(model, (1, 2), 5, Sampling(temperature=1.0)) != answer


def test_requests_differ_as_they_are_told_to() -> None:
    assert request().prompt_ids == (1, 2, 3)
    assert (request(prompt="x").prompt_ids, request(prompt="x").prompt) == ((), "x")
    assert request("r2", max_tokens=None).max_tokens is None
    new = names("id")
    assert [new(), new()] == ["id-1", "id-2"]


@in_virtual_time
async def test_leases_are_good_unless_they_are_made_bad() -> None:
    clock, target, node = LoopClock(), Identity.generate(), Identity.generate().peer_id
    mint = Mint(clock, target)

    def checked(lease: str) -> str:
        return check(lease, coordinator=mint.identity.public_key, clock=clock, node=node, target=target.peer_id).jti

    assert checked(mint.lease(node)) != checked(mint.lease(node))
    with pytest.raises(RemoteProtocolError):
        checked(mint.lease(node, target=node))


@in_virtual_time
async def test_what_was_said_is_put_together_and_a_gap_is_seen() -> None:
    said = Said()
    said(tokens(0, 1, 2, text="a"))
    said(Failed("r2", "overloaded", "full"))
    waiting = asyncio.create_task(said.finished())
    await asyncio.sleep(0)
    said(tokens(2, 3, text="b"))
    said(Finished("r1", FinishReason.LENGTH, Usage(1, 3, 2, 0, 0, 0)))
    assert (await waiting).usage.completion_tokens == 3
    assert (said.tokens(), said.text()) == ([1, 2, 3], "ab")
    assert (await said.failed("r2")).code == "overloaded"
    said(tokens(9, 4))
    with pytest.raises(AssertionError, match="gap"):
        said.tokens()
