"""`wanspec node service`: start the node with the machine, under the service manager its user already has."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from wanspec_p2p.cli.output import Json, emit, say
from wanspec_p2p.cli.processes import wanspec_command
from wanspec_p2p.cli.settings import DataDir, service_settings
from wanspec_p2p.errors import ConfigError, ExitCode

__all__ = ["app"]

app = typer.Typer(help="Start the node with this machine; needs no root.", no_args_is_help=True)

PLACES = (
    *("WANSPEC_DATA_DIR", "WANSPEC_NODE_DATA_DIR"),
    *("WANSPEC_CACHE_DIR", "WANSPEC_NODE_CACHE_DIR", "WANSPEC_WHEELS"),
)
"""Directories; what is relative means one below where the command is run, and a service is run elsewhere."""
PROXIES = tuple(name for proxy in ("https_proxy", "all_proxy", "no_proxy") for name in (proxy, proxy.upper()))
"""The way out of this network: without it a service would not reach what `join` did, or not fetch models."""
KEPT = (*PLACES, "XDG_CONFIG_HOME", "XDG_DATA_HOME", "XDG_CACHE_HOME", "CUDA_VISIBLE_DEVICES", *PROXIES)
"""Variables that go into the service's file. Others, tokens above all, do not: settings belong into wanspec.toml."""
SECONDS = 30.0

DryRun = Annotated[bool, typer.Option("--dry-run", help="Print the file and the commands, and change nothing.")]


@dataclass(frozen=True, slots=True)
class Manager:
    """What the service manager of this system wants."""

    file: Path
    content: bytes
    start: tuple[tuple[str, ...], ...]
    stop: tuple[tuple[str, ...], ...]
    state: tuple[str, ...]


@app.command()
def install(data_dir: DataDir = None, dry_run: DryRun = False, json: Json = False) -> None:
    """Write the service's file, and start it now and whenever you log in. On a Mac `uninstall` an older one first."""
    manager = _manager(_joined(data_dir))
    if dry_run:
        _show(manager, json=json)
        return
    from wanspec_p2p.security.files import write_whole

    try:
        write_whole(manager.file, manager.content, private=True)
    except OSError as error:
        raise ConfigError(f"{manager.file} cannot be written: {error.strerror}") from error
    failed = _carry_out(manager.start)
    if json:
        emit({"file": str(manager.file), "started": failed is None, "reason": failed})
    elif failed is None:
        say(f"{manager.file} is written and the node is started; see `wanspec node service status`")
    else:
        say(f"{manager.file} is written, but the node could not be started: {failed}")
    if failed is not None:
        raise typer.Exit(ExitCode.FAILURE)


@app.command()
def uninstall(dry_run: DryRun = False, json: Json = False) -> None:
    """Stop the service and remove its file. Key and membership stay."""
    manager = _manager(None)
    if dry_run:
        commands = [" ".join(command) for command in manager.stop]
        if json:
            emit({"file": str(manager.file), "commands": commands})
            return
        for command in commands:
            say(command)
        return
    there = manager.file.exists()
    failed = _carry_out(manager.stop) if there else None
    manager.file.unlink(missing_ok=True)
    if json:
        emit({"file": str(manager.file), "removed": there, "reason": failed})
    else:
        say(f"{manager.file} is removed" if there else "no service is installed")
        if failed is not None:
            say(f"but the service manager could not be told: {failed}")


@app.command()
def status(json: Json = False) -> None:
    """Whether the service is installed, and what its manager says of it. Exit code 1 if it does not run."""
    manager = _manager(None)
    installed = manager.file.exists()
    running, words = _ask(manager.state) if installed else (False, "not installed")
    if json:
        emit({"file": str(manager.file), "installed": installed, "running": running, "manager": words})
    else:
        say(f"{manager.file}: {words}" if installed else "no service is installed: `wanspec node service install`")
    if not running:
        raise typer.Exit(ExitCode.FAILURE)


def _joined(data_dir: Path | None) -> Path | None:
    """The data directory where the service has to be told of it; a node has to have joined there, since a service has
    nobody to ask."""
    from node.settings import NodeSettings

    place = service_settings(NodeSettings, "node", {"data_dir": data_dir}).data_dir
    if not (place / "coordinator.json").exists():
        raise ConfigError(f"no node has joined with {place} yet: first run `wanspec node join TOKEN` and stop it again")
    return None if data_dir is None and place.is_absolute() else place.absolute()


def _manager(data_dir: Path | None) -> Manager:
    from node import installation
    from wanspec_p2p.config import home_directory

    home = home_directory(os.environ)
    command = [*wanspec_command("node", "run"), *(("--data-dir", str(data_dir)) if data_dir else ())]
    environment = _environment(os.environ)
    if sys.platform == "darwin":
        file, domain = installation.launchd_file(home), f"gui/{os.getuid()}"
        return Manager(
            file,
            installation.launchd_plist([*command, "--log-json"], environment, home),
            start=(("launchctl", "bootstrap", domain, str(file)),),
            stop=(("launchctl", "bootout", f"{domain}/{installation.LABEL}"),),
            state=("launchctl", "print", f"{domain}/{installation.LABEL}"),
        )
    if not sys.platform.startswith("linux"):
        raise ConfigError(f"there is no service for {sys.platform}: run `wanspec node run` from the manager you have")
    config = os.environ.get("XDG_CONFIG_HOME", "")
    systemctl = ("systemctl", "--user")
    return Manager(
        installation.systemd_file(home, Path(config) if config.startswith("/") else None),
        installation.systemd_unit(command, environment).encode(),
        start=(
            (*systemctl, "daemon-reload"),
            (*systemctl, "enable", installation.UNIT),
            (*systemctl, "restart", installation.UNIT),  # one that runs already has the file of before
        ),
        stop=((*systemctl, "disable", "--now", installation.UNIT),),
        state=(*systemctl, "is-active", installation.UNIT),
    )


def _environment(environ: Mapping[str, str]) -> dict[str, str]:
    """A service starts without what a shell has set; where it changes the directories, the service needs it too."""
    kept = {name: environ[name] for name in KEPT if environ.get(name)}
    return {name: str(Path(value).expanduser().absolute()) if name in PLACES else value for name, value in kept.items()}


def _show(manager: Manager, *, json: bool) -> None:
    commands = [" ".join(command) for command in manager.start]
    if json:
        emit({"file": str(manager.file), "content": manager.content.decode(), "commands": commands})
        return
    say(f"# {manager.file}\n{manager.content.decode().rstrip()}")
    for command in commands:
        say(f"# then: {command}")


def _carry_out(commands: tuple[tuple[str, ...], ...]) -> str | None:
    """Why one of them failed; None where all went well."""
    for command in commands:
        fine, words = _ask(command)
        if not fine:
            return f"`{' '.join(command)}` says: {words}"
    return None


def _ask(command: tuple[str, ...]) -> tuple[bool, str]:
    """Whether it went well, and the first line of what it said."""
    if shutil.which(command[0]) is None:
        return False, f"there is no {command[0]} on this machine"
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return False, str(error)
    said = (done.stdout.strip() or done.stderr.strip() or f"status {done.returncode}").splitlines()
    return done.returncode == 0, said[0]
