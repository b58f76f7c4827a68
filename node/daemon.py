"""The node daemon from its first log line to its last: what belongs to a process around `NodeService`."""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

import structlog

from node import hardware
from node.coordinator_link import FINAL_REFUSALS
from node.dialling import Dialler, find_on_local_network
from node.limits import LendingLimits
from node.probes import tokens_per_second
from node.service import NodeService
from node.settings import NodeSettings
from wanspec_p2p import logs
from wanspec_p2p.clock import Clock, SystemClock
from wanspec_p2p.links import enrolling, membership
from wanspec_p2p.links.enrolling import Credentials
from wanspec_p2p.links.membership import UNKNOWN, Introduction
from wanspec_p2p.locking import locked
from wanspec_p2p.models.base import LanguageModel, ModelInfo
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.models.loading import load_language_model
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.node_to_coordinator import DrafterModel, RegisterNode
from wanspec_p2p.types import Role

__all__ = ["enrol", "run"]

log = structlog.get_logger(__name__)


async def enrol(settings: NodeSettings) -> None:
    """Have the coordinator say whether it wants this node, before a model is fetched or loaded for it. To be called
    before `run`, with the lock file held.

    A coordinator that cannot say so now stops nothing: `run` dials it again.

    Raises:
        UsageError, PeerRefused, RemoteProtocolError: as `run`.
    """
    clock = SystemClock()
    ours = Credentials.of(settings, Role.NODE, now=clock.wall())
    dialler = _dialler(settings, ours, clock)
    said = settings.said.after(ours.coordinator.said)
    question = ours.question(said.name or hardware.default_name(), said)
    if await enrolling.ask(dialler.coordinator, question, enrolled=ours.enrolled, final=FINAL_REFUSALS):
        ours.keeper.keep(dialler.membership)


async def run(
    settings: NodeSettings, *, ready: Callable[[str], None] | None = None, stop: asyncio.Event | None = None
) -> None:
    """Lend this machine until `stop` is set; without one, until SIGTERM or SIGINT (a second one ends at once).

    Args:
        ready: called once, with this node's peer id, when the coordinator has taken it in.

    Raises:
        UsageError: another node runs on the data directory, no coordinator to join, a token or a key file that will
            not do, a model that cannot be loaded.
        PeerRefused: the coordinator does not want this node.
        RemoteProtocolError: on first contact, whoever answers is not the coordinator of the join token.
        EngineError: the model does not run on this machine.
    """
    if not structlog.is_configured():  # whoever runs us beside other services has decided
        logs.ensure_configured(json=settings.log_json)
    with contextlib.ExitStack() as stack:
        stack.enter_context(locked(settings.lock_file, Role.NODE))
        stack.enter_context(membership.used_once(settings.data_dir, Role.NODE))
        await _lend(settings, ready, stop or stack.enter_context(_stop_on_signals()))


async def _lend(settings: NodeSettings, ready: Callable[[str], None] | None, stop: asyncio.Event) -> None:
    clock = SystemClock()
    ours = Credentials.of(settings, Role.NODE, now=clock.wall())
    peer, coordinator = ours.identity.peer_id, ours.coordinator
    log.info("node starting", node=peer, machine=hardware.inspect().summary())
    async with _loaded(settings) as model:
        speed = await tokens_per_second(model, clock)
        log.info("model ready", model=model.info.name, device=model.info.device, tokens_per_second=round(speed))
        dialler = _dialler(settings, ours, clock)
        joined = _Joined(ours.keeper, dialler, partial(ready, peer) if ready else None)
        service = NodeService(
            peer,
            coordinator.coordinator,
            _registration(settings, settings.said.after(coordinator.said), model.info, speed),
            model,
            _lending(settings, model.info),
            secret=ours.secret,
            enrolled=ours.enrolled,
            dial_coordinator=dialler.coordinator,
            dial_target=dialler.target,
            time_target=dialler.time,
            loopback=lambda: dialler.loopback,
            joined=joined,
            clock=clock,
            rng=random.Random(),
        )
        joined.follow = service.follow
        await service.serve(stop)
    log.info("node stopped", node=peer)


def _dialler(settings: NodeSettings, ours: Credentials, clock: Clock) -> Dialler:
    find = find_on_local_network if settings.discover else None
    return Dialler(ours.identity, ours.coordinator, clock, find, settings.coordinator_urls)


class _Joined:
    """What is done when the coordinator has taken us in: remember where it is, and tell our caller the first time.

    Attributes:
        follow: told the key the coordinator has now.
    """

    def __init__(self, keeper: membership.Keeper, dialler: Dialler, ready: Callable[[], None] | None) -> None:
        self._keeper, self._dialler, self._ready = keeper, dialler, ready
        self.follow: Callable[[bytes], None] = lambda key: None

    def __call__(self, pool: str) -> None:
        coordinator = self._dialler.membership
        log.info("joined", pool=pool, coordinator=coordinator.peer_id, address=self._dialler.url)
        self.follow(coordinator.coordinator)
        self._keeper.keep(coordinator)
        if self._ready is not None:
            self._ready()
            self._ready = None


def _registration(settings: NodeSettings, said: Introduction, info: ModelInfo, speed: float) -> RegisterNode:
    model = DrafterModel(
        name=info.name,
        digest=info.digest,
        tokenizer=info.tokenizer,
        vocab_size=info.vocab_size,
        context=min(info.context, limits.MAX_PROMPT_TOKENS),
        tokens_per_second=speed,
    )
    return RegisterNode(
        name=said.name or hardware.default_name(),
        models=(model,),
        slots=settings.slots,
        owner=said.owner or UNKNOWN,
        site=said.site or UNKNOWN,
    )


def _lending(settings: NodeSettings, info: ModelInfo) -> LendingLimits:
    room = info.context - 1  # a prefix that fills the context leaves nothing to draft
    return LendingLimits(slots=settings.slots, max_prefix=min(settings.max_prefix or room, room))


@contextlib.asynccontextmanager
async def _loaded(settings: NodeSettings) -> AsyncIterator[LanguageModel]:
    progress = _say_progress()
    model = await load_language_model(
        settings.model,
        catalog=Catalog(settings.cache_dir, progress),
        threads=settings.threads,
        dtype=settings.dtype,
        progress=progress,
        fast=True,  # the target decides every token: a drafter need not be exact, only quick
    )
    try:
        yield model
    finally:
        await model.close()


def _say_progress() -> Callable[[str, int, int], None]:
    """A line when each step of getting a model ready begins: a log has no bars."""
    said: set[str] = set()

    def progress(label: str, done: int, total: int) -> None:
        if label not in said:
            said.add(label)
            log.info("preparing model", step=label)

    return progress


@contextlib.contextmanager
def _stop_on_signals() -> Iterator[asyncio.Event]:
    """An event that SIGTERM or SIGINT sets; the second of them finds the system's own handling and ends at once."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    chosen = (signal.SIGTERM, signal.SIGINT)

    def first() -> None:
        stop.set()
        for number in chosen:
            loop.remove_signal_handler(number)
            signal.signal(number, signal.SIG_DFL)

    before = {number: signal.getsignal(number) for number in chosen}
    try:
        for number in chosen:
            loop.add_signal_handler(number, first)
    except NotImplementedError:  # Windows: Ctrl-C ends the loop with KeyboardInterrupt
        pass
    try:
        yield stop
    finally:
        for number, handler in before.items():
            loop.remove_signal_handler(number)
            signal.signal(number, handler)
