"""What bad nodes and lost nodes cost, at the reference setting, beside what the design allows them to cost.

*Never slower*: whatever drafters do, a target without a drafter of its own keeps 97 % of the speed that it has with the
network switched off, and one with a drafter takes at most 1.02 times as long. That target drafts by its gate; the best
tree, whose number of passes was chosen with hindsight, is told beside it. *Beside good ones*: the same bad nodes where
two good ones are attached as well; they must not keep those from drafting. *Better ones later*: near nodes are
idle beside a target that has far ones, and have to be drafting for it within minutes. *Churn*: two drafters, each lost
in a round with a fixed chance and replaced by a node that has to dial; and 30 % of all nodes dead at once. For
comparison: Petals, whose nodes hold the target's layers, is quoted to fall from 7.76 to 2.17 steps a second as the
chance of a failure per step goes from 1e-3 to 1e-2 (arXiv 2312.08361, table 1).
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from wanspec_p2p.simulation.scenario import Adversaries, Churn, Scenario, Target, Way
from wanspec_p2p.simulation.scenario_play import (
    Outcome,
    Play,
    Played,
    alone,
    best_tree,
    played,
    policy_of,
    total,
    trees,
)
from wanspec_p2p.simulation.swarm_better import play_better
from wanspec_p2p.simulation.swarm_kill import SwarmOutcome, play_swarm

__all__ = ["Adversity", "study"]

KINDS = tuple(Adversaries.__struct_fields__)
SPEED_KEPT, LATENCY_KEPT = 0.97, 1.02
ALLOWED_COST: Mapping[float, float] = {0.001: 0.05, 0.01: 0.15}
"""Share of tokens per second that a chance of loss per round may cost."""
NEVER_SLOWER_RTT_MS, CHURN_RTT_MS = 10.0, 30.0
CHURN_TOKENS = 1024
BESIDE_GOOD_COST = 0.05
"""Share of the time per token that bad nodes may cost where good ones are attached as well."""
BETTER_MINUTES, BETTER_FAR_RTT_MS, BETTER_NEAR_RTT_MS = 6, 80.0, 5.0
BETTER_MOST_TOKENS = 256
"""Of an answer: four of them fit into a minute however slow nodes are."""
BETTER_COST = 0.15
"""Share of the time per token that it may cost in the last of those minutes to have begun with far nodes."""
DIALS = "dials"
KILL_SHARE, KILL_NODES, KILL_ANSWERS, KILL_AT_MS = 0.3, 20, 8, 500.0


@dataclass(frozen=True, slots=True)
class Adversity:
    """What is played. `tokens` of each answer; those of the churn have four times as many, and those that wait for
    better nodes half as many, or BETTER_MOST_TOKENS."""

    tokens: int = CHURN_TOKENS // 4

    @property
    def bad(self) -> dict[tuple[str, bool], Scenario]:
        """By what both drafters do, and whether the target has one of its own. Nothing is learned beforehand."""
        return {
            (kind, local): Scenario(
                tokens=self.tokens,
                warm_up=0,
                nodes=2,
                wan=Way(rtt_ms=NEVER_SLOWER_RTT_MS),
                adversaries=Adversaries(**({kind: 2} if kind in KINDS else {})),
                target=Target(local_drafter=local),
            )
            for local in (False, True)
            for kind in (*KINDS, "honest")
        }

    @property
    def mixed(self) -> dict[tuple[str, bool], Scenario]:
        """The same two beside two good nodes, of which any two draft, in the second answer that they are there for."""
        return {
            (kind, local): msgspec.structs.replace(scenario, nodes=4, drafters=2, warm_up=self.tokens)
            for (kind, local), scenario in self.bad.items()
            if kind in KINDS
        }

    def good(self, local: bool) -> Scenario:
        """What they are held against: two good nodes alone."""
        return msgspec.structs.replace(self.bad["honest", local], warm_up=self.tokens)

    def steady(self, local: bool) -> Scenario:
        """Two drafters that stay."""
        return Scenario(
            tokens=4 * self.tokens, nodes=2, wan=Way(rtt_ms=CHURN_RTT_MS), target=Target(local_drafter=local)
        )

    @property
    def lossy(self) -> dict[tuple[float, str, bool], Scenario]:
        """By chance of loss, how a lost drafter is replaced, and whether the target has one of its own."""
        found: dict[tuple[float, str, bool], Scenario] = {}
        for local in (False, True):
            steady = self.steady(local)
            spared = msgspec.structs.replace(steady, nodes=4, drafters=2)
            for chance in ALLOWED_COST:
                for name, base, churn in (
                    (DIALS, steady, Churn(loss_per_round=chance)),
                    (f"{DIALS}, lost silently", steady, Churn(loss_per_round=chance, silently=True)),
                    ("is attached already", spared, Churn(loss_per_round=chance)),
                ):
                    found[chance, name, local] = msgspec.structs.replace(base, churn=churn)
        return found

    @property
    def killed(self) -> dict[bool, Scenario]:
        """By whether the nodes are killed."""
        return {
            kill: Scenario(
                tokens=self.tokens,
                warm_up=0,
                at_once=KILL_ANSWERS,
                nodes=KILL_NODES,
                drafters=2,
                wan=Way(rtt_ms=CHURN_RTT_MS),
                target=Target(local_drafter=False),
                churn=Churn(kill_share=KILL_SHARE if kill else 0.0, kill_at_ms=KILL_AT_MS),
            )
            for kill in (False, True)
        }

    @property
    def plays(self) -> Iterator[Play]:
        for local in (False, True):
            yield _play(self.steady(local))
            yield _play(self.good(local))
            yield _play(alone(self.bad["honest", local], local=local))
        yield from trees(self.bad["honest", True]).values()
        for scenario in (*self.bad.values(), *self.mixed.values(), *self.lossy.values(), *self.killed.values()):
            yield _play(scenario)


def _play(scenario: Scenario) -> Play:
    return scenario, policy_of(scenario)


def study(adversity: Adversity, seeds: int, progress: Callable[[str, int, int], None]) -> dict[str, Any]:
    """Tables `never_slower`, `beside_good`, `better_later`, `churn` and `killed`: lists of lines, each with its promise
    kept or not."""
    results = played(adversity.plays, seeds, lambda done, of: progress("play", done, of))
    swarms: dict[bool, list[SwarmOutcome]] = {False: [], True: []}
    for done in range(2 * seeds):
        kill = bool(done % 2)
        swarms[kill].append(
            play_swarm(
                done // 2,
                share=KILL_SHARE if kill else 0.0,
                nodes=KILL_NODES,
                answers=KILL_ANSWERS,
                tokens=adversity.tokens,
                rtt=CHURN_RTT_MS / 1e3,
                kill_at=KILL_AT_MS / 1e3,
            )
        )
        progress("with a coordinator", done + 1, 2 * seeds)
    better = []
    for seed in range(seeds):
        better.append([_better(adversity, seed, far) for far in (BETTER_FAR_RTT_MS, BETTER_NEAR_RTT_MS)])
        progress("better nodes later", seed + 1, seeds)
    return {
        "never_slower": _never_slower(adversity, results),
        "beside_good": _beside_good(adversity, results),
        "better_later": [_better_later(better)],
        "churn": _churn(adversity, results),
        "killed": [_killed(adversity, results), _killed_in_swarms(swarms)],
    }


def _never_slower(adversity: Adversity, results: Played) -> list[dict[str, Any]]:
    lines = []
    _, tree = best_tree(adversity.bad["honest", True], results)
    for (kind, local), scenario in adversity.bad.items():
        own = total(results[_play(scenario)])
        base = total(results[_play(alone(scenario, local=local))])
        speed, latency = base.per_token / own.per_token, own.per_token / base.per_token
        lines.append(
            {
                "drafters": kind,
                "local_drafter": local,
                "ms_per_token": _ms(own),
                "alone_ms_per_token": _ms(base),
                "speed_ratio": round(speed, 4),
                "latency_ratio": round(latency, 4),
                "tree_ms_per_token": _ms(tree) if local else None,
                "kept": latency <= LATENCY_KEPT if local else speed >= SPEED_KEPT,
            }
        )
    return lines


def _beside_good(adversity: Adversity, results: Played) -> list[dict[str, Any]]:
    lines = []
    for (kind, local), scenario in adversity.mixed.items():
        own, good = total(results[_play(scenario)]), total(results[_play(adversity.good(local))])
        cost = own.per_token / good.per_token - 1.0
        lines.append(
            {
                "drafters": kind,
                "local_drafter": local,
                "ms_per_token": _ms(own),
                "good_ms_per_token": _ms(good),
                "cost": round(cost, 4),
                "allowed": BESIDE_GOOD_COST,
                "kept": cost <= BESIDE_GOOD_COST,
            }
        )
    return lines


def _better(adversity: Adversity, seed: int, far_ms: float) -> Sequence[float]:
    tokens, near = min(adversity.tokens // 2, BETTER_MOST_TOKENS), BETTER_NEAR_RTT_MS / 1e3
    return play_better(seed, minutes=BETTER_MINUTES, tokens=tokens, far=far_ms / 1e3, near=near)


def _better_later(by_seed: Sequence[Sequence[Sequence[float]]]) -> dict[str, Any]:
    """Of each seed the minutes that began with far nodes, and those with near ones from the first."""
    own, near = (
        [statistics.fmean(minute) for minute in zip(*plays, strict=True)] for plays in zip(*by_seed, strict=True)
    )
    cost = own[-1] / near[-1] - 1.0
    return {
        "far_rtt_ms": BETTER_FAR_RTT_MS,
        "near_rtt_ms": BETTER_NEAR_RTT_MS,
        "ms_per_token_by_minute": [round(minute * 1e3, 3) for minute in own],
        "near_ms_per_token_by_minute": [round(minute * 1e3, 3) for minute in near],
        "cost": round(cost, 4),
        "allowed": BETTER_COST,
        "kept": cost <= BETTER_COST,
    }


def _churn(adversity: Adversity, results: Played) -> list[dict[str, Any]]:
    lines = []
    for (chance, replacement, local), scenario in adversity.lossy.items():
        own, steady = total(results[_play(scenario)]), total(results[_play(adversity.steady(local))])
        cost = 1.0 - steady.per_token / own.per_token
        lines.append(
            {
                "loss_per_round": chance,
                "replacement": replacement,
                "local_drafter": local,
                "lost": own.lost,
                "rounds": own.rounds,
                "ms_per_token": _ms(own),
                "steady_ms_per_token": _ms(steady),
                "cost": round(cost, 4),
                "allowed": ALLOWED_COST[chance],
                "kept": cost <= ALLOWED_COST[chance],
            }
        )
    return lines


def _killed(adversity: Adversity, results: Played) -> dict[str, Any]:
    by_seed = {kill: results[_play(scenario)] for kill, scenario in adversity.killed.items()}
    return {
        "played": "one target, its nodes attached",
        "answers": KILL_ANSWERS * len(by_seed[True]),
        "complete_and_identical": KILL_ANSWERS * len(by_seed[True]),  # or the play would have failed
        "lost": sum(one.lost for one in by_seed[True]),
        "tokens_per_second": round(total(by_seed[True]).tokens_per_second, 1),
        "unharmed_tokens_per_second": round(total(by_seed[False]).tokens_per_second, 1),
        "kept": True,
    }


def _killed_in_swarms(swarms: Mapping[bool, Sequence[SwarmOutcome]]) -> dict[str, Any]:
    def speed(outcomes: Sequence[SwarmOutcome]) -> float:
        return round(sum(one.tokens for one in outcomes) / sum(one.seconds for one in outcomes), 1)

    killed = swarms[True]
    answers, identical = sum(one.answers for one in killed), sum(one.identical for one in killed)
    return {
        "played": "three targets and a coordinator",
        "answers": answers,
        "complete_and_identical": identical,
        "lost": sum(one.lost for one in killed),
        "lost_drafting": sum(one.lost_drafting for one in killed),
        "tokens_per_second": speed(killed),
        "unharmed_tokens_per_second": speed(swarms[False]),
        "kept": identical == answers,
    }


def _ms(outcome: Outcome) -> float:
    return round(outcome.per_token * 1e3, 3)
