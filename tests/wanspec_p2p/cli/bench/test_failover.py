"""What is asked, and what is counted; who is struck and looked for is stood in for."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.cli.bench import failover
from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.failover import strike_all
from wanspec_p2p.cli.bench.failover_outcome import Outcome, Victim
from wanspec_p2p.cli.bench.measuring import Prompt
from wanspec_p2p.client import AsyncClient

TOKENS = 8
PROMPTS = [Prompt("1", "short", "Why?"), Prompt("2", "longer", "How much?")]


class Struck:
    """Stands in for the strike, the network and the client: a token a second, and three more where one was struck."""

    def __init__(self) -> None:
        self.strikes: list[Struck.Strike] = []
        self.asked: list[dict[str, Any]] = []
        self.prepared = 0
        self.wrong: set[int] = set()  # numbers of the answers that differ when they are struck

    class Strike:
        def __init__(self, network: object, victim: Victim, at: int, number: signal.Signals) -> None:
            self.what, self.at, self.done, self.chosen, self.ended = (victim, number.name), at, False, False, False
            self.back = 1.5 if victim is Victim.COORDINATOR else None

        async def choose(self) -> None:
            self.chosen = True

        def strike(self) -> None:
            assert self.chosen
            self.done = True

        async def end(self) -> None:
            self.ended = True

    def strike(self, *arguments: Any) -> Struck.Strike:
        self.strikes.append(Struck.Strike(*arguments))
        return self.strikes[-1]

    @contextlib.asynccontextmanager
    async def stream(self, text: str, **how: Any) -> AsyncIterator[Any]:
        self.asked.append({"text": text, **how})
        struck = len(self.strikes) - 1 if how["network"] else None
        ids = [0] * TOKENS if struck in self.wrong else [len(text), int(how["temperature"] * 10), *range(TOKENS - 2)]

        async def pieces() -> AsyncIterator[Any]:
            waited = False
            for token in ids:
                stopped = struck is not None and self.strikes[struck].done and not waited
                waited = waited or stopped
                await asyncio.sleep(4.0 if stopped else 1.0)
                yield SimpleNamespace(token_ids=(token,))

        yield _Stream(pieces(), SimpleNamespace(token_ids=tuple(ids)))

    async def start_nodes(self, kinds: object) -> None:
        assert kinds, "two honest ones"

    async def prepare(self) -> None:
        self.prepared += 1

    async def settled(self) -> None: ...

    async def idle(self) -> bool:
        return True

    async def until(self, holds: Any) -> None:
        assert await holds()

    async def struck(self, monkeypatch: pytest.MonkeyPatch, points: int, *victims: Victim) -> list[Outcome]:
        self.client, self.clock = self, LoopClock()
        monkeypatch.setattr(failover, "StruckNetwork", lambda cluster, client, clock: self)
        monkeypatch.setattr(failover, "Strike", self.strike)
        return await strike_all(
            cast(Cluster, self),
            cast(AsyncClient, self),
            PROMPTS,
            victims=victims,
            points=points,
            tokens=TOKENS,
            model="m",
            seed=1,
            clock=self.clock,
            progress=lambda what, done, total: None,
        )


class _Stream:
    def __init__(self, pieces: AsyncIterator[Any], answer: Any) -> None:
        self._pieces, self.answer = pieces, answer

    def __aiter__(self) -> AsyncIterator[Any]:
        return self._pieces


@in_virtual_time
async def test_each_process_gets_either_signal_at_points_within_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    struck = Struck()
    outcomes = await struck.struck(monkeypatch, 3, Victim.COORDINATOR, Victim.NODE)
    wanted = [(victim, name) for victim in (Victim.COORDINATOR, Victim.NODE) for name in ("SIGSTOP", "SIGKILL")]
    assert [(outcome.victim, outcome.signal) for outcome in outcomes] == wanted
    assert [strike.what for strike in struck.strikes] == [each for each in wanted for _ in range(3)]
    assert all(1 <= strike.at <= TOKENS * 3 // 4 and strike.done and strike.ended for strike in struck.strikes)
    assert {outcome.points for outcome in outcomes} == {3} == {len(outcome.waits) for outcome in outcomes}
    assert [len(outcome.back) for outcome in outcomes] == [3, 3, 0, 0]
    assert struck.prepared == 12


@in_virtual_time
async def test_no_question_is_asked_twice_and_what_the_target_says_alone_is_asked_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck = Struck()
    await struck.struck(monkeypatch, 10, Victim.TARGET)
    through = [asked["seed"] for asked in struck.asked if asked["network"]]
    assert len(through) == len(set(through)) == 20
    alone = [(a["text"], a["temperature"], a["seed"]) for a in struck.asked if not a["network"]]
    assert len(alone) == len(set(alone))
    assert {seed for _, temperature, seed in alone if temperature == 0.0} == {0}, "greedy answers have no draws"


@in_virtual_time
async def test_another_text_is_counted_and_the_wait_is_the_longest_from_the_strike_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    struck = Struck()
    struck.wrong = {1}
    stopped, killed = await struck.struck(monkeypatch, 2, Victim.NODE)
    assert (stopped.different, killed.different) == (1, 0)
    assert stopped.waits == killed.waits == [4.0, 4.0]
