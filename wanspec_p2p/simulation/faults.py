"""Random trouble: nodes that lie, stay silent, repeat themselves or die, links that stall, break and heal; and what
holds all the same.

Each schedule is drawn from its seed alone: how many nodes, what they are, how right, how far away, how answers are
sampled, and what happens when. The text must be the target's own, whatever happened: what it decodes token after token,
by the rule alone.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from wanspec_p2p.simulation.cast import law
from wanspec_p2p.simulation.drafting_node import NodeSpec, Says, SimulatedNode
from wanspec_p2p.simulation.echo import Echo
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Steps, flat
from wanspec_p2p.simulation.reference import LawName
from wanspec_p2p.simulation.scenario import LawOf
from wanspec_p2p.simulation.site import Site, question
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.types import Sampling

__all__ = ["KINDS", "LAWS", "Schedule", "play_faults"]

LAWS: tuple[LawName, ...] = ("iid", "calibrated", "recorded")
"""How right drafters are; the last two are right where those of the recording were that comes with the package."""
KINDS = ("honest", "liar", "silent", "another drafter", "doubling", "repeating")
"""Of nodes. "doubling": it sends each of its drafts twice; "repeating": it sends old ones again, much later."""
_SAYS: Mapping[str, Says] = {"doubling": partial(Echo, late=0.0), "repeating": partial(Echo, twice=False)}
LIAR = (0.0, 0.0, 0.0, 0.0, 1.0)
FAR_TOO_SLOW = 60.0
"""Seconds of a silent node's pass."""
TEMPERATURES = (2.0, 2.5, 3.0)
"""Of answers that are drawn: the target says its own token with chance .85, .54 and .29, else any of 511 others."""
OUTWEIGHING = 20.0
"""A presence penalty above all that the target is sure by: even a greedy answer says nothing twice."""
PRICES = (0.0, LocalDrafting().price, 1.0)
"""Of a local pass; as shipped, and on either side of it."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """What became of one.

    Attributes:
        exact: every answer was the target's own.
        law: one of `LAWS`.
        sampling: of all answers; each has a seed of its own.
        nodes: what each was, of `KINDS`.
        events: faults that struck.
        judged: positions that some node drafted for, below a right token.
        right: of these, those that it was right about.
        seconds: virtual time of all answers.
    """

    seed: int
    exact: bool
    law: LawName
    sampling: Sampling
    nodes: tuple[str, ...]
    events: int
    judged: int
    right: int
    seconds: float


def play_faults(seed: int, *, answers: int = 2, tokens: int = 48) -> Schedule:
    """Play one schedule in virtual time: so many answers at once, each of so many tokens."""
    return run_in_virtual_time(_play(seed, answers, tokens))


async def _play(seed: int, answers: int, tokens: int) -> Schedule:
    rng = random.Random(f"faults {seed}")
    text = Text(seed)
    honest = LawOf(rng.choice(LAWS))
    # Most nodes of a network are honest: drafts that count are what trouble can spoil.
    kinds = tuple(rng.choice(("honest", "honest", *KINDS)) for _ in range(rng.randint(1, 4)))
    nodes = [_node(rng, text, honest, kind) for kind in kinds]
    local = SimulatedDrafter(law(honest, text), DeviceTime(Steps(0.005, 8))) if rng.random() < 0.5 else None
    policy = Policy(width=rng.choice((7, 31, 63)), local=LocalDrafting(price=rng.choice(PRICES)))
    sampling = _sampling(rng)
    prompts = [(answer, seed % 512, *range(rng.randint(1, 12))) for answer in range(answers)]
    specs = [
        question(f"faults-{seed}-{number}", prompt, tokens, sampling, rng.randbytes(16))
        for number, prompt in enumerate(prompts)
    ]
    target = SimulatedTarget(text, DeviceTime(flat(0.030, 64)))
    async with Site(target, nodes, seed=seed, drafters=rng.randint(1, 3), local=local) as site:
        strikes = _Strikes(rng, site.nodes)
        trouble = asyncio.create_task(strikes.go_on(), name="trouble")
        try:
            played = await asyncio.gather(*(site.play(spec, policy) for spec in specs))
        finally:
            trouble.cancel()
            await asyncio.gather(trouble, return_exceptions=True)
    peers = [own for answer in played for own in answer.stats.peers.values()]
    return Schedule(
        seed,
        exact=all(list(answer.tokens) == target.decoded(spec) for answer, spec in zip(played, specs, strict=True)),
        law=honest.kind,
        sampling=sampling,
        nodes=kinds,
        events=strikes.count,
        judged=sum(own.reached.total() for own in peers),
        right=sum(own.right.total() for own in peers),
        seconds=sum(answer.seconds for answer in played),
    )


def _sampling(rng: random.Random) -> Sampling:
    """Half are greedy; half of either may have penalties."""
    temperature, top_k, top_p = 0.0, 0, 1.0
    if rng.random() < 0.5:
        temperature, top_k, top_p = rng.choice(TEMPERATURES), rng.choice((0, 0, 100)), rng.choice((1.0, 1.0, 0.9))
    repetition, presence, frequency = 1.0, 0.0, 0.0
    if rng.random() < 0.5:
        repetition, presence, frequency = rng.choice((1.0, 1.3)), rng.choice((0.0, OUTWEIGHING)), rng.choice((0.0, 1.0))
    return Sampling(
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=repetition,
        presence_penalty=presence,
        frequency_penalty=frequency,
    )


def _node(rng: random.Random, text: Text, honest: LawOf, kind: str) -> NodeSpec:
    drafter = "another" if kind == "another drafter" else "drafter"
    own = IidLaw(text, ranks=LIAR) if kind == "liar" else law(honest, text, drafter)
    seconds = FAR_TOO_SLOW if kind == "silent" else rng.choice((0.001, 0.005, 0.020))
    wan = Wan(
        rtt=rng.choice((0.0, 0.010, 0.030, 0.150, 2.0)),
        jitter=rng.choice((0.0, 0.2, 2.0)),
        loss=rng.choice((0.0, 0.0, 0.05)),
    )
    return NodeSpec(SimulatedDrafter(own, DeviceTime(Steps(seconds, 8))), wan.path(), wan.path(), says=_SAYS.get(kind))


class _Strikes:
    """One fault after another, for as long as answers are under way."""

    def __init__(self, rng: random.Random, nodes: list[SimulatedNode]) -> None:
        self.count = 0
        self._rng, self._alive = rng, list(nodes)

    async def go_on(self) -> None:
        mean = self._rng.choice((0.02, 0.1, 0.5))
        while self._alive:
            await asyncio.sleep(self._rng.expovariate(1.0 / mean))
            node = self._rng.choice(self._alive)
            deeds: list[Callable[[], None]] = [node.disconnect, node.partition, node.heal, node.heal]
            self.count += 1
            if self._rng.random() < 0.1:
                self._alive.remove(node)
                await node.kill()
            else:
                self._rng.choice(deeds)()
