"""How many clients one target serves at a stated time per token: drafted for remotely, drafting for itself, or plainly.

All clients begin at once and keep their session busy, so that their passes fall together: the best case for a target
that drafts for itself, whose draft passes and verifications take turns on one device. What counts of an answer is a
stretch in its middle: what the target has to learn has been learned, and nobody has gone home yet.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.simulation.drafting_node import NodeSpec
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import Pace, Steps, flat
from wanspec_p2p.simulation.site import Site, question
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.types import Segment

__all__ = ["Case", "Hardware", "capacity", "closed_form", "per_token", "study"]

SESSIONS_PER_NODE = 8
"""A node drafts for so many at once, which share its passes: each gets a pass of its rows in so many steps' time."""
WIDTH = 64
WARM_UP, REST = 16, 8
"""Tokens of each answer before and after the stretch that counts."""
SHARE = 0.95
"""Of the answers that must be fast enough."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """Seconds of a verification and of a draft pass at the target, each flat up to 64 nodes and in proportion beyond;
    a node's draft pass takes as long as the target's for each 8 rows."""

    verify: float = 0.030
    draft: float = 0.005


@dataclass(frozen=True, slots=True)
class Case:
    """Who drafts.

    Args:
        drafters: remote ones of each session.
        rtt: seconds to them.
        passes: draft passes at the target before each verification.
        chain: each adds a token; otherwise up to 8 places of a tree.
    """

    drafters: int = 0
    rtt: float = 0.0
    passes: int = 0
    chain: bool = False

    @property
    def policy(self) -> Policy:
        if self.passes == 0:
            return Policy()
        if self.chain:
            return Policy(local=LocalDrafting(rows=1, candidates=1, passes=self.passes))
        return Policy(local=LocalDrafting(passes=self.passes))


def closed_form(passes: int, hardware: Hardware) -> float:
    """How many times the clients a target serves once its draft passes are run elsewhere ("Speculation at a Distance",
    arXiv 2606.25091, proposition 9: as many tokens a round, rows at no cost)."""
    return 1.0 + passes * hardware.draft / hardware.verify


def capacity(
    case: Case, hardware: Hardware, *, limit: float, tokens: int, seed: int, guess: int, played: Callable[[], None]
) -> int:
    """The most clients whose answers take up to `limit` seconds a token, 95 of 100 of them; to 4 %.

    Args:
        guess: where the search begins, in steps that double until there is something to bisect.
        played: told after each play.
    """
    fits, fails, at, step = 0, 0, guess, max(1, guess // 25)
    while fails != 1 and (not fails or fails - fits > max(1, fits // 25)):
        times = sorted(per_token(case, hardware, at, tokens=tokens, seed=seed))
        played()
        if times[math.ceil(SHARE * len(times)) - 1] <= limit + 1e-9:
            fits = at
        else:
            fails = at
        if not fails:
            at = fits + step
        elif fits or fails <= step:
            at = max(1, (fits + fails) // 2)
        else:
            at = fails - step
        step *= 2
    return fits


def study(
    hardware: Hardware,
    *,
    limit: float,
    rtt_ms: Sequence[float],
    drafters: Sequence[int],
    passes: Sequence[int],
    tokens: int,
    seed: int,
    played: Callable[[], None],
) -> dict[str, Any]:
    """Clients of one target by who drafts: lists by distance for "r1", "r2", …, and what they are beside it.

    Args:
        passes: draft passes a round to try for each baseline; the one that serves most clients counts.
    """

    def found(case: Case, guess: int) -> int:
        return capacity(case, hardware, limit=limit, tokens=tokens, seed=seed, guess=max(1, guess), played=played)

    plain = found(Case(), int(WIDTH * limit / hardware.verify))
    baselines: dict[str, dict[int, int]] = {}
    for kind in ("chain", "tree"):
        guess = plain or WIDTH // 2
        baselines[kind] = {}
        for count in passes:
            baselines[kind][count] = guess = found(Case(passes=count, chain=kind == "chain"), guess)
    remote: dict[str, list[int]] = {}
    for r in drafters:
        guess = plain or max(n for kind in baselines.values() for n in kind.values())
        remote[f"r{r}"] = []
        for rtt in rtt_ms:
            guess = found(Case(drafters=r, rtt=rtt / 1000.0), guess)
            remote[f"r{r}"].append(guess)
    against = {}
    for kind, own in baselines.items():
        best = max(own, key=lambda count: own[count])
        against[kind] = {
            "passes": best,
            "clients": own[best],
            "closed_form": round(closed_form(best, hardware), 3),
            "ratio": {name: [_ratio(n, own[best]) for n in clients] for name, clients in remote.items()},
        }
    return {
        **{"rtt_ms": list(rtt_ms), "clients": remote, "plain": plain, "against": against},
        "baselines": {kind: {str(count): n for count, n in own.items()} for kind, own in baselines.items()},
        "closed_form": {str(count): round(closed_form(count, hardware), 3) for count in passes},
    }


def _ratio(clients: int, base: int) -> float | None:
    return round(clients / base, 3) if base else None


def per_token(case: Case, hardware: Hardware, clients: int, *, tokens: int, seed: int) -> list[float]:
    """Seconds a token of each client's answer, all clients at once, in virtual time.

    Raises:
        RuntimeError: an answer is not the target's own.
    """
    return run_in_virtual_time(_play(case, hardware, clients, tokens, seed))


async def _play(case: Case, hardware: Hardware, clients: int, tokens: int, seed: int) -> list[float]:
    text = Text(seed)
    law, wan, device = IidLaw(text), Wan(rtt=case.rtt), asyncio.Lock()
    target = _OnDevice(SimulatedTarget(text, Pace(flat(hardware.verify, WIDTH))), device)
    local = _OnDevice(SimulatedDrafter(law, Pace(flat(hardware.draft, WIDTH))), device) if case.passes else None
    count = max(case.drafters, math.ceil(clients * case.drafters / SESSIONS_PER_NODE))
    nodes = [
        NodeSpec(SimulatedDrafter(law, Pace(Steps(hardware.draft, 8))), wan.path(), wan.path()) for _ in range(count)
    ]
    length = WARM_UP + tokens + REST
    async with Site(target, nodes, seed=seed, drafters=case.drafters, local=local, slots=clients) as site:
        prompts = [(client % 512, client // 512, 1) for client in range(clients)]
        answers = await asyncio.gather(
            *(
                site.play(question(f"client-{client}", prompt, length), case.policy)
                for client, prompt in enumerate(prompts)
            )
        )
    for prompt, answer in zip(prompts, answers, strict=True):
        if list(answer.tokens) != text.continuation(prompt, length):
            raise RuntimeError(f"an answer is not the target's own: {clients} clients, seed {seed}, {case}")
    return [_stretch(answer.settled_at, tokens) for answer in answers]


def _stretch(settled_at: Sequence[float], tokens: int) -> float:
    """Seconds a token, from the end of the round that ended the warm-up to that of the one that ended the stretch."""
    first = max(at for at in range(len(settled_at)) if settled_at[at] == settled_at[WARM_UP - 1])
    last = max(at for at in range(len(settled_at)) if settled_at[at] == settled_at[WARM_UP + tokens - 1])
    return (settled_at[last] - settled_at[first]) / (last - first)


class _OnDevice:
    """A model that shares its device with others: one pass at a time."""

    def __init__(self, model: LanguageModel, device: asyncio.Lock) -> None:
        self._model, self._device = model, device

    @property
    def info(self) -> ModelInfo:
        return self._model.info

    async def forward(self, batch: Sequence[Segment]) -> list[Rows]:
        async with self._device:
            return await self._model.forward(batch)

    async def release(self, cache: str) -> None:
        await self._model.release(cache)

    async def close(self) -> None:
        await self._model.close()
