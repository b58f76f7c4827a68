from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest

from tests.support.recorded_fleet import RecordedFleet
from wanspec_p2p.cli.bench import cluster as module
from wanspec_p2p.cli.bench.cluster import Cluster
from wanspec_p2p.simulation.adversaries import Kind

TOKEN = {"target": "s3cret of the target", "node": "s3cret of a node"}
SERVICE = """
import json, sys
print(json.dumps({"event": "ready", "url": "http://127.0.0.1:1", "peer": "p"}), flush=True)
sys.stdin.read()
"""


def command(*arguments: str) -> list[str]:
    """`wanspec coordinator token` prints one; nothing else is run as a command here."""
    if arguments[:2] == ("coordinator", "token"):
        printed = json.dumps({"token": TOKEN[arguments[arguments.index("--role") + 1]]})
        return [sys.executable, "-S", "-c", f"print({printed!r})"]
    return ["wanspec", *arguments]


async def test_tokens_are_told_to_peers_and_are_in_no_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "wanspec_command", command)
    async with asyncio.timeout(60), RecordedFleet(tmp_path, SERVICE) as fleet:
        running = Cluster.running(fleet, tmp_path, os.environ, cache=tmp_path, model="m", drafter="d")
        async with running as cluster:
            await cluster.start_node(Kind.LIAR)
            secrets = {"coordinator-run-1": None, "target-1-run-2": TOKEN["target"], "liar-1": TOKEN["node"]}
            assert fleet.secrets == secrets
            (joining,) = (words for words in fleet.commands.values() if "join" in words)
            assert joining[:4] == ["wanspec", "target", "join", "-"]
            assert not any("s3cret" in word for words in fleet.commands.values() for word in words)


async def test_targets_are_the_same_again_with_a_drafter_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "wanspec_command", command)
    # What `wanspec target join` leaves behind.
    (tmp_path / "target-1").mkdir()
    (tmp_path / "target-1" / "coordinator.json").touch()
    async with asyncio.timeout(60), RecordedFleet(tmp_path, SERVICE) as fleet:
        running = Cluster.running(fleet, tmp_path, os.environ, cache=tmp_path, model="m", drafter="d")
        async with running as cluster:
            before = cluster.targets["target-1"]
            assert "--local-drafter" not in fleet.commands[before.name]
            await cluster.give_local_drafter("ngram")
            after = cluster.targets["target-1"]
            assert before.process.returncode is not None and after.process.returncode is None
            words = fleet.commands[after.name]
            assert words[words.index("--local-drafter") + 1] == "ngram"
            assert [word for word in words if word not in ("--local-drafter", "ngram")] == fleet.commands[before.name]
            await fleet.while_alive(asyncio.sleep(0))  # nobody's end is held against anybody
