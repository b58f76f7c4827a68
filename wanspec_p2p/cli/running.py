"""Runs a service in the foreground: says when it is ready, drains on the first signal, gives up on the second."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, Protocol, TypeAlias, TypeVar

import typer

from wanspec_p2p.cli.output import debugging, emit
from wanspec_p2p.errors import ExitCode, WanspecError
from wanspec_p2p.locking import locked

if TYPE_CHECKING:
    import asyncio

__all__ = ["Service", "WithParent", "serve"]


class ServiceSettings(Protocol):
    @property
    def log_json(self) -> bool: ...

    @property
    def lock_file(self) -> Path: ...


START_SECONDS = 3.0
"""How long a service may take to stop that is not ready yet. A model is loaded for minutes, and service managers kill
after ten seconds what does not end."""
MACOS_MOST = 10_240
"""macOS says that there is no limit to open files, and refuses more than these (OPEN_MAX)."""
Settings = TypeVar("Settings", bound=ServiceSettings, contravariant=True)

WithParent: TypeAlias = Annotated[
    bool, typer.Option("--with-parent", hidden=True, help="Stop when stdin ends: whoever started this is gone.")
]


class Service(Protocol[Settings]):
    def __call__(
        self, settings: Settings, *, ready: Callable[[str], None] | None = None, stop: asyncio.Event | None = None
    ) -> Awaitable[None]: ...


def serve(
    service: Service[Settings],
    settings: Settings,
    *,
    name: str,
    context: typer.Context,
    enrol: Callable[[Settings], Coroutine[Any, Any, None]] | None = None,
    prepare: Callable[[], None] | None = None,
) -> None:
    """Until SIGTERM, SIGINT, SIGHUP or, with `--with-parent`, the end of stdin; with `--json` the ready line is JSON.

    Who is told to stop before it is ready is gone within `START_SECONDS`, whatever it was about to load.

    Where logs are JSON, nothing else is written to stderr: services log by themselves that they are ready, and an error
    that ends them is one more line.

    Args:
        enrol, prepare: done in this order before the service is started, and not by a second one on the same data
            directory.
    """

    import asyncio

    from wanspec_p2p import logs

    reached: list[str] = []

    def ready(where: str) -> None:
        """Told the address of what listens, or the peer id of what only dials."""
        reached.append(where)
        if context.params["json"]:
            emit({"event": "ready", "url" if "://" in where else "peer": where})
        elif not settings.log_json:
            typer.echo(f"{name} is ready: {where}", err=True)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        _stop_on_signals(stop, loop)
        if context.params["with_parent"]:
            _stop_at_end_of_input(stop, loop)
        serving = asyncio.ensure_future(service(settings, ready=ready, stop=stop))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait((serving, stopping), return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if not reached:
            await asyncio.wait((serving,), timeout=START_SECONDS)
            if not serving.done():
                _leave_now()
        await serving

    logs.configure(json=settings.log_json)
    with _failing_in_the_log() if settings.log_json else contextlib.nullcontext():
        if enrol is not None or prepare is not None:
            with locked(settings.lock_file, name):
                if enrol is not None:
                    asyncio.run(enrol(settings))
                if prepare is not None:
                    prepare()
        _room_for_sockets()
        asyncio.run(run())


def _leave_now() -> NoReturn:
    """Without waiting for threads, of which nobody can tell one that loads a model, or checks a ledger, to stop. What
    they write comes into being whole or not at all."""
    import structlog

    structlog.get_logger().warning("left before it was ready")
    sys.stdout.flush()
    os._exit(ExitCode.INTERRUPTED)


@contextlib.contextmanager
def _failing_in_the_log() -> Iterator[None]:
    import structlog

    log = structlog.get_logger()
    try:
        yield
    except WanspecError as error:
        log.error("failed", reason=str(error), exit_code=int(error.exit_code), exc_info=debugging())
        raise typer.Exit(error.exit_code) from error
    except BrokenPipeError:
        raise  # nobody reads us any more
    except Exception as error:
        reason = f"this should not have happened: {type(error).__name__}: {error}"
        log.error("failed", reason=reason, exit_code=int(ExitCode.FAILURE), exc_info=True)
        raise typer.Exit(ExitCode.FAILURE) from error


def _room_for_sockets() -> None:
    """As many open files as the system allows us: the usual 1,024 are few for a service, and whoever takes them all up
    would make it deaf."""
    with contextlib.suppress(ImportError):  # not on Windows
        import resource

        soft, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        for wanted in (most, MACOS_MOST):
            with contextlib.suppress(OSError, ValueError):
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))
                return
            if soft >= MACOS_MOST:
                return


def _stop_on_signals(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    signals = [signal.SIGTERM, signal.SIGINT]
    # The terminal has gone; whom `nohup` started is to go on.
    if (hangup := getattr(signal, "SIGHUP", None)) is not None and signal.getsignal(hangup) is not signal.SIG_IGN:
        signals.append(hangup)

    def drain() -> None:
        stop.set()
        for number in signals:
            loop.remove_signal_handler(number)  # the second one ends the process at once

    for number in signals:
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises KeyboardInterrupt instead
            loop.add_signal_handler(number, drain)


def _stop_at_end_of_input(stop: asyncio.Event, loop: asyncio.AbstractEventLoop) -> None:
    descriptor = sys.stdin.fileno()

    def readable() -> None:
        if not os.read(descriptor, 4096):
            loop.remove_reader(descriptor)
            stop.set()

    loop.add_reader(descriptor, readable)
