from __future__ import annotations

import os
import plistlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from node import installation
from wanspec_p2p.errors import ExitCode

HOME = Path("/home/ada")
COMMAND = [sys.executable, "-P", "-m", "wanspec_p2p.cli", "node", "run"]
AWKWARD = [sys.executable, "-c", 'print("100% $HOME \\ two  spaces")', "/a folder/with 50%"]
VARIABLES = {"WANSPEC_CACHE_DIR": "/big disk/50% $x", "CUDA_VISIBLE_DEVICES": "0"}


def settings(unit: str) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    for line in unit.splitlines():
        name, equals, value = line.partition("=")
        if equals and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def test_the_unit_starts_the_node_and_gives_up_where_trying_again_is_no_use() -> None:
    unit = settings(installation.systemd_unit(COMMAND, {}))
    assert unit["ExecStart"] == [" ".join(f'"{word}"' for word in COMMAND)]
    assert unit["Restart"] == ["on-failure"]
    assert unit["SuccessExitStatus"] == [str(int(ExitCode.INTERRUPTED))]  # stopped while it loads, it has not failed
    assert unit["RestartPreventExitStatus"] == [f"{ExitCode.USAGE} {ExitCode.REFUSED} {ExitCode.MODEL}"]
    assert (unit["LimitCORE"], unit["UMask"], "Environment" in unit) == (["0"], ["0077"], False)


def test_words_of_a_unit_are_quoted_as_systemd_reads_them() -> None:
    unit = settings(installation.systemd_unit(AWKWARD, VARIABLES))
    assert unit["ExecStart"][0].endswith(r'"print(\"100%% $$HOME \\ two  spaces\")" "/a folder/with 50%%"')
    assert unit["Environment"] == ['"CUDA_VISIBLE_DEVICES=0"', '"WANSPEC_CACHE_DIR=/big disk/50%% $x"']
    broken = installation.systemd_unit(["/bin/x", "a\nExecStart=/bin/evil"], {})
    assert len(settings(broken)["ExecStart"]) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="no systemd-analyze on this machine")
@pytest.mark.parametrize("command", [COMMAND, AWKWARD], ids=["plain", "awkward"])
def test_systemd_finds_nothing_wrong_with_the_unit(tmp_path: Path, command: list[str]) -> None:
    file = tmp_path / installation.UNIT

    def verdict(content: str) -> subprocess.CompletedProcess[str]:
        file.write_text(content)
        verify = ["systemd-analyze", "verify", "--user", "--man=no", str(file)]
        environment = os.environ | {"XDG_RUNTIME_DIR": str(tmp_path)}
        return subprocess.run(verify, env=environment, capture_output=True, text=True, timeout=60, check=False)

    good = installation.systemd_unit(command, VARIABLES)
    done = verdict(good)
    assert (done.returncode, [line for line in done.stderr.splitlines() if installation.UNIT in line]) == (0, [])
    worse = verdict(good.replace("LimitCORE", "LimitKORE"))  # it would have told us
    assert "LimitKORE" in worse.stderr


def test_the_property_list_says_the_same() -> None:
    plist = plistlib.loads(installation.launchd_plist(AWKWARD, VARIABLES, HOME))
    assert (plist["Label"], plist["ProgramArguments"], plist["EnvironmentVariables"]) == (
        installation.LABEL,
        AWKWARD,
        VARIABLES,
    )
    assert plist["KeepAlive"] == {"SuccessfulExit": False} and plist["RunAtLoad"] is True
    assert plist["StandardErrorPath"] == "/home/ada/Library/Logs/wanspec-node.log"
    assert (plist["Umask"], plist["SoftResourceLimits"]) == (0o077, {"Core": 0})


def test_files_lie_where_their_managers_look() -> None:
    assert installation.systemd_file(HOME, None) == HOME / ".config/systemd/user/wanspec-node.service"
    assert installation.systemd_file(HOME, Path("/c")) == Path("/c/systemd/user/wanspec-node.service")
    assert installation.launchd_file(HOME) == HOME / "Library/LaunchAgents/wanspec.node.plist"
