"""The nodes of a scenario on stage: honest ones and adversaries, and what happens to them while answers are played.

- *lying*: drafts wrong tokens at once, each as sure as can be.
- *silent*: takes every session, and its passes last a minute.
- *far*: honest, with a round trip of two seconds.
- *flapping*: honest, its link breaks every 100 ms; it dials again within 10 ms.
- *stalling*: honest, its link carries nothing for 100 ms of every 200 ms, and then all of it.
- *poor*: honest, with a model that names the right token first one time in five.
- *slow*: honest, on a machine that takes twelve times as long for a pass.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator
from dataclasses import replace

from wanspec_p2p.simulation.drafting_node import NodeSpec, SimulatedNode
from wanspec_p2p.simulation.laws import CalibratedLaw, Guess, IidLaw, Law, Place, RecordedLaw, Text, tempered
from wanspec_p2p.simulation.models import SimulatedDrafter
from wanspec_p2p.simulation.pacing import DeviceTime, Steps
from wanspec_p2p.simulation.scenario import LawOf, Scenario
from wanspec_p2p.simulation.scenario_file import judged
from wanspec_p2p.simulation.site import Site
from wanspec_p2p.simulation.troubles import Troubles
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.sampling import CONFIDENCE_MAX
from wanspec_p2p.speculation.target_session import TargetSession

__all__ = [
    "HONEST",
    "REDIAL_SECONDS",
    "REPLACEMENT_ROUND_TRIPS",
    "Cast",
    "Lies",
    "drafting",
    "law",
    "parts",
    "way",
]

HONEST = "honest"
FAR_RTT = 2.0
SILENT_SECONDS = 60.0
LYING_SECONDS = 0.0005
"""Of a pass. A liar has nothing to compute; a pass that takes no time at all would never let time go on."""
POOR_RANKS = (0.20, 0.10, 0.05, 0.05, 0.60)
SLOWER = 12.0
REDIAL_SECONDS = 0.01
REPLACEMENT_ROUND_TRIPS = 4.0
"""Until a node that takes a lost one's place dials our handshake: one to find it, and TCP's, TLS's and WebSocket's."""


def law(own: LawOf, text: Text, drafter: str = "drafter") -> Law:
    """How right honest drafters are about `text`; those of one name guess alike."""
    match own.kind:
        case "iid":
            return IidLaw(text, drafter) if own.ranks is None else IidLaw(text, drafter, own.ranks)
        case "calibrated":
            return CalibratedLaw(text, judged(own), drafter)
        case "recorded":
            return RecordedLaw(text, judged(own), drafter)


class Lies:
    """A law that is always wrong, and as sure as can be."""

    def __init__(self, text: Text) -> None:
        self.text = text
        self._wrong = IidLaw(text, "liar", (0.0, 0.0, 0.0, 0.0, 1.0))

    def guess(self, place: Place) -> Guess:
        return Guess(self._wrong.guess(place).tokens, tempered(CONFIDENCE_MAX))


def drafting(kind: str, honest: Law, seconds: float, slow: float = 1.0) -> tuple[Law, float]:
    """How right a node of that kind is, and the seconds of its passes.

    Args:
        honest, seconds: of an honest one.
        slow: by what the times of adversaries are stretched.
    """
    match kind:
        case "lying":
            return Lies(honest.text), LYING_SECONDS * slow
        case "silent":
            return honest, SILENT_SECONDS * slow
        case "poor":
            return IidLaw(honest.text, "poor drafter", POOR_RANKS), seconds
        case "slow":
            return honest, seconds * SLOWER
        case _:
            return honest, seconds


def way(kind: str, wan: Wan, slow: float = 1.0) -> Wan:
    """What lies between a node of that kind and the target; `wan`: between an honest one and it."""
    return replace(wan, rtt=FAR_RTT * slow) if kind == "far" else wan


def parts(scenario: Scenario) -> list[tuple[str, Wan]]:
    """Of each node: its kind, and what would lie between it and the target if it were honest."""
    kinds = scenario.adversaries.kinds
    return [(kinds[number] if number < len(kinds) else HONEST, wan) for number, wan in enumerate(scenario.ways)]


class Cast:
    """Args:
    seed: of who is lost when.
    slow: by what the scenario's times are stretched already, and with them what adversaries do in time.
    """

    def __init__(self, scenario: Scenario, text: Text, seed: int, slow: float = 1.0) -> None:
        self.lost = 0  # drafters and bystanders that died
        self._slow = slow
        self._scenario, self._law = scenario, law(scenario.law, text)
        self._rng = random.Random(f"scenario {seed}")
        self._parts = parts(scenario)
        self._alive: dict[SimulatedNode, tuple[str, Wan]] = {}
        self._site: Site | None = None
        self._troubles = Troubles(slow)

    def drafter(self, kind: str = HONEST) -> SimulatedDrafter:
        """At the scenario's speed."""
        own = self._scenario.drafter
        law, seconds = drafting(kind, self._law, own.pass_ms / 1e3, self._slow)
        return SimulatedDrafter(law, DeviceTime(Steps(seconds, own.rows)))

    @property
    def specs(self) -> list[NodeSpec]:
        """The nodes that are there to begin with."""
        return [self._spec(*part) for part in self._parts]

    def _spec(self, kind: str, wan: Wan) -> NodeSpec:
        path = way(kind, wan, self._slow).path
        redial = REDIAL_SECONDS * self._slow if kind == "flapping" else None
        return NodeSpec(self.drafter(kind), path(), path(), redial=redial)

    @contextlib.asynccontextmanager
    async def on(self, site: Site) -> AsyncIterator[None]:
        """Things happen to the nodes while the body runs. What went wrong with that is raised at its end."""
        self._site = site
        for node, part in zip(site.nodes, self._parts, strict=True):
            self._enter(node, *part)
        if self._scenario.churn.kill_share:
            self._troubles.begin(self._kill_share())
        async with self._troubles.meanwhile():
            yield

    def _enter(self, node: SimulatedNode, kind: str, wan: Wan) -> None:
        self._alive[node] = kind, wan
        self._troubles.beset(kind, node)

    def after_round(self, session: TargetSession) -> None:
        """The drafters that the session loses now."""
        chance = self._scenario.churn.loss_per_round
        if not chance or self._site is None:
            return
        drafting = session.drafters
        for node in [node for node in self._alive if node.peer in drafting]:
            if self._rng.random() < chance:
                self._troubles.begin(self._replace(node, *self._alive.pop(node)))

    async def _replace(self, node: SimulatedNode, kind: str, wan: Wan) -> None:
        assert self._site is not None
        self.lost += 1
        if self._scenario.churn.silently:
            node.partition()
        else:
            await node.kill()
        after = self._scenario.churn.replaced_after_ms
        await asyncio.sleep(REPLACEMENT_ROUND_TRIPS * wan.rtt if after is None else after / 1e3)
        self._enter(self._site.add(self._spec(kind, wan)), kind, wan)

    async def _kill_share(self) -> None:
        churn = self._scenario.churn
        await asyncio.sleep(churn.kill_at_ms / 1e3)
        doomed = self._rng.sample(list(self._alive), round(churn.kill_share * len(self._alive)))
        self.lost += len(doomed)
        for node in doomed:
            del self._alive[node]
        await asyncio.gather(*(node.kill() for node in doomed))
