"""Over a scripted ASGI websocket; `test_service.py` has the real one."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest
from starlette.websockets import WebSocket

from coordinator.websocket_transport import AsgiWebSocketTransport
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError


class Script:
    """Gives what it is told to give, keeps what it is sent."""

    def __init__(self, *incoming: dict[str, Any]) -> None:
        self.incoming = deque([{"type": "websocket.connect"}, *incoming])
        self.sent: list[Any] = []
        self.broken = False

    async def receive(self) -> dict[str, Any]:
        return self.incoming.popleft()

    async def send(self, message: Any) -> None:
        if self.broken:
            raise OSError
        self.sent.append(message)

    async def transport(self) -> AsgiWebSocketTransport:
        websocket = WebSocket({"type": "websocket", "headers": []}, self.receive, self.send)
        await websocket.accept("wanspec.v1")
        return AsgiWebSocketTransport(websocket, b"binding")


async def test_frames_keep_their_kind() -> None:
    script = Script({"type": "websocket.receive", "text": "a"}, {"type": "websocket.receive", "bytes": b"b"})
    transport = await script.transport()
    assert [await transport.receive(), await transport.receive()] == ["a", b"b"]
    await transport.send("c")
    await transport.send(b"d")
    assert script.sent[1:] == [{"type": "websocket.send", "text": "c"}, {"type": "websocket.send", "bytes": b"d"}]
    assert transport.channel_binding == b"binding"


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (1000, LinkClosed),
        (1006, LinkClosed),
        (CloseCode.REPLACED, PeerRefused),
        (CloseCode.MESSAGE_TOO_BIG, RemoteProtocolError),
    ],
)
async def test_how_it_ended_is_told_for_ever(code: int, kind: type[Exception]) -> None:
    script = Script({"type": "websocket.disconnect", "code": code, "reason": "why"})
    transport = await script.transport()
    for _ in range(2):
        with pytest.raises(kind):
            await transport.receive()
    with pytest.raises((LinkClosed, PeerRefused)):
        await transport.send("x")
    await transport.close()


async def test_closing_says_why_once() -> None:
    script = Script()
    transport = await script.transport()
    await transport.close(CloseCode.IDLE, "x" * 200)
    await transport.close()
    assert script.sent[1:] == [{"type": "websocket.close", "code": 4007, "reason": "x" * 123}]


async def test_a_broken_connection_is_a_closed_link() -> None:
    script = Script()
    transport = await script.transport()
    script.broken = True
    with pytest.raises(LinkClosed):
        await transport.send("x")
    await transport.close()
