"""A target has nodes that are far, and near ones are idle beside them: how soon those draft."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.swarm import Swarm, SwarmSpec, reference_models
from wanspec_p2p.simulation.swarm_population import SETTLED_SECONDS
from wanspec_p2p.simulation.wan import Wan

__all__ = ["play_better"]

NODES = 6
ANSWERS_A_MINUTE = 4


def play_better(seed: int, *, minutes: int, tokens: int, far: float, near: float) -> Sequence[float]:
    """Seconds per token, by minute. Times are the reference setting's, no drafter at the target.

    Args:
        far: round trip of the two drafters that the target has when the first minute begins, in seconds.
        near: of all others.

    Raises:
        RuntimeError: an answer is not the target's own, or the target did not find two drafters.
    """
    return run_in_virtual_time(_play(seed, minutes, tokens, far, near))


async def _play(seed: int, minutes: int, tokens: int, far: float, near: float) -> Sequence[float]:
    text = Text(seed)
    first: set[str] | None = None  # None: nobody else is there yet

    def wan(caller: str, called: str) -> Wan:
        return Wan(rtt=far if first is None or caller in first else near)

    target, drafter = reference_models(text)
    spec = SwarmSpec(
        target=target,
        drafter=drafter,
        wan=wan,
        nodes=NODES,
    )
    async with Swarm(spec, seed=seed) as swarm:
        await asyncio.sleep(SETTLED_SECONDS)
        pool = swarm.targets[0].target.pool
        attached = () if pool is None else pool.attached
        first = {node.name for node in swarm.nodes.here.values() if node.identity.peer_id in attached}
        if len(first) != spec.drafters:
            raise RuntimeError(f"the target has {len(first)} drafters, not {spec.drafters}: seed {seed}")
        by_minute = []
        for minute in range(minutes):
            seconds = 0.0
            for number in range(ANSWERS_A_MINUTE):
                prompt, begun = (1, 2, minute, number), swarm.clock.monotonic()
                answer = await swarm.ask(prompt, tokens)
                if answer.ids != text.continuation(prompt, tokens):
                    raise RuntimeError(f"the answer to {prompt} is not the target's own: seed {seed}")
                took = swarm.clock.monotonic() - begun
                seconds += took
                await asyncio.sleep(max(0.0, 60.0 / ANSWERS_A_MINUTE - took))
            by_minute.append(seconds / (ANSWERS_A_MINUTE * tokens))
    return by_minute
