"""A share of a whole network's nodes dead at once, while answers are under way through its coordinator."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from wanspec_p2p.errors import RequestError
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.swarm import Swarm, SwarmSpec, reference_models
from wanspec_p2p.simulation.swarm_churn import Churn
from wanspec_p2p.simulation.swarm_population import SETTLED_SECONDS
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.types import PeerId

__all__ = ["SwarmOutcome", "play_swarm"]

TARGETS = 3
FOR_GOOD = Churn(stay=1e9, away=1e9)


@dataclass(frozen=True, slots=True)
class SwarmOutcome:
    """Attributes:
    identical: answers that were whole and the target's own.
    tokens: of all answers.
    seconds: from the first question to the last token.
    lost: nodes that died. lost_drafting: of these, nodes that a target had attached.
    """

    answers: int
    identical: int
    tokens: int
    seconds: float
    lost: int
    lost_drafting: int


def play_swarm(
    seed: int, *, share: float, nodes: int, answers: int, tokens: int, rtt: float, kill_at: float
) -> SwarmOutcome:
    """Three targets with two drafters each; so many answers at once, and `kill_at` seconds later that share of the
    nodes dies for good. Times are the reference setting's.
    """
    return run_in_virtual_time(_play(seed, share, nodes, answers, tokens, rtt, kill_at))


async def _play(
    seed: int, share: float, nodes: int, answers: int, tokens: int, rtt: float, kill_at: float
) -> SwarmOutcome:
    text = Text(seed)
    target, drafter = reference_models(text)
    spec = SwarmSpec(
        target=target,
        drafter=drafter,
        wan=lambda caller, called: Wan(rtt=rtt),
        targets=TARGETS,
        nodes=nodes,
        churn=FOR_GOOD,
    )
    async with Swarm(spec, seed=seed) as swarm:
        await asyncio.sleep(SETTLED_SECONDS)
        begun = swarm.clock.monotonic()
        asking = [asyncio.create_task(_ask(swarm, text, (1, 2, number), tokens)) for number in range(answers)]
        await asyncio.sleep(kill_at)
        before = _attached(swarm)
        lost = swarm.nodes.kill(share, random.Random(f"kill {seed}"))
        identical = sum(await asyncio.gather(*asking))
        seconds = swarm.clock.monotonic() - begun
        gone = before - {node.identity.peer_id for node in swarm.nodes.here.values()}
    return SwarmOutcome(answers, identical, answers * tokens, seconds, lost, len(gone))


def _attached(swarm: Swarm) -> set[PeerId]:
    return {node for target in swarm.targets if target.target.pool for node in target.target.pool.attached}


async def _ask(swarm: Swarm, text: Text, prompt: tuple[int, ...], tokens: int) -> bool:
    try:
        answer = await swarm.ask(prompt, tokens)
    except RequestError:
        return False
    return answer.ids == text.continuation(prompt, tokens)
