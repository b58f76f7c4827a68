from __future__ import annotations

import asyncio

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.simulation.troubles import Troubles


class Link:
    """Attributes:
    suffered: what, and when.
    """

    def __init__(self) -> None:
        self.suffered: list[tuple[str, float]] = []

    def disconnect(self) -> None:
        self._note("disconnect")

    def partition(self) -> None:
        self._note("partition")

    def heal(self) -> None:
        self._note("heal")

    def _note(self, what: str) -> None:
        self.suffered.append((what, round(asyncio.get_running_loop().time(), 9)))


@in_virtual_time
async def test_links_suffer_what_their_kinds_do_until_the_play_is_over() -> None:
    troubles, links = Troubles(2.0), {kind: Link() for kind in ("flapping", "stalling", "honest", "lying")}
    for kind, link in links.items():
        troubles.beset(kind, link)
    async with troubles.meanwhile():
        await asyncio.sleep(0.7)
    await asyncio.sleep(1.0)
    assert links["flapping"].suffered == [("disconnect", 0.2), ("disconnect", 0.4), ("disconnect", 0.6)]
    assert links["stalling"].suffered == [("partition", 0.2), ("heal", 0.4), ("partition", 0.6)]
    assert links["honest"].suffered == links["lying"].suffered == []


async def fail() -> None:
    raise RuntimeError("a trouble's own")


@in_virtual_time
async def test_what_goes_wrong_in_one_waits_for_the_end_of_the_play() -> None:
    troubles, done = Troubles(1.0), False
    with pytest.raises(RuntimeError, match="a trouble's own"):
        async with troubles.meanwhile():
            troubles.begin(fail())
            await asyncio.sleep(1.0)
            done = True
    assert done


@in_virtual_time
async def test_what_goes_wrong_in_the_play_itself_is_told_first() -> None:
    troubles = Troubles(1.0)
    with pytest.raises(ValueError, match="the play's own"):
        async with troubles.meanwhile():
            troubles.begin(fail())
            await asyncio.sleep(1.0)
            raise ValueError("the play's own")
