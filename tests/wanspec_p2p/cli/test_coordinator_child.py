from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.support.recorded_fleet import RecordedFleet
from wanspec_p2p.cli.coordinator_child import start_coordinator
from wanspec_p2p.cli.processes import ChildDied, wanspec_command

SERVES = 'import sys; print(\'{"event": "ready", "url": "http://127.0.0.1:1"}\', flush=True); sys.stdin.read()'
FAILS = "import sys; sys.exit(5)"


async def test_it_serves_at_the_address_it_tells_and_ends_with_us(tmp_path: Path) -> None:
    async with asyncio.timeout(30), RecordedFleet(tmp_path, SERVES) as fleet:
        child, url = await start_coordinator(fleet, tmp_path / "home", 10)
        assert (child.name, url) == ("coordinator", "http://127.0.0.1:1")
    where = ("--port", "0", "--data-dir", str(tmp_path / "home"))
    command = wanspec_command("coordinator", "run", *where, "--json", "--with-parent")
    assert fleet.commands == {"coordinator": command}
    assert child.process.returncode is not None


async def test_it_comes_back_at_the_same_port_with_a_log_of_its_own(tmp_path: Path) -> None:
    async with asyncio.timeout(30), RecordedFleet(tmp_path, SERVES) as fleet:
        for run, port in (("first", 0), ("second", 4711)):
            child, _ = await start_coordinator(fleet, tmp_path / "home", 10, name=run, port=port)
            await child.stop()
            fleet.forget(child)
    ports = {name: command[command.index("--port") + 1] for name, command in fleet.commands.items()}
    assert ports == {"first": "0", "second": "4711"}
    assert (tmp_path / "first.log").exists() and (tmp_path / "second.log").exists()


async def test_one_that_dies_is_told_of(tmp_path: Path) -> None:
    async with asyncio.timeout(30), RecordedFleet(tmp_path, FAILS) as fleet:
        with pytest.raises(ChildDied, match="the coordinator ended with status 5"):
            await start_coordinator(fleet, tmp_path, 10)
