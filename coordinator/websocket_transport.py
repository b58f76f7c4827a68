"""A `Transport` over the websockets that share the coordinator's port with its HTTP API."""

from __future__ import annotations

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketDisconnected, WebSocketState

from wanspec_p2p.errors import CloseCode, LinkClosed, RemoteProtocolError
from wanspec_p2p.links.closing import ended
from wanspec_p2p.links.transport import FrameTransport
from wanspec_p2p.links.turns import TOO_MANY_PINGS

__all__ = ["AsgiWebSocketTransport"]

_FAULTS_OF_FRAMES = (CloseCode.PROTOCOL_ERROR, CloseCode.INVALID_DATA, CloseCode.MESSAGE_TOO_BIG)
"""Codes with which the WebSocket layer below us ends a connection whose frames cannot be read."""


class AsgiWebSocketTransport(FrameTransport):
    """Around a websocket that has been accepted."""

    def __init__(self, websocket: WebSocket, channel_binding: bytes) -> None:
        super().__init__(channel_binding)
        self._websocket = websocket

    async def _receive_frame(self) -> str | bytes:
        try:
            message = await self._websocket.receive()
        except WebSocketDisconnected as error:
            raise LinkClosed("the link is closed") from error
        if message["type"] == "websocket.disconnect":
            code, reason = message.get("code", 1006), message.get("reason") or ""
            if code in _FAULTS_OF_FRAMES:
                raise RemoteProtocolError(f"frames that cannot be read: {reason or 'malformed'}", CloseCode(code))
            if reason == TOO_MANY_PINGS:
                raise RemoteProtocolError(reason, CloseCode.POLICY_VIOLATION)
            raise ended(code, reason)
        text: str | None = message.get("text")
        return text if text is not None else bytes(message["bytes"])

    async def _send_frame(self, frame: str | bytes) -> None:
        try:
            if isinstance(frame, str):
                await self._websocket.send_text(frame)
            else:
                await self._websocket.send_bytes(frame)
        except (WebSocketDisconnect, WebSocketDisconnected) as error:
            raise LinkClosed("the connection broke") from error

    async def _close_connection(self, code: int, reason: str) -> None:
        if self._websocket.application_state is not WebSocketState.CONNECTED:
            return
        try:
            await self._websocket.close(code, reason)
        except (OSError, RuntimeError, WebSocketDisconnect) as error:  # RuntimeError: it was closed a moment ago
            raise LinkClosed("the connection broke") from error
