from __future__ import annotations

import asyncio

import pytest
from structlog.testing import capture_logs

from tests.support.scripted_models import ScriptedModel
from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.protocol import limits
from wanspec_p2p.target.engine import SLOW_PASS_SECONDS, Engine


@in_virtual_time
async def test_turns_come_in_the_order_they_were_asked_for() -> None:
    engine = Engine(ScriptedModel(1), slots=4)
    order: list[str] = []

    async def session(name: str) -> None:
        for _ in range(3):
            async with engine.turn():
                order.append(name)
                await asyncio.sleep(1)

    await asyncio.gather(*map(session, "abc"))
    assert "".join(order) == "abcabcabc"


@in_virtual_time
async def test_who_is_cancelled_while_it_waits_or_runs_does_not_keep_the_model() -> None:
    engine = Engine(ScriptedModel(1), slots=4)

    async def session() -> None:
        async with engine.turn():
            await asyncio.sleep(1000)

    running, waiting = asyncio.create_task(session()), asyncio.create_task(session())
    await asyncio.sleep(1)
    for task in (waiting, running):
        task.cancel()
    await asyncio.gather(running, waiting, return_exceptions=True)
    async with asyncio.timeout(1), engine.turn():
        pass


@in_virtual_time
async def test_slots_are_counted_and_given_back_whatever_happens() -> None:
    engine = Engine(ScriptedModel(1), slots=2)
    leave = asyncio.Event()

    async def session(fail: bool) -> None:
        async with engine.slot():
            await leave.wait()
            if fail:
                raise ValueError("a session's own trouble")

    tasks = [asyncio.create_task(session(fail)) for fail in (True, False, False, False)]
    await asyncio.sleep(0)
    assert (engine.serving, engine.queued, engine.full) == (2, 2, True)
    tasks[3].cancel()
    await asyncio.sleep(0)
    assert (engine.serving, engine.queued) == (2, 1)
    leave.set()
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(result) for result in results] == [ValueError, type(None), type(None), asyncio.CancelledError]
    assert (engine.serving, engine.queued, engine.full) == (0, 0, False)


@in_virtual_time
async def test_a_pass_that_takes_long_is_in_the_log_while_it_still_runs() -> None:
    engine = Engine(ScriptedModel(1), slots=1)
    with capture_logs() as logs:
        async with engine.turn():
            await asyncio.sleep(SLOW_PASS_SECONDS + 1)
            assert [line["log_level"] for line in logs] == ["warning"]
        async with engine.turn():
            await asyncio.sleep(1)
        await asyncio.sleep(SLOW_PASS_SECONDS)
    assert len(logs) == 1


@pytest.mark.parametrize("context", [64, limits.MAX_PROMPT_TOKENS + 1])
def test_a_context_is_no_longer_than_messages_can_carry(context: int) -> None:
    engine = Engine(ScriptedModel(1, context=context), slots=1)
    assert engine.context == min(context, limits.MAX_PROMPT_TOKENS)
