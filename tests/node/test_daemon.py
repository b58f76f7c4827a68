from __future__ import annotations

import asyncio
import json
import os
import signal
import stat
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path

import pytest

from node import daemon, hardware
from node.dialling import COORDINATOR_PATH
from node.settings import NodeSettings
from tests.support.scripted_models import ScriptedModel
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import (
    CloseCode,
    ConfigError,
    JoinTokenError,
    LinkClosed,
    PeerRefused,
    RemoteProtocolError,
    UsageError,
)
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.peer import accept
from wanspec_p2p.links.websocket import listen
from wanspec_p2p.models.catalog import Catalog
from wanspec_p2p.protocol.codec import AT_COORDINATOR_FROM_NODE
from wanspec_p2p.protocol.common_messages import Registered
from wanspec_p2p.protocol.node_to_coordinator import Drain, Heartbeat, RegisterNode
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.types import Role

SECRET = "only-once-and-never-on-disk"


class Coordinator:
    """Takes nodes in on a real loopback port, or refuses them with `refusal`."""

    def __init__(self) -> None:
        self.identity = Identity.generate()
        self.heard: list[RegisterNode | Heartbeat | Drain] = []
        self.refusal: tuple[int, str] | None = None
        self.drained = asyncio.Event()

    async def start(self) -> None:
        self._listener = await listen("127.0.0.1", 0, self._serve, tls=None, path=COORDINATOR_PATH)
        self.url = f"ws://127.0.0.1:{self._listener.port}"

    async def close(self) -> None:
        await self._listener.close()

    async def _serve(self, transport: Transport) -> None:
        link = await accept(
            transport,
            AT_COORDINATOR_FROM_NODE,
            identity=self.identity,
            role=Role.COORDINATOR,
            roles=frozenset({Role.NODE}),
            clock=SystemClock(),
        )
        try:
            while True:
                message = await link.receive()
                assert isinstance(message, RegisterNode | Heartbeat | Drain)
                self.heard.append(message)
                if isinstance(message, Drain):
                    self.drained.set()
                elif self.refusal is not None:
                    await link.close(*self.refusal)
                elif isinstance(message, RegisterNode):
                    await link.send(Registered(pool="default", heartbeat=60.0))
        except (LinkClosed, PeerRefused):
            await link.close()

    def token(self, **changes: object) -> str:
        token = JoinToken(
            url=self.url,
            coordinator=self.identity.public_key,
            certificate=None,
            secret=SECRET,
            role=Role.NODE,
            pool="default",
            expires=int(SystemClock().wall()) + 600,
        )
        return replace(token, **changes).encode()  # type: ignore[arg-type]  # by name


@pytest.fixture
async def coordinator() -> AsyncIterator[Coordinator]:
    coordinator = Coordinator()
    await coordinator.start()
    yield coordinator
    await coordinator.close()


@pytest.fixture
def model(monkeypatch: pytest.MonkeyPatch) -> ScriptedModel:
    """What every daemon in a test loads."""
    model = ScriptedModel(1, name="small")

    async def load(
        name: str, *, catalog: Catalog, threads: int | None, dtype: object, progress: object, fast: bool
    ) -> ScriptedModel:
        assert name == "smollm2-draft"
        assert fast
        model.closed = False
        return model

    monkeypatch.setattr(daemon, "load_language_model", load)
    return model


@pytest.fixture
def settings(tmp_path: Path) -> NodeSettings:
    return NodeSettings(data_dir=tmp_path / "node", cache_dir=tmp_path / "cache", name="lab-a", owner="ada", slots=3)


async def run_until_ready(settings: NodeSettings) -> str:
    """Join, then stop at once; the peer id that was told."""
    stop = asyncio.Event()
    told: list[str] = []

    def ready(peer: str) -> None:
        told.append(peer)
        stop.set()

    async with asyncio.timeout(20):
        await daemon.run(settings, ready=ready, stop=stop)
    (peer,) = told
    return peer


async def test_joining_remembers_the_coordinator_and_never_the_secret(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    peer = await run_until_ready(replace(settings, join=coordinator.token()))
    async with asyncio.timeout(5):
        await coordinator.drained.wait()
    registration = coordinator.heard[0]
    assert isinstance(registration, RegisterNode)
    assert (registration.join_secret, registration.name, registration.slots) == (SECRET, "lab-a", 3)
    assert registration.models[0].digest == model.info.digest
    assert registration.models[0].tokens_per_second > 0
    assert model.closed

    assert Identity.load_or_create(settings.data_dir / "identity.pem").peer_id == peer
    for name in ("identity.pem", "coordinator.json"):
        assert stat.S_IMODE((settings.data_dir / name).stat().st_mode) == 0o600
    stored = json.loads((settings.data_dir / "coordinator.json").read_text())
    assert set(stored) == {"url", "coordinator", "certificate", "said"}
    assert all(SECRET not in file.read_text() for file in settings.data_dir.iterdir())
    assert sorted(file.name for file in settings.data_dir.iterdir()) == [
        "coordinator.json",
        "identity.pem",
        "node.lock",
    ]


async def test_afterwards_no_token_is_needed_and_an_old_one_does_no_harm(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    peer = await run_until_ready(replace(settings, join=coordinator.token()))
    assert await run_until_ready(settings) == peer
    assert await run_until_ready(replace(settings, join=coordinator.token(expires=1))) == peer
    secrets = [message.join_secret for message in coordinator.heard if isinstance(message, RegisterNode)]
    assert secrets == [SECRET, "", ""]


async def test_what_was_said_in_joining_holds_until_something_else_is_said(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    settings = replace(settings, name=None, owner=None)
    await run_until_ready(replace(settings, join=coordinator.token(), owner="ada", site="north"))
    await run_until_ready(settings)
    await run_until_ready(replace(settings, site="south"))  # a variable, or wanspec.toml: while it says so
    await run_until_ready(replace(settings, join=coordinator.token(), site="west"))
    await run_until_ready(settings)
    said = [(m.owner, m.site, m.name) for m in coordinator.heard if isinstance(m, RegisterNode)]
    host = hardware.default_name()
    sites = ["north", "north", "south", "west", "west"]
    assert said == [("ada", site, host) for site in sites]


async def test_a_file_of_an_earlier_release_says_nothing_of_the_node(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    settings = replace(settings, name=None, owner=None)
    await run_until_ready(replace(settings, join=coordinator.token(), owner="ada"))
    file = settings.data_dir / "coordinator.json"
    stored = json.loads(file.read_text())
    assert stored.pop("said") == {"owner": "ada"}
    file.write_text(json.dumps(stored))
    await run_until_ready(settings)
    last = [message for message in coordinator.heard if isinstance(message, RegisterNode)][-1]
    assert (last.owner, last.site, last.name) == ("unknown", "unknown", hardware.default_name())
    assert json.loads(file.read_text()) == stored


async def test_a_second_one_on_its_directory_is_refused_before_anything_is_loaded(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    ready, stop = asyncio.Event(), asyncio.Event()
    joining = replace(settings, join=coordinator.token())
    first = asyncio.create_task(daemon.run(joining, ready=lambda peer: ready.set(), stop=stop))
    async with asyncio.timeout(20):
        await ready.wait()

        async def load(*args: object, **kwargs: object) -> ScriptedModel:
            pytest.fail("the model was loaded")

        monkeypatch.setattr(daemon, "load_language_model", load)
        with pytest.raises(ConfigError, match=rf"another node \(process {os.getpid()}\) runs on {settings.data_dir}"):
            await daemon.run(settings, stop=stop)
        assert len([message for message in coordinator.heard if isinstance(message, RegisterNode)]) == 1
        stop.set()
        await first


async def test_one_that_was_replaced_says_whose_key_it_was_and_what_to_do(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    coordinator.refusal = (CloseCode.REPLACED, "the same identity has connected again")
    with pytest.raises(PeerRefused, match=f"the key in {settings.data_dir} has connected.* --data-dir") as refusal:
        await run_until_ready(replace(settings, join=coordinator.token()))
    assert refusal.value.code == CloseCode.REPLACED


async def test_another_coordinators_token_replaces_the_first_only_once_it_took_us_in(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    await run_until_ready(replace(settings, join=coordinator.token()))
    before = (settings.data_dir / "coordinator.json").read_bytes()
    second = Coordinator()
    await second.start()
    try:
        second.refusal = (CloseCode.JOIN_REFUSED, "the join token has been used already")
        with pytest.raises(PeerRefused, match="used already"):
            await run_until_ready(replace(settings, join=second.token()))
        assert (settings.data_dir / "coordinator.json").read_bytes() == before
        second.refusal = None
        await run_until_ready(replace(settings, join=second.token()))
        assert second.url in (settings.data_dir / "coordinator.json").read_text()
    finally:
        await second.close()


async def test_what_is_wrong_with_a_token_is_said_before_the_model_is_loaded(
    coordinator: Coordinator, settings: NodeSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def load(*args: object, **kwargs: object) -> ScriptedModel:
        pytest.fail("the model was loaded")

    monkeypatch.setattr(daemon, "load_language_model", load)
    with pytest.raises(JoinTokenError, match="expired"):
        await run_until_ready(replace(settings, join=coordinator.token(expires=1)))
    with pytest.raises(JoinTokenError, match="target"):
        await run_until_ready(replace(settings, join=coordinator.token(role=Role.TARGET)))
    with pytest.raises(JoinTokenError):
        await run_until_ready(replace(settings, join="nonsense"))
    with pytest.raises(ConfigError, match="node join"):
        await run_until_ready(settings)


async def test_a_token_with_another_coordinators_key_is_refused(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    with pytest.raises(RemoteProtocolError) as refusal:
        await run_until_ready(replace(settings, join=coordinator.token(coordinator=Identity.generate().public_key)))
    assert refusal.value.code == CloseCode.HANDSHAKE_FAILED
    assert not (settings.data_dir / "coordinator.json").exists()
    assert coordinator.heard == []  # the secret was not shown to whoever this is
    assert model.closed


async def test_a_plain_address_off_this_machine_is_one_clear_line(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    with pytest.raises(ConfigError, match="only wss:// leaves this machine"):
        await run_until_ready(replace(settings, join=coordinator.token(url="ws://203.0.113.7:80")))
    assert model.closed


async def test_a_membership_that_cannot_be_read_is_one_clear_line(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    (settings.data_dir / "coordinator.json").mkdir(parents=True, mode=0o700)
    os.chmod(settings.data_dir, 0o700)
    with pytest.raises(ConfigError, match=r"coordinator\.json"):
        await run_until_ready(replace(settings, join=coordinator.token()))


async def test_a_key_that_others_can_read_is_refused(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    Identity.load_or_create(settings.data_dir / "identity.pem")
    os.chmod(settings.data_dir / "identity.pem", 0o644)
    with pytest.raises(UsageError, match="identity.pem"):
        await run_until_ready(replace(settings, join=coordinator.token()))


async def test_a_stop_during_loading_ends_before_joining(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    stop = asyncio.Event()
    stop.set()
    async with asyncio.timeout(10):
        await daemon.run(replace(settings, join=coordinator.token()), stop=stop)
    assert coordinator.heard == []
    assert model.closed


async def test_without_a_stop_event_a_signal_drains(
    coordinator: Coordinator, settings: NodeSettings, model: ScriptedModel
) -> None:
    async with asyncio.timeout(20):
        await daemon.run(
            replace(settings, join=coordinator.token()), ready=lambda peer: os.kill(os.getpid(), signal.SIGTERM)
        )
        await coordinator.drained.wait()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_the_second_signal_finds_the_systems_own_handling(number: signal.Signals) -> None:
    chosen = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(each) for each in chosen]
    with daemon._stop_on_signals() as stop:
        os.kill(os.getpid(), number)
        async with asyncio.timeout(5):
            await stop.wait()
        assert [signal.getsignal(each) for each in chosen] == [signal.SIG_DFL, signal.SIG_DFL]
    assert [signal.getsignal(each) for each in chosen] == before


@pytest.mark.parametrize(("wish", "allowed"), [(None, 4095), (100, 100), (10_000, 4095)])
def test_a_prefix_always_leaves_room_to_draft(settings: NodeSettings, wish: int | None, allowed: int) -> None:
    assert daemon._lending(replace(settings, max_prefix=wish), ScriptedModel(1).info).max_prefix == allowed


def test_each_step_of_preparing_a_model_is_said_once(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setattr(daemon.log, "info", lambda event, step: said.append(step), raising=False)
    progress = daemon._say_progress()
    for done in range(3):
        progress("convert", done, 3)
    progress("digest", 0, 1)
    assert said == ["convert", "digest"]
