"""The newcomer's first command, as it is typed: what it prints, and that it leaves nothing behind."""

from __future__ import annotations

import asyncio
import json
import signal
import subprocess

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
    process = await start_demo(environment, "--json")
    out, err = await process.communicate()
    assert process.returncode == ExitCode.OK, err.decode()
    report = json.loads(out)
    assert report["identical"] is True
    assert report["tokens"] >= 64
    assert 1 <= report["rounds"] <= report["tokens"]
    assert report["target_draft_passes"] == 0
    won = report["won_by_peer"]
    assert sum(won.values()) > 0
    assert report["accepted_per_round"] == pytest.approx(sum(won.values()) / report["rounds"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
async def test_a_signal_in_the_middle_ends_everything(environment: dict[str, str], number: signal.Signals) -> None:
    process = await start_demo(environment)
    assert process.stdout is not None
    async with asyncio.timeout(120):
        await process.stdout.readuntil(b" ")  # the answer has begun
    process.send_signal(number)
    async with asyncio.timeout(30):
        await process.communicate()
    assert process.returncode == ExitCode.INTERRUPTED
