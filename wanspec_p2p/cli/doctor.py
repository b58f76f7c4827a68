"""`wanspec doctor`: what on this machine would get in the way, each with what to do about it."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import shutil
import socket
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from wanspec_p2p.cli import doctor_ways
from wanspec_p2p.cli.doctor_settings import read_settings
from wanspec_p2p.cli.findings import Finding, guarded
from wanspec_p2p.cli.output import Json, console, emit, printable
from wanspec_p2p.cli.settings import ApiKey, CoordinatorUrl, Fingerprint
from wanspec_p2p.errors import ExitCode

if TYPE_CHECKING:
    from wanspec_p2p.config import Paths

__all__ = ["check_clock", "check_disk", "check_driver", "check_keys", "doctor"]

RELEASED = 1_793_491_200.0
"""2026-11-01, Unix time: a clock that shows less has never been set."""
ROOM = {"data": 100 * 2**20, "models": 2 * 2**30}
"""Bytes below which a disk is nearly full: a ledger that cannot be written, or a model that cannot be fetched."""
NVIDIA = "0x10de"


def doctor(
    coordinator: CoordinatorUrl = None, api_key: ApiKey = None, fingerprint: Fingerprint = None, json: Json = False
) -> None:
    """Check this machine and the way to the coordinators its services have joined; with --coordinator to that one."""
    from wanspec_p2p.config import Paths

    findings = list(_findings(Paths.from_environment(os.environ)))
    if coordinator is not None:
        findings += doctor_ways.named_coordinator(coordinator, api_key, fingerprint)
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
    places, settings = read_settings(paths)
    yield _python()
    yield _machine()
    yield from _torch()
    yield check_driver(Path("/sys/bus/pci/devices"))
    yield from settings
    for cache in places.caches:
        yield guarded("model cache", partial(_model_cache, cache))
    yield guarded("disk", lambda: check_disk(places.data, places.caches))
    yield check_clock(time.time())
    yield _loopback()
    yield guarded("keys", lambda: check_keys(*places.data))
    yield from doctor_ways.certificates(time.time(), *places.data)
    yield from doctor_ways.remembered_coordinators(places.homes)


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
    yield guarded("device", _device)


def _device() -> Finding:
    from node import hardware
    from wanspec_p2p.models.torch_device import choose_device
    from wanspec_p2p.types import Device

    chosen = choose_device()
    if chosen.device is Device.CPU and hardware.inspect().gpus:
        return Finding("device", False, f"{chosen.reason}: install a build of torch with CUDA to use the NVIDIA GPU")
    return Finding("device", True, chosen.reason)


def _model_cache(cache: Path) -> Finding:
    from wanspec_p2p.models.catalog import Catalog

    if not os.access(_existing(cache), os.W_OK):
        remedy = "set WANSPEC_CACHE_DIR (or cache_dir of the service) to a folder that can"
        return Finding("model cache", False, f"{cache} cannot be written: {remedy}")
    entries = (f"{entry.name} {'ready' if entry.ready else 'not yet pulled'}" for entry in Catalog(cache).entries())
    return Finding("model cache", True, f"{cache}: {', '.join(entries)}")


def check_driver(devices: Path) -> Finding:
    """Whether an NVIDIA GPU that sits in this machine can be used.

    Args:
        devices: where Linux lists what is on the PCI bus.
    """
    from node import hardware

    found = hardware.inspect()
    if found.gpus:
        free = ", ".join(f"{gpu.name} with {gpu.free_bytes / 2**30:.0f} GiB free" for gpu in found.gpus)
        return Finding("driver", True, free)
    here = [device for device in devices.glob("*") if _is_nvidia_gpu(device)]
    if here:
        what = f"an NVIDIA GPU sits in this machine ({here[0].name}), but cannot be used ({found.gpu_note})"
        return Finding("driver", False, f"{what}: install NVIDIA's driver, or let it restart after an update")
    return Finding("driver", True, "no NVIDIA GPU in this machine; models run on what it has")


def _is_nvidia_gpu(device: Path) -> bool:
    try:
        vendor, kind = (device / "vendor").read_text(), (device / "class").read_text()
    except OSError:
        return False
    return vendor.strip() == NVIDIA and kind.startswith("0x03")  # PCI base class 03: display controllers


def check_disk(data: Sequence[Path], caches: Sequence[Path]) -> Finding:
    """A full disk stops a coordinator from taking receipts, and a node from fetching its model."""
    rooms = [
        (path, shutil.disk_usage(_existing(path)).free, ROOM[what])
        for what, places in (("data", data), ("models", caches))
        for path in places
    ]
    said = "; ".join(f"{free / 2**30:.1f} GiB free for {path}" for path, free, _ in rooms)
    short = [f"{needed / 2**30:.1f} GiB for {path}" for path, free, needed in rooms if free < needed]
    if short:
        return Finding("disk", False, f"{said}: make room for at least {' and '.join(short)}")
    return Finding("disk", True, said)


def _existing(path: Path) -> Path:
    return next(folder for folder in (path, *path.parents) if folder.exists())


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


def check_keys(data: Path, *elsewhere: Path) -> Finding:
    """A key that others can read is no identity any more.

    Args:
        data: holds data directories.
        elsewhere: other data directories.
    """
    keys = sorted([*data.glob("*/identity.pem"), *(key for home in elsewhere for key in home.glob("identity.pem"))])
    where = ", ".join(map(str, (data, *elsewhere)))
    if open_keys := [str(key) for key in keys if key.stat().st_mode & 0o077]:
        return Finding("keys", False, f"others can read {', '.join(open_keys)}: chmod 600, or delete and join again")
    return Finding(
        "keys", True, f"{len(keys)} under {where}, readable by you alone" if keys else f"none yet under {where}"
    )
