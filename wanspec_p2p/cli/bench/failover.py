"""The promise that any one process may die or hang, tried with real ones: the same answer, in one unbroken stream.

At a random point of an answer one process gets SIGKILL or SIGSTOP. The client is our own; nothing else is told. The
coordinator and the targets that were killed are started again, as a supervisor would; who was stopped wakes up again,
and must do no harm.
"""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.failover_network import NODES, StruckNetwork
from wanspec_p2p.cli.bench.failover_outcome import Outcome, Victim
from wanspec_p2p.cli.bench.failover_strike import Strike
from wanspec_p2p.cli.bench.measuring import Prompt
from wanspec_p2p.cli.processes import Fleet, with_fleet
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.client.answers import Answer
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.config import Paths
from wanspec_p2p.simulation.adversaries import Kind
from wanspec_p2p.types import TokenId

__all__ = ["TARGETS", "run", "strike_all"]

TARGETS = 3


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: Prompt
    model: str
    tokens: int
    temperature: float
    seed: int


async def strike_all(
    cluster: Cluster,
    client: AsyncClient,
    prompts: Sequence[Prompt],
    *,
    victims: Sequence[Victim],
    points: int,
    tokens: int,
    model: str,
    seed: int,
    clock: Clock,
    progress: Callable[[str, int, int], None],
) -> list[Outcome]:
    """Strike each kind of process at so many points of answers, with either signal.

    Args:
        seed: of the points and the questions' draws.

    Raises:
        WanspecError: somebody did not come back, or something was left under way.
    """
    rng = random.Random(f"failover {seed}")
    network = StruckNetwork(cluster, client, clock)
    questions = [
        _Question(prompt, model, tokens, temperature, number)
        for number, prompt in enumerate(prompts)
        for temperature in (0.0, 0.8)
    ]
    await cluster.start_nodes((Kind.HONEST,) * NODES)
    alone: dict[_Question, tuple[TokenId, ...]] = {}
    numbers = itertools.count(len(prompts))
    outcomes: list[Outcome] = []
    for victim in victims:
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            outcome = Outcome(victim, sent.name)
            outcomes.append(outcome)
            for number in range(points):
                progress(f"{victim}: {sent.name}", number, points)
                await network.prepare()
                # Never the same one twice: a target that lost its coordinator keeps an answer for whoever asks again.
                question = replace(rng.choice(questions), seed=next(numbers))
                known = replace(question, seed=0) if question.temperature == 0.0 else question
                if known not in alone:
                    alone[known] = (await _ask(network, known))[0].token_ids
                strike = Strike(network, victim, rng.randint(1, max(1, len(alone[known]) * 3 // 4)), sent)
                try:
                    answer, wait = await _ask(network, question, strike)
                finally:
                    await strike.end()
                outcome.count(answer.token_ids == alone[known], wait, strike.back)
    await network.settled()
    await network.until(network.idle)
    return outcomes


async def _ask(network: StruckNetwork, question: _Question, strike: Strike | None = None) -> tuple[Answer, float]:
    """The answer, and the longest wait for a token from the strike on, in seconds; alone where there is none."""
    seen, longest, last = 0, 0.0, 0.0
    async with network.client.stream(
        question.prompt.text,
        model=question.model,
        max_tokens=question.tokens,
        temperature=question.temperature,
        seed=question.seed,
        network=strike is not None,
    ) as stream:
        async for piece in stream:
            if strike is None:
                continue
            now = network.clock.monotonic()
            if strike.done:
                longest, last = max(longest, now - last), now
            elif not seen:
                await strike.choose()
            seen += len(piece.token_ids)
            if seen >= strike.at and not strike.done:
                strike.strike()
                last = network.clock.monotonic()
        return stream.answer, longest


async def run(
    prompts: Sequence[Prompt],
    *,
    victims: Sequence[Victim],
    points: int,
    tokens: int,
    model: str,
    drafter: str,
    seed: int,
    progress: Callable[[str, int, int], None],
) -> list[Outcome]:
    """`strike_all` on a network of its own, of which nothing is left afterwards."""
    cache = Paths.from_environment(os.environ).cache

    async def work(fleet: Fleet, directory: Path, environment: Mapping[str, str]) -> list[Outcome]:
        async with (
            Cluster.running(
                *(fleet, directory, environment), cache=cache, model=model, drafter=drafter, targets=TARGETS
            ) as cluster,
            AsyncClient(cluster.url) as client,
        ):
            return await strike_all(
                cluster,
                client,
                prompts,
                victims=victims,
                points=points,
                tokens=tokens,
                model=model,
                seed=seed,
                clock=SystemClock(),
                progress=progress,
            )

    return await with_fleet("wanspec-bench-", work)
