"""Bad manners at a real coordinator's port: each ends with a clear answer, and costs nobody else anything."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Callable
from urllib.parse import urlsplit

import httpx2
import pytest
import structlog
from uvicorn.config import Config
from uvicorn.server import ServerState
from websockets.frames import Frame, Opcode

from coordinator import connections, service
from coordinator.admin import issue_join_token
from coordinator.connections import GuardedHttp
from coordinator.settings import CoordinatorSettings
from tests.support.fake_target import FakeTarget, target_registration
from tests.support.raw_websocket import Closed, RawConnection, RawWebSocket
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.links.turns import FRAMES_A_TURN, TOO_MANY_PINGS
from wanspec_p2p.links.websocket import dial
from wanspec_p2p.protocol import limits
from wanspec_p2p.types import Role

NODE, TARGET = "/wanspec/node", "/wanspec/target"
SOON = 0.3
"""Seconds that stand for the patience of a real coordinator."""


@pytest.fixture
async def port(settings: CoordinatorSettings) -> AsyncIterator[int]:
    """Of a running coordinator, which must be as healthy at the end as it was before."""
    stop, url = asyncio.Event(), asyncio.get_running_loop().create_future()
    running = asyncio.create_task(service.run(settings, ready=url.set_result, stop=stop))
    async with asyncio.timeout(60):
        await asyncio.wait((running, url), return_when=asyncio.FIRST_COMPLETED)
        number = urlsplit(url.result()).port
        assert number is not None
        yield number
        async with httpx2.AsyncClient(base_url=url.result()) as http:
            assert (await http.get("/health")).json() == {"status": "alive"}
        stop.set()
        await running
    assert asyncio.all_tasks() <= {asyncio.current_task()}, "somebody's task is left"


def status(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])


# HTTP ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /health HT",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{",
        b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ntransfer-encoding: chunked\r\n\r\n5\r\nab",
    ],
)
async def test_a_request_that_does_not_come_in_time_is_told_so(
    sent: bytes, port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SOON)
    monkeypatch.setattr(connections, "BODY_SECONDS", SOON)
    raw = await RawConnection.open(port)
    raw.write(sent)
    head, _, body = (await raw.end()).partition(b"\r\n\r\n")
    assert status(head) == 408
    assert json.loads(body)["error"]["code"] == "timeout"
    raw.close()


async def test_a_request_sent_ahead_has_no_more_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "BODY_SECONDS", SOON)
    raw = await RawConnection.open(port)
    raw.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
    raw.write(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
    first, _, second = (await raw.end()).partition(b'{"status":"alive"}')
    assert (status(first), status(second)) == (200, 408)
    raw.close()


async def test_who_says_nothing_is_told_nothing(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SOON)
    raw = await RawConnection.open(port)
    assert await raw.end() == b""
    raw.close()


async def test_dripping_bytes_buys_no_time(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "HEAD_SECONDS", SOON)
    raw = await RawConnection.open(port)

    async def drip() -> None:
        raw.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n")
        while True:
            raw.write(b"x: y\r\n")
            await asyncio.sleep(SOON / 20)

    dripping = asyncio.create_task(drip())
    assert status(await raw.end()) == 408
    dripping.cancel()
    raw.close()


async def test_a_kept_connection_answers_again_and_its_patience_starts_anew(port: int) -> None:
    raw = await RawConnection.open(port)
    for _ in range(2):
        raw.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")
        async with asyncio.timeout(10):
            assert status(await raw.reader.readuntil(b"\r\n\r\n")) == 200
            await raw.reader.readexactly(len(b'{"status":"alive"}'))
    raw.write(b"GET /health HTTP/1.0\r\nhost: localhost\r\n\r\n")
    assert b"alive" in await raw.end()
    raw.close()


async def test_what_is_no_request_is_400(port: int) -> None:
    for sent in (
        b"GET /health HTTP/1.1\r\nhost: localhost\r\nx: " + b"y" * 1_000_000 + b"\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",  # TLS where plain text was expected
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: -1\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: localhost\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\n",
        b"\r\n" * 10 + b"nonsense\r\n\r\n",
    ):
        raw = await RawConnection.open(port)
        raw.write(sent)
        assert status(await raw.end()) == 400, sent[:80]
        raw.close()


async def test_connections_beyond_the_limit_are_told_to_come_back(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "MAX_CONNECTIONS", 2)
    first, second = [await RawConnection.open(port) for _ in range(2)]
    first.write(b"GET /health HTTP/1.1\r\nhost: localhost\r\n\r\n")  # both are seen before the third comes
    async with asyncio.timeout(10):
        await first.reader.readuntil(b"\r\n\r\n")
    third = await RawConnection.open(port)
    answer = await third.end()
    assert status(answer) == 503
    assert b"retry-after: 5" in answer
    for raw in (first, second, third):
        raw.close()
    first.writer.close()
    await first.end()
    monkeypatch.undo()


# Slow readers ----------------------------------------------------------------------------------------------------


@contextlib.asynccontextmanager
async def talkative_target(port: int, settings: CoordinatorSettings) -> AsyncIterator[FakeTarget]:
    token = issue_join_token(settings, role=Role.TARGET)
    transport = await dial(f"ws://127.0.0.1:{port}{TARGET}", certificate=None)
    target: FakeTarget = await FakeTarget.join(transport, token.peer_id, target_registration(token.secret))
    target.script.tokens, target.script.per_round = 900, 1
    yield target
    await target.close()


async def test_a_submitter_that_reads_nothing_is_hung_up_on(
    port: int, settings: CoordinatorSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", SOON)
    async with talkative_target(port, settings):
        raw = await RawConnection.open(port, buffer=4096)
        body = json.dumps({"model": "big", "prompt": "x", "max_tokens": 900, "stream": True}).encode()
        request = b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: %d\r\n\r\n" % len(body)
        raw.writer.transport.pause_reading()  # type: ignore[attr-defined]  # asyncio's own type lacks it
        raw.write((request + body) * 40)  # pipelined: more answers than the kernel holds for us
        address = f"http://127.0.0.1:{port}"
        async with asyncio.timeout(30), httpx2.AsyncClient(base_url=address) as http:
            with structlog.testing.capture_logs() as said:
                while not any(line["event"].startswith("hanging up on") for line in said):
                    assert (await http.get("/health")).status_code == 200
            while (await http.get("/api/state")).json()["answers"]:
                pass
        raw.writer.transport.resume_reading()  # type: ignore[attr-defined]
        assert (await raw.end()).count(b"[DONE]") < 40
        raw.close()


async def test_a_peer_that_pings_and_never_reads_makes_us_hold_nothing(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "STALL_SECONDS", SOON)
    monkeypatch.setattr(limits, "PINGS_AT_ONCE", 1 << 30)  # as of one that pings slowly, for hours
    raw = await RawWebSocket.upgraded(port, NODE)
    raw.writer.transport.pause_reading()  # type: ignore[attr-defined]
    flood = asyncio.create_task(_pings(raw))
    async with asyncio.timeout(20):
        with pytest.raises(ConnectionError):
            await flood
    raw.close()


async def _pings(raw: RawWebSocket) -> None:
    while True:
        for _ in range(500):
            raw.frame(Opcode.PING, b"x" * 125)
        await raw.writer.drain()


@pytest.mark.parametrize("opcode", [Opcode.PING, Opcode.PONG])
async def test_a_flood_of_control_frames_ends_the_connection(port: int, opcode: Opcode) -> None:
    raw = await RawWebSocket.upgraded(port, NODE)
    raw.write(Frame(opcode, b"").serialize(mask=True) * 1000)
    assert await raw.closed() == Closed(CloseCode.POLICY_VIOLATION, TOO_MANY_PINGS)
    raw.close()


# Frames ----------------------------------------------------------------------------------------------------------


async def test_what_came_in_one_read_is_taken_in_turns_and_whole(port: int) -> None:
    """A message in more pieces than one turn takes, and what comes after it."""
    raw = await RawWebSocket.upgraded(port, NODE)
    said = '{"type":"pong","id":1,"at":1.0' + " " * (5 * FRAMES_A_TURN) + "}"
    pieces = [Frame(Opcode.TEXT, said[:1].encode(), fin=False)]
    pieces += [Frame(Opcode.CONT, character.encode(), fin=False) for character in said[1:]]
    pieces += [Frame(Opcode.CONT, b"")]
    raw.write(b"".join(piece.serialize(mask=True) for piece in pieces))
    assert await raw.closed() == Closed(CloseCode.PROTOCOL_ERROR, "Pong is out of turn in the handshake")
    raw.close()


async def test_a_flood_of_frames_that_nobody_receives_any_more_is_let_go(port: int) -> None:
    raw = await RawWebSocket.upgraded(port, NODE)
    raw.write(Frame(Opcode.TEXT, b"").serialize(mask=True) * 10_000)
    assert (await raw.closed()).code in (CloseCode.INVALID_DATA, 1006)  # 1006: cut before all of it was taken
    raw.close()


async def test_too_many_fragments(port: int) -> None:
    raw = await RawWebSocket.upgraded(port, NODE)
    raw.text("", fin=False)
    for _ in range(3 * limits.MAX_FRAGMENTS):
        raw.frame(Opcode.CONT, b"", fin=False)
    assert await raw.closed() == Closed(CloseCode.MESSAGE_TOO_BIG, "too many fragments")
    raw.close()


async def test_a_fragmented_message_is_one_message(port: int) -> None:
    """It is put together, and then refused for what it says."""
    raw = await RawWebSocket.upgraded(port, NODE)
    said = '{"type":"pong","id":1,"at":1.0}'
    raw.text(said[0], fin=False)
    for character in said[1:]:
        raw.frame(Opcode.PING, b"in between")
        raw.frame(Opcode.CONT, character.encode(), fin=False)
    raw.frame(Opcode.CONT, b"")
    assert await raw.closed() == Closed(CloseCode.PROTOCOL_ERROR, "Pong is out of turn in the handshake")
    raw.close()


def _oversized(raw: RawWebSocket) -> None:
    raw.text("x" * (limits.MAX_FRAME_BYTES + 1))


def _oversized_in_pieces(raw: RawWebSocket) -> None:
    raw.text("x" * limits.MAX_FRAME_BYTES, fin=False)
    raw.frame(Opcode.CONT, b"x" * 10)


def _announced_only(raw: RawWebSocket) -> None:
    raw.write(b"\x81\xff" + (1 << 60).to_bytes(8, "big") + b"mask")  # an exabyte is to follow


def _unmasked(raw: RawWebSocket) -> None:
    raw.frame(Opcode.TEXT, b"{}", masked=False)


def _compressed(raw: RawWebSocket) -> None:
    raw.write(b"\xc1\x82mask{}")  # RSV1, RFC 7692 §6


def _continuation_of_nothing(raw: RawWebSocket) -> None:
    raw.frame(Opcode.CONT, b"{}")


def _begun_twice(raw: RawWebSocket) -> None:
    raw.text("{", fin=False)
    raw.text("}", fin=False)


def _not_utf8(raw: RawWebSocket) -> None:
    raw.frame(Opcode.TEXT, b'"\xff\xfe"')


def _unknown_opcode(raw: RawWebSocket) -> None:
    raw.write(b"\x83\x80mask")


def _fragmented_ping(raw: RawWebSocket) -> None:
    raw.write(b"\x09\x81maskx")


def _long_ping(raw: RawWebSocket) -> None:
    raw.write(b"\x89\xfe\x00\xff" + b"mask" + bytes(255))


def _binary(raw: RawWebSocket) -> None:
    raw.frame(Opcode.BINARY, b"\x91\x01")


BROKEN: dict[Callable[[RawWebSocket], None], CloseCode] = {
    _oversized: CloseCode.MESSAGE_TOO_BIG,
    _oversized_in_pieces: CloseCode.MESSAGE_TOO_BIG,
    _announced_only: CloseCode.MESSAGE_TOO_BIG,
    _unmasked: CloseCode.PROTOCOL_ERROR,
    _compressed: CloseCode.PROTOCOL_ERROR,
    _continuation_of_nothing: CloseCode.PROTOCOL_ERROR,
    _begun_twice: CloseCode.PROTOCOL_ERROR,
    _unknown_opcode: CloseCode.PROTOCOL_ERROR,
    _fragmented_ping: CloseCode.PROTOCOL_ERROR,
    _long_ping: CloseCode.PROTOCOL_ERROR,
    _not_utf8: CloseCode.INVALID_DATA,
    _binary: CloseCode.INVALID_DATA,
}


@pytest.mark.parametrize("path", [NODE, TARGET])
async def test_frames_that_are_none(path: str, port: int, caplog: pytest.LogCaptureFixture) -> None:
    for break_it, code in BROKEN.items():
        raw = await RawWebSocket.upgraded(port, path)
        break_it(raw)
        assert (await raw.closed()).code == code, break_it.__name__
        raw.close()
    assert not [record for record in caplog.records if record.exc_info]


async def test_a_silent_stranger_is_let_go(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HANDSHAKE_SECONDS", SOON)
    raw = await RawWebSocket.upgraded(port, NODE)
    closed = await raw.closed()
    assert closed.code == CloseCode.HANDSHAKE_FAILED
    assert "took longer" in closed.reason
    raw.close()


class Eager(asyncio.Transport):
    """As asyncio's under TLS: what the handshake left unsent counts, and is told of as soon as anybody asks."""

    def __init__(self, protocol: asyncio.BaseProtocol) -> None:
        super().__init__()
        self.protocol, self.asked = protocol, 0

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.asked += 1
        self.protocol.pause_writing()

    def get_write_buffer_size(self) -> int:
        return 1

    def get_protocol(self) -> asyncio.BaseProtocol:
        return self.protocol

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None: ...

    def close(self) -> None: ...


async def test_bytes_that_tls_has_left_unsent_are_waited_for_from_the_start() -> None:
    async def app(scope: object, receive: object, send: object) -> None: ...

    config = Config(app, loop="none", lifespan="off")
    config.load()
    protocol = GuardedHttp(config=config, server_state=ServerState(), app_state={})
    transport = Eager(protocol)
    protocol.connection_made(transport)
    assert transport.asked == 1 and protocol._unsent._timer is not None
    protocol.resume_writing()
    assert protocol._unsent._timer is None
    protocol.connection_lost(None)
