"""The target service: load the model, listen for nodes, stay registered, answer requests, leave in order."""

from __future__ import annotations

import asyncio
import platform
import random
import secrets
import ssl
from collections.abc import Callable

import structlog

from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import ConfigError
from wanspec_p2p.links import membership
from wanspec_p2p.links.backoff import Backoff
from wanspec_p2p.links.base import Link, Transport
from wanspec_p2p.links.peer import accept, connect
from wanspec_p2p.links.websocket import Listener, dial, listen
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.loading import load_language_model, load_tokenizer
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_COORDINATOR, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.protocol.target_to_coordinator import RegisterTarget, ServedModel, TargetMessage
from wanspec_p2p.security import tls
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.target.control import Control, Outbox
from wanspec_p2p.target.drafters import DrafterPool
from wanspec_p2p.target.engine import Engine
from wanspec_p2p.target.receipts import ReceiptBox
from wanspec_p2p.target.recruiting import Recruiter
from wanspec_p2p.target.requests import RequestDesk
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role

__all__ = ["Target", "run"]

DRAIN_SECONDS = 5.0

log = structlog.get_logger(__name__)


async def run(
    settings: TargetSettings,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> None:
    """Serve until `stop` is set (or for ever).

    Args:
        ready: called once, with the address nodes dial, when the coordinator has taken this target in.
        progress: (what, done, total) of downloads, conversion and loading.

    Raises:
        UsageError: something its operator has to mend, in one line.
        PeerRefused: the coordinator does not want this target.
    """
    stop = stop or asyncio.Event()
    identity = Identity.load_or_create(settings.data_dir / "identity.pem")
    known = membership.load(settings.data_dir / "coordinator.json")
    clock = SystemClock()
    home, secret = membership.coordinator_of(settings.join, known, role=Role.TARGET, now=clock.wall())
    certificate, context = _tls(settings, clock)
    catalog = Catalog(settings.cache_dir, progress)
    # Loading a tokenizer reads files; the model brings its own thread.
    tokenizer = await asyncio.to_thread(load_tokenizer, settings.model, catalog=catalog)
    model = await load_language_model(
        settings.model, catalog=catalog, threads=settings.threads, dtype=settings.dtype, progress=progress
    )
    try:
        target = Target(settings, identity, home, model, tokenizer, clock)
        listener = await listen(settings.host, settings.port, target.admit, tls=context)
        try:
            await target.serve(listener, certificate, secret, ready or (lambda _: None), stop)
        finally:
            await listener.close()
    finally:
        await model.close()


def _tls(settings: TargetSettings, clock: SystemClock) -> tuple[str | None, ssl.SSLContext | None]:
    """Fingerprint and context of the certificate nodes will pin; neither on loopback, unless one was given."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        if tls.is_loopback(settings.host):
            return None, None
        cert, key = tls.load_or_create_certificate(settings.data_dir, settings.host, clock=clock)
    return tls.certificate_fingerprint(cert), tls.listener_context(cert, key)


class Target:
    """One running target: its parts, wired."""

    def __init__(
        self,
        settings: TargetSettings,
        identity: Identity,
        home: membership.Membership,
        model: LanguageModel,
        tokenizer: Tokenizer,
        clock: SystemClock,
    ) -> None:
        self._settings, self._identity, self._home, self._clock = settings, identity, home, clock
        self._model = model
        if tokenizer.fingerprint != model.info.tokenizer:
            raise ConfigError(f"the tokenizer of {settings.model} is not the one its weights were loaded with")
        self._outbox = Outbox()
        self._engine = Engine(model, settings.slots)
        self._recruiter = Recruiter(settings.drafters)
        self._pool: DrafterPool | None = None
        if settings.network and settings.drafters:
            self._pool = DrafterPool(
                me=identity.peer_id,
                coordinator=home.coordinator,
                per_session=settings.drafters,
                clock=clock,
                arrived=self._recruiter.arrived,
                left=self._recruit,
            )
        self._receipts = ReceiptBox(self._outbox.say, _new_id)
        self._desk = RequestDesk(
            engine=self._engine,
            tokenizer=tokenizer,
            pool=self._pool,
            policy=settings.policy,
            queue=settings.queue,
            say=self._outbox.say,
            receipts=self._receipts.add,
            new_id=_new_id,
            clock=clock,
        )
        self._control: Control | None = None

    async def admit(self, transport: Transport) -> None:
        """A node dialled: let it prove who it is and show its lease, then serve it until it goes."""
        link = await accept(
            transport,
            AT_TARGET_FROM_NODE,
            identity=self._identity,
            role=Role.TARGET,
            roles=frozenset({Role.NODE}),
            clock=self._clock,
        )
        if self._pool is None:
            await link.close(reason="this target takes no drafts")
            return
        await self._pool.serve(link)

    async def serve(
        self,
        listener: Listener,
        certificate: str | None,
        secret: str,
        ready: Callable[[str], None],
        stop: asyncio.Event,
    ) -> None:
        scheme = "ws" if certificate is None else "wss"
        host = f"[{self._settings.host}]" if ":" in self._settings.host else self._settings.host
        address = self._settings.address or f"{scheme}://{host}:{listener.port}/wanspec/draft"
        announce = _Once(lambda: ready(address))

        def joined(pool: str) -> None:
            membership.store(self._settings.data_dir / "coordinator.json", self._home)
            log.info("joined a coordinator", coordinator=self._home.url, pool=pool, address=address)
            announce()

        self._control = control = Control(
            dial=self._dial,
            registration=lambda shown: self._registration(address, certificate, shown),
            secret=secret,
            joined=joined,
            outbox=self._outbox,
            desk=self._desk,
            pool=self._pool,
            recruiter=self._recruiter,
            receipts=self._receipts,
            engine=self._engine,
            new_id=_new_id,
            backoff=Backoff(random.Random()),
            clock=self._clock,
        )
        controlling = asyncio.create_task(control.run(), name="coordinator")
        stopping = asyncio.create_task(stop.wait(), name="stop")
        try:
            await asyncio.wait({controlling, stopping}, return_when=asyncio.FIRST_COMPLETED)
            if controlling.done():
                controlling.result()
            await self._drain(control)
        finally:
            for task in (controlling, stopping):
                task.cancel()
            await asyncio.gather(controlling, stopping, return_exceptions=True)
            if self._pool is not None:
                self._pool.close()

    async def _drain(self, control: Control) -> None:
        """Take nothing new; give what is under way a moment to finish."""
        log.info("leaving", requests=self._desk.active)
        control.drain("the target stops")
        await self._desk.idle(DRAIN_SECONDS)

    async def _dial(self) -> Link[TargetMessage, CoordinatorToTarget]:
        transport = await dial(f"{self._home.url}/wanspec/target", certificate=self._home.certificate)
        return await connect(
            transport,
            AT_TARGET_FROM_COORDINATOR,
            identity=self._identity,
            role=Role.TARGET,
            expect=self._home.peer_id,
            clock=self._clock,
        )

    def _registration(self, address: str, certificate: str | None, secret: str) -> RegisterTarget:
        info = self._model.info
        return RegisterTarget(
            name=self._settings.name or platform.node() or "target",
            model=ServedModel(
                name=info.name,
                digest=info.digest,
                tokenizer=info.tokenizer,
                vocab_size=info.vocab_size,
                context=info.context,
                dtype=info.dtype,
                fingerprint=info.fingerprint,
                exactness=info.exactness,
            ),
            addresses=(address,),
            certificate=certificate,
            slots=self._settings.slots,
            queue=self._settings.queue,
            owner=self._settings.owner,
            site=self._settings.site,
            join_secret=secret,
        )

    def _recruit(self) -> None:
        if self._control is not None:
            self._control.recruit()


class _Once:
    def __init__(self, action: Callable[[], None]) -> None:
        self._action: Callable[[], None] | None = action

    def __call__(self) -> None:
        action, self._action = self._action, None
        if action is not None:
            action()


def _new_id() -> str:
    return secrets.token_hex(16)
