"""A proxy that ends TLS in front of a service on loopback, as nginx does with `proxy_pass`: bytes in, bytes out."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator

__all__ = ["tls_proxy"]


@contextlib.asynccontextmanager
async def tls_proxy(context: ssl.SSLContext, port: int, listen: int) -> AsyncIterator[None]:
    """Shows the certificate of `context` at 127.0.0.1:`listen` and speaks plainly to `port`."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        serving.add(task)
        try:
            behind = await asyncio.open_connection("127.0.0.1", port)
            await asyncio.wait(
                [asyncio.create_task(_pump(reader, behind[1])), asyncio.create_task(_pump(behind[0], writer))]
            )
        except OSError:
            writer.transport.abort()  # nobody behind us
        finally:
            serving.discard(task)

    server = await asyncio.start_server(serve, "127.0.0.1", listen, ssl=context)
    try:
        yield
    finally:
        server.close()
        async with asyncio.timeout(10):
            while serving:
                await asyncio.wait(list(serving))


async def _pump(source: asyncio.StreamReader, sink: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError, ssl.SSLError):
        while chunk := await source.read(65_536):
            sink.write(chunk)
            await sink.drain()
    sink.close()
    with contextlib.suppress(OSError, ssl.SSLError):
        await sink.wait_closed()
