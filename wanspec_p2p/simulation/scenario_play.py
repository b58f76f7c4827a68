"""Playing scenarios: answers of the shipped code, each checked to be the target's own, beside the target alone."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias

import msgspec

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.cast import Cast
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.models import SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, flat
from wanspec_p2p.simulation.reference import PASSES, WARM_UP_PROMPT, prompts, tree_alone
from wanspec_p2p.simulation.scenario import Adversaries, Churn, Scenario
from wanspec_p2p.simulation.site import Answer, Site, question
from wanspec_p2p.speculation.policy import LocalDrafting, Policy

__all__ = ["Outcome", "Played", "alone", "best_tree", "play", "played", "policy_of", "total", "trees"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """Sums over answers.

    Attributes:
        seconds: of each answer from its start to its end.
        span: from the start of the first to the end of the last, where several are under way together.
        lost: nodes that died.
    """

    tokens: int = 0
    seconds: float = 0.0
    span: float = 0.0
    rounds: int = 0
    accepted: int = 0
    local_passes: int = 0
    remote_passes: int = 0
    lost: int = 0

    @property
    def per_token(self) -> float:
        """Seconds that an answer takes for one of its tokens."""
        return self.seconds / self.tokens

    @property
    def tokens_per_second(self) -> float:
        """Of all answers that are under way together."""
        return self.tokens / self.span


Play: TypeAlias = tuple[Scenario, Policy]
Played: TypeAlias = Mapping[Play, Sequence[Outcome]]
"""By scenario and policy, outcomes by seed."""


def total(outcomes: Iterable[Outcome]) -> Outcome:
    found = list(outcomes)
    return Outcome(*(sum(getattr(one, field.name) for one in found) for field in fields(Outcome)))


def policy_of(scenario: Scenario) -> Policy:
    """As shipped, but for the price."""
    return Policy(local=LocalDrafting(price=scenario.target.price))


def alone(scenario: Scenario, *, local: bool) -> Scenario:
    """The same target without nodes, with its own drafter or without."""
    return msgspec.structs.replace(
        scenario,
        nodes=0,
        drafters=0,
        region=(),
        observed=None,
        hour=None,
        churn=Churn(),
        adversaries=Adversaries(),
        target=msgspec.structs.replace(scenario.target, local_drafter=local),
    )


def trees(scenario: Scenario) -> dict[int, Play]:
    """What the target could draft for itself at best: trees of so many passes a round."""
    return {passes: (alone(scenario, local=True), tree_alone(passes).policy) for passes in PASSES}


def best_tree(scenario: Scenario, results: Played) -> tuple[int, Outcome]:
    """Of its `trees`, all of which were played: passes a round, and what came of them."""
    found = {passes: total(results[tree]) for passes, tree in trees(scenario).items()}
    best = min(found, key=lambda passes: found[passes].per_token)
    return best, found[best]


def played(plays: Iterable[Play], seeds: int, progress: Callable[[int, int], None]) -> Played:
    """Each of them with seeds 0 to `seeds` - 1.

    Args:
        progress: told (done, total).
    """
    wanted = list(dict.fromkeys(plays))
    found: dict[Play, list[Outcome]] = {one: [] for one in wanted}
    for seed in range(seeds):
        for number, one in enumerate(wanted):
            found[one].append(play(*one, seed))
            progress(seed * len(wanted) + number + 1, seeds * len(wanted))
    return found


def play(scenario: Scenario, policy: Policy, seed: int, slow: float = 1.0) -> Outcome:
    """The answers of a scenario in virtual time.

    Args:
        slow: by what the scenario's times are stretched already; what adversaries do in time is as well.

    Raises:
        ConfigError: nodes never get to the target.
        RuntimeError: an answer is not the target's own.
    """
    try:
        return run_in_virtual_time(_play(scenario, policy, seed, slow))
    except TimeoutError as error:
        raise ConfigError(
            "a node did not reach the target, or an answer did not end, within an hour: is a way too long, or a pass?"
        ) from error


async def _play(scenario: Scenario, policy: Policy, seed: int, slow: float) -> Outcome:
    text = Text(seed)
    cast = Cast(scenario, text, seed, slow)
    own = scenario.target
    target = SimulatedTarget(text, DeviceTime(flat(own.pass_ms / 1e3, own.nodes)))
    local = cast.drafter() if own.local_drafter else None
    async with Site(target, cast.specs, seed=seed, drafters=scenario.per_session, local=local) as site:
        if scenario.warm_up:
            await site.play(question("warm-up", WARM_UP_PROMPT, scenario.warm_up), policy, alone=True)
        asked = {f"answer-{number}": prompt for number, prompt in enumerate(prompts(scenario.at_once))}
        before, begun = _remote_passes(site), site.clock.monotonic()
        async with cast.on(site):
            answers = await asyncio.gather(
                *(
                    site.play(question(name, prompt, scenario.tokens), policy, settled=cast.after_round)
                    for name, prompt in asked.items()
                )
            )
            span = site.clock.monotonic() - begun
        await site.idle()
        remote = _remote_passes(site) - before
    for answer, prompt in zip(answers, asked.values(), strict=True):
        if list(answer.tokens) != text.continuation(prompt, scenario.tokens):
            raise RuntimeError(f"the answer is not the target's own: seed {seed} of {scenario}")
    return _outcome(answers, span, remote, cast.lost)


def _outcome(answers: Sequence[Answer], span: float, remote_passes: int, lost: int) -> Outcome:
    return Outcome(
        tokens=sum(len(answer.tokens) for answer in answers),
        seconds=sum(answer.seconds for answer in answers),
        span=span,
        rounds=sum(answer.stats.rounds for answer in answers),
        accepted=sum(answer.stats.accepted for answer in answers),
        local_passes=sum(answer.stats.local_passes for answer in answers),
        remote_passes=remote_passes,
        lost=lost,
    )


def _remote_passes(site: Site) -> int:
    """Of all nodes that there ever were."""
    return sum(work.passes for work in site.node_work.values())
