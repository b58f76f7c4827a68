"""The promise that matters most, tried with real processes: the same token ids whatever the nodes do.

Every prompt is answered by the target alone first, then under each condition; every id is compared. Where the target is
to have a drafter of its own, it gets it after it has answered alone.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.cli.bench.measuring import Prompt
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.client.answers import Answer
from wanspec_p2p.simulation.adversaries import Kind
from wanspec_p2p.types import TokenId

__all__ = ["CONDITIONS", "Condition", "Outcome", "compare"]

KILL_AFTER_TOKENS = 5
SPARES = 6
"""Nodes that wait for one to be killed: starting them together is quicker than one after the other."""
CROWD = 4


class Condition(enum.StrEnum):
    NO_NODE = "no node"
    HONEST = "three honest nodes"
    CROWD = "four sessions at once"
    KILLED = "a node killed with SIGKILL mid-answer"
    LIAR = "a node lying in every token"
    SILENT = "a node that never answers"
    ECHO = "duplicated and late drafts"


CONDITIONS: dict[Condition, tuple[Kind, ...]] = {
    Condition.NO_NODE: (),
    Condition.HONEST: (Kind.HONEST,) * 3,
    Condition.CROWD: (Kind.HONEST,) * 3,
    Condition.KILLED: (Kind.HONEST,) * 3,
    Condition.LIAR: (Kind.HONEST, Kind.LIAR),
    Condition.SILENT: (Kind.HONEST, Kind.SILENT),
    Condition.ECHO: (Kind.HONEST, Kind.ECHO),
}
"""The order of `Condition` starts few processes."""


@dataclass(frozen=True, slots=True)
class Difference:
    prompt: str
    position: int


@dataclass(slots=True)
class Outcome:
    """Figures of one condition at one temperature."""

    condition: Condition
    temperature: float
    answers: int = 0
    tokens: int = 0
    rounds: int = 0
    accepted: int = 0
    won_by_nodes: int = 0  # of these, tokens that a node brought first
    local_drafter: str | None = None
    target_draft_passes: int = 0
    differences: list[Difference] = field(default_factory=list)

    @property
    def identical(self) -> bool:
        return not self.differences and self.tokens > 0


@dataclass(frozen=True, slots=True)
class _Question:
    prompt: Prompt
    temperature: float


async def compare(
    cluster: Cluster,
    client: AsyncClient,
    prompts: Sequence[Prompt],
    *,
    tokens: int,
    temperatures: Sequence[float],
    conditions: Sequence[Condition],
    progress: Callable[[str, int, int], None],
    model: str,
    local_drafter: str | None = None,
) -> list[Outcome]:
    """Ask everything under every condition. The seed of each request is the prompt's place, so answers repeat.

    Args:
        cluster: its target has no drafter of its own yet.
        local_drafter: which one it has under every condition.
    """
    seeds = {prompt.id: number for number, prompt in enumerate(prompts)}
    questions = [_Question(prompt, temperature) for temperature in temperatures for prompt in prompts]

    async def ask(question: _Question, *, network: bool, kill: bool = False) -> Answer:
        async with client.stream(
            question.prompt.text,
            model=model,
            max_tokens=tokens,
            temperature=question.temperature,
            seed=seeds[question.prompt.id],
            network=network,
        ) as stream:
            seen = 0
            async for piece in stream:
                seen += len(piece.token_ids)
                if kill and seen >= KILL_AFTER_TOKENS:
                    kill = False
                    await cluster.kill_a_drafter(client)
            return stream.answer

    alone: dict[_Question, Sequence[TokenId]] = {}
    for number, question in enumerate(questions):
        progress("the target alone", number, len(questions))
        alone[question] = (await ask(question, network=False)).token_ids
    if local_drafter is not None:
        await cluster.give_local_drafter(local_drafter)

    outcomes: list[Outcome] = []
    for condition in conditions:
        kinds = CONDITIONS[condition]
        await cluster.have(kinds, client)
        by_temperature = {t: Outcome(condition, t, local_drafter=local_drafter) for t in temperatures}

        together = CROWD if condition is Condition.CROWD else 1
        kill = condition is Condition.KILLED
        for start in range(0, len(questions), together):
            progress(condition.value, start, len(questions))
            group = questions[start : start + together]
            if kill and start % SPARES == 0:
                await cluster.have((*kinds, *[Kind.HONEST] * min(SPARES, len(questions) - start - 1)), client)
            answers = await asyncio.gather(*(ask(question, network=True, kill=kill) for question in group))
            for question, answer in zip(group, answers, strict=True):
                _count(by_temperature[question.temperature], question, answer, alone[question])
            if kill:
                await cluster.attached(client)  # a spare has taken its place
        outcomes += by_temperature.values()
    return outcomes


def _count(outcome: Outcome, question: _Question, answer: Answer, expected: Sequence[TokenId]) -> None:
    ids = answer.token_ids
    outcome.answers += 1
    outcome.tokens += len(expected)
    outcome.rounds += answer.speculation.rounds
    outcome.accepted += answer.speculation.accepted
    outcome.won_by_nodes += sum(answer.speculation.won_by_peer.values())
    outcome.target_draft_passes += answer.speculation.target_draft_passes
    if ids != expected:
        ends = min(len(ids), len(expected))
        at = next((i for i in range(ends) if ids[i] != expected[i]), ends)
        outcome.differences.append(Difference(question.prompt.id, at))
