"""The requests of one target on a model of a second a pass, with a node that knows every answer."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.session_rows import prefix_hash
from tests.support.target_kit import Mint, Said, names, target_alone
from tests.support.virtual_time import LoopClock
from wanspec_p2p.protocol.coordinator_to_target import Generate
from wanspec_p2p.protocol.target_to_coordinator import Receipt
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.events import DraftArrived
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.target.answering import Answering
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.requests import RequestDesk
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import PeerId, Sampling, Segment, TokenId

__all__ = ["NODE", "Bench", "Writer"]

NODE = PeerId("n" * 32)


class Pool(DrafterPool):
    """A pool with one node, which knows every answer and drafts it as soon as a session begins, unless it is `mute`."""

    def __init__(self, model: ScriptedModel, clock: LoopClock) -> None:
        target = Identity.generate()
        mint = Mint(clock, target)
        super().__init__(
            me=target.peer_id,
            coordinator=mint.identity.public_key,
            per_session=1,
            clock=clock,
            arrived=lambda node: None,
            short=lambda: None,
        )
        self._model = model
        self.seen = 0
        self.mute = False

    def begin(self, runner: SessionRunner) -> None:
        super().begin(runner)
        self.seen += 1
        runner.join(NODE, 0, "lease-1")
        if self.mute:
            return
        spec = runner.session.spec
        prefix = (*spec.prompt, *spec.committed)
        draft = target_alone(self._model, prefix, 8, Sampling())
        runner.feed(DraftArrived(NODE, len(prefix), prefix_hash(spec.session, prefix), tuple(draft), (), (), at=0.0))


class Bench:
    """A desk on a model whose passes take a second; `gate` holds them back, `failure` is what they fail with."""

    def __init__(
        self, model: ScriptedModel | None = None, *, slots: int = 2, queue: int = 1, local: ScriptedModel | None = None
    ) -> None:
        self.model = model or ScriptedModel(seed=1, context=64)
        self.model.before_forward = self._before
        self.gate = asyncio.Event()
        self.gate.set()
        self.failure: Exception | None = None
        self.said = Said()
        self.receipts: list[Receipt] = []
        clock = LoopClock()
        self.pool = Pool(self.model, clock)
        knowledge = Knowledge()
        self.engine = Engine(self.model, slots, knowledge, local)
        answering = Answering(
            engine=self.engine,
            tokenizer=ByteTokenizer(),
            pool=self.pool,
            policy=Policy(),
            queue=queue,
            receipts=self.receipts.extend,
            new_id=names("id"),
            clock=clock,
            knowledge=knowledge,
        )
        self.desk = RequestDesk(answering.answer, self.said)

    async def _before(self, batch: Sequence[Segment]) -> None:
        await self.gate.wait()
        await asyncio.sleep(1)
        if self.failure is not None:
            raise self.failure

    async def answer(self, asked: Generate) -> list[TokenId]:
        self.desk.generate(asked)
        await self.said.finished(asked.request)
        await asyncio.sleep(0)
        self.nothing_is_left()
        return self.said.tokens(asked.request)

    def nothing_is_left(self) -> None:
        assert self.desk.active == self.engine.serving == self.engine.queued == self.pool.sessions == 0
        assert self.model.caches == {}


class Writer(ScriptedModel):
    """Writes its text over and over; the last byte of it is end-of-sequence."""

    def __init__(self, text: str) -> None:
        self._text = text.encode()
        super().__init__(seed=1, context=256, eos=(self._text[-1],))

    def row(self, prefix: Sequence[TokenId]) -> NDArray[np.float32]:
        """The prompt has three tokens."""
        row = np.zeros(256, dtype=np.float32)
        row[self._text[(len(prefix) - 3) % len(self._text)]] = 10.0
        return row
