"""Peers of a coordinator without models: a target that answers by arithmetic, and a bare peer that a test drives."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any, TypeVar

from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import LinkClosed, PeerRefused
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.protocol.codec import AT_NODE_FROM_COORDINATOR, AT_TARGET_FROM_COORDINATOR
from wanspec_p2p.protocol.common_messages import ControlMessage, Registered
from wanspec_p2p.protocol.coordinator_to_target import Cancel, Generate
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.protocol.target_to_coordinator import (
    Finished,
    RegisterTarget,
    ServedModel,
    TokenLogprob,
    Tokens,
    Usage,
)
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.types import Dtype, ExactnessClass, FinishReason, PeerId, Role

__all__ = [
    "SERVED",
    "FakePeer",
    "Script",
    "FakeTarget",
    "answer_ids",
    "drafter",
    "node_registration",
    "target_registration",
    "until",
]

M = TypeVar("M")
PATIENCE = 5.0  # seconds until a test that waits for a message fails

SERVED = ServedModel(
    name="big",
    digest="d" * 64,
    tokenizer="a" * 64,
    vocab_size=100,
    context=1000,
    dtype=Dtype.BFLOAT16,
    fingerprint="f" * 64,
    exactness=ExactnessClass.BITWISE,
)


def drafter(
    *, tokenizer: str = "a" * 64, vocab_size: int = 100, speed: float = 50.0, digest: str = "e" * 64
) -> DrafterModel:
    return DrafterModel("small", digest, tokenizer, vocab_size, 1000, speed)


def node_registration(secret: str = "", **changes: Any) -> RegisterNode:
    fields: dict[str, Any] = {"name": "a node", "models": (drafter(),), "slots": 2, "join_secret": secret}
    return RegisterNode(**fields | changes)


def target_registration(secret: str = "", **changes: Any) -> RegisterTarget:
    fields: dict[str, Any] = {
        "name": "a target",
        "model": SERVED,
        "addresses": ("ws://127.0.0.1:9/wanspec/draft",),
        "certificate": None,
        "slots": 4,
        "join_secret": secret,
    }
    return RegisterTarget(**fields | changes)


def answer_ids(request: Generate, count: int) -> list[int]:
    """The fake model's answer: it depends on the seed and on nothing else, as a real target's would."""
    return [(request.seed[t % 16] + t) % SERVED.vocab_size for t in range(count)]


async def until(condition: Callable[[], object]) -> None:
    """Let everybody else run until something holds that sets no event (TimeoutError if it never does)."""
    async with asyncio.timeout(PATIENCE):
        for _ in itertools.takewhile(lambda _: not condition(), itertools.count()):
            await asyncio.sleep(0)


class FakePeer:
    """One peer's link to the coordinator; messages wait until a test asks for their kind."""

    def __init__(self, link: PeerLink[Any], identity: Identity) -> None:
        self.link = link
        self.peer_id = identity.peer_id
        self.ended: LinkClosed | PeerRefused | None = None
        self._waiting: list[Any] = []
        self._news = asyncio.Condition()
        self._reader = asyncio.create_task(self._read())

    @classmethod
    async def join(
        cls,
        transport: Transport,
        coordinator: PeerId,
        registration: RegisterNode | RegisterTarget,
        *,
        identity: Identity | None = None,
        clock: Clock | None = None,
        registered: bool = True,
        first: ControlMessage | None = None,
        features: Iterable[str] = (),
    ) -> Any:
        """Handshake and registration; `registered=False` where a refusal is expected, `first` to say something else."""
        identity = identity or Identity.generate()
        is_node = isinstance(registration, RegisterNode)
        codec: Any = AT_NODE_FROM_COORDINATOR if is_node else AT_TARGET_FROM_COORDINATOR
        link = await connect(
            transport,
            codec,
            identity=identity,
            role=Role.NODE if is_node else Role.TARGET,
            expect=coordinator,
            clock=clock or SystemClock(),
            features=features,
        )
        peer = cls(link, identity)
        await peer.send(first or registration)
        if registered:
            await peer.expect(Registered)
        return peer

    async def send(self, message: ControlMessage) -> None:
        await self.link.send(message)

    async def expect(self, kind: type[M], *, where: Callable[[M], bool] = lambda message: True) -> M:
        """The first message of this kind (TimeoutError if none comes)."""
        async with asyncio.timeout(PATIENCE), self._news:
            while True:
                for message in self._waiting:
                    if isinstance(message, kind) and where(message):
                        self._waiting.remove(message)
                        return message
                if self.ended is not None:
                    raise self.ended
                await self._news.wait()

    async def refusal(self) -> PeerRefused:
        """How the coordinator hung up (AssertionError if it did so without a reason)."""
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([self._reader])
        assert isinstance(self.ended, PeerRefused), self.ended
        return self.ended

    def pending(self, kind: type[M]) -> list[M]:
        """What has arrived of a kind and nobody asked for yet."""
        return [message for message in self._waiting if isinstance(message, kind)]

    async def close(self) -> None:
        await self.link.close()
        await asyncio.wait([self._reader])

    async def _read(self) -> None:
        try:
            while True:
                message = await self.link.receive()
                if not await self.handled(message):
                    async with self._news:
                        self._waiting.append(message)
                        self._news.notify_all()
        except (LinkClosed, PeerRefused) as error:
            self.ended = error
            async with self._news:
                self._news.notify_all()

    async def handled(self, message: Any) -> bool:
        """Whether the peer has dealt with a message by itself."""
        return False


@dataclass
class Script:
    """How a `FakeTarget` answers."""

    tokens: int = 6  # in all, unless the request asks for fewer
    per_round: int = 2
    pause_after: int | None = None  # tokens after which it waits for `go_on`
    winner: PeerId | None = None  # credited with every second token
    go_on: asyncio.Event = field(default_factory=asyncio.Event)


class FakeTarget(FakePeer):
    """Answers every `Generate` as its script says; `generates` and `cancels` keep what it was asked."""

    def __init__(self, link: PeerLink[Any], identity: Identity) -> None:
        super().__init__(link, identity)
        self.script = Script()
        self.generates: list[Generate] = []
        self.cancels: list[Cancel] = []
        self.asked = asyncio.Event()  # a `Generate` has come
        self.cancelled = asyncio.Event()
        self.sent_tokens = 0
        self._tasks: set[asyncio.Task[None]] = set()

    async def said(self, count: int) -> None:
        """Until it has sent so many tokens, of all its answers together."""
        await until(lambda: self.sent_tokens >= count)

    async def handled(self, message: Any) -> bool:
        if isinstance(message, Generate):
            self.generates.append(message)
            self.asked.set()
            task = asyncio.create_task(self._answer(message))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            return True
        if isinstance(message, Cancel):
            self.cancels.append(message)
            self.cancelled.set()
            return True
        return False

    async def _answer(self, request: Generate) -> None:
        script = self.script
        count = min(script.tokens, request.max_tokens or script.tokens)
        ids = answer_ids(request, count)
        try:
            for position in range(len(request.committed), count, script.per_round):
                if script.pause_after is not None and position >= script.pause_after:
                    await script.go_on.wait()
                chunk = tuple(ids[position : position + script.per_round])
                await self.send(self._tokens(request, position, chunk))
                self.sent_tokens += len(chunk)
            reason = FinishReason.LENGTH if request.max_tokens == count else FinishReason.STOP
            await self.send(Finished(request.request, reason, self._usage(count)))
        except (LinkClosed, PeerRefused):
            return

    def _tokens(self, request: Generate, position: int, chunk: tuple[int, ...]) -> Tokens:
        texts = [f"t{token} " for token in chunk]
        top = request.top_logprobs
        logprobs = tuple(
            TokenLogprob(token, text, -0.5, ((token, text, -0.5),) * (top or 0))
            for token, text in zip(chunk, texts, strict=True)
        )
        return Tokens(
            request=request.request,
            position=position,
            ids=chunk,
            text="".join(texts),
            origins=tuple(self.script.winner if (position + i) % 2 else None for i in range(len(chunk))),
            logprobs=() if top is None else logprobs,
        )

    def _usage(self, count: int) -> Usage:
        rounds = -(-count // self.script.per_round)
        return Usage(
            prompt_tokens=3,
            completion_tokens=count,
            rounds=rounds,
            drafted=2 * rounds,
            accepted=count - rounds,
            late=1,
            accepted_by_length={1: (2 * rounds - count, count - rounds)},
            won_by_peer={} if self.script.winner is None else {self.script.winner: count // 2},
            seconds=0.1,
        )

    async def close(self) -> None:
        for task in tuple(self._tasks):
            task.cancel()
        await super().close()
