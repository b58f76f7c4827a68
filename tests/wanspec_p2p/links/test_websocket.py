from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from websockets.asyncio.client import connect as raw_connect
from websockets.asyncio.server import serve as raw_serve
from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.frames import Opcode

from tests.support.raw_websocket import RawWebSocket
from wanspec_p2p.clock import ManualClock, SystemClock
from wanspec_p2p.errors import (
    AddressInUse,
    CloseCode,
    ConfigError,
    LinkClosed,
    PeerRefused,
    RemoteProtocolError,
    Unreachable,
)
from wanspec_p2p.links import bounded as bounded_connections
from wanspec_p2p.links import websocket
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.peer import accept, connect
from wanspec_p2p.links.websocket import DRAFT_PATH, Listener, dial, listen
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import AT_NODE_FROM_TARGET, AT_TARGET_FROM_NODE
from wanspec_p2p.protocol.node_to_target import Attach
from wanspec_p2p.protocol.target_to_node import Close
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.self_made import load_or_create_certificate, replace_certificate
from wanspec_p2p.security.tls import (
    certificate_fingerprint,
    channel_binding,
    listener_context,
)
from wanspec_p2p.types import Role

HOST = "127.0.0.1"
NODE, TARGET = Identity.generate(), Identity.generate()


@dataclass(frozen=True)
class Tls:
    context: ssl.SSLContext
    fingerprint: str


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    certificate, key = load_or_create_certificate(tmp_path_factory.mktemp("tls"), HOST, clock=ManualClock())
    return Tls(listener_context(certificate, key), certificate_fingerprint(certificate))


@pytest.fixture(autouse=True)
async def bounded() -> AsyncIterator[None]:
    async with asyncio.timeout(30):
        yield


@contextlib.asynccontextmanager
async def _listening(
    on_transport: Callable[[Transport], Awaitable[None]], tls: Tls | None = None
) -> AsyncIterator[tuple[Listener, str]]:
    listener = await listen(HOST, 0, on_transport, tls=tls.context if tls else None)
    try:
        yield listener, f"{'wss' if tls else 'ws'}://{HOST}:{listener.port}{DRAFT_PATH}"
    finally:
        await listener.close()


async def _echo(transport: Transport) -> None:
    with contextlib.suppress(LinkClosed, PeerRefused):
        while True:
            await transport.send(await transport.receive())


# Frames -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("secure", [False, True])
async def test_frames_come_back_as_they_went(secure: bool, tls: Tls) -> None:
    async with _listening(_echo, tls if secure else None) as (_, url):
        transport = await dial(url, certificate=tls.fingerprint if secure else None)
        for frame in ("text ü", b"\x00binary", "", b"x" * limits.MAX_FRAME_BYTES):
            await transport.send(frame)
            assert await transport.receive() == frame
        await transport.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_many_small_frames_come_whole_and_in_order_though_nobody_receives_at_first(
    secure: bool, tls: Tls
) -> None:
    count, may_read = 5000, asyncio.Event()
    received: list[str | bytes] = []

    async def take(transport: Transport) -> None:
        await may_read.wait()
        received.extend([await transport.receive() for _ in range(count)])

    async with _listening(take, tls if secure else None) as (_, url):
        transport = await dial(url, certificate=tls.fingerprint if secure else None)
        for number in range(count):
            await transport.send(str(number))
        may_read.set()
        with pytest.raises(LinkClosed):
            await transport.receive()
        await transport.close()
    assert received == [str(number) for number in range(count)]


async def test_both_ends_see_the_same_channel_binding(tls: Tls) -> None:
    seen: list[bytes] = []

    async def note(transport: Transport) -> None:
        seen.append(transport.channel_binding)

    async with _listening(note, tls) as (_, url):
        transport = await dial(url, certificate=tls.fingerprint)
        with pytest.raises(LinkClosed):
            await transport.receive()
        assert seen == [transport.channel_binding]
        assert seen == [channel_binding(tls.context.certificate)]  # type: ignore[attr-defined]  # a ListenerContext
        await transport.close()
    async with _listening(note) as (_, url):
        transport = await dial(url, certificate=None)
        assert transport.channel_binding == b""
        await transport.close()


@pytest.mark.parametrize("secure", [False, True])
async def test_a_whole_link(secure: bool, tls: Tls) -> None:
    clock, received = SystemClock(), []

    async def target(transport: Transport) -> None:
        link = await accept(
            transport,
            AT_TARGET_FROM_NODE,
            identity=TARGET,
            role=Role.TARGET,
            roles=frozenset({Role.NODE}),
            clock=clock,
        )
        received.append(await link.receive())
        await link.close(CloseCode.LEASE_REFUSED, "the lease is for another target")

    async with _listening(target, tls if secure else None) as (_, url):
        transport = await dial(url, certificate=tls.fingerprint if secure else None)
        link = await connect(
            transport, AT_NODE_FROM_TARGET, identity=NODE, role=Role.NODE, expect=TARGET.peer_id, clock=clock
        )
        await link.send(Attach(lease="lease"))
        with pytest.raises(PeerRefused, match="the lease is for another target") as caught:
            await link.receive()
        assert caught.value.code == CloseCode.LEASE_REFUSED
        await link.close()
    assert received == [Attach(lease="lease")]


async def test_a_certificate_that_came_after_the_pinned_one_is_accepted_and_told(tmp_path: Path) -> None:
    certificate, key = load_or_create_certificate(tmp_path, HOST, clock=ManualClock())
    pinned = certificate_fingerprint(certificate)
    replace_certificate(tmp_path, HOST, clock=ManualClock())
    present = certificate_fingerprint(certificate)
    clock = SystemClock()

    async def target(transport: Transport) -> None:
        roles = frozenset({Role.NODE})
        link = await accept(transport, AT_TARGET_FROM_NODE, identity=TARGET, role=Role.TARGET, roles=roles, clock=clock)
        with contextlib.suppress(LinkClosed):
            await link.receive()

    async with _listening(target, Tls(listener_context(certificate, key), present)) as (_, url):
        for known in (pinned, present):
            transport = await dial(url, certificate=known)
            assert transport.certificate == present
            link = await connect(
                transport,
                AT_NODE_FROM_TARGET,
                identity=NODE,
                role=Role.NODE,
                expect=TARGET.peer_id,
                clock=clock,
                certificate=transport.certificate,
            )
            assert link.certificate == present
            await link.close()
        with pytest.raises(RemoteProtocolError, match=f"with fingerprint {present}, not the expected 0000"):
            await dial(url, certificate="0" * 64)


async def test_a_proxy_with_its_own_certificate_is_noticed(tls: Tls, tmp_path: Path) -> None:
    """Somebody in between with a certificate that the dialler was told to trust, relaying to the real listener."""
    certificate, key = load_or_create_certificate(tmp_path, HOST, clock=ManualClock())
    theirs = Tls(listener_context(certificate, key), certificate_fingerprint(certificate))
    clock = SystemClock()
    outcomes: list[Exception] = []

    async def target(transport: Transport) -> None:
        roles = frozenset({Role.NODE})
        try:
            await accept(transport, AT_TARGET_FROM_NODE, identity=TARGET, role=Role.TARGET, roles=roles, clock=clock)
        except (LinkClosed, PeerRefused, RemoteProtocolError) as error:
            outcomes.append(error)

    async with _listening(target, tls) as (_, real):

        async def relay(near: Transport) -> None:
            far = await dial(real, certificate=tls.fingerprint)
            with contextlib.suppress(LinkClosed, PeerRefused):
                while True:
                    await far.send(await near.receive())
                    await near.send(await far.receive())
            await far.close()

        async with _listening(relay, theirs) as (_, false):
            transport = await dial(false, certificate=theirs.fingerprint)
            with pytest.raises(RemoteProtocolError, match="a proxy in between presents a certificate"):
                await connect(
                    transport, AT_NODE_FROM_TARGET, identity=NODE, role=Role.NODE, expect=TARGET.peer_id, clock=clock
                )
    assert len(outcomes) == 1


# The end ------------------------------------------------------------------------------------------------------------


async def test_codes_and_reasons_cross() -> None:
    async def refuse(transport: Transport) -> None:
        await transport.close(CloseCode.NOT_ENROLLED, "unknown node; " + "ü" * 200)

    async with _listening(refuse) as (_, url):
        transport = await dial(url, certificate=None)
        for _ in range(2):
            with pytest.raises(PeerRefused, match="^unknown node; ü+$") as caught:
                await transport.receive()
            assert caught.value.code == CloseCode.NOT_ENROLLED
            assert len(caught.value.reason.encode()) <= 123
        with pytest.raises(PeerRefused):
            await transport.send("x")
        await transport.close()
        await transport.close()
        with pytest.raises(PeerRefused):
            await transport.receive()


async def _faulty(url: str, send: Callable[[Any], Awaitable[None]]) -> Any:
    """What a listener says to a dialler that breaks WebSocket's own rules."""
    async with raw_connect(url, subprotocols=[limits.SUBPROTOCOL], compression=None, max_size=None) as websocket:  # type: ignore[list-item]  # a NewType of str
        await send(websocket)
        with pytest.raises(ConnectionClosed) as caught:
            await websocket.recv()
        return caught.value.rcvd


@pytest.mark.parametrize(
    ("payload", "as_text", "code"),
    [(b"x" * (limits.MAX_FRAME_BYTES + 1), False, 1009), (b"\xff\xff", True, 1007)],
    ids=["too big", "not UTF-8"],
)
async def test_frames_that_cannot_be_read(payload: bytes, as_text: bool, code: int) -> None:
    faults: list[RemoteProtocolError] = []

    async def note(transport: Transport) -> None:
        with pytest.raises(RemoteProtocolError, match="frames that cannot be read") as caught:
            await transport.receive()
        faults.append(caught.value)

    async with _listening(note) as (_, url):
        closed = await _faulty(url, lambda websocket: websocket.send(payload, text=as_text))
        assert closed.code == code
    assert [fault.code for fault in faults] == [code]


async def test_a_connection_that_breaks() -> None:
    async def abort(transport: Any) -> None:
        transport._connection.transport.abort()

    async with _listening(abort) as (_, url):
        transport = await dial(url, certificate=None)
        with pytest.raises(LinkClosed):
            await transport.receive()
        await transport.close()


async def test_closing_the_listener_ends_what_it_accepted() -> None:
    ended = asyncio.Event()

    async def wait(transport: Transport) -> None:
        with pytest.raises(LinkClosed):
            await transport.receive()
        ended.set()

    listener = await listen(HOST, 0, wait, tls=None)
    url = f"ws://{HOST}:{listener.port}{DRAFT_PATH}"
    transport = await dial(url, certificate=None)
    await listener.close()
    await listener.close()
    assert ended.is_set()
    with pytest.raises(LinkClosed):
        await transport.receive()
    with pytest.raises(Unreachable, match="nobody answers at ws://"):
        await dial(url, certificate=None)
    await transport.close()


async def test_a_handler_that_does_not_end_is_cancelled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wanspec_p2p.links.websocket.CLOSE_SECONDS", 0.01)
    cancelled = asyncio.Event()

    async def deaf(transport: Transport) -> None:
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled.set()
            raise

    listener = await listen(HOST, 0, deaf, tls=None)
    transport = await dial(f"ws://{HOST}:{listener.port}{DRAFT_PATH}", certificate=None)
    await listener.close()
    assert cancelled.is_set()
    await transport.close()


async def test_a_handlers_refusal_is_no_failure_of_the_listener(caplog: pytest.LogCaptureFixture) -> None:
    async def refuse(transport: Transport) -> None:
        raise RemoteProtocolError("the lease has expired", CloseCode.LEASE_REFUSED)

    async with _listening(refuse) as (_, url):
        for _ in range(2):
            transport = await dial(url, certificate=None)
            with pytest.raises(LinkClosed):
                await transport.receive()
            await transport.close()
    assert not [record for record in caplog.records if record.levelname == "ERROR"]


# Addresses ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "certificate", "line"),
    [
        ("ws://192.0.2.1:7001/wanspec/draft", None, "neither loopback nor encrypted"),
        ("ws://localhost.example/wanspec/draft", None, "neither loopback nor encrypted"),
        ("wss://192.0.2.1:7001/wanspec/draft", None, "the fingerprint of its certificate is not known"),
        ("http://127.0.0.1", None, "is not an address of a peer"),
        ("127.0.0.1:7001", None, "is not an address of a peer"),
        ("ws://", None, "is not an address of a peer"),
        ("ws://127.0.0.1:99999/", None, "is not an address"),
        ("ws://[::1/", None, "is not an address"),
        ("ws://127.0.0.1/x#fragment", None, "is not an address"),
        ("wss://a..b:7001/", "0" * 64, "is not an address: 'a..b' is not the name of a host"),
        (f"wss://{'a' * 64}.example/", "0" * 64, "is not the name of a host"),
    ],
)
async def test_addresses_that_are_not_dialled(url: str, certificate: str | None, line: str) -> None:
    with pytest.raises(ConfigError, match=line) as caught:
        await dial(url, certificate=certificate)
    assert "\n" not in str(caught.value)


async def test_listening_off_loopback_needs_tls(tls: Tls) -> None:
    with pytest.raises(ConfigError, match="refusing to listen on 0.0.0.0 without TLS"):
        await listen("0.0.0.0", 0, _echo, tls=None)
    with pytest.raises(TypeError, match="must know its certificate"):
        await listen(HOST, 0, _echo, tls=ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))


async def test_a_port_in_use_is_one_line() -> None:
    async with _listening(_echo) as (listener, _):
        with pytest.raises(AddressInUse, match=f"port {listener.port} on 127.0.0.1 is in use"):
            await listen(HOST, listener.port, _echo, tls=None)


async def test_an_address_that_is_not_ours_is_one_line(tls: Tls) -> None:
    with pytest.raises(ConfigError, match=r"cannot listen on 192.0.2.1, port 0: "):
        await listen("192.0.2.1", 0, _echo, tls=tls.context)


# Who answers --------------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def _answering(reply: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, bytearray]]:
    """Something else on a port: takes what it gets, answers `reply` and hangs up."""
    heard = bytearray()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            heard.extend(await reader.read(4096))
            writer.write(reply)
            await writer.drain()
            writer.close()
            await writer.wait_closed()

    server = await asyncio.start_server(handle, HOST, 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1], heard
    finally:
        server.close()
        await server.wait_closed()


async def test_a_certificate_that_is_not_the_pinned_one_hears_nothing(tls: Tls) -> None:
    async with _answering(b"", tls.context) as (port, heard):
        with pytest.raises(RemoteProtocolError, match=f"fingerprint {tls.fingerprint}, not the expected") as caught:
            await dial(f"wss://{HOST}:{port}{DRAFT_PATH}", certificate="0" * 64)
        assert caught.value.code is CloseCode.HANDSHAKE_FAILED
    assert heard == b""  # not even the request line


@pytest.mark.parametrize(
    ("reply", "line"),
    [
        (
            b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n",
            "answers with HTTP status 404: nothing of wanspec-p2p listens there",
        ),
        (b"HTTP/1.1 403 Forbidden\r\nContent-Length: 5\r\n\r\nno\x1b!\n", 'answers with HTTP status 403: "no!"'),
        (
            b"HTTP/1.1 500 Internal Server Error\r\nContent-Length: 3\r\n\r\noh\n",
            "answers with HTTP status 500: nothing of wanspec-p2p listens there",
        ),
        (
            b"HTTP/1.1 302 Found\r\nLocation: ws://127.0.0.1:1/elsewhere\r\nContent-Length: 0\r\n\r\n",
            "answers with HTTP status 302",
        ),
        (b"SSH-2.0-OpenSSH_9.9\r\n", "does not answer as wanspec-p2p does"),
        (b"", "does not answer as wanspec-p2p does|nobody answers"),
    ],
)
async def test_something_else_answers(reply: bytes, line: str) -> None:
    async with _answering(reply) as (port, _):
        with pytest.raises(Unreachable, match=line) as caught:
            await dial(f"ws://{HOST}:{port}{DRAFT_PATH}", certificate=None)
        assert "\n" not in str(caught.value)


async def test_plain_text_where_tls_was_expected_and_the_reverse(tls: Tls) -> None:
    async with _answering(b"HTTP/1.1 400 Bad Request\r\n\r\n") as (port, _):
        with pytest.raises(Unreachable, match="does not answer as a TLS listener does"):
            await dial(f"wss://{HOST}:{port}/", certificate=tls.fingerprint)
    async with _listening(_echo, tls) as (listener, _):
        with pytest.raises(Unreachable):
            await dial(f"ws://{HOST}:{listener.port}{DRAFT_PATH}", certificate=None)


async def test_a_listener_that_never_answers(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.05)
    with socket.create_server((HOST, 0)) as deaf:
        with pytest.raises(Unreachable, match=r"did not answer within 0.05 s"):
            await dial(f"ws://{HOST}:{deaf.getsockname()[1]}/", certificate=None)


async def test_a_name_that_does_not_exist(tls: Tls) -> None:
    with pytest.raises(Unreachable, match="nobody answers at wss://nowhere.invalid"):
        await dial("wss://nowhere.invalid:7001/", certificate=tls.fingerprint)


async def test_another_websocket_service() -> None:
    async with raw_serve(lambda websocket: websocket.wait_closed(), HOST, 0) as other:
        port = other.sockets[0].getsockname()[1]
        with pytest.raises(Unreachable, match="does not speak wanspec.v1"):
            await dial(f"ws://{HOST}:{port}/", certificate=None)


async def test_a_proxy_of_the_system_is_not_used_on_loopback(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "https_proxy", "ws_proxy", "wss_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    monkeypatch.delenv("no_proxy", raising=False)
    async with _listening(_echo) as (_, url):
        transport = await dial(url, certificate=None)
        await transport.close()


async def test_elsewhere_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)
    async with _answering(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n") as (port, heard):
        monkeypatch.setenv("https_proxy", f"http://{HOST}:{port}")
        with pytest.raises(Unreachable, match="does not answer as wanspec-p2p does"):
            await dial("wss://target.invalid:7001/", certificate="0" * 64)
    assert heard.startswith(b"CONNECT target.invalid:7001 ")


async def test_a_proxy_that_cannot_be_looked_up_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("https_proxy", "http://a..b:1")
    with pytest.raises(ConfigError, match="the proxy of this system's settings cannot be used"):
        await dial("wss://target.invalid:7001/", certificate="0" * 64)


async def test_a_proxy_that_breaks_off_within_tls_is_one_line(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("no_proxy", "NO_PROXY", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY", "wss_proxy"):
        monkeypatch.delenv(name, raising=False)

    async def break_off(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        await reader.read(4096)  # the greeting of TLS
        writer.transport.abort()

    async with await asyncio.start_server(break_off, HOST, 0) as proxy:
        monkeypatch.setenv("https_proxy", f"http://{HOST}:{proxy.sockets[0].getsockname()[1]}")
        with pytest.raises(Unreachable, match="nobody answers at wss://target.invalid:7001/: [^ ]"):
            await dial("wss://target.invalid:7001/", certificate="0" * 64)
        await asyncio.sleep(0)
    assert [record for record in caplog.records if record.name == "asyncio" and record.levelname == "ERROR"] == []


# Who is let in ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("path", "options", "status"),
    [
        ("/", {"subprotocols": [limits.SUBPROTOCOL]}, 404),
        (DRAFT_PATH, {}, 400),
        (DRAFT_PATH, {"subprotocols": ["wanspec.v0"]}, 400),
        (DRAFT_PATH, {"subprotocols": [limits.SUBPROTOCOL], "origin": "https://evil.example"}, 403),
    ],
    ids=["another path", "no subprotocol", "another subprotocol", "a web page"],
)
async def test_who_is_not_let_in(path: str, options: dict[str, Any], status: int) -> None:
    async with _listening(_echo) as (listener, _):
        with pytest.raises(InvalidStatus) as caught:
            await raw_connect(f"ws://{HOST}:{listener.port}{path}", **options)
        assert caught.value.response.status_code == status


@pytest.mark.parametrize("junk", [b"SSH-2.0-scanner\r\n\r\n", b"\x16\x03\x01", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"])
async def test_a_port_scan_is_one_line_in_the_log(junk: bytes, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO", logger="wanspec_p2p.links.websocket")
    async with _listening(_echo) as (listener, _):
        reader, writer = await asyncio.open_connection(HOST, listener.port)
        writer.write(junk)
        writer.write_eof()
        await reader.read()
        writer.close()
        await writer.wait_closed()
    assert not [record for record in caplog.records if record.levelname == "ERROR" or record.exc_info]


async def test_frames_are_not_compressed() -> None:
    async with (
        _listening(_echo) as (_, url),
        raw_connect(url, subprotocols=[limits.SUBPROTOCOL], compression="deflate") as websocket,  # type: ignore[list-item]  # a NewType of str
    ):
        assert websocket.response is not None
        assert "Sec-WebSocket-Extensions" not in websocket.response.headers


async def test_closing_a_session_takes_no_reply(tls: Tls) -> None:
    """Close of a message and close of a link are different things; a link survives the former."""
    clock = SystemClock()

    async def target(transport: Transport) -> None:
        roles = frozenset({Role.NODE})
        link = await accept(transport, AT_TARGET_FROM_NODE, identity=TARGET, role=Role.TARGET, roles=roles, clock=clock)
        await link.send(Close(session=1))
        await link.receive()
        await link.close()

    async with _listening(target, tls) as (_, url):
        link = await connect(
            await dial(url, certificate=tls.fingerprint),
            AT_NODE_FROM_TARGET,
            identity=NODE,
            role=Role.NODE,
            expect=TARGET.peer_id,
            clock=clock,
        )
        assert await link.receive() == Close(session=1)
        await link.send(Attach(lease="renewed"))
        with pytest.raises(LinkClosed):
            await link.receive()
        await link.close()


async def test_links_beyond_the_limit_are_told_to_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(websocket, "MAX_LINKS", 1)
    async with _listening(_echo) as (_, url):
        first = await dial(url, certificate=None)
        with pytest.raises(Unreachable, match="no room for another"):
            await dial(url, certificate=None)
        await first.close()


async def test_connections_that_ask_for_no_link_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bounded_connections, "MAX_SOCKETS", 1)
    async with _listening(_echo) as (listener, url):
        _, silent = await asyncio.open_connection(HOST, listener.port)
        with pytest.raises(Unreachable):
            await dial(url, certificate=None)
        silent.close()
        await silent.wait_closed()
        while True:  # the listener has heard of it
            with contextlib.suppress(Unreachable):
                await (await dial(url, certificate=None)).close()
                break


@pytest.mark.parametrize("secure", [False, True])
async def test_whoever_connects_and_says_nothing_is_hung_up_on(
    secure: bool, tls: Tls, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", 0.01)
    async with _listening(_echo, tls if secure else None) as (listener, _):
        reader, writer = await asyncio.open_connection(HOST, listener.port)
        with contextlib.suppress(ConnectionError):
            assert await reader.read() == b""
        writer.close()


async def test_a_message_in_too_many_pieces_is_refused() -> None:
    async def note(transport: Transport) -> None:
        with pytest.raises(RemoteProtocolError, match="too many fragments"):
            await transport.receive()

    async with _listening(note) as (listener, _):
        raw = await RawWebSocket.upgraded(listener.port, DRAFT_PATH)
        raw.text("", fin=False)
        for _ in range(10_000):
            raw.frame(Opcode.CONT, b"", fin=False)
        assert (await raw.closed()).code == CloseCode.MESSAGE_TOO_BIG
        raw.close()
