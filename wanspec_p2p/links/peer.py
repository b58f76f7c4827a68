"""A link: a transport after its handshake, with types, liveness and round-trip time.

Each link has two tasks. The *reader* takes frames off the transport as they come, so that pings are answered whether
or not anybody calls `receive`; messages wait in an inbox of `MAX_QUEUE_FRAMES`. When the inbox is full the reader
stops, the transport's own buffers fill, and the peer's `send` waits: that is the back-pressure. The *keeper* sends
our pings and the pongs we owe. Pongs are not sent by the reader: two readers that both wait to send would never read
again. Of several pings only the latest is owed a pong, and a flood of them ends the link.

Time-outs here are the event loop's (`asyncio.timeout`), since what waits is the loop itself and a loop with virtual
time moves both; round-trip times are measured on `Clock`.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

from wanspec_p2p.clock import Clock
from wanspec_p2p.errors import CloseCode, LinkClosed, PeerRefused, RemoteProtocolError
from wanspec_p2p.links.base import Transport
from wanspec_p2p.links.closing import unproved
from wanspec_p2p.links.patience import Patience
from wanspec_p2p.links.pulse import Pulse
from wanspec_p2p.protocol import limits
from wanspec_p2p.protocol.codec import Codec
from wanspec_p2p.protocol.common_messages import (
    Challenge,
    CommonMessage,
    ControlMessage,
    DraftLinkMessage,
    Goodbye,
    Hello,
    Ping,
    Pong,
    Proof,
    Welcome,
)
from wanspec_p2p.protocol.handshake import Begin, Complete, Dialler, Handshake, Instruction, Listener
from wanspec_p2p.security.identity import Identity
from wanspec_p2p.security.succession import Succession
from wanspec_p2p.types import PeerId, Role

__all__ = ["LinkStats", "PeerLink", "accept", "connect"]

In = TypeVar("In", bound=ControlMessage | DraftLinkMessage)
Ending = LinkClosed | PeerRefused | RemoteProtocolError
Nonce = Callable[[int], bytes]

_GOODBYE_SECONDS = 2.0
"""How long either side of a Goodbye waits for the other: to take it, or to close after it."""


@dataclass(slots=True)
class LinkStats:
    """Payload of a link, WebSocket framing and TLS not counted; the handshake is."""

    frames_sent: int = 0
    frames_received: int = 0
    bytes_sent: int = 0
    bytes_received: int = 0


async def connect(
    transport: Transport,
    codec: Codec[In],
    *,
    identity: Identity,
    role: Role,
    expect: PeerId,
    clock: Clock,
    nonce: Nonce = secrets.token_bytes,
    pings: Nonce = secrets.token_bytes,
    features: Iterable[str] = (),
    software: str = "",
    certificate: str | None = None,
) -> PeerLink[In]:
    """Prove ourselves to the listener at the other end, and see that it is `expect`.

    The transport is closed unless this returns.

    Args:
        nonce, pings: make random bytes, for the handshake and for the ids of pings.
        certificate: what the listener showed for the transport, for whoever pins it next time; decides nothing here.

    Raises:
        RemoteProtocolError: the peer is somebody else, or breaks the protocol.
        PeerRefused: the handshake is refused, and the peer says why. It has proved nothing.
        LinkClosed: the transport ended, whatever else it was ended with, or the handshake took longer than
            `HANDSHAKE_SECONDS`.
    """
    machine = Dialler(
        identity,
        role,
        expect=expect,
        nonce=nonce(32),
        channel_binding=transport.channel_binding,
        features=features,
        software=software,
    )
    try:
        link = await _establish(transport, codec, machine, clock, pings, Begin())
    except PeerRefused as refusal:
        raise unproved(refusal) from None
    link.certificate = certificate
    return link


async def accept(
    transport: Transport,
    codec: Codec[In],
    *,
    identity: Identity,
    role: Role,
    roles: frozenset[Role],
    clock: Clock,
    nonce: Nonce = secrets.token_bytes,
    pings: Nonce = secrets.token_bytes,
    features: Iterable[str] = (),
    succession: tuple[Succession, ...] = (),
) -> PeerLink[In]:
    """The listener's side of `connect`: admit a peer of one of `roles`. Closes and raises as `connect` does.

    Args:
        succession: from the keys we had before to ours, for diallers that name the feature.
    """
    machine = Listener(
        identity,
        role,
        roles=roles,
        nonce=nonce(32),
        channel_binding=transport.channel_binding,
        features=features,
        succession=succession,
    )
    link = await _establish(transport, codec, machine, clock, pings)
    link.wants_pongs = True
    return link


async def _establish(
    transport: Transport, codec: Codec[In], machine: Handshake, clock: Clock, pings: Nonce, *first: Begin
) -> PeerLink[In]:
    frames = _Frames(transport, codec)
    greeted: float | None = None
    try:
        async with asyncio.timeout(limits.HANDSHAKE_SECONDS):
            instructions = [instruction for event in first for instruction in machine.handle(event)]
            while (complete := await _perform(instructions, frames)) is None:
                asked = clock.monotonic() if instructions else None  # a listener has asked nothing before Hello
                message = await frames.receive()
                greeted = None if asked is None else clock.monotonic() - asked
                instructions = machine.handle(message)
    except RemoteProtocolError as error:
        await transport.close(error.code, error.reason)
        raise
    except TimeoutError:
        reason = f"the handshake took longer than {limits.HANDSHAKE_SECONDS:g} s"
        await transport.close(CloseCode.HANDSHAKE_FAILED, reason)
        raise LinkClosed(reason) from None
    except BaseException:  # cancelled, or the transport has ended: either way nobody owns it any more
        await transport.close(CloseCode.GOING_AWAY)
        raise
    return PeerLink(frames, complete, clock, pings, greeted)


async def _perform(instructions: list[Instruction], frames: _Frames[In]) -> Complete | None:
    for instruction in instructions:
        if isinstance(instruction, Complete):
            return instruction
        await frames.send(instruction.message)
    return None


class _Frames(Generic[In]):
    """Transport and codec as one, counted."""

    def __init__(self, transport: Transport, codec: Codec[In]) -> None:
        self.transport = transport
        self.stats = LinkStats()
        self._codec = codec

    async def send(self, message: ControlMessage | DraftLinkMessage) -> None:
        frame = self._codec.encode(message)
        await self.transport.send(frame)
        self.stats.frames_sent += 1
        self.stats.bytes_sent += _payload_bytes(frame)

    async def receive(self) -> In | CommonMessage:
        frame = await self.transport.receive()
        self.stats.frames_received += 1
        self.stats.bytes_received += _payload_bytes(frame)
        return self._codec.decode(frame)


def _payload_bytes(frame: str | bytes) -> int:
    return len(frame) if isinstance(frame, bytes) or frame.isascii() else len(frame.encode(errors="replace"))


class PeerLink(Generic[In]):
    """An authenticated link to one peer; a `Link`. Made by `connect` and `accept`, ended by `close`.

    Whatever ends the link ends its tasks too; `close` after that is harmless.

    Attributes:
        public_key: the peer's, 32 bytes.
        features: those both sides named.
        software: what a dialler calls itself.
        certificate: SHA-256 of the one the peer showed when we dialled it (DER), hex; None without TLS.
        stats: frames and payload bytes, both ways.
        retry_after: seconds after which a peer that said Goodbye asks to be dialled again; None if it did not.
        greeted: seconds it took to answer our last word of the handshake: a round trip at least.
        wants_pongs: whether a peer that speaks but answers no pings is ended: that is for whoever was dialled. Who
            dialled goes by what the other is for, which may be slow to read.
    """

    def __init__(
        self, frames: _Frames[In], complete: Complete, clock: Clock, pings: Nonce, greeted: float | None
    ) -> None:
        self.public_key = complete.public_key
        self.features = frozenset(complete.features)
        self.software = complete.software
        self.certificate: str | None = None
        self.retry_after: float | None = None
        self.greeted = greeted
        self.wants_pongs = False
        self._peer, self._role = complete.peer, complete.role
        self._frames = frames
        self._pulse = Pulse(clock, pings)
        self._inbox: deque[In] = deque()
        self._arrived, self._room = asyncio.Event(), asyncio.Event()
        self._ending: Ending | None = None
        self._ping_due = True
        self._closing: asyncio.Task[None] | None = None
        self._keeper = asyncio.create_task(self._keep(), name=f"keeper of {self._peer}")
        self._reader = asyncio.create_task(self._read(), name=f"reader of {self._peer}")

    @property
    def peer(self) -> PeerId:
        return self._peer

    @property
    def role(self) -> Role:
        return self._role

    @property
    def rtt(self) -> float | None:
        return self._pulse.rtt

    @property
    def jitter(self) -> float | None:
        return self._pulse.jitter

    @property
    def stats(self) -> LinkStats:
        return self._frames.stats

    @property
    def reading(self) -> bool:
        """Frames are taken as they come; False while nobody receives what has come, and the peer may be made to wait.

        A peer of which nothing is heard is silent only while we are reading.
        """
        return len(self._inbox) < limits.MAX_QUEUE_FRAMES

    def ping(self) -> None:
        """Ping the peer now, besides every `PING_SECONDS`: one that lives says something within a round trip."""
        self._ping_due = True
        self._pulse.wake.set()

    async def send(self, message: ControlMessage | DraftLinkMessage) -> None:
        """Waits while the peer does not read.

        Raises:
            LinkClosed, PeerRefused: the link is gone.
            LocalProtocolError: the message may not be sent at all; the link lives on.
        """
        if self._ending is not None:
            raise _for_sender(self._ending)
        try:
            await self._frames.send(message)
        except (LinkClosed, PeerRefused) as error:
            raise _for_sender(self._ending or error) from error

    async def receive(self) -> In:
        """The next message, in order; those that came before the end of the link are given out before it is raised.

        May be cancelled without losing a message.
        """
        while not self._inbox:
            if self._ending is not None:
                raise self._ending.with_traceback(None)
            self._arrived.clear()
            await self._arrived.wait()
        self._room.set()
        return self._inbox.popleft()

    async def close(self, code: int = 1000, reason: str = "", *, retry_after: float = 0.0) -> None:
        """End the link; the peer gets `reason`, whole in a Goodbye and as far as it fits in the close frame.

        Bounded, idempotent, and completed even if the caller is cancelled. What has not been received is dropped.
        """
        if self._closing is None:
            self._closing = asyncio.create_task(self._close(code, reason, retry_after))
        await asyncio.shield(self._closing)

    async def _close(self, code: int, reason: str, retry_after: float) -> None:
        open_until_now = self._ending is None
        self._end(LinkClosed("the link was closed here"))
        self._inbox.clear()
        if open_until_now and (reason or retry_after):
            with contextlib.suppress(LinkClosed, PeerRefused, TimeoutError):
                async with asyncio.timeout(_GOODBYE_SECONDS):
                    await self._frames.send(Goodbye(reason=reason[: limits.MAX_REASON], retry_after=retry_after))
        await self._frames.transport.close(code, reason)
        self._reader.cancel()
        await asyncio.wait([self._reader, self._keeper])

    def _end(self, error: Ending) -> None:
        """The first reason counts."""
        if self._ending is None:
            self._ending = error
        self._keeper.cancel()
        self._arrived.set()
        self._room.set()

    # The reader ----------------------------------------------------------------------------------------------------

    async def _read(self) -> None:
        transport = self._frames.transport
        try:
            async with Patience(limits.SILENCE_SECONDS) as patience:
                while True:
                    patience.listen()
                    message = await self._frames.receive()
                    patience.rest()
                    if isinstance(message, Goodbye):
                        raise await self._last_words(message)
                    await self._take(message)
                    self._pulse.check()
        except TimeoutError:
            reason = f"the peer was silent for {limits.SILENCE_SECONDS:g} s"
            self._end(LinkClosed(reason))
            await transport.close(CloseCode.GOING_AWAY, reason)
        except RemoteProtocolError as error:
            self._end(error)
            await transport.close(error.code, error.reason)
        except (LinkClosed, PeerRefused) as error:
            self._end(error)
            await transport.close()
        finally:
            self._end(LinkClosed("the link's reader stopped"))  # cancelled, or failed: nobody may wait for ever

    async def _take(self, message: In | CommonMessage) -> None:
        if isinstance(message, Ping):
            self._pulse.owe(message)
        elif isinstance(message, Pong):
            self._pulse.pong(message)
        elif isinstance(message, Hello | Challenge | Proof | Welcome | Goodbye):
            raise RemoteProtocolError(f"{type(message).__name__} is out of turn after the handshake")
        else:
            await self._deliver(message)

    async def _deliver(self, message: In) -> None:
        if len(self._inbox) >= limits.MAX_QUEUE_FRAMES:
            await self._until_room()
        self._inbox.append(message)
        self._arrived.set()

    async def _until_room(self) -> None:
        self._pulse.stopped_reading()
        while len(self._inbox) >= limits.MAX_QUEUE_FRAMES and self._ending is None:
            self._pulse.forget()  # pongs wait behind this message, and would measure our own slowness
            self._room.clear()
            await self._room.wait()
        self._pulse.reads_again()

    async def _last_words(self, goodbye: Goodbye) -> LinkClosed | PeerRefused:
        """Wait for the close frame that follows a Goodbye: its code tells a refusal from an orderly end."""
        self.retry_after = goodbye.retry_after or None
        try:
            async with asyncio.timeout(_GOODBYE_SECONDS):
                while True:
                    await self._frames.transport.receive()
        except PeerRefused as refusal:
            return PeerRefused(refusal.code, goodbye.reason or refusal.reason)
        except (LinkClosed, RemoteProtocolError, TimeoutError):
            return LinkClosed(goodbye.reason or "the peer said goodbye")

    # The keeper ----------------------------------------------------------------------------------------------------

    async def _keep(self) -> None:
        loop = asyncio.get_running_loop()
        next_ping = loop.call_later(limits.PING_SECONDS, self.ping)
        try:
            while True:
                if (pong := self._pulse.take_owed()) is not None:
                    await self._frames.send(pong)
                elif self._ping_due:
                    self._ping_due = False
                    next_ping.cancel()
                    next_ping = loop.call_later(limits.PING_SECONDS, self.ping)
                    await self._frames.send(self._pulse.ping(wants_pong=self.wants_pongs and self.reading))
                else:
                    await self._pulse.wake.wait()
        except (LinkClosed, PeerRefused):
            pass  # the reader learns it too, and why
        finally:
            next_ping.cancel()


def _for_sender(ending: Ending) -> LinkClosed | PeerRefused:
    """Who sends is not told of the peer's fault, only that the link is gone; `receive` tells."""
    if isinstance(ending, RemoteProtocolError):
        return LinkClosed(f"the link was closed here: {ending.reason}")
    return ending.with_traceback(None)
