"""The node as a service of its user: what systemd (Linux) and launchd (macOS) are told. Nothing of it needs root.

Pure; `wanspec node service` writes the files and talks to the service manager.
"""

from __future__ import annotations

import plistlib
from collections.abc import Mapping, Sequence
from pathlib import Path

from wanspec_p2p.errors import ExitCode

__all__ = ["LABEL", "UNIT", "launchd_file", "launchd_plist", "systemd_file", "systemd_unit"]

UNIT = "wanspec-node.service"
LABEL = "wanspec.node"
RESTART_SECONDS = 10
STOP_SECONDS = 10
"""The node itself takes five at most."""
NICENESS = 10
HOPELESS = (ExitCode.USAGE, ExitCode.REFUSED, ExitCode.MODEL)
"""Trying again would change nothing: an operator has to look."""


def systemd_file(home: Path, config: Path | None) -> Path:
    """Where systemd looks for a user's units.

    Args:
        config: `XDG_CONFIG_HOME`, where it is set.
    """
    return (config or home / ".config") / "systemd" / "user" / UNIT


def systemd_unit(command: Sequence[str], environment: Mapping[str, str]) -> str:
    """The unit file (systemd.service(5), systemd.exec(5))."""
    variables = "".join(f"Environment={_quoted(f'{name}={value}')}\n" for name, value in sorted(environment.items()))
    return f"""[Unit]
Description=wanspec-p2p node: lends this machine to draft
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={" ".join(_quoted(word, command=True) for word in command)}
{variables}Restart=on-failure
RestartSec={RESTART_SECONDS}
SuccessExitStatus={int(ExitCode.INTERRUPTED)}
RestartPreventExitStatus={" ".join(str(int(code)) for code in HOPELESS)}
TimeoutStopSec={STOP_SECONDS}
Nice={NICENESS}
UMask=0077
NoNewPrivileges=yes
# A core dump would hold prompts.
LimitCORE=0

[Install]
WantedBy=default.target
"""


def _quoted(word: str, *, command: bool = False) -> str:
    """One word of a unit file: `%` begins a specifier, and in commands `$` a variable (systemd.syntax(7))."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("\n", "\\n")
    return f'"{word.replace("$", "$$") if command else word}"'


def launchd_file(home: Path) -> Path:
    return home / "Library" / "LaunchAgents" / f"{LABEL}.plist"


def launchd_plist(command: Sequence[str], environment: Mapping[str, str], home: Path) -> bytes:
    """The property list (launchd.plist(5)). launchd knows no exit codes after which it should not try again."""
    return plistlib.dumps(
        {
            "Label": LABEL,
            "ProgramArguments": list(command),
            "EnvironmentVariables": dict(environment),
            "RunAtLoad": True,
            "KeepAlive": {"SuccessfulExit": False},
            "ThrottleInterval": RESTART_SECONDS,
            "ExitTimeOut": STOP_SECONDS,
            "Nice": NICENESS,
            "ProcessType": "Background",
            "Umask": 0o077,
            "SoftResourceLimits": {"Core": 0},  # a core dump would hold prompts
            "StandardErrorPath": str(home / "Library" / "Logs" / "wanspec-node.log"),
        }
    )
