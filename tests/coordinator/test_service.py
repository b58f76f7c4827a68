"""A real coordinator over real loopback sockets."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx2
import pytest
import structlog
from structlog.testing import capture_logs
from websockets.asyncio.client import connect as websocket_connect
from websockets.exceptions import InvalidStatus

from coordinator import service
from coordinator.admin import create_api_key, issue_join_token, revoke_peer
from coordinator.settings import CoordinatorSettings
from tests.support.fake_target import FakePeer, FakeTarget, node_registration, target_registration
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import AddressInUse, CloseCode, ConfigError, LinkClosed, PeerRefused, Unreachable
from wanspec_p2p.links.refusal import reason_in
from wanspec_p2p.links.websocket import dial
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.common_messages import LeaseRevoked, Registered
from wanspec_p2p.protocol.coordinator_to_node import LeaseOffer
from wanspec_p2p.protocol.coordinator_to_target import Drafters
from wanspec_p2p.protocol.node_to_coordinator import LeaseAnswer
from wanspec_p2p.protocol.target_to_coordinator import DraftersWanted
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.join_tokens import JoinToken
from wanspec_p2p.security.self_made import load_or_create_certificate
from wanspec_p2p.types import Role


@contextlib.asynccontextmanager
async def running(settings: CoordinatorSettings) -> AsyncIterator[str]:
    """The address of a coordinator that is told to stop at the end, and has to."""
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    task = asyncio.create_task(service.run(settings, ready=url.set_result, stop=stop))
    try:
        async with asyncio.timeout(20):
            await asyncio.wait((task, url), return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        async with asyncio.timeout(30):
            yield url.result()
    finally:
        stop.set()
        async with asyncio.timeout(20):
            await asyncio.gather(task, return_exceptions=True)
    task.result()


async def test_signals_are_heard_while_a_large_ledger_is_read(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[threading.Thread] = []

    def read(path: Path, *, receipt_days: float) -> None:
        threads.append(threading.current_thread())
        raise ConfigError("the ledger is damaged")

    monkeypatch.setattr(service, "SqliteLedger", read)
    with pytest.raises(ConfigError, match="damaged"):
        await service.run(settings, stop=asyncio.Event())
    assert threads != [] and threading.main_thread() not in threads


async def test_a_ledger_that_can_be_read_alone_is_said_at_the_start(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(settings):
        pass

    class ReadAlone(service.SqliteLedger):
        """As where the file is another user's; root may write those too."""

        def __init__(self, path: Path, *, receipt_days: float | None = None) -> None:
            super().__init__(path, receipt_days=receipt_days)
            self._database.execute("PRAGMA query_only = ON")

    monkeypatch.setattr(service, "SqliteLedger", ReadAlone)
    with pytest.raises(ConfigError, match="ledger.sqlite3: the ledger cannot be written: attempt to write a readonly"):
        await service.run(settings, stop=asyncio.Event())


def free_port() -> int:
    """For what must be known before the coordinator starts."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


async def join(token: JoinToken, registration: Any, kind: type[FakePeer] = FakePeer, **options: Any) -> Any:
    path = "/wanspec/node" if token.role is Role.NODE else "/wanspec/target"
    transport = await dial(token.url + path, certificate=token.certificate)
    return await kind.join(transport, token.peer_id, registration, **options)


async def test_peers_and_submitters_share_one_port(settings: CoordinatorSettings) -> None:
    async with running(settings) as url:
        token = issue_join_token(settings, role=Role.TARGET)
        target = await join(token, target_registration(token.secret), FakeTarget)
        token = JoinToken.decode(issue_join_token(settings, role=Role.NODE).encode())
        node = await join(token, node_registration(token.secret))
        await target.send(DraftersWanted("w", 1))
        await node.expect(LeaseOffer)
        async with httpx2.AsyncClient(base_url=url) as http:
            assert (await http.get("/health")).json() == {"status": "alive"}
            assert (await http.get("/ready")).json() == {"status": "ready"}
            body = {"model": "big", "prompt": "x", "max_tokens": 4, "stream": True}
            async with http.stream("POST", "/v1/completions", json=body) as response:
                lines = [line async for line in response.aiter_lines() if line]
            assert lines[-1] == "data: [DONE]"
            ids = [id for line in lines[:-1] for id in json.loads(line[6:])["wanspec"]["token_ids"]]
            assert len(ids) == 4
            assert 'wanspec_nodes{state="active"} 1.0' in (await http.get("/metrics")).text
        await target.close()
        await node.close()


async def test_a_peer_that_is_revoked_has_to_leave(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EXPEL_SECONDS", 0.01)
    async with running(settings):
        token = issue_join_token(settings, role=Role.NODE, uses=2)
        gone, other = [await join(token, node_registration(token.secret)) for _ in range(2)]
        revoke_peer(settings, gone.peer_id)
        with pytest.raises(PeerRefused, match="revoked") as closed:
            await gone.expect(LeaseOffer)
        assert closed.value.code == CloseCode.NOT_ENROLLED
        token = issue_join_token(settings, role=Role.TARGET)
        target = await join(token, target_registration(token.secret), FakeTarget)
        await target.send(DraftersWanted("w", 2))
        await other.expect(LeaseOffer)  # it is still there
        for peer in (target, other):
            await peer.close()


async def test_hanging_up_cancels_at_the_target(settings: CoordinatorSettings) -> None:
    async with running(settings) as url:
        token = issue_join_token(settings, role=Role.TARGET)
        target = await join(token, target_registration(token.secret), FakeTarget)
        target.script.pause_after = 2
        body = {"model": "big", "prompt": "x"}
        async with httpx2.AsyncClient(base_url=url) as http:
            async with http.stream("POST", "/v1/completions", json=body | {"stream": True}) as response:
                await anext(response.aiter_lines())
            async with asyncio.timeout(5):
                await target.cancelled.wait()
            target.cancelled.clear()
            target.asked.clear()
            whole = asyncio.create_task(http.post("/v1/completions", json=body))
            await target.asked.wait()
            whole.cancel()
            async with asyncio.timeout(5):
                await target.cancelled.wait()
        assert [cancel.request for cancel in target.cancels] == [generate.request for generate in target.generates]
        await target.close()


async def test_stopping_says_goodbye_and_ends_streams_with_an_error(settings: CoordinatorSettings) -> None:
    async with contextlib.AsyncExitStack() as stack:
        url = await stack.enter_async_context(running(settings))
        token = issue_join_token(settings, role=Role.TARGET)
        target = await join(token, target_registration(token.secret), FakeTarget)
        target.script.pause_after = 2
        http = httpx2.AsyncClient(base_url=url)
        body = {"model": "big", "prompt": "x", "stream": True}
        asking = asyncio.create_task(http.post("/v1/completions", json=body))
        await target.asked.wait()
        await target.said(2)
    events = [line for line in (await asking).text.split("\n\n") if line]
    assert json.loads(events[-1][6:])["error"]["code"] == "no_target"
    with pytest.raises((LinkClosed, PeerRefused), match="shutting down"):
        await target.expect(Registered)
    await http.aclose()
    await target.close()
    with pytest.raises(OSError):
        await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))


async def test_what_was_learnt_survives_a_restart(settings: CoordinatorSettings) -> None:
    identity = Identity.generate()
    async with running(settings):
        token = issue_join_token(settings, role=Role.NODE)
        await (await join(token, node_registration(token.secret), identity=identity)).close()
    async with running(settings):
        token = issue_join_token(settings, role=Role.NODE)  # for the address alone
        again = await join(token, node_registration(), identity=identity)
        assert again.ended is None
        await again.close()


async def test_a_node_that_is_revoked_while_everybody_is_away_loses_its_lease_at_the_target(
    settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "EXPEL_SECONDS", 0.01)
    identity = Identity.generate()
    async with running(settings):
        token = issue_join_token(settings, role=Role.TARGET)
        target = await join(token, target_registration(token.secret), FakeTarget, identity=identity)
        joining = issue_join_token(settings, role=Role.NODE)
        node = await join(joining, node_registration(joining.secret))
        await target.send(DraftersWanted("w", 1))
        offer = await node.expect(LeaseOffer)
        await node.send(LeaseAnswer(offer.jti, accepted=True))
        await target.expect(Drafters)
    for peer in (node, target):
        await peer.close()
    revoke_peer(settings, node.peer_id)
    async with running(settings):
        token = issue_join_token(settings, role=Role.TARGET)  # for the address alone
        target = await join(token, target_registration(), FakeTarget, identity=identity)
        assert (await target.expect(LeaseRevoked)).jti == offer.jti
        await target.close()


async def test_a_token_made_before_the_first_start_works(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path / "data", port=free_port())
    token = issue_join_token(settings, role=Role.NODE)
    async with running(settings):
        node = await join(token, node_registration(token.secret))
        assert node.ended is None
        await node.close()


async def test_reached_from_elsewhere_there_is_tls_and_a_key_is_needed(tmp_path: Path) -> None:
    certificate, key_file = load_or_create_certificate(tmp_path / "tls", "llm.example", clock=SystemClock())
    port = free_port()
    settings = CoordinatorSettings(
        data_dir=tmp_path / "data",
        port=port,
        tls_cert=certificate,
        tls_key=key_file,
        public_url="https://llm.example",
    )
    async with running(settings) as url:
        assert url == "https://llm.example"
        token = issue_join_token(settings, role=Role.NODE, url=f"https://127.0.0.1:{port}")
        assert token.url.startswith("wss://")
        node = await join(token, node_registration(token.secret))
        assert node.ended is None
        key = create_api_key(settings, "mine")
        trusting = ssl.create_default_context(cafile=certificate)
        trusting.check_hostname = False
        async with httpx2.AsyncClient(base_url=f"https://127.0.0.1:{port}", verify=trusting) as http:
            assert (await http.get("/v1/models")).status_code == 401
            headers = {"authorization": f"Bearer {key}"}
            assert (await http.get("/v1/models", headers=headers)).status_code == 200
            assert (await http.get("/health", headers={"host": "llm.example"})).status_code == 200
            assert (await http.get("/health", headers={"host": "evil.example"})).status_code == 403
        await node.close()


async def test_a_certificate_that_was_made_for_another_host_stays_and_is_warned_of_once(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path / "data", host="127.1")  # not taken for this machine
    certificate, _ = load_or_create_certificate(settings.certificate_dir, "llm.example", clock=SystemClock())
    before = certificate.read_bytes()

    async def warnings(url: str) -> list[str]:
        with capture_logs() as lines:
            async with running(replace(settings, public_url=url)):
                pass
        return [f"{line['host']}: {line['do']}" for line in lines if "does not name the host" in line["event"]]

    assert await warnings("https://llm.example") == []
    (warning,) = await warnings("https://127.0.0.1")
    assert warning.startswith("127.0.0.1: ") and "`wanspec coordinator rotate-cert`" in warning
    assert certificate.read_bytes() == before, "peers have pinned it"


async def test_a_port_in_use_is_found_before_anything_is_written(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        settings = CoordinatorSettings(data_dir=tmp_path / "data", port=taken.getsockname()[1])
        with pytest.raises(AddressInUse, match="is in use"):
            await service.run(settings, stop=asyncio.Event())
    assert not settings.data_dir.exists()


async def test_a_second_coordinator_on_the_same_data_is_refused(settings: CoordinatorSettings) -> None:
    async with running(settings):
        with pytest.raises(ConfigError, match=r"another coordinator \(process \d+\) runs on"):
            await service.run(settings, stop=asyncio.Event())


async def test_an_address_of_another_machine_is_one_line(tmp_path: Path) -> None:
    settings = CoordinatorSettings(data_dir=tmp_path, host="192.0.2.1")
    with pytest.raises(ConfigError, match=r"cannot listen on 192\.0\.2\.1"):
        await service.run(settings, stop=asyncio.Event())


@pytest.mark.parametrize(
    ("options", "path", "status", "reason"),
    [
        ({"subprotocols": None}, "/wanspec/node", 400, "subprotocol wanspec.v1 expected"),
        ({"origin": "http://localhost"}, "/wanspec/node", 403, "web pages are no peers"),
        ({"origin": "http://evil.example"}, "/wanspec/node", 403, "requests of web pages are not answered"),
        ({}, "/nope", 404, "peers connect at /wanspec/node and /wanspec/target"),
        ({}, "/v1/models", 404, "peers connect at /wanspec/node and /wanspec/target"),
    ],
    ids=["no subprotocol", "a local page", "a foreign page", "another path", "a path of HTTP"],
)
async def test_who_is_no_peer_does_not_get_a_websocket_and_one_line_says_why(
    settings: CoordinatorSettings,
    options: dict[str, Any],
    path: str,
    status: int,
    reason: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with structlog.testing.capture_logs() as said:
        async with running(settings) as url:
            arguments: dict[str, Any] = {"subprotocols": [limits.SUBPROTOCOL], "proxy": None} | options
            with pytest.raises(InvalidStatus) as refusal:
                await websocket_connect(url.replace("http", "ws") + path, **arguments)
            assert refusal.value.response.status_code == status
            assert reason_in(refusal.value.response.body) == reason
    (line,) = [line for line in said if line["event"] == "refused"]
    assert line["remote"].startswith("127.0.0.1:")
    assert {name: line[name] for name in ("log_level", "path", "status", "reason")} == {
        "log_level": "info",
        "path": path,
        "status": status,
        "reason": reason,
    }
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


async def test_who_dials_another_path_is_told_where_peers_connect(settings: CoordinatorSettings) -> None:
    async with running(settings) as url:
        with pytest.raises(Unreachable, match='status 404: "peers connect at /wanspec/node and /wanspec/target"'):
            await dial(url.replace("http", "ws") + "/nope", certificate=None)


@pytest.mark.skipif(sys.platform == "darwin", reason="has 127.0.0.1 only")
async def test_it_answers_to_the_loopback_address_it_listens_on(tmp_path: Path) -> None:
    async with running(CoordinatorSettings(data_dir=tmp_path, host="127.0.0.2", port=0)) as url:
        assert urlsplit(url).hostname == "127.0.0.2"
        async with httpx2.AsyncClient(base_url=url) as http:
            assert (await http.get("/health")).status_code == 200
        transport = await dial(url.replace("http", "ws") + "/wanspec/node", certificate=None)
        await transport.close()


async def test_junk_and_giants_are_hung_up_on_with_a_code(settings: CoordinatorSettings) -> None:
    async with running(settings) as url:
        for frame, code in (
            ("junk", CloseCode.INVALID_DATA),
            (b"binary", CloseCode.INVALID_DATA),
            ("x" * (limits.MAX_FRAME_BYTES + 1), CloseCode.MESSAGE_TOO_BIG),
        ):
            transport = await dial(url.replace("http", "ws") + "/wanspec/node", certificate=None)
            await transport.send(frame)
            with pytest.raises(PeerRefused) as refusal:
                async with asyncio.timeout(5):
                    await transport.receive()
            assert refusal.value.code == code
            await transport.close()


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
async def test_sigterm_ends_the_process_in_an_orderly_way_and_strangers_add_no_lines_of_their_own_kind(
    tmp_path: Path,
) -> None:
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from coordinator.service import run\n"
        "from coordinator.settings import CoordinatorSettings\n"
        "settings = CoordinatorSettings(data_dir=Path(sys.argv[1]), log_json=True)\n"
        "asyncio.run(run(settings, ready=lambda url: print(url, flush=True)))\n"
    )
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        program,
        str(tmp_path),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).parents[2],
    )
    assert child.stdout is not None
    async with asyncio.timeout(30):
        where = (await child.stdout.readline()).decode().strip()
        assert where.startswith("http://127.0.0.1:")
        reader, writer = await asyncio.open_connection("127.0.0.1", int(where.rpartition(":")[2]))
        writer.write(b"junk\r\n\r\n")
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        child.terminate()
        _, log = await child.communicate()
    assert child.returncode == 0
    lines = [json.loads(line) for line in log.splitlines()]
    assert [line["event"] for line in lines] == ["ready", "Invalid HTTP request received.", "stopped"]
