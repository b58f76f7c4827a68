from __future__ import annotations

import asyncio

import pytest

from wanspec_p2p.cli.bench.bed import loading
from wanspec_p2p.errors import WanspecError


async def watch(ended: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        ended.append("watch")


async def fail(words: str) -> None:
    raise WanspecError(words)


async def test_what_watches_ends_with_the_load() -> None:
    ended: list[str] = []
    async with loading(watch(ended)) as group:
        group.create_task(asyncio.sleep(0))
    assert ended == ["watch"]


async def test_what_watches_ends_with_a_load_that_is_given_up() -> None:
    ended: list[str] = []

    async def load() -> None:
        async with loading(watch(ended)) as group:
            group.create_task(asyncio.Event().wait())

    loads = asyncio.create_task(load())
    for _ in range(3):  # until all of them wait
        await asyncio.sleep(0)
    loads.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loads
    assert ended == ["watch"]


async def test_a_load_that_fails_says_why() -> None:
    with pytest.raises(WanspecError, match="the node is gone"):
        async with loading(watch([])) as group:
            group.create_task(fail("the node is gone"))


async def test_a_load_that_nobody_watched_to_its_end_counts_for_nothing() -> None:
    with pytest.raises(WanspecError, match="not counted"):
        async with loading(fail("not counted")) as group:
            group.create_task(asyncio.sleep(0))
