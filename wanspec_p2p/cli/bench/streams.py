"""Many streams at one coordinator and one target: are the answers right, is the queue honest, does anything grow?"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wanspec_p2p.cli.bench.bed import Bed, Reply, loading
from wanspec_p2p.cli.bench.holdings import Holdings, Watched
from wanspec_p2p.cli.processes import Fleet, with_fleet
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.simulation.reference import Setting

__all__ = ["Outcome", "report", "run"]

QUEUE = 64  # of the target
BURST_EVERY = 15.0
SETTLE_SECONDS = 15.0
HEALTHY_SECONDS = 0.050


@dataclass
class Outcome(Holdings):
    """Attributes:
    wrong: answers that were not the text, token by token, or did not end.
    refused: of them all, those with 503; `dishonest` had no `retry-after`, or another status than 200 and 503.
    most: answers under way at once, as the coordinator counts them; `bound` is slots and queue.
    health: seconds each `/health` took, in order.
    """

    streams: int
    bound: int
    seconds: float = 0.0
    answers: int = 0
    tokens: int = 0
    wrong: int = 0
    refused: int = 0
    dishonest: int = 0
    most: int = 0
    health: list[float] = field(default_factory=list)

    @property
    def failed(self) -> bool:
        return bool(self.wrong or self.dishonest) or self.most > self.bound or self.leaked

    def count(self, reply: Reply, right: list[int]) -> None:
        if reply.status == 503 and reply.retry_after is not None and int(reply.retry_after) >= 1:
            self.refused += 1
        elif reply.status != 200:
            self.dishonest += 1
        else:
            self.answers += 1
            self.tokens += len(reply.ids or ())
            self.wrong += reply.ids != right


async def run(*, streams: int, minutes: float, tokens: int, seed: int, verify: float) -> Outcome:
    """Args:
    verify: seconds of a pass of the model over up to 64 rows.
    """
    setting = Setting(drafters=0, local=False, verify=verify)

    async def work(fleet: Fleet, directory: Path, _: Mapping[str, str]) -> Outcome:
        async with Bed.running(fleet, directory, seed=seed, setting=setting, slots=streams) as bed:
            load = _Load(bed, Outcome(streams, streams + QUEUE), tokens, SystemClock())
            return await fleet.while_alive(load.run(minutes * 60.0))

    return await with_fleet("wanspec-bench-", work)


class _Load:
    def __init__(self, bed: Bed, outcome: Outcome, tokens: int, clock: Clock) -> None:
        self._bed, self._outcome, self._tokens, self._clock = bed, outcome, tokens, clock

    async def run(self, seconds: float) -> Outcome:
        bed, outcome, clock = self._bed, self._outcome, self._clock
        await self._ask("warm", 1)
        outcome.before = await bed.usage()
        watched, begun = Watched(), clock.monotonic()
        health = await bed.health()
        until = begun + seconds
        async with loading(bed.watch(watched, clock), self._count()) as group:
            for number in range(outcome.streams):
                group.create_task(self._stream(number, until))
            group.create_task(self._bursts(until))
        outcome.seconds = clock.monotonic() - begun
        outcome.health = await bed.latencies(health)
        outcome.after = await bed.settled(outcome.before, SETTLE_SECONDS)
        outcome.grew(watched)
        return outcome

    async def _stream(self, stream: int, until: float) -> None:
        """One answer after the other, of half to one and a half times the length."""
        number = 0
        while self._clock.monotonic() < until:
            number += 1
            length = self._tokens // 2 + (11 * stream + 37 * number) % self._tokens
            reply = await self._ask(f"stream {stream}, {number}", length)
            if reply.status == 503:
                await asyncio.sleep(float(reply.retry_after or 1))

    async def _bursts(self, until: float) -> None:
        """Now and then twice as many more as the queue holds, so that about half of them have to be refused."""
        while self._clock.monotonic() + BURST_EVERY < until:
            await asyncio.sleep(BURST_EVERY)
            await asyncio.gather(*(self._ask(f"burst {number}", 4) for number in range(2 * QUEUE)))

    async def _ask(self, prompt: str, tokens: int) -> Reply:
        reply = await self._bed.ask(prompt, tokens)
        self._outcome.count(reply, self._bed.right(prompt, tokens) if reply.status == 200 else [])
        return reply

    async def _count(self) -> None:
        while True:
            self._outcome.most = max(self._outcome.most, (await self._bed.state())["answers"])
            await asyncio.sleep(0.5)


def report(outcome: Outcome) -> dict[str, Any]:
    """For people and machines alike."""
    ordered = sorted(outcome.health)
    share = {name: ordered[min(int(len(ordered) * part), len(ordered) - 1)] for name, part in _PARTS}
    return {
        "streams": outcome.streams,
        "seconds": round(outcome.seconds, 1),
        "answers": outcome.answers,
        "wrong_answers": outcome.wrong,
        "tokens_per_second": round(outcome.tokens / outcome.seconds, 1),
        "refused_with_retry_after": outcome.refused,
        "other_refusals": outcome.dishonest,
        "most_under_way": outcome.most,
        "bound": outcome.bound,
        "health_asked": len(ordered),
        **{f"health_ms_{name}": round(seconds * 1000.0, 1) for name, seconds in share.items()},
        "health_over_50_ms": sum(seconds > HEALTHY_SECONDS for seconds in ordered),
        **outcome.report(),
    }


_PARTS = (("p50", 0.50), ("p99", 0.99), ("max", 1.0))
