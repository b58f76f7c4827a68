"""`wanspec doctor`: what on this machine would get in the way, each with what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import socket
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wanspec_p2p.cli.output import Json, console, emit, printable
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint, model_cache, submitter
from wanspec_p2p.errors import ExitCode, WanspecError

if TYPE_CHECKING:
    from wanspec_p2p.config import Paths

__all__ = ["Finding", "doctor"]

RELEASED = 1_793_491_200.0
"""2026-11-01, Unix time: a clock that shows less has never been set."""
CLOCK_LEEWAY = 30.0
"""Seconds two clocks may differ before a fresh lease looks expired or not yet issued."""


@dataclass(frozen=True, slots=True)
class Finding:
    check: str
    ok: bool
    detail: str


def doctor(
    coordinator: CoordinatorUrl = None, api_key: ApiKey = None, fingerprint: Fingerprint = None, json: Json = False
) -> None:
    """Check this machine; with --coordinator also the way there."""
    from wanspec_p2p.config import Paths

    findings = list(_findings(Paths.from_environment(os.environ)))
    if coordinator is not None:
        findings.append(_coordinator(coordinator, api_key, fingerprint))
    if json:
        emit([asdict(finding) for finding in findings])
    else:
        screen = console()
        for finding in findings:
            mark = "[green]✓[/]" if finding.ok else "[red]✗[/]"
            screen.print(f"{mark} {finding.check}: ", end="")
            screen.print(printable(finding.detail), markup=False)
    if not all(finding.ok for finding in findings):
        raise typer.Exit(ExitCode.FAILURE)


def _findings(paths: Paths) -> Iterator[Finding]:
    yield _python()
    yield _machine()
    yield from _torch()
    yield _guarded("model cache", lambda: _model_cache(paths.cache))
    yield check_clock(time.time())
    yield _loopback()
    yield check_keys(paths.data)


def _python() -> Finding:
    found = platform.python_version()
    return Finding("python", sys.version_info >= (3, 11), f"{found} at {sys.executable}; 3.11 or later is needed")


def _machine() -> Finding:
    from node import hardware

    return Finding("machine", True, hardware.inspect().summary())


def _torch() -> Iterator[Finding]:
    if importlib.util.find_spec("torch") is None:
        yield Finding("torch", True, "not installed: fine for submitters and coordinators; nodes and targets need it")
        return
    yield Finding("torch", True, importlib.metadata.version("torch"))
    yield _guarded("device", _device)


def _device() -> Finding:
    from wanspec_p2p.models.torch_device import choose_device

    return Finding("device", True, choose_device().reason)


def _model_cache(cache: Path) -> Finding:
    existing = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if not os.access(existing, os.W_OK):
        return Finding("model cache", False, f"{cache} cannot be written: set WANSPEC_CACHE_DIR to a folder that can")
    entries = (f"{entry.name} {'ready' if entry.ready else 'not yet pulled'}" for entry in model_cache().entries())
    return Finding("model cache", True, f"{cache}: {', '.join(entries)}")


def check_clock(now: float) -> Finding:
    """Leases expire by the clock on the wall."""
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(now))
    if now < RELEASED:
        return Finding("clock", False, f"it shows {shown}, before this version was made: set it, leases depend on it")
    return Finding("clock", True, shown)


def _loopback() -> Finding:
    try:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(2.0)
            with socket.create_connection(listener.getsockname(), timeout=2.0):
                listener.accept()[0].close()
    except OSError as error:
        return Finding(
            "loopback", False, f"no connection to 127.0.0.1 ({error.strerror or error}): look at the firewall"
        )
    return Finding("loopback", True, "a port can be opened and reached")


def check_keys(data: Path) -> Finding:
    """A key that others can read is no identity any more."""
    keys = sorted(data.glob("*/identity.pem"))
    if open_keys := [str(key) for key in keys if key.stat().st_mode & 0o077]:
        return Finding("keys", False, f"others can read {', '.join(open_keys)}: chmod 600, or delete and join again")
    return Finding(
        "keys", True, f"{len(keys)} under {data}, readable by you alone" if keys else f"none yet under {data}"
    )


def _coordinator(url: str, api_key: str | None, fingerprint: str | None) -> Finding:
    return _guarded("coordinator", lambda: _reached(url, api_key, fingerprint))


def _reached(url: str, api_key: str | None, fingerprint: str | None) -> Finding:
    with submitter(url, api_key, fingerprint).client() as client:
        models = ", ".join(model.name for model in client.models()) or "no model"
        theirs = client.wall()
    difference = 0.0 if theirs is None else time.time() - theirs
    if abs(difference) > CLOCK_LEEWAY:
        return Finding(
            "coordinator", False, f"our clocks differ by {difference:.0f} s: set this one, leases depend on it"
        )
    return Finding("coordinator", True, f"{url} serves {models}")


def _guarded(check: str, look: Callable[[], Finding]) -> Finding:
    """What is wrong is a finding, not the end of the examination."""
    try:
        return look()
    except (WanspecError, OSError) as error:
        return Finding(check, False, str(error))
