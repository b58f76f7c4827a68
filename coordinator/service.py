"""Runs a coordinator: opens what it needs, serves until it is told to stop, and lets everyone go in an orderly way."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import random
import secrets
import signal
import socket
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any
from urllib.parse import urlsplit

import msgspec
import structlog
import uvicorn

from coordinator import addresses, keys
from coordinator.app import create_app
from coordinator.connections import GuardedHttp, GuardedWebSocket
from coordinator.events import Tick
from coordinator.executor import Executor
from coordinator.ledger import LedgerError
from coordinator.settings import CoordinatorSettings
from coordinator.sqlite_ledger import SqliteLedger
from wanspec_p2p import logs
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.errors import AddressInUse, ConfigError
from wanspec_p2p.links.discovery import Beacon, advertise
from wanspec_p2p.locking import locked
from wanspec_p2p.protocol import limits
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.tls import channel_binding, listener_context

__all__ = ["run"]

DRAIN_SECONDS = 2.5
"""How long HTTP connections may take to end, after peers had `GOODBYE_SECONDS`: five seconds in all."""
TICK_SECONDS = 0.25
EXPEL_SECONDS = 5.0
"""How long a peer that was revoked may stay, and a lease that the disk did not take be unwritten once there is room."""
RETURN_SECONDS = 1.0
"""When peers are asked to dial again: a restart takes about that long."""

log = structlog.get_logger("coordinator")


async def run(
    settings: CoordinatorSettings,
    *,
    ready: Callable[[str], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Serve until `stop` is set; without one, until SIGINT or SIGTERM.

    Args:
        ready: called once with the address (http:// or https://) when the port is open.

    Raises:
        AddressInUse, ConfigError, UsageError: it cannot start; one line says why. Nothing was changed then.
    """
    with contextlib.ExitStack() as stack:
        listening = stack.enter_context(_bound(settings.host, settings.port))  # first: a taken port is found at once
        stack.enter_context(locked(settings.lock_file, "coordinator"))
        logs.ensure_configured(json=settings.log_json)
        await _serve(settings, listening, ready, stop or _stopped_by_signals(stack))


async def _serve(
    settings: CoordinatorSettings, listening: socket.socket, ready: Callable[[str], None] | None, stop: asyncio.Event
) -> None:
    clock = SystemClock()
    identity = Identity.load_or_create(settings.identity_file)
    files = addresses.certificate_files(settings, clock)
    tls = None if files is None else listener_context(files.certificate, files.key)
    if files is not None:
        _warn_of_its_names(settings, files)
    reached = addresses.of_settings(settings, listening.getsockname()[1])
    # Off the loop: all of the file is read first, which may take minutes, and signals are to be heard meanwhile.
    ledger = await asyncio.to_thread(SqliteLedger, settings.ledger_file, receipt_days=settings.receipt_days)
    try:
        await _check_writable(ledger, settings)
        executor = Executor(
            settings,
            identity,
            ledger,
            clock,
            rng=random.Random(secrets.randbits(64)),
            new_id=lambda: secrets.token_hex(16),
            tallies=await ledger.tallies(),
            acceptance=await ledger.acceptance(now=clock.wall()),
            succession=keys.succession(settings, identity),
        )
        await executor.recover()
        app = create_app(executor, channel_binding=_binding(settings, clock), host_names=_names(settings))
        server = _Server(_config(app, tls))
        serving = asyncio.create_task(server.serve(sockets=[listening]))
        chores = [asyncio.create_task(_tick(executor, clock)), asyncio.create_task(_expel(executor))]
        try:
            addresses.store(settings, msgspec.structs.replace(reached, certificate=_shown(settings, clock)))
            async with _announced(settings, identity, reached, clock):
                log.info("ready", url=reached.http, peer=identity.peer_id)
                if ready is not None:
                    ready(reached.http)
                await _first_of(stop, serving, *chores)
        finally:
            for chore in chores:
                chore.cancel()
            await executor.shut_down("the coordinator is shutting down", retry_after=RETURN_SECONDS)
            server.should_exit = True
            await asyncio.wait((serving, *chores), timeout=DRAIN_SECONDS)
            serving.cancel()
            await asyncio.gather(serving, *chores, return_exceptions=True)
    finally:
        await ledger.close()
        log.info("stopped")


async def _check_writable(ledger: SqliteLedger, settings: CoordinatorSettings) -> None:
    """SQLite opens a file that it may read alone without a word, and would refuse whoever joins."""
    try:
        await ledger.check_writable()
    except LedgerError as error:
        raise ConfigError(f"{settings.ledger_file}: {error}: see whose file it is, and what is free") from error


async def _first_of(stop: asyncio.Event, *running: asyncio.Task[None]) -> None:
    """Until the order to stop; a part that ends by itself has failed, and its exception goes up."""
    waiting = asyncio.create_task(stop.wait())
    try:
        done, _ = await asyncio.wait((waiting, *running), return_when=asyncio.FIRST_COMPLETED)
    finally:
        waiting.cancel()
    for task in done:
        task.result()


async def _tick(executor: Executor, clock: Clock) -> None:
    while True:
        executor.post(Tick(clock.monotonic()))
        await asyncio.sleep(TICK_SECONDS)


async def _expel(executor: Executor) -> None:
    while True:
        await asyncio.sleep(EXPEL_SECONDS)
        await executor.expel()
        await executor.catch_up()


class _Server(uvicorn.Server):
    """Signals belong to whoever runs us."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _config(app: Callable[..., Any], tls: ssl.SSLContext | None) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=GuardedHttp,
        ws=GuardedWebSocket,
        ws_max_size=limits.MAX_FRAME_BYTES,
        ws_ping_interval=None,  # links send their own
        ws_per_message_deflate=False,
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_graceful_shutdown=int(DRAIN_SECONDS),
        ssl_context_factory=None if tls is None else lambda config, default: tls,
    )


def _names(settings: CoordinatorSettings) -> list[str]:
    """By which it may be called besides the usual loopback ones: another such address it listens on, and a proxy's."""
    public = urlsplit(settings.public_url).hostname if settings.public_url else None
    return [name for name in (settings.host.strip("[]") if settings.loopback else None, public) if name]


def _warn_of_its_names(settings: CoordinatorSettings, files: addresses.TlsFiles) -> None:
    """A certificate made for another host stays, since peers have pinned it; clients that look at names refuse it."""
    host = addresses.host_left_out(settings, files.certificate)
    if host is not None:
        do = "stop the coordinator, run `wanspec coordinator rotate-cert` and start it again"
        log.warning("the certificate does not name the host where the coordinator is reached", host=host, do=do)


def _shown(settings: CoordinatorSettings, clock: Clock) -> str | None:
    """PEM, for whoever makes tokens beside us without knowing the flags we were given."""
    shown = addresses.certificate_shown(settings, clock)
    return None if shown is None else addresses.pem_of(addresses.certificate_der(shown))


def _binding(settings: CoordinatorSettings, clock: Clock) -> bytes:
    shown = addresses.certificate_shown(settings, clock)
    return b"" if shown is None else channel_binding(addresses.certificate_der(shown))


@contextlib.contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    """A listening socket.

    Raises:
        AddressInUse, ConfigError: the port is taken, or the host is not an address of this machine.
    """
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
    except (OSError, UnicodeError) as error:
        raise ConfigError(f"{host!r} is not an address to listen on: {error}") from error
    with socket.socket(family, kind, protocol) as listening:
        if hasattr(socket, "SO_REUSEPORT"):  # not on Windows, where reuse would let two listen at once
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind(address)
            listening.listen(1024)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise AddressInUse(host, port) from error
            raise ConfigError(f"cannot listen on {host}, port {port}: {error.strerror}") from error
        listening.setblocking(False)
        yield listening


def _stopped_by_signals(stack: contextlib.ExitStack) -> asyncio.Event:
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            with contextlib.suppress(NotImplementedError):  # Windows
                loop.add_signal_handler(number, stop.set)
                stack.callback(loop.remove_signal_handler, number)
    return stop


@contextlib.asynccontextmanager
async def _announced(
    settings: CoordinatorSettings, identity: Identity, reached: addresses.Addresses, clock: Clock
) -> AsyncIterator[None]:
    """On the local network, if the operator wants it. A network without multicast is no reason not to serve."""
    async with contextlib.AsyncExitStack() as stack:
        if settings.advertise:
            certificate = addresses.fingerprint_shown(settings, clock)
            beacon = Beacon(identity.peer_id, certificate, reached.peers)
            try:
                await stack.enter_async_context(advertise(beacon))
            except ConfigError as error:
                log.warning("not announced", reason=str(error))
        yield
