"""A target without its process: engine, desk, drafter pool and control link put together."""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import Callable
from functools import partial

import structlog

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, ConfigError
from wanspec_p2p.links.backoff import COORDINATOR_CAP_SECONDS, Backoff
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.membership import UNKNOWN
from wanspec_p2p.links.peer import accept
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.target_to_coordinator import RegisterTarget, ServedModel
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.speculation.pace import Knowledge
from wanspec_p2p.target.answering import Answering
from wanspec_p2p.target.control import Control, Dial, Outbox, Sleep
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.receipts import ReceiptBox
from wanspec_p2p.target.recruiting import Recruiter
from wanspec_p2p.target.requests import RequestDesk
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role

__all__ = ["NAMELESS", "Target"]

NAMELESS = "target"
"""What a target is called where nobody named it, and its machine has no name."""

DRAIN_SECONDS = 5.0
"""What is under way when the target is told to stop has so long to finish."""
FLUSH_SECONDS = 1.0

log = structlog.get_logger(__name__)


def _new_id() -> str:
    return secrets.token_hex(16)


class Target:
    """One running target.

    Args:
        coordinator: its public key; leases it signed are the only ones that count.
        dial: how the coordinator is reached.
        local: the target's own drafter, if it has one.

    Raises:
        ConfigError: tokenizer and model do not belong together.
    """

    def __init__(
        self,
        settings: TargetSettings,
        identity: Identity,
        coordinator: bytes,
        model: LanguageModel,
        tokenizer: Tokenizer,
        clock: Clock,
        *,
        dial: Dial,
        rng: random.Random,
        sleep: Sleep = asyncio.sleep,
        new_id: Callable[[], str] = _new_id,
        local: LanguageModel | None = None,
    ) -> None:
        if local is not None and local.info.tokenizer != model.info.tokenizer:
            raise ConfigError(f"{settings.local_drafter} cannot draft for {settings.model}: their tokenizers differ")
        if local is not None and local.info.context < model.info.context:
            log.warning(
                "longer prompts and answers than the target's own drafter has positions for are decoded without it",
                drafter=local.info.name,
                positions=local.info.context,
                model=model.info.context,
            )
        if tokenizer.fingerprint != model.info.tokenizer:
            raise ConfigError(f"the tokenizer of {settings.model} is not the one its weights were loaded with")
        self._settings, self._identity, self._clock = settings, identity, clock
        self._dial, self._rng, self._sleep, self._new_id = dial, rng, sleep, new_id
        self._control: Control | None = None
        self._outbox = Outbox()
        self._recruiter = Recruiter(settings.drafters, rng)
        self._receipts = ReceiptBox(self._outbox.say, new_id, clock)
        knowledge = Knowledge()
        self.engine = Engine(model, settings.slots, knowledge, local)
        self.pool: DrafterPool | None = None
        if settings.network and settings.drafters:
            self.pool = DrafterPool(
                me=identity.peer_id,
                coordinator=coordinator,
                per_session=settings.drafters,
                clock=clock,
                arrived=self._recruiter.arrived,
                short=self._recruit,
                tokenizer=model.info.tokenizer,
            )
        answering = Answering(
            engine=self.engine,
            tokenizer=tokenizer,
            pool=self.pool,
            policy=settings.policy,
            queue=settings.queue,
            receipts=self._receipts.add,
            new_id=new_id,
            clock=clock,
            knowledge=knowledge,
        )
        self.desk = RequestDesk(answering.answer, self._outbox.say)

    async def admit(self, transport: Transport) -> None:
        """A node dialled: let it prove who it is and show its lease, then serve it until it goes.

        Raises:
            RemoteProtocolError, PeerRefused, LinkClosed: it did not get through the handshake.
        """
        link = await accept(
            transport,
            AT_TARGET_FROM_NODE,
            identity=self._identity,
            role=Role.TARGET,
            roles=frozenset({Role.NODE}),
            clock=self._clock,
        )
        if self.pool is None:
            await link.close(CloseCode.LEASE_REFUSED, "this target takes no drafts")
            return
        await self.pool.serve(link)

    async def serve(
        self,
        address: str,
        certificate: str | None,
        secret: str,
        joined: Callable[[str], None],
        stop: asyncio.Event,
        *,
        enrolled: bool = False,
    ) -> None:
        """Until `stop` is set; then what is under way gets `DRAIN_SECONDS` to finish. No pass runs when it returns.

        Args:
            address: what nodes dial.
            certificate: fingerprint of the certificate they must find there; None on loopback.
            secret: the join secret; empty where the coordinator knows us.
            joined: called with the pool's name each time the coordinator has taken us in.
            enrolled: it has taken us in before.

        Raises:
            PeerRefused, RemoteProtocolError: as `Control.run`.
        """
        self._control = control = Control(
            dial=self._dial,
            registration=partial(self._registration, address, certificate),
            secret=secret,
            enrolled=enrolled,
            joined=joined,
            outbox=self._outbox,
            desk=self.desk,
            pool=self.pool,
            recruiter=self._recruiter,
            receipts=self._receipts,
            engine=self.engine,
            new_id=self._new_id,
            backoff=Backoff(self._rng, cap=COORDINATOR_CAP_SECONDS),
            clock=self._clock,
            sleep=self._sleep,
        )
        controlling = asyncio.create_task(control.run(), name="coordinator")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({controlling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if controlling.done():
                controlling.result()
            await self._drain(control)
        finally:
            if self.pool is not None:
                self.pool.close()
            for task in (controlling, stopping):
                task.cancel()
            await asyncio.gather(controlling, stopping, return_exceptions=True)

    async def _drain(self, control: Control) -> None:
        """Take nothing new; give what is under way a moment to finish. What drafters did for the rest is said too."""
        log.info("leaving", requests=self.desk.active, seconds_at_most=DRAIN_SECONDS)
        control.drain("the target stops")
        await self.desk.idle(DRAIN_SECONDS)
        await self.desk.cancel_all(FLUSH_SECONDS)
        await self._outbox.flushed(FLUSH_SECONDS)

    def follow(self, coordinator: bytes) -> None:
        """The coordinator has another key now: leases have to carry that one's signature."""
        if self.pool is not None:
            self.pool.follow(coordinator)

    def _recruit(self) -> None:
        if self._control is not None:
            self._control.recruit()

    def _registration(self, address: str, certificate: str | None, secret: str) -> RegisterTarget:
        info = self.engine.model.info
        return RegisterTarget(
            name=self._settings.name or NAMELESS,
            model=ServedModel(
                name=info.name,
                digest=info.digest,
                tokenizer=info.tokenizer,
                vocab_size=info.vocab_size,
                context=self.engine.context,
                dtype=info.dtype,
                fingerprint=info.fingerprint,
                exactness=info.exactness,
            ),
            addresses=(address,),
            certificate=certificate,
            slots=self._settings.slots,
            queue=self._settings.queue,
            owner=self._settings.owner or UNKNOWN,
            site=self._settings.site or UNKNOWN,
            join_secret=secret,
        )
