"""Scenarios in the testbed: what can be played there, what a command plays of bad and lost nodes, and the report.

Each condition is played beside a baseline in the same run, one directly after the other, in the testbed as in the
simulator; times may be stretched as those of cells are (`testbed`), and are told as if they had not been.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import msgspec

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.simulation.adversity import ALLOWED_COST, DIALS, KINDS, LATENCY_KEPT, SPEED_KEPT, Adversity
from wanspec_p2p.simulation.scenario import Region, Scenario, Target, Way
from wanspec_p2p.simulation.scenario_play import Outcome, alone

__all__ = ["CONDITIONS", "Condition", "Seen", "compared", "conditions", "of_file", "playable", "stretched"]

CHURN, KILLED = "churn", "killed"
CONDITIONS = (*KINDS, "honest", CHURN, KILLED)
KILL_NODES = 10
"""All of them draft for every answer, so that those who die are missed; each is a process."""
FAR_SLOW = 2.0
"""A node two seconds away is not stretched further: after ten seconds of silence its link would be given up."""
MOST_NODES = 32


@dataclass(frozen=True, slots=True)
class Condition:
    """One scenario beside its baseline, neither stretched.

    Args:
        against: what the baseline is, in a word or two.
        slow: by what times are to be stretched.
        most: how much longer than in the baseline a token may take; None: nothing is promised.
    """

    name: str
    scenario: Scenario
    baseline: Scenario
    against: str
    slow: float
    most: float | None = None

    @property
    def plays(self) -> tuple[Act, Act]:
        return (self.baseline, self.slow), (self.scenario, self.slow)


Act: TypeAlias = tuple[Scenario, float]
"""A scenario and by what it is to be stretched."""


@dataclass(frozen=True, slots=True)
class Seen:
    """One scenario in the testbed.

    Attributes:
        identical: whether every answer was the target's own, token for token.
        late: mean seconds by which a pass of the target ended after its time.
        machine: share of all cores that somebody used.
    """

    outcome: Outcome
    identical: bool
    late: float
    machine: float


def conditions(adversity: Adversity, chosen: Sequence[str], slow: float) -> list[Condition]:
    """Those of CONDITIONS that are chosen, with and without a drafter at the target."""
    return [condition for word in chosen for condition in _named(adversity, word, slow)]


def of_file(name: str, scenario: Scenario, slow: float) -> Condition:
    """A scenario beside its target alone.

    Raises:
        ConfigError: it cannot be played in the testbed; the message names the key.
    """
    playable(scenario)
    slow = min(slow, FAR_SLOW) if scenario.adversaries.far else slow
    return Condition(name, scenario, alone(scenario, local=scenario.target.local_drafter), "alone", slow)


def _named(adversity: Adversity, word: str, slow: float) -> Iterator[Condition]:
    if word == CHURN:
        for (chance, how, local), scenario in adversity.lossy.items():
            if how == DIALS:
                most = 1.0 / (1.0 - ALLOWED_COST[chance])
                yield Condition(f"{chance:g} lost", scenario, adversity.steady(local), "none lost", slow, most)
    elif word == KILLED:
        killed, unharmed = (
            msgspec.structs.replace(adversity.killed[kill], nodes=KILL_NODES, drafters=KILL_NODES)
            for kill in (True, False)
        )
        share = killed.churn.kill_share
        yield Condition(f"{share:.0%} of {KILL_NODES} killed", killed, unharmed, "none killed", slow)
    else:
        for local in (False, True):
            scenario = adversity.bad[word, local]
            most = LATENCY_KEPT if local else 1.0 / SPEED_KEPT
            own = min(slow, FAR_SLOW) if word == "far" else slow
            yield Condition(word, scenario, alone(scenario, local=local), "alone", own, most)


def playable(scenario: Scenario) -> None:
    """Raises ConfigError: the testbed has no means for something in it; the message names the key."""
    if scenario.target.price != Target().price:
        raise ConfigError("target.price: the testbed's target is the one that is shipped; leave it out")
    for wan in scenario.ways:
        if wan.loss:
            raise ConfigError(
                "stall_chance: the testbed's relay loses nothing; leave it out, or play `wanspec sim run`"
            )
        if wan.bandwidth is not None:
            raise ConfigError("bandwidth: the testbed's relay has no limit; leave it out, or play `wanspec sim run`")
    if len(scenario.ways) > MOST_NODES:
        raise ConfigError(f"nodes: {len(scenario.ways)} are more than {MOST_NODES}, each a process of its own")


def stretched(scenario: Scenario, slow: float) -> Scenario:
    """The same with all its times longer. Those of adversaries are `cast`'s, and not in it."""
    replace = msgspec.structs.replace
    churn, target, drafter = scenario.churn, scenario.target, scenario.drafter
    after = churn.replaced_after_ms
    return replace(
        scenario,
        target=replace(target, pass_ms=target.pass_ms * slow),
        drafter=replace(drafter, pass_ms=drafter.pass_ms * slow),
        wan=_longer(scenario.wan, slow),
        region=tuple(_longer_region(region, slow) for region in scenario.region),
        churn=replace(
            churn, replaced_after_ms=None if after is None else after * slow, kill_at_ms=churn.kill_at_ms * slow
        ),
    )


def _longer(way: Way, slow: float) -> Way:
    return msgspec.structs.replace(way, rtt_ms=None if way.rtt_ms is None else way.rtt_ms * slow)


def _longer_region(region: Region, slow: float) -> Region:
    def times(value: float | None) -> float | None:
        return None if value is None else value * slow

    return msgspec.structs.replace(
        region, rtt_ms=times(region.rtt_ms), delay_ms=times(region.delay_ms), jitter_ms=times(region.jitter_ms)
    )


def compared(
    chosen: Sequence[Condition], seen: Sequence[tuple[Seen, Seen]], simulated: Mapping[Act, Outcome]
) -> dict[str, Any]:
    """The report: each condition as the testbed and as the simulator found it.

    Args:
        seen: of each condition, the baseline and the scenario.
    """
    lines = [_line(condition, *own, simulated) for condition, own in zip(chosen, seen, strict=True)]
    return {"conditions": lines, "identical": all(line["identical"] for line in lines)}


def _line(condition: Condition, base: Seen, own: Seen, simulated: Mapping[Act, Outcome]) -> dict[str, Any]:
    slow, most = condition.slow, condition.most
    found = _beside(own.outcome, base.outcome, slow)
    base_act, act = condition.plays
    return {
        "condition": condition.name,
        "local_drafter": condition.scenario.target.local_drafter,
        "against": condition.against,
        "slow": slow,
        "identical": own.identical and base.identical,
        "testbed": found,
        "simulator": _beside(simulated[act], simulated[base_act], slow),
        "latency_at_most": None if most is None else round(most, 4),
        "kept": most is None or found["latency_ratio"] <= most,
        "late_ms_per_pass": round(own.late * 1e3, 3),
        "machine": round(own.machine, 3),
    }


def _beside(own: Outcome, base: Outcome, slow: float) -> dict[str, Any]:
    """`offload`: share of the baseline's draft passes at the target that were spared; None where it has none."""
    spared = 1.0 - own.local_passes / own.tokens / (base.local_passes / base.tokens) if base.local_passes else None
    return {
        "ms_per_token": round(own.per_token * 1e3 / slow, 3),
        "baseline_ms_per_token": round(base.per_token * 1e3 / slow, 3),
        "latency_ratio": round(own.per_token / base.per_token, 4),
        "tokens_per_second": round(own.tokens_per_second * slow, 1),
        "baseline_tokens_per_second": round(base.tokens_per_second * slow, 1),
        "offload": None if spared is None else round(spared, 4),
        "rounds": own.rounds,
        "lost": own.lost,
    }
