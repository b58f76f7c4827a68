"""The service on real sockets of this machine, with a model that needs no weights."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from structlog.testing import capture_logs

from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from tests.support.target_kit import FakeNode, Mint, request, target_alone
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import AddressInUse, CloseCode, ConfigError, LinkClosed, ModelError, PeerRefused
from wanspec_p2p.links import membership
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.peer import PeerLink, accept, connect
from wanspec_p2p.links.websocket import DRAFT_PATH, Listener, dial, listen
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_TARGET, AT_NODE_FROM_TARGET
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.target_to_coordinator import Finished, RegisterTarget, TargetDrain, TargetMessage, Tokens
from wanspec_p2p.security import tls
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.target import service
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Role, Sampling

CLOCK = SystemClock()


class Coordinator:
    """Takes in whoever registers; `links` are the targets it has."""

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.registered: asyncio.Queue[tuple[PeerLink[TargetMessage], RegisterTarget]] = asyncio.Queue()
        self._listener: Listener | None = None

    async def open(self) -> None:
        self._listener = await listen("127.0.0.1", 0, self._admit, tls=None, path=service.TARGET_PATH)

    async def close(self) -> None:
        assert self._listener is not None
        await self._listener.close()

    async def _admit(self, transport: Transport) -> None:
        link = await accept(
            transport,
            AT_COORDINATOR_FROM_TARGET,
            identity=self.identity,
            role=Role.COORDINATOR,
            roles=frozenset({Role.TARGET}),
            clock=CLOCK,
        )
        registration = await link.receive()
        assert isinstance(registration, RegisterTarget)
        await link.send(Registered(pool="default", heartbeat=60.0))
        self.registered.put_nowait((link, registration))
        await link._reader  # until the target leaves

    def token(self) -> str:
        assert self._listener is not None
        return JoinToken(
            url=f"ws://127.0.0.1:{self._listener.port}",
            coordinator=self.identity.public_key,
            certificate=None,
            secret="s3cret",
            role=Role.TARGET,
            pool="default",
            expires=int(CLOCK.wall()) + 60,
        ).encode()


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    made = Coordinator()
    await made.open()
    yield made
    await made.close()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """What the service loads, whatever its name."""
    loaded = ScriptedModel(seed=1)

    async def load(name: str, **how: object) -> ScriptedModel:
        return loaded

    monkeypatch.setattr(service, "load_language_model", load)
    monkeypatch.setattr(service, "load_tokenizer", lambda name, *, catalog: ByteTokenizer())
    return loaded


@asynccontextmanager
async def running(settings: TargetSettings) -> AsyncIterator[SimpleNamespace]:
    """A target from its start to its ordered end; `address` is what it said when it was ready."""
    ready: asyncio.Queue[str] = asyncio.Queue()
    stop = asyncio.Event()
    task = asyncio.create_task(service.run(settings, ready=ready.put_nowait, stop=stop))
    try:
        async with asyncio.timeout(20):
            address = await ready.get()
            yield SimpleNamespace(address=address, ready=ready)
            stop.set()
            await task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def heard(link: PeerLink[TargetMessage], kind: type, each: Callable[[object], None] = lambda message: None):  # type: ignore[no-untyped-def]  # of this kind
    while not isinstance(message := await link.receive(), kind):
        each(message)
    return message


async def test_from_a_join_token_to_an_answer_that_a_node_drafts_for_and_away_again(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path
) -> None:
    settings = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token(), drafters=1)
    async with running(settings) as target:
        link, registration = await coordinator.registered.get()
        assert registration.join_secret == "s3cret"
        assert registration.addresses == (target.address,)
        assert registration.certificate is None
        assert registration.name
        node_identity = Identity.generate()
        mint = Mint(CLOCK, Identity.load_or_create(settings.data_dir / "identity.pem"))
        mint.identity = coordinator.identity
        transport = await dial(target.address, certificate=None)
        node = FakeNode(
            node_identity,
            await connect(
                transport,
                AT_NODE_FROM_TARGET,
                identity=node_identity,
                role=Role.NODE,
                expect=link.peer,
                clock=CLOCK,
            ),
            transport,  # type: ignore[arg-type]  # a websocket's
        )
        await node.attach(mint.lease(node_identity.peer_id))
        gate = asyncio.Event()
        model.before_forward = lambda batch: gate.wait()
        await link.send(request(max_tokens=12))
        opened = await node.opened()
        right = target_alone(model, (1, 2, 3), 12, Sampling())
        await node.draft(opened, right[:6])
        gate.set()
        ids: list[int] = []
        finished = await heard(
            link, Finished, lambda message: ids.extend(message.ids if isinstance(message, Tokens) else ())
        )
        assert ids == right
        assert finished.usage.completion_tokens == 12
    assert isinstance(await heard(link, TargetDrain), TargetDrain)
    with pytest.raises((LinkClosed, PeerRefused)):
        await heard(link, Finished)
    assert isinstance(await node.ending(), LinkClosed)
    await node.close()
    assert model.closed
    known = membership.load(settings.data_dir / "coordinator.json")
    assert known is not None and known.coordinator == coordinator.identity.public_key
    assert b"s3cret" not in (settings.data_dir / "coordinator.json").read_bytes()


async def test_the_second_start_needs_no_token(coordinator: Coordinator, model: ScriptedModel, tmp_path: Path) -> None:
    first = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token())
    async with running(first):
        _, before = await coordinator.registered.get()
    model.closed = False
    async with running(TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, name="atlas")):
        _, after = await coordinator.registered.get()
    assert (after.name, after.join_secret) == ("atlas", "")
    assert before.model == after.model


async def test_it_says_that_it_starts_and_that_its_model_is_there_before_anybody_takes_it_in(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path
) -> None:
    data = tmp_path / "data"
    with capture_logs() as logs:
        async with running(TargetSettings(data_dir=data, cache_dir=tmp_path, join=coordinator.token())):
            pass
    starting, ready, joined = logs[:3]
    peer = Identity.load_or_create(data / "identity.pem").peer_id
    assert (starting["event"], starting["target"]) == ("target starting", peer)
    assert (ready["event"], ready["model"], ready["device"]) == ("model ready", model.info.name, model.info.device)
    assert joined["event"] == "joined a coordinator"


async def test_a_full_disk_does_not_end_a_target_that_finds_its_coordinator_again(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token())
    written: list[membership.Membership] = []
    store = membership.store

    def stored(path: Path, home: membership.Membership) -> None:
        if written:
            raise ConfigError(f"{path} cannot be written: No space left on device")
        written.append(home)
        store(path, home)

    monkeypatch.setattr(membership, "store", stored)
    async with running(settings):
        for _ in range(3):
            link, _ = await coordinator.registered.get()
            await link.close()
        await coordinator.registered.get()
    assert len(written) == 1


async def test_what_was_said_in_joining_holds_until_something_else_is_said(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path
) -> None:
    plain = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path)
    said = []
    for settings in (
        replace(plain, join=coordinator.token(), name="atlas", owner="ada"),
        plain,
        replace(plain, owner="grace", site="south"),  # a variable, or wanspec.toml: while it says so
        plain,
    ):
        async with running(settings):
            _, registration = await coordinator.registered.get()
        said.append((registration.name, registration.owner, registration.site))
    joined = ("atlas", "ada", "unknown")
    assert said == [joined, joined, ("atlas", "grace", "south"), joined]


async def test_with_a_certificate_it_listens_with_tls_and_tells_the_fingerprint(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path
) -> None:
    cert, key = load_or_create_certificate(tmp_path, "127.0.0.1", clock=CLOCK)
    settings = TargetSettings(
        data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token(), tls_cert=cert, tls_key=key
    )
    async with running(settings) as target:
        _, registration = await coordinator.registered.get()
        assert target.address.startswith("wss://127.0.0.1:")
        assert registration.certificate == tls.certificate_fingerprint(cert)
        transport = await dial(target.address, certificate=registration.certificate)
        await transport.close()


async def test_a_port_in_use_is_said_before_the_model_is_loaded(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(name: str, **how: object) -> ScriptedModel:
        raise AssertionError("loaded in vain")

    monkeypatch.setattr(service, "load_language_model", load)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        settings = TargetSettings(data_dir=tmp_path / "d", cache_dir=tmp_path, join=coordinator.token(), port=port)
        with pytest.raises(AddressInUse, match=f"port {port}"):
            await service.run(settings)


async def test_a_second_one_on_its_directory_is_refused_before_anything_is_loaded(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token())
    async with running(settings):

        async def load(name: str, **how: object) -> ScriptedModel:
            raise AssertionError("loaded in vain")

        monkeypatch.setattr(service, "load_language_model", load)
        with pytest.raises(ConfigError, match=rf"another target \(process \d+\) runs on {settings.data_dir}"):
            await service.run(settings)


async def test_one_that_was_replaced_says_whose_key_it_was_and_what_to_do(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path
) -> None:
    settings = TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path, join=coordinator.token())
    running = asyncio.create_task(service.run(settings))
    async with asyncio.timeout(20):
        link, _ = await coordinator.registered.get()
        await link.close(CloseCode.REPLACED, "the same identity has connected again")
        with pytest.raises(PeerRefused, match=f"the key in {settings.data_dir} has connected.* --data-dir"):
            await running


async def test_without_a_token_it_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="wanspec target join TOKEN"):
        await service.run(TargetSettings(data_dir=tmp_path / "data", cache_dir=tmp_path))


async def test_while_its_model_is_loading_whoever_dials_is_told_to_come_back(
    coordinator: Coordinator, model: ScriptedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ports: list[int] = []

    async def listening(*where: Any, **how: Any) -> Listener:
        listener = await listen(*where, **how)
        ports.append(listener.port)
        return listener

    async def load(name: str, **how: object) -> ScriptedModel:
        transport = await dial(f"ws://127.0.0.1:{ports[0]}{DRAFT_PATH}", certificate=None)
        with pytest.raises(PeerRefused, match="still loading its model") as caught:
            await transport.receive()
        assert caught.value.code == CloseCode.TRY_AGAIN_LATER
        await transport.close()
        return model

    monkeypatch.setattr(service, "listen", listening)
    monkeypatch.setattr(service, "load_language_model", load)
    async with running(TargetSettings(data_dir=tmp_path / "d", cache_dir=tmp_path, join=coordinator.token())):
        pass


async def test_a_model_that_cannot_be_loaded_leaves_no_port_behind(
    coordinator: Coordinator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def load(name: str, *, catalog: object) -> ByteTokenizer:
        raise ModelError("there is no model 'x'")

    monkeypatch.setattr(service, "load_tokenizer", load)
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    settings = TargetSettings(data_dir=tmp_path / "d", cache_dir=tmp_path, join=coordinator.token(), port=port)
    with pytest.raises(ModelError, match="no model 'x'"):
        await service.run(settings)
    with socket.create_server(("127.0.0.1", port)) as again:
        assert again.getsockname()[1] == port


@pytest.mark.parametrize(
    ("host", "secure", "address"),
    [
        ("127.0.0.1", False, "ws://127.0.0.1:81/wanspec/draft"),
        ("::1", False, "ws://[::1]:81/wanspec/draft"),
        ("target.example", True, "wss://target.example:81/wanspec/draft"),
    ],
)
def test_addresses(host: str, secure: bool, address: str) -> None:
    assert service._address(host, 81, secure=secure) == address
