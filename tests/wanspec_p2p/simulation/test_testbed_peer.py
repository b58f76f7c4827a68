from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from wanspec_p2p.simulation.reference import Setting
from wanspec_p2p.simulation.scenario import LawOf
from wanspec_p2p.simulation.testbed_peer import Part, peer_command
from wanspec_p2p.types import Role


def test_a_command_names_times_and_lengths_but_no_secret(tmp_path: Path) -> None:
    setting = Setting(drafters=3, verify=0.1, draft=0.02, local=False)
    address = "ws://127.0.0.1:1/x"
    command = peer_command(Role.TARGET, tmp_path, name="target", seed=7, setting=setting, address=address, slots=3)
    assert command[1:5] == ["-P", "-m", "wanspec_p2p.simulation.testbed_peer", "target"]
    flags = command[5:-3]
    given = dict(zip(flags[::2], flags[1::2], strict=True))
    assert given == {
        "--data-dir": str(tmp_path),
        "--name": "target",
        "--seed": "7",
        "--slots": "3",
        "--drafters": "3",
        "--verify": "0.1",
        "--width": "64",
        "--draft": "0.02",
        "--rows": "8",
    }
    assert command[-3:] == ["--no-local", "--address", "ws://127.0.0.1:1/x"]


def test_a_node_is_told_its_part_and_the_law(tmp_path: Path) -> None:
    part, law = Part("flapping", "ws://127.0.0.1:9/x", 4.0), LawOf(kind="calibrated")
    command = peer_command(Role.NODE, tmp_path, name="ada", seed=0, setting=Setting(), law=law, part=part)
    *_, law_flag, told, kind_flag, kind, slow_flag, slow, through_flag, through = command
    assert (law_flag, json.loads(told)["kind"]) == ("--law", "calibrated")
    assert (kind_flag, kind, slow_flag, slow) == ("--kind", "flapping", "--slow", "4.0")
    assert (through_flag, through) == ("--through", "ws://127.0.0.1:9/x")


@pytest.mark.parametrize("role", [Role.TARGET, Role.NODE])
def test_without_a_join_token_it_says_so_in_one_line(tmp_path: Path, role: Role) -> None:
    done = subprocess.run(
        peer_command(role, tmp_path / "peer", name="ada", seed=0, setting=Setting()),
        input="nonsense\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("testbed peer: this is not a join token") and done.stderr.count("\n") == 1
