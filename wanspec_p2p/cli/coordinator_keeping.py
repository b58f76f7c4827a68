"""`wanspec coordinator backup | restore | rotate-key | rotate-cert | ca`: looking after what makes it itself."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wanspec_p2p.cli.output import Json, emit, say
from wanspec_p2p.cli.settings import DataDir, service_settings
from wanspec_p2p.errors import ConfigError

if TYPE_CHECKING:
    from coordinator.settings import CoordinatorSettings

__all__ = ["backup", "certificate", "restore", "rotate_certificate", "rotate_key", "settings_of"]

File = Annotated[Path, typer.Argument(metavar="FILE", dir_okay=False)]


def settings_of(flags: Mapping[str, object]) -> CoordinatorSettings:
    """Of the coordinator whose data directory, if any, is among the flags."""
    from coordinator.settings import CoordinatorSettings

    return service_settings(CoordinatorSettings, "coordinator", flags)


def backup(file: File, data_dir: DataDir = None, json: Json = False) -> None:
    """Copy key, ledger and certificate into FILE, for your eyes alone. The coordinator may run meanwhile."""
    from coordinator.backup import back_up

    contents = back_up(settings_of({"data_dir": data_dir}), file, now=time.time())
    if json:
        emit({"file": str(file), "coordinator": contents.coordinator, "files": sorted(contents.files)})
    else:
        say(f"{file} holds {', '.join(sorted(contents.files))} of the coordinator {contents.coordinator}: keep it safe")


def restore(file: File, data_dir: DataDir = None, json: Json = False) -> None:
    """Put the copy in FILE into an empty data directory."""
    from coordinator.backup import restore as put_back

    settings = settings_of({"data_dir": data_dir})
    contents = put_back(settings, file)
    taken = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(contents.taken))
    if json:
        emit({"data_dir": str(settings.data_dir), "coordinator": contents.coordinator, "taken": contents.taken})
    else:
        say(f"{settings.data_dir} is the coordinator {contents.coordinator} again, as it was on {taken}")


def rotate_key(data_dir: DataDir = None, json: Json = False) -> None:
    """Change the coordinator's key, while it is stopped. The old key signs the new one, and is gone."""
    from coordinator.keys import rotate

    old, new = rotate(settings_of({"data_dir": data_dir}))
    if json:
        emit({"old": old.peer_id, "new": new.peer_id})
    else:
        say(f"the coordinator was {old.peer_id} and is {new.peer_id} now: start it, and take a new backup")


def rotate_certificate(data_dir: DataDir = None, json: Json = False) -> None:
    """Replace the certificate the coordinator made, while it is stopped. The old one signs the new one, and is gone."""
    from coordinator.keys import rotate_certificate as replace

    old, new = replace(settings_of({"data_dir": data_dir}))
    if json:
        emit({"old": old, "new": new})
    else:
        say(f"the certificate was {old}")
        say(f"and is {new} now: start the coordinator, and take a new backup")


def certificate(data_dir: DataDir = None, json: Json = False) -> None:
    """Print the certificate that submitters trust (PEM); its fingerprint goes to stderr."""
    from coordinator import addresses
    from wanspec_p2p.clock import SystemClock

    pem = addresses.certificate_pem(settings_of({"data_dir": data_dir}), SystemClock())
    if pem is None:
        raise ConfigError("this coordinator speaks plain HTTP on loopback, so it has no certificate to trust")
    fingerprint = addresses.fingerprint_of(pem)
    if json:
        emit({"certificate": pem, "fingerprint": fingerprint})
    else:
        say(pem.rstrip())
        typer.echo(f"fingerprint {fingerprint}", err=True)
