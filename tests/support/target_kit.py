"""What tests of a target need: leases, nodes and a coordinator at the far end of in-memory links, the right answer."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from pathlib import Path as FilePath
from typing import TypeAlias, TypeVar

import msgspec

from tests.support.dialled_links import DialledCoordinator
from tests.support.scripted_models import SCRIPTED_TOKENIZER, ByteTokenizer, ScriptedModel
from tests.support.session_rows import prefix_hash
from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import LinkClosed, PeerRefused
from wanspec_p2p.links.memory import MemoryTransport, Path, memory_transports
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import (
    AT_COORDINATOR_FROM_TARGET,
    AT_NODE_FROM_TARGET,
    AT_TARGET_FROM_COORDINATOR,
)
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget, Generate
from wanspec_p2p.protocol.node_to_target import Attach, Draft
from wanspec_p2p.protocol.target_to_coordinator import Failed, Finished, RegisterTarget, TargetMessage, Tokens
from wanspec_p2p.protocol.target_to_node import Open, TargetToNode, Verdict
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.leases import LeaseClaims, issue
from wanspec_p2p.speculation.sampling import Sampler
from wanspec_p2p.target.control import Dial
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import Target
from wanspec_p2p.types import PeerId, Role, Sampling, TokenId

__all__ = [
    "NOWHERE",
    "CoordinatorEnd",
    "FakeNode",
    "Mint",
    "Said",
    "dial_target",
    "names",
    "request",
    "scripted_target",
    "target_alone",
    "until",
]

SECONDS = 1800.0
"""Nothing a test waits for takes longer; of virtual time, as everything here."""
SEED = bytes(range(16))
NOWHERE = FilePath("/nowhere")

M = TypeVar("M")
Spoken: TypeAlias = Tokens | Finished | Failed


async def until(condition: Callable[[], bool]) -> None:
    """Wait for something that nobody tells of: in virtual time looking often costs nothing."""
    async with asyncio.timeout(SECONDS):
        while not condition():  # noqa: ASYNC110  # see above
            await asyncio.sleep(0.01)


def names(word: str) -> Callable[[], str]:
    """word-1, word-2, …"""
    numbers = itertools.count(1)
    return lambda: f"{word}-{next(numbers)}"


def request(name: str = "r1", *, ids: Sequence[TokenId] = (1, 2, 3), **fields: object) -> Generate:
    """A greedy request of twelve tokens; `fields` differ. `ids` give way to a prompt of another kind."""
    given = {"prompt", "messages", "prompt_ids"} & fields.keys()
    own: dict[str, object] = {"sampling": Sampling(), "max_tokens": 12} | ({} if given else {"prompt_ids": tuple(ids)})
    return Generate(request=name, seed=SEED, **(own | fields))  # type: ignore[arg-type]  # whatever a test gives


def target_alone(
    model: ScriptedModel,
    prompt: Sequence[TokenId],
    count: int,
    sampling: Sampling,
    *,
    seed: bytes = SEED,
    stop_tokens: Sequence[TokenId] = (),
) -> list[TokenId]:
    """The answer by the rule itself: one row, one token, nothing else in between."""
    sampler = Sampler(sampling, seed, model.info.vocab_size, prompt, stop_tokens)
    answer: list[TokenId] = []
    while len(answer) < count and not (answer and answer[-1] in stop_tokens):
        token = sampler.choose(model.row([*prompt, *answer])).token
        sampler.commit([token])
        answer.append(token)
    return answer


class Mint:
    """A coordinator as far as targets and nodes can see it through leases."""

    def __init__(self, clock: Clock, target: Identity) -> None:
        self.identity = Identity.generate()
        self._clock, self._target = clock, target
        self._jti = names("lease")

    def claims(self, node: PeerId, /, **changes: object) -> LeaseClaims:
        claims = LeaseClaims(
            jti=self._jti(),
            node=node,
            target=self._target.peer_id,
            owner="lab",
            site="basement",
            pool="default",
            model="small",
            digest="d" * 64,
            tokenizer=SCRIPTED_TOKENIZER,
            addresses=("ws://127.0.0.1:4711/wanspec/draft",),
            certificate=None,
            issued=int(self._clock.wall()),
            expires=int(self._clock.wall()) + 600,
        )
        return msgspec.structs.replace(claims, **changes)

    def lease(self, node: PeerId, /, **changes: object) -> str:
        return issue(self.identity, self.claims(node, **changes))


class FakeNode:
    """The node's end of a draft link: speaks the protocol, and does only what a test tells it to."""

    def __init__(self, identity: Identity, link: PeerLink[TargetToNode], transport: MemoryTransport) -> None:
        self.identity, self.link, self.transport = identity, link, transport

    async def attach(self, lease: str) -> None:
        await self.link.send(Attach(lease=lease))

    async def receive(self, kind: type[M]) -> M:
        """The next message, which must be of this kind."""
        async with asyncio.timeout(SECONDS):
            message = await self.link.receive()
        assert isinstance(message, kind), message
        return message

    async def opened(self) -> Open:
        return await self.receive(Open)

    async def draft(self, opened: Open, tokens: Sequence[TokenId], *, after: Sequence[TokenId] = ()) -> None:
        """A chain below the prefix that was opened and `after`, in as many frames as it takes."""
        prefix = (*opened.prefix, *after)
        for at in range(0, len(tokens), limits.MAX_DRAFT_TOKENS):
            frame = tuple(tokens[at : at + limits.MAX_DRAFT_TOKENS])
            await self.link.send(
                Draft(
                    session=opened.session,
                    base_len=len(prefix),
                    base_hash=prefix_hash(opened.id, prefix),
                    tokens=frame,
                )
            )
            prefix += frame

    async def verdicts(self) -> AsyncIterator[Verdict]:
        """What the target says until it closes the session or the link."""
        with contextlib.suppress(LinkClosed, PeerRefused):
            while isinstance(message := await self.link.receive(), Verdict):
                yield message

    async def ending(self) -> LinkClosed | PeerRefused:
        """How the target ended the link, whatever it said before."""
        async with asyncio.timeout(SECONDS):
            while True:
                try:
                    await self.link.receive()
                except (LinkClosed, PeerRefused) as error:
                    return error

    async def refused(self) -> PeerRefused:
        ending = await self.ending()
        assert isinstance(ending, PeerRefused), ending
        return ending

    async def close(self) -> None:
        await self.link.close()


async def dial_target(
    admit: Callable[[MemoryTransport], Coroutine[None, None, None]],
    identity: Identity,
    target: PeerId,
    clock: Clock,
    *,
    there: Path | None = None,
    back: Path | None = None,
) -> tuple[FakeNode, asyncio.Task[None]]:
    """A node's link to whatever `admit` stands for, and the task that serves it there."""
    near, far = memory_transports(there, back)
    serving = asyncio.create_task(admit(far), name=f"target's end for {identity.peer_id}")
    link = await connect(near, AT_NODE_FROM_TARGET, identity=identity, role=Role.NODE, expect=target, clock=clock)
    return FakeNode(identity, link, near), serving


class Said:
    """Takes what a desk says, and lets a test wait for how a request ended."""

    def __init__(self) -> None:
        self.all: list[Spoken] = []
        self._new = asyncio.Event()

    def __call__(self, message: Spoken) -> None:
        self.all.append(message)
        self._new.set()

    def of(self, name: str) -> list[Spoken]:
        return [message for message in self.all if message.request == name]

    def tokens(self, name: str = "r1") -> list[TokenId]:
        """Ids of the answer so far; fails on a gap."""
        ids: list[TokenId] = []
        start: int | None = None
        for message in self.of(name):
            if isinstance(message, Tokens) and not message.echo:
                start = message.position if start is None else start
                assert message.position == start + len(ids), "the answer has a gap"
                ids.extend(message.ids)
        return ids

    def text(self, name: str = "r1") -> str:
        return "".join(message.text for message in self.of(name) if isinstance(message, Tokens))

    async def until(self, condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(SECONDS):
            while not condition():
                self._new.clear()
                await self._new.wait()

    async def end(self, name: str = "r1") -> Finished | Failed:
        """How the request ended."""
        await self.until(lambda: any(isinstance(message, Finished | Failed) for message in self.of(name)))
        [end] = [message for message in self.of(name) if isinstance(message, Finished | Failed)]
        return end

    async def finished(self, name: str = "r1") -> Finished:
        end = await self.end(name)
        assert isinstance(end, Finished), end
        return end

    async def failed(self, name: str = "r1") -> Failed:
        end = await self.end(name)
        assert isinstance(end, Failed), end
        return end


def scripted_target(
    identity: Identity,
    coordinator: Identity,
    model: ScriptedModel,
    clock: Clock,
    dial: Dial,
    *,
    rng: random.Random | None = None,
    **settings: object,
) -> Target:
    """A whole target; nothing of it is on disk, and it names things, and draws them, in the same way each time."""
    return Target(
        TargetSettings(data_dir=NOWHERE, cache_dir=NOWHERE, **settings),  # type: ignore[arg-type]  # whatever a test gives
        identity,
        coordinator.public_key,
        model,
        ByteTokenizer(),
        clock,
        dial=dial,
        rng=rng or random.Random(1),
        new_id=names("id"),
    )


class CoordinatorEnd(DialledCoordinator[TargetMessage, CoordinatorToTarget]):
    """Coordinators a target dials, one a connection: `dial` is the target's, `next_link` and `taken_in` the test's."""

    def __init__(self, identity: Identity, target: Identity, clock: Clock) -> None:
        codecs = AT_COORDINATOR_FROM_TARGET, AT_TARGET_FROM_COORDINATOR
        super().__init__(*codecs, identity=identity, peer=target, role=Role.TARGET, clock=clock, seconds=SECONDS)

    async def taken_in(self, heartbeat: float = 2.0) -> tuple[PeerLink[TargetMessage], RegisterTarget]:
        """The next link, after the target has registered on it."""
        link = await self.next_link()
        registration = await self.heard(link, RegisterTarget)
        await link.send(Registered(pool="default", heartbeat=heartbeat))
        return link, registration

    @staticmethod
    async def heard(link: PeerLink[TargetMessage], kind: type[M]) -> M:
        """The next message of this kind; others are passed over."""
        async with asyncio.timeout(SECONDS):
            while not isinstance(message := await link.receive(), kind):
                pass
        return message
