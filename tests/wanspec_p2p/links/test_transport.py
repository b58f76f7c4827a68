from __future__ import annotations

import asyncio
from collections.abc import Iterable

import pytest

from tests.support.virtual_time import in_virtual_time
from wanspec_p2p.errors import LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.transport import CLOSE_SECONDS, FrameTransport


class ScriptedTransport(FrameTransport):
    """Receives what it was told to; an exception among the frames is raised."""

    def __init__(self, frames: Iterable[str | bytes | Exception] = (), *, close_hangs: bool = False) -> None:
        super().__init__(b"binding")
        self._frames = iter(frames)
        self._close_hangs = close_hangs
        self.sent: list[str | bytes] = []
        self.closes: list[tuple[int, str]] = []

    async def _receive_frame(self) -> str | bytes:
        frame = next(self._frames)
        if isinstance(frame, Exception):
            raise frame
        return frame

    async def _send_frame(self, frame: str | bytes) -> None:
        self.sent.append(frame)

    async def _close_connection(self, code: int, reason: str) -> None:
        self.closes.append((code, reason))
        if self._close_hangs:
            await asyncio.Event().wait()


async def test_frames_pass_through() -> None:
    transport: Transport = ScriptedTransport(["a", b"b"])
    assert [await transport.receive(), await transport.receive()] == ["a", b"b"]
    await transport.send("c")
    assert isinstance(transport, ScriptedTransport) and transport.sent == ["c"]
    assert transport.channel_binding == b"binding"


@pytest.mark.parametrize("error", [LinkClosed("gone"), PeerRefused(4004, "no lease"), RemoteProtocolError("too big")])
async def test_the_first_ending_is_the_ending(error: Exception) -> None:
    transport = ScriptedTransport(["a", error, "never"])
    assert await transport.receive() == "a"
    for _ in range(2):
        with pytest.raises(type(error), match=str(error)):
            await transport.receive()
    with pytest.raises((LinkClosed, PeerRefused), match=str(error)):
        await transport.send("x")
    assert transport.sent == []
    await transport.close()
    with pytest.raises(type(error)):
        await transport.receive()


async def test_close_is_idempotent_and_its_reason_fits() -> None:
    transport = ScriptedTransport()
    await transport.close(4004, "ü" * 100)
    await transport.close(1000, "again")
    assert transport.closes == [(4004, "ü" * 61)]
    with pytest.raises(LinkClosed, match="closed here"):
        await transport.receive()
    with pytest.raises(LinkClosed, match="closed here"):
        await transport.send("x")


@in_virtual_time
async def test_close_is_bounded() -> None:
    start = asyncio.get_running_loop().time()
    await ScriptedTransport(close_hangs=True).close()
    assert asyncio.get_running_loop().time() - start == pytest.approx(CLOSE_SECONDS)
