"""The target service: load the model, listen for nodes, stay registered, answer requests, leave in order."""

from __future__ import annotations

import asyncio
import dataclasses
import platform
import random
import ssl
from collections.abc import Callable
from functools import partial

import structlog

from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.links import enrolling, membership
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.enrolling import Credentials
from wanspec_p2p.links.home import Home
from wanspec_p2p.links.membership import Introduction
from wanspec_p2p.links.peer import PeerLink, connect
from wanspec_p2p.links.websocket import DRAFT_PATH, dial, listen
from wanspec_p2p.locking import locked
from wanspec_p2p.models.base import LanguageModel, Tokenizer
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.loading import load_language_model, load_tokenizer
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import AT_TARGET_FROM_COORDINATOR
from wanspec_p2p.protocol.common_messages import ENROLMENT, SUCCESSION
from wanspec_p2p.protocol.coordinator_to_target import CoordinatorToTarget
from wanspec_p2p.security import tls
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.target.control import FINAL_REFUSALS
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.target.wiring import NAMELESS, Target
from wanspec_p2p.types import Role

__all__ = ["Target", "enrol", "run"]

TARGET_PATH = "/wanspec/target"
"""Where a coordinator listens for targets."""

log = structlog.get_logger(__name__)


async def enrol(settings: TargetSettings) -> None:
    """Have the coordinator say whether it wants this target, before a model is fetched or loaded for it. To be called
    before `run`, with the lock file held.

    A coordinator that cannot say so now stops nothing: `run` dials it again.

    Raises:
        UsageError, PeerRefused, RemoteProtocolError: as `run`.
    """
    clock = SystemClock()
    ours = Credentials.of(settings, Role.TARGET, now=clock.wall())
    home = Home(ours.coordinator, settings.coordinator_urls)
    settings = _introduced(settings, ours.coordinator.said)
    question = ours.question(settings.name or NAMELESS, settings.said)
    dial_home = partial(home.reach, partial(_dial, ours.identity, clock))
    if await enrolling.ask(dial_home, question, enrolled=ours.enrolled, final=FINAL_REFUSALS):
        ours.keeper.keep(home.membership)


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
    with locked(settings.lock_file, Role.TARGET), membership.used_once(settings.data_dir, Role.TARGET):
        await _serve(settings, ready, stop or asyncio.Event(), progress)


async def _serve(
    settings: TargetSettings,
    ready: Callable[[str], None] | None,
    stop: asyncio.Event,
    progress: Callable[[str, int, int], None] | None,
) -> None:
    clock = SystemClock()
    ours = Credentials.of(settings, Role.TARGET, now=clock.wall())
    identity = ours.identity
    home = Home(ours.coordinator, settings.coordinator_urls)
    settings = _introduced(settings, ours.coordinator.said)
    certificate, context = _tls(settings, clock)
    target: Target | None = None

    async def admit(transport: Transport) -> None:
        if target is None:  # nobody has been told of it yet
            await transport.close(CloseCode.TRY_AGAIN_LATER, "this target is still loading its model")
        else:
            await target.admit(transport)

    # Before the model, which takes a while: a port in use is said at once.
    listener = await listen(settings.host, settings.port, admit, tls=context)
    try:
        log.info("target starting", target=identity.peer_id)
        model, tokenizer = await _load(settings, progress)
        local: LanguageModel | None = None
        try:
            local = await _load_local(settings, progress)
            log.info("model ready", model=model.info.name, device=model.info.device, dtype=model.info.dtype)
            dial_home = partial(home.reach, partial(_dial, identity, clock))
            target = Target(
                settings,
                identity,
                ours.coordinator.coordinator,
                model,
                tokenizer,
                clock,
                dial=dial_home,
                rng=random.Random(),
                local=local,
            )
            address = settings.address or _address(settings.host, listener.port, secure=certificate is not None)
            joined = _Joined(ours.keeper, home, target, address, ready)
            await target.serve(address, certificate, ours.secret, joined, stop, enrolled=ours.enrolled)
        finally:
            await model.close()
            if local is not None:
                await local.close()
    finally:
        await listener.close()


def _introduced(settings: TargetSettings, when_it_joined: Introduction) -> TargetSettings:
    """With what was said when the target joined, where nothing is said now."""
    said = settings.said.after(when_it_joined)
    name = said.name or platform.node()[: limits.MAX_NAME] or None
    return dataclasses.replace(settings, name=name, owner=said.owner, site=said.site)


async def _load(
    settings: TargetSettings, progress: Callable[[str, int, int], None] | None
) -> tuple[LanguageModel, Tokenizer]:
    catalog = Catalog(settings.cache_dir, progress)
    # Loading a tokenizer reads files; the model brings its own thread.
    tokenizer = await asyncio.to_thread(load_tokenizer, settings.model, catalog=catalog)
    model = await load_language_model(
        settings.model,
        catalog=catalog,
        threads=settings.threads,
        dtype=settings.dtype,
        progress=progress,
        copying=False,
    )
    return model, tokenizer


async def _load_local(
    settings: TargetSettings, progress: Callable[[str, int, int], None] | None
) -> LanguageModel | None:
    if settings.local_drafter is None:
        return None
    return await load_language_model(
        settings.local_drafter,
        catalog=Catalog(settings.cache_dir, progress),
        threads=settings.threads,
        dtype=settings.dtype,
        progress=progress,
        fast=True,  # its drafts are verified like anybody's
    )


async def _dial(identity: Identity, clock: Clock, home: membership.Membership) -> PeerLink[CoordinatorToTarget]:
    transport = await dial(f"{home.url}{TARGET_PATH}", certificate=home.certificate)
    return await connect(
        transport,
        AT_TARGET_FROM_COORDINATOR,
        identity=identity,
        role=Role.TARGET,
        expect=home.peer_id,
        clock=clock,
        features=(SUCCESSION, ENROLMENT),
        certificate=transport.certificate,
    )


class _Joined:
    """Called each time the coordinator has taken us in; remembers it, and tells whoever waits for the first time."""

    def __init__(
        self,
        keeper: membership.Keeper,
        home: Home,
        target: Target,
        address: str,
        ready: Callable[[str], None] | None,
    ) -> None:
        self._keeper, self._home, self._target, self._address, self._ready = keeper, home, target, address, ready

    def __call__(self, pool: str) -> None:
        home = self._home.membership
        self._keeper.keep(home)
        self._target.follow(home.coordinator)
        log.info("joined a coordinator", coordinator=home.url, pool=pool, address=self._address)
        ready, self._ready = self._ready, None
        if ready is not None:
            ready(self._address)


def _tls(settings: TargetSettings, clock: Clock) -> tuple[str | None, ssl.SSLContext | None]:
    """Fingerprint and context of the certificate nodes will pin; neither on loopback, unless one was given."""
    cert, key = settings.tls_cert, settings.tls_key
    if cert is None or key is None:
        if tls.is_loopback(settings.host):
            return None, None
        cert, key = load_or_create_certificate(settings.data_dir, settings.host, clock=clock)
    return tls.certificate_fingerprint(cert), tls.listener_context(cert, key)


def _address(host: str, port: int, *, secure: bool) -> str:
    shown = f"[{host}]" if ":" in host else host
    return f"{'wss' if secure else 'ws'}://{shown}:{port}{DRAFT_PATH}"
