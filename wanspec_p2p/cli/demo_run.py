"""The whole path on one machine, each part its own process, and the proof that no token was changed.

A coordinator, a target and three nodes start on loopback, join with real tokens over authenticated links, and answer
one prompt. Then the same target answers the same request alone; the token ids must be equal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from coordinator.admin import create_api_key, issue_join_token
from coordinator.settings import CoordinatorSettings
from node import hardware
from wanspec_p2p.cli.coordinator_child import start_coordinator
from wanspec_p2p.cli.demo_report import Report, Run
from wanspec_p2p.cli.demo_screen import Screen
from wanspec_p2p.cli.processes import Child, ChildDied, Fleet, wanspec_command, with_fleet
from wanspec_p2p.cli.prompt import node_names
from wanspec_p2p.cli.settings import model_cache
from wanspec_p2p.client import AsyncClient
from wanspec_p2p.client.exchange import Options
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import WanspecError
from wanspec_p2p.types import Role

__all__ = ["NODES", "run_demo"]

TARGET_MODEL = "smollm2-135m"
DRAFTER_MODEL = "smollm2-draft"
READY_SECONDS = 180.0
"""A cold disk and two shared cores can make loading slow; a process that died is noticed at once."""
ATTACH_SECONDS = 60.0
POLL_SECONDS = 0.1
MOST_TARGET_THREADS = 4


@dataclass(frozen=True, slots=True)
class DemoNode:
    """Different owners and sites: drafters of one session are chosen so."""

    name: str
    model: str
    owner: str
    site: str


NODES = (
    DemoNode("ada", DRAFTER_MODEL, "first university", "north"),
    DemoNode("grace", DRAFTER_MODEL, "second university", "south"),
    DemoNode("edsger", f"ngram:{TARGET_MODEL}", "someone at home", "west"),
)


async def run_demo(screen: Screen, prompt: str, options: Options) -> Report:
    """Nothing is left when this returns or raises: no process, no port, no file.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came.
        WanspecError: a part did not start, or ended too early.
    """

    async def work(fleet: Fleet, directory: Path, _: Mapping[str, str]) -> Report:
        try:
            return await _demo(fleet, directory, screen, prompt, options)
        except ChildDied as died:
            screen.last_words(died)
            raise
        finally:
            screen.step("ending every process")

    with screen:  # around the fleet: the last step is done when every process has ended
        return await with_fleet("wanspec-demo-", work)


async def _demo(fleet: Fleet, directory: Path, screen: Screen, prompt: str, options: Options) -> Report:
    await _prepare_models(fleet, screen)
    url, key = await _start_coordinator(fleet, directory, screen)
    await _start_peers(fleet, directory, screen)
    async with AsyncClient(url, api_key=key) as client:
        return await fleet.while_alive(_ask_twice(client, screen, prompt, options))


async def _prepare_models(fleet: Fleet, screen: Screen) -> None:
    """In processes of their own, so that torch and its memory are gone before the services need them."""
    for entry in model_cache().entries():
        if entry.name in (TARGET_MODEL, DRAFTER_MODEL) and not entry.ready:
            screen.step(f"fetching and converting {entry.name}, this once", bars=True)
            await fleet.finish(f"pull of {entry.name}", wanspec_command("models", "pull", entry.name))


async def _start_coordinator(fleet: Fleet, directory: Path, screen: Screen) -> tuple[str, str]:
    """Its address, and a submitter's key."""
    screen.step("starting the coordinator")
    settings = _coordinator_settings(directory)
    _, url = await start_coordinator(fleet, settings.data_dir, READY_SECONDS)
    return url, create_api_key(settings, "demo")


def _coordinator_settings(directory: Path) -> CoordinatorSettings:
    return CoordinatorSettings(data_dir=directory / "coordinator")


async def _start_peers(fleet: Fleet, directory: Path, screen: Screen) -> None:
    """The target and the nodes at the same time; each joins with a token of its own."""
    screen.step(f"starting the target ({TARGET_MODEL}) and {len(NODES)} nodes; each loads its model and joins")
    settings = _coordinator_settings(directory)

    async def start(name: str, role: Role, *arguments: str) -> Child:
        token = issue_join_token(settings, role=role).encode()
        where = ("--name", name, "--data-dir", str(directory / name), "--json", "--with-parent")
        return await fleet.start(name, wanspec_command(role.value, "join", "-", *where, *arguments), secret=token)

    # Threads of one pass wait for each other, so a core that a node takes away would cost the target twice.
    threads = max(1, min(MOST_TARGET_THREADS, hardware.inspect().cores - 1))
    serving = ("--model", TARGET_MODEL, "--drafters", str(len(NODES)), "--threads", str(threads))
    children = [await start("target", Role.TARGET, *serving)]
    for node in NODES:
        lending = ("--model", node.model, "--owner", node.owner, "--site", node.site, "--threads", "1")
        children.append(await start(node.name, Role.NODE, *lending))
    await fleet.while_alive(_all_ready(children))


async def _all_ready(children: list[Child]) -> None:
    try:
        async with asyncio.TaskGroup() as group:
            for child in children:
                group.create_task(child.ready(READY_SECONDS))
    except ExceptionGroup as failures:
        raise failures.exceptions[0] from None  # one line for the person who waits, about the first that failed


async def _ask_twice(client: AsyncClient, screen: Screen, prompt: str, options: Options) -> Report:
    screen.step("waiting until every node is attached to the target as a drafter")
    names = await _attached(client)
    clock = SystemClock()
    screen.question(prompt, names)
    begun = clock.monotonic()
    async with client.stream(prompt, model=TARGET_MODEL, **options) as stream:
        async for piece in stream:
            screen.piece(piece)
    together = Run(stream.answer, clock.monotonic() - begun)
    screen.answered()
    screen.step("asking the target for the same with the network switched off")
    begun = clock.monotonic()
    options["network"] = False
    answer = await client.generate(prompt, model=TARGET_MODEL, **options)
    return Report(together, Run(answer, clock.monotonic() - begun), names)


async def _attached(client: AsyncClient) -> dict[str, str]:
    """Names of the nodes by peer id, once all of them can draft.

    Raises:
        WanspecError: they did not come in time.
    """
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            while True:
                state = await client.state()
                if sum(target["drafters"] for target in state["targets"]) >= len(NODES):
                    return node_names(state)
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise WanspecError(f"the nodes were not attached to the target after {ATTACH_SECONDS:g} s") from None
