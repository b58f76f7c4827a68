"""What drafting costs on the wire: payload of a draft link, both ways, per drafted token; a real link, real models."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from node.draft_link import DraftLink
from node.drafting import DraftingEngine
from node.lease_checks import Held
from node.limits import LendingLimits
from wanspec_p2p.cli.bench.measuring import SEED, Prompt
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link, Transport
from wanspec_p2p.links.peer import PeerLink, accept, connect
from wanspec_p2p.links.websocket import dial, listen
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.node_to_target import NodeToTarget
from wanspec_p2p.protocol.target_to_node import TargetToNode
from wanspec_p2p.security import leases
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.target_session import SessionSpec, TargetSession
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.runner import SessionRunner
from wanspec_p2p.types import Role, Sampling, SessionId

__all__ = ["WireFigures", "measure"]

ATTACH_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class WireFigures:
    """Counts of one run: `up` is node to target. Pings are in, the handshake and the lease are not."""

    tokens: int
    rounds: int
    accepted: int
    drafted: int
    bytes_up: int
    bytes_down: int
    frames_up: int
    frames_down: int

    @property
    def bytes_per_drafted_token(self) -> float:
        return (self.bytes_up + self.bytes_down) / self.drafted if self.drafted else 0.0

    def as_json(self) -> dict[str, float]:
        return {**asdict(self), "bytes_per_drafted_token": self.bytes_per_drafted_token}


async def measure(
    target: LanguageModel,
    drafter: LanguageModel,
    tokenizer: Tokenizer,
    prompts: Sequence[Prompt],
    *,
    tokens: int,
    sampling: Sampling,
) -> WireFigures:
    """Answer the prompts with one drafter behind a loopback WebSocket. Sending each prompt is counted, too.

    Raises:
        ConfigError: this drafter cannot draft for this target.
    """
    clock = SystemClock()
    coordinator, me, node = Identity.generate(), Identity.generate(), Identity.generate()
    attached = asyncio.Event()
    pool = DrafterPool(
        me=me.peer_id,
        coordinator=coordinator.public_key,
        per_session=1,
        clock=clock,
        arrived=lambda node: attached.set(),
        short=lambda: None,
        tokenizer=target.info.tokenizer,
    )
    links: list[PeerLink[NodeToTarget]] = []

    async def admit(transport: Transport) -> None:
        link = await accept(
            transport, AT_TARGET_FROM_NODE, identity=me, role=Role.TARGET, roles=frozenset({Role.NODE}), clock=clock
        )
        links.append(link)
        await pool.serve(link)

    async def dial_target(lease: Held, address: str) -> Link[NodeToTarget, TargetToNode]:
        transport = await dial(address, certificate=None)
        return await connect(
            transport, AT_NODE_FROM_TARGET, identity=node, role=Role.NODE, expect=me.peer_id, clock=clock
        )

    listener = await listen("127.0.0.1", 0, admit, tls=None)
    engine = DraftingEngine(drafter, clock=clock)
    lease = _lease(coordinator, node, me, drafter, f"ws://127.0.0.1:{listener.port}/wanspec/draft", clock)
    limits = LendingLimits(slots=8, max_prefix=drafter.info.context - 1)
    link = DraftLink(lease, engine, limits, dial=dial_target, backoff=Backoff(random.Random(0)), clock=clock)
    computing, dialling = asyncio.create_task(engine.run()), asyncio.create_task(link.run())
    try:
        await _attached(attached, dialling, drafter)
        stats = links[0].stats
        before = asdict(stats)
        sessions = [await _answer(target, tokenizer, pool, prompt, tokens, sampling) for prompt in prompts]
        after = asdict(stats)
    finally:
        link.leave("the benchmark is over")
        engine.stop()
        pool.close()
        await listener.close()
        for task in (computing, dialling):
            task.cancel()
        await asyncio.gather(computing, dialling, return_exceptions=True)
    return WireFigures(
        tokens=sum(session.answer_len for session in sessions),
        rounds=sum(session.stats.rounds for session in sessions),
        accepted=sum(session.stats.accepted for session in sessions),
        drafted=sum(drafter.drafted for session in sessions for drafter in session.stats.drafters.values()),
        bytes_up=after["bytes_received"] - before["bytes_received"],
        bytes_down=after["bytes_sent"] - before["bytes_sent"],
        frames_up=after["frames_received"] - before["frames_received"],
        frames_down=after["frames_sent"] - before["frames_sent"],
    )


async def _attached(attached: asyncio.Event, dialling: asyncio.Task[str], drafter: LanguageModel) -> None:
    """Wait until the target has taken the drafter in; `dialling` ends when it will not."""
    waiting = asyncio.create_task(attached.wait())
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            await asyncio.wait({waiting, dialling}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    if dialling.done():
        raise ConfigError(f"{drafter.info.name} cannot draft for this target: {dialling.result()}")


async def _answer(
    model: LanguageModel, tokenizer: Tokenizer, pool: DrafterPool, prompt: Prompt, tokens: int, sampling: Sampling
) -> TargetSession:
    info = model.info
    spec = SessionSpec(
        session=SessionId(secrets.token_hex(16)),
        prompt=tuple(tokenizer.encode_chat([("user", prompt.text)])),
        seed=SEED,
        sampling=sampling,
        vocab_size=info.vocab_size,
        max_tokens=tokens,
        stop_tokens=info.eos,
    )
    session = TargetSession(spec)
    await SessionRunner(session, Engine(model, slots=1), pool, lambda emit: None, SystemClock()).run()
    return session


def _lease(
    coordinator: Identity, node: Identity, target: Identity, drafter: LanguageModel, address: str, clock: SystemClock
) -> Held:
    now = int(clock.wall())
    claims = leases.LeaseClaims(
        jti=secrets.token_hex(16),
        node=node.peer_id,
        target=target.peer_id,
        owner="bench",
        site="bench",
        pool="bench",
        model=drafter.info.name,
        digest=drafter.info.digest,
        tokenizer=drafter.info.tokenizer,
        addresses=(address,),
        certificate=None,
        issued=now,
        expires=now + 3600,
    )
    return Held(claims, leases.issue(coordinator, claims), claims.addresses)
