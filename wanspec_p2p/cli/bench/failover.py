"""The promise that any one process may die or hang, tried with real ones: the same answer, in one unbroken stream.

At a random point of an answer one process gets SIGKILL or SIGSTOP. The client is our own; nothing else is told. The
coordinator and the targets that were killed are started again, as a supervisor would; who was stopped wakes up again,
and must do no harm.
"""

from __future__ import annotations

import asyncio
import enum
import itertools
import os
import random
import signal
import statistics
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from wanspec_p2p.cli.bench.cluster import READY_SECONDS, Cluster
from wanspec_p2p.cli.bench.measuring import Prompt
from wanspec_p2p.cli.processes import Child, Fleet, with_fleet
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.client.answers import Answer
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.config import Paths
from wanspec_p2p.errors import ConfigError, WanspecError
from wanspec_p2p.simulation.adversaries import Kind
from wanspec_p2p.types import TokenId

__all__ = ["TARGETS", "Outcome", "Victim", "markdown", "run", "strike_all", "victim_of"]

TARGETS, NODES = 3, 2
STOPPED_SECONDS = 3.0
"""How long a coordinator is stopped: there is only one, so nobody can go on before it does."""
SETTLED_SECONDS = 60.0
POLL_SECONDS = 0.05


class Victim(enum.StrEnum):
    NODE = "node"
    COORDINATOR = "coordinator"
    TARGET = "target"  # last: the first ones need no start in between


@dataclass(slots=True)
class Outcome:
    """Figures of one kind of process and one signal.

    Attributes:
        different: answers that were not those of the target alone.
        waits: seconds of the longest wait for a token from each strike on.
        back: seconds from each return of a coordinator until everybody was registered again.
    """

    victim: Victim
    signal: str
    points: int = 0
    different: int = 0
    waits: list[float] = field(default_factory=list)
    back: list[float] = field(default_factory=list)

    def count(self, identical: bool, wait: float, back: float | None) -> None:
        self.points += 1
        self.different += not identical
        self.waits.append(wait)
        if back is not None:
            self.back.append(back)


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: Prompt
    temperature: float
    seed: int


class _Strike:
    """One signal to one process. `choose` is called when the answer has begun, `strike` when its point has come."""

    def __init__(self, bench: _Bench, victim: Victim, at: int, number: signal.Signals) -> None:
        self.back: float | None = None
        self.at = at
        self._bench, self._victim, self._signal = bench, victim, number
        self._child: Child
        self._after: asyncio.Task[None] | None = None

    @property
    def done(self) -> bool:
        return self._after is not None

    async def choose(self) -> None:
        bench = self._bench
        match self._victim:
            case Victim.COORDINATOR:
                self._child = bench.cluster.coordinator
            case Victim.NODE:
                self._child = bench.cluster.nodes[await bench.cluster.drafting(bench.client)]
            case Victim.TARGET:
                targets = (await bench.client.state())["targets"]
                # On a fast machine the answer may be over by now: then it is a target that has done its part.
                name = next((target["name"] for target in targets if target["answers"]), targets[0]["name"])
                self._child = bench.cluster.targets[name]

    def strike(self) -> None:
        self._child.process.send_signal(self._signal)
        self._after = asyncio.create_task(self._and_then())

    async def _and_then(self) -> None:
        """The only coordinator comes back; the others' place is taken."""
        if self._victim is not Victim.COORDINATOR:
            return
        if self._signal is signal.SIGSTOP:
            await asyncio.sleep(STOPPED_SECONDS)
            self._child.process.send_signal(signal.SIGCONT)
            return
        await self._child.process.wait()
        await self._bench.cluster.start_coordinator()
        begun = self._bench.clock.monotonic()
        await self._bench.until(self._bench.complete)
        self.back = self._bench.clock.monotonic() - begun

    async def end(self) -> None:
        """Who was stopped wakes up; who was killed is gone."""
        if self._after is not None:
            await self._after
            if self._signal is signal.SIGSTOP:
                self._child.process.send_signal(signal.SIGCONT)
            elif self._victim is not Victim.COORDINATOR:
                await self._child.process.wait()


@dataclass(slots=True)
class _Bench:
    cluster: Cluster
    client: AsyncClient
    clock: Clock
    model: str
    tokens: int

    async def ask(self, question: _Question, strike: _Strike | None = None) -> tuple[Answer, float]:
        """The answer, and the longest wait for a token from the strike on, in seconds; alone where there is none."""
        seen, longest, last = 0, 0.0, 0.0
        async with self.client.stream(
            question.prompt.text,
            model=self.model,
            max_tokens=self.tokens,
            temperature=question.temperature,
            seed=question.seed,
            network=strike is not None,
        ) as stream:
            async for piece in stream:
                if strike is None:
                    continue
                now = self.clock.monotonic()
                if strike.done:
                    longest, last = max(longest, now - last), now
                elif not seen:
                    await strike.choose()
                seen += len(piece.token_ids)
                if seen >= strike.at and not strike.done:
                    strike.strike()
                    last = self.clock.monotonic()
            return stream.answer, longest

    async def complete(self) -> bool:
        """Everybody who lives is registered."""
        try:
            state = await self.client.state()
        except WanspecError:
            return False
        there = [sum(peer["state"] == "active" for peer in state[kind]) for kind in ("targets", "nodes")]
        return there == [len(_alive(self.cluster.targets)), len(_alive(self.cluster.nodes))]

    async def settled(self) -> None:
        """Wait until everybody is registered, and a node drafts for each target."""
        await self.until(self.complete)
        await self.until(self._lent)

    async def until(self, holds: Callable[[], Awaitable[bool]]) -> None:
        """Raises WanspecError where it never does."""
        try:
            async with asyncio.timeout(SETTLED_SECONDS):
                while True:
                    if await holds():
                        return
                    await asyncio.sleep(POLL_SECONDS)
        except TimeoutError:
            raise WanspecError(f"the network had not settled after {SETTLED_SECONDS:g} s") from None

    async def _lent(self) -> bool:
        return all(target["drafters"] for target in (await self.client.state())["targets"])

    async def idle(self) -> bool:
        """No answer and no session is left, at a target that woke up neither."""
        targets = (await self.client.state())["targets"]
        return not any(target["sessions"] or target["queued"] or target["answers"] for target in targets)


def _alive(children: dict[str, Child]) -> list[str]:
    return [name for name, child in children.items() if child.process.returncode is None]


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
    bench = _Bench(cluster, client, clock, model, tokens)
    questions = [
        _Question(prompt, temperature, number) for number, prompt in enumerate(prompts) for temperature in (0.0, 0.8)
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
                await _prepare(bench)
                # Never the same one twice: a target that lost its coordinator keeps an answer for whoever asks again.
                question = replace(rng.choice(questions), seed=next(numbers))
                known = replace(question, seed=0) if question.temperature == 0.0 else question
                if known not in alone:
                    alone[known] = (await bench.ask(known))[0].token_ids
                strike = _Strike(bench, victim, rng.randint(1, max(1, len(alone[known]) * 3 // 4)), sent)
                try:
                    answer, wait = await bench.ask(question, strike)
                finally:
                    await strike.end()
                outcome.count(answer.token_ids == alone[known], wait, strike.back)
    await bench.settled()
    await bench.until(bench.idle)
    return outcomes


async def _prepare(bench: _Bench) -> None:
    """Everybody is there whom the next strike needs: two targets, and the nodes."""
    cluster = bench.cluster
    dead = sorted(cluster.targets.keys() - set(_alive(cluster.targets)))
    if len(cluster.targets) - len(dead) < 2:
        for child in [await cluster.start_target(name) for name in dead]:
            await child.ready(READY_SECONDS)
    await cluster.start_nodes((Kind.HONEST,) * NODES)
    await bench.settled()


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


def victim_of(text: str) -> Victim:
    """Raises ConfigError for a word that is none."""
    try:
        return Victim(text)
    except ValueError:
        raise ConfigError(f"--victim {text!r} is none of: {', '.join(Victim)}") from None


def markdown(outcomes: Sequence[Outcome]) -> str:
    lines = [
        "| process | signal | points | identical | longest wait for a token, s | all registered again, s |",
        "|---|---|---|---|---|---|",
    ]
    for o in outcomes:
        said = "yes" if not o.different else f"no: {o.different} answers differ"
        lines.append(f"| {o.victim} | {o.signal} | {o.points} | {said} | {_spread(o.waits)} | {_spread(o.back)} |")
    return "\n".join(lines)


def _spread(values: Sequence[float]) -> str:
    if not values:
        return "-"
    return f"{statistics.median(values):.2f} ({min(values):.2f}–{max(values):.2f})"
