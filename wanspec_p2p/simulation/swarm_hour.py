"""An hour of a large network: nodes come and go all the time, and targets answer all the same.

The shipped coordinator, nodes and targets, on a map that the seed draws. The report says what a stranger would ask:
whether every text was right, how soon a lost drafter is replaced, what the coordinator has to do for it, and whether
anything is left behind.
"""

from __future__ import annotations

import asyncio
import math
import random
from collections.abc import Callable
from dataclasses import dataclass

from wanspec_p2p.errors import RequestError
from wanspec_p2p.simulation.geography import Geography
from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.swarm import Swarm, SwarmSpec, reference_models
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_population import ARRIVAL_SECONDS
from wanspec_p2p.simulation.swarm_report import SwarmReport, Waits
from wanspec_p2p.simulation.swarm_watch import SwarmWatch
from wanspec_p2p.simulation.trace import Trace

__all__ = ["SwarmHour", "play_swarm"]

SETTLE_SECONDS = ARRIVAL_SECONDS + 10.0
"""Before the first question: the nodes have come, and targets have their drafters."""
_PROMPT_TOKENS = 16


@dataclass(frozen=True, slots=True)
class SwarmHour:
    """What is played.

    Args:
        drafters: each target keeps so many attached, and gives them to each of its sessions.
        churn: of the nodes.
        answers: a minute, over all targets; they come as a Poisson process.
        tokens: of each answer.
    """

    nodes: int = 1000
    targets: int = 10
    seconds: float = 3600.0
    drafters: int = 2
    churn: Churn = Churn(stay=1200.0, away=120.0, polite=0.5, silent=0.5)
    answers: float = 10.0
    tokens: int = 64


def play_swarm(
    hour: SwarmHour,
    seed: int,
    *,
    progress: Callable[[int, int], None] = lambda done, of: None,
    write: Callable[[bytes], object] | None = None,
) -> SwarmReport:
    """Play it in virtual time.

    Args:
        progress: told (seconds gone by, of how many).
        write: takes each line of the trace.
    """
    return run_in_virtual_time(_play(hour, seed, progress, write))


async def _play(
    hour: SwarmHour, seed: int, progress: Callable[[int, int], None], write: Callable[[bytes], object] | None
) -> SwarmReport:
    text = Text(seed)
    swarm = Swarm(_spec(hour, text, seed), seed=seed)
    swarm.trace = trace = Trace(swarm.clock, write)
    async with swarm:
        watch = SwarmWatch(swarm)
        watching = asyncio.create_task(watch.run(), name="watch")
        questions = _Questions(hour, swarm, text)
        asking = asyncio.create_task(questions.go_on(chance(seed, "questions")), name="questions")
        try:
            for gone in range(60, math.ceil(hour.seconds) + 60, 60):
                await asyncio.sleep(min(60.0, hour.seconds - (gone - 60)))
                progress(min(gone, math.ceil(hour.seconds)), math.ceil(hour.seconds))
            await asking
        finally:
            for task in (watching, asking):
                task.cancel()
            await asyncio.gather(watching, asking, return_exceptions=True)
        registry, seconds = swarm.executor.registry, swarm.clock.monotonic()
        registered, here, leases = len(registry.nodes), len(swarm.nodes.here), len(registry.leases)
        traffic = swarm.links.traffic
        received, sent = dict(sorted(traffic.received.items())), dict(sorted(traffic.sent.items()))
    await asyncio.sleep(1.0)
    replacements = watch.replacements
    return SwarmReport(
        virtual_seconds=round(seconds, 3),
        asked=questions.asked,
        exact=len(questions.seconds),
        faults=dict(sorted(questions.faults.items())),
        answers=Waits.of(questions.seconds),
        churn=swarm.nodes.counts,
        matches=watch.matches,
        replaced={how: Waits.of(times) for how, times in sorted(replacements.seconds.items())},
        unreplaced=replacements.open,
        leases_issued=sent.get("leaseoffer", 0),
        leases_ended=sent.get("leaseoffer", 0) - leases,
        leases_left=leases,
        registered=registered,
        here=here,
        ghosts=watch.ghosts,
        missing=watch.missing,
        tasks_left=len(asyncio.all_tasks()) - 1,
        links_left=swarm.links.open,
        pairs_checked=registry.accuracy.checked,
        rtt_error=registry.accuracy.median_error,
        received=received,
        sent=sent,
        trace=trace.digest(),
    )


def _spec(hour: SwarmHour, text: Text, seed: int) -> SwarmSpec:
    target, drafter = reference_models(text)
    return SwarmSpec(
        target=target,
        drafter=drafter,
        wan=Geography(seed).wan,
        targets=hour.targets,
        nodes=hour.nodes,
        churn=hour.churn,
        drafters=hour.drafters,
    )


class _Questions:
    def __init__(self, hour: SwarmHour, swarm: Swarm, text: Text) -> None:
        self.asked = 0
        self.seconds: list[float] = []  # of those that were answered rightly
        self.faults: dict[str, int] = {}
        self._hour, self._swarm, self._text = hour, swarm, text

    async def go_on(self, rng: random.Random) -> None:
        """Until the hour is over and everything is answered."""
        hour, clock = self._hour, self._swarm.clock
        await asyncio.sleep(min(SETTLE_SECONDS, hour.seconds))
        async with asyncio.TaskGroup() as under_way:
            while (wait := rng.expovariate(hour.answers / 60.0)) < hour.seconds - clock.monotonic():
                await asyncio.sleep(wait)
                self.asked += 1
                under_way.create_task(self._ask(tuple(rng.choices(range(256), k=_PROMPT_TOKENS))))

    async def _ask(self, prompt: tuple[int, ...]) -> None:
        begun = self._swarm.clock.monotonic()
        try:
            answer = await self._swarm.ask(prompt, self._hour.tokens)
        except RequestError as error:
            self._fault(str(error))
            return
        if answer.ids == self._text.continuation(prompt, self._hour.tokens):
            self.seconds.append(self._swarm.clock.monotonic() - begun)
        else:
            self._fault("another text than the target's own")

    def _fault(self, words: str) -> None:
        self.faults[words] = self.faults.get(words, 0) + 1
