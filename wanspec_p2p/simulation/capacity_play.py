"""Many clients of one target at once, in virtual time: who drafts for them, on what hardware, and how fast they are.

All clients begin at once and keep their session busy, so that their passes fall together: the best case for a target
that drafts for itself, whose draft passes and verifications take turns on one device. What counts of an answer is a
stretch in its middle: what the target has to learn has been learned, and nobody goes home before all have had it, since
one who leaves may bring the others out of step.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from wanspec_p2p.errors import ConfigError
from wanspec_p2p.models.base import LanguageModel, ModelInfo, Rows
from wanspec_p2p.simulation.drafting_node import NodeSpec
from wanspec_p2p.simulation.laws import IidLaw, Text
from wanspec_p2p.simulation.loop import run_in_virtual_time
from wanspec_p2p.simulation.models import SimulatedDrafter, SimulatedTarget
from wanspec_p2p.simulation.pacing import DeviceTime, Measured, Steps, flat
from wanspec_p2p.simulation.site import Site, question
from wanspec_p2p.simulation.wan import Wan
from wanspec_p2p.speculation.allotment import Wish
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.speculation.target_session import TargetSession
from wanspec_p2p.target.engine import MAX_ROWS
from wanspec_p2p.types import Segment, TokenId
from wanspec_p2p.words import counted

__all__ = ["MOST_TOKENS", "TREE_ROWS", "Case", "Hardware", "per_token"]

TREE_ROWS = (1, 2, 8)
"""Places of one session in a draft pass, tried for a tree: many clients with many rows each make a slow pass."""
MOST_TOKENS = 4096
"""Of a stretch."""
WITHOUT_END = 4 * MOST_TOKENS
"""Tokens of an answer that is broken off when everybody's stretch is over: more than the fastest has by then."""
NODE_ROWS = 8
PROMPT = 3
"""Tokens of each prompt."""
WARM_UP = 16
"""Tokens of each answer before the stretch that counts."""


@dataclass(frozen=True, slots=True)
class Hardware:
    """What passes take.

    Args:
        verify: seconds of a verification of up to `verify_rows` nodes, in proportion beyond.
        draft: seconds of a draft pass at the target of up to `draft_rows` rows, in proportion beyond; a node's takes as
            long for each 8 rows.
        share: sessions that a node drafts for at once, which have its passes in common.
    """

    verify: float = 0.030
    draft: float = 0.005
    draft_rows: int = 64
    share: int = 8
    verify_rows: int = 64


@dataclass(frozen=True, slots=True)
class Case:
    """Who drafts.

    Args:
        drafters: remote ones of each session.
        rtt: seconds to them.
        passes: draft passes at the target before each verification.
        rows: places that a session has in each of those; None drafts a chain, each pass of which adds a token.
        held: verify so many drafted tokens a round where there are so many, whatever a row costs; None leaves it to
            the price of a row.
        gate: the target drafts beside them, where and when its own gate says so.
    """

    drafters: int = 0
    rtt: float = 0.0
    passes: int = 0
    rows: int | None = None
    held: int | None = None
    gate: bool = False

    def policy(self, clients: int) -> Policy:
        if self.passes == 0:
            return Policy() if self.held is None else Policy(width=self.held)
        # Whoever does not fit into a pass drafts while the others verify, and is never in step with them again.
        width = max(1, min(Policy().width, MAX_ROWS // clients - PROMPT))
        if self.rows is None:
            return Policy(width=width, local=LocalDrafting(rows=1, candidates=1, passes=self.passes))
        return Policy(width=width, local=LocalDrafting(rows=self.rows, passes=self.passes))


class _RowsAreFree(Knowledge):
    """For those held to a number of tokens."""

    def verification_rows(self, wishes: Sequence[Wish], most: int) -> list[int]:
        return [len(wish.candidates) for wish in wishes]


def per_token(case: Case, hardware: Hardware, clients: int, *, tokens: int, seed: int) -> list[float]:
    """Seconds a token of each client's answer, all clients at once, in virtual time.

    Args:
        tokens: of each stretch; up to MOST_TOKENS.

    Raises:
        ConfigError: an answer takes more virtual time than any may.
        RuntimeError: an answer is not the target's own.
    """
    try:
        return run_in_virtual_time(_play(case, hardware, clients, tokens, seed))
    except TimeoutError as error:
        raise ConfigError(
            f"an answer took more than an hour with {counted(clients, 'client')}: "
            "take fewer --tokens or a shorter --verify"
        ) from error


async def _play(case: Case, hardware: Hardware, clients: int, tokens: int, seed: int) -> list[float]:
    text, policy = Text(seed), case.policy(clients)
    law, wan, device = IidLaw(text), Wan(rtt=case.rtt), asyncio.Lock()
    target = _OnDevice(SimulatedTarget(text, DeviceTime(flat(hardware.verify, hardware.verify_rows))), device)
    drafting = DeviceTime(Measured(((hardware.draft_rows, hardware.draft),)))
    local = _OnDevice(SimulatedDrafter(law, drafting), device) if case.passes or case.gate else None
    count = max(case.drafters, math.ceil(clients * case.drafters / hardware.share))
    nodes = [
        NodeSpec(SimulatedDrafter(law, DeviceTime(Steps(hardware.draft, NODE_ROWS))), wan.path(), wan.path())
        for _ in range(count)
    ]
    knowledge = Knowledge() if case.held is None else _RowsAreFree()
    site = Site(target, nodes, seed=seed, drafters=case.drafters, local=local, slots=clients, knowledge=knowledge)
    async with site:
        stretches = [_Stretch((client % 512, client // 512, 1), tokens) for client in range(clients)]
        plays = [
            asyncio.create_task(
                site.play(question(f"client-{client}", own.prompt, WITHOUT_END), policy, settled=own.settled)
            )
            for client, own in enumerate(stretches)
        ]
        over = asyncio.gather(*(own.over for own in stretches))
        ends: list[asyncio.Future[Any]] = [over, *plays]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for play in plays:
            play.cancel()
        for outcome in await asyncio.gather(*plays, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
    if not over.done():
        raise RuntimeError(
            f"an answer ended before every stretch was over: {counted(clients, 'client')}, seed {seed}, {case}"
        )
    for own in stretches:
        if list(own.answer) != text.continuation(own.prompt, len(own.answer)):
            raise RuntimeError(f"an answer is not the target's own: {clients} clients, seed {seed}, {case}")
    return await over


class _Stretch:
    """Of one answer, from the end of the round that ended the warm-up to that of the one that ended the stretch.

    Attributes:
        over: seconds a token, once it is.
        answer: so far.
    """

    def __init__(self, prompt: tuple[TokenId, ...], tokens: int) -> None:
        loop = asyncio.get_running_loop()
        self.prompt, self.over, self.answer = prompt, loop.create_future(), prompt[:0]
        self._last, self._time = WARM_UP + tokens, loop.time
        self._begun: tuple[int, float] | None = None

    def settled(self, session: TargetSession) -> None:
        """A round has settled tokens."""
        length, now = session.answer_len, self._time()
        if self._begun is None:
            self._begun = (length, now) if length >= WARM_UP else None
        elif length >= self._last and not self.over.done():
            self.answer = tuple(session.tree.committed)[len(self.prompt) :]
            self.over.set_result((now - self._begun[1]) / (length - self._begun[0]))


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
