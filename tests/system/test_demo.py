"""The newcomer's first command, as it is typed: what it prints, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess
from collections.abc import Awaitable

import pytest

from wanspec_p2p.cli.processes import wanspec_command
from wanspec_p2p.errors import ExitCode

pytestmark = [pytest.mark.system, pytest.mark.model, pytest.mark.timeout(300), pytest.mark.usefixtures("no_orphans")]


async def start_demo(environment: dict[str, str], *arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *wanspec_command("demo", *arguments),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment,
    )


async def test_json_prints_one_object_with_what_others_rely_on(environment: dict[str, str]) -> None:
    process = await start_demo(environment, "--max-tokens", "48", "--json")
    out, err = await process.communicate()
    assert process.returncode == ExitCode.OK, err.decode()
    report = json.loads(out)
    assert report["identical"] is True
    assert report["tokens"] == 48
    assert 1 <= report["rounds"] <= report["tokens"]
    assert report["target_draft_passes"] == 0
    won = report["won_by_peer"]
    assert sum(won.values()) > 0
    assert report["accepted_per_round"] == pytest.approx(sum(won.values()) / report["rounds"])


async def test_a_signal_while_everybody_starts_ends_everything(environment: dict[str, str]) -> None:
    process = await start_demo(environment)
    assert process.stderr is not None
    await told_to_end(process, signal.SIGTERM, after=process.stderr.readuntil(b"loads its model"))


async def test_a_signal_in_mid_answer_ends_everything(environment: dict[str, str]) -> None:
    process = await start_demo(environment)
    assert process.stdout is not None
    # The prompt is shown before, and has no capital.
    await told_to_end(process, signal.SIGINT, after=process.stdout.readuntil(b"Photosynthesis"))


async def told_to_end(process: asyncio.subprocess.Process, number: signal.Signals, *, after: Awaitable[bytes]) -> None:
    async with asyncio.timeout(120):
        await after
    process.send_signal(number)
    async with asyncio.timeout(30):
        await process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
