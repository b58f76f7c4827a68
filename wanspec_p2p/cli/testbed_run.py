"""One cell of the testbed: a coordinator, a target and nodes as processes, and distance between the last two.

Everything is what is shipped, from the join tokens to the submitter's HTTP request; only the models are stand-ins
(`simulation.testbed_peer`), and nodes reach the target through a relay in this process (`simulation.relay`).
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

from coordinator.admin import create_api_key, issue_join_token
from coordinator.settings import CoordinatorSettings
from wanspec_p2p.cli.processes import Child, Fleet, wanspec_command, with_fleet
from wanspec_p2p.cli.testbed_watch import Look, Watch
from wanspec_p2p.client import Answer, AsyncClient
from wanspec_p2p.clock import SystemClock
from wanspec_p2p.errors import EngineError, WanspecError
from wanspec_p2p.links.websocket import DRAFT_PATH
from wanspec_p2p.simulation.identities import chance
from wanspec_p2p.simulation.laws import Text
from wanspec_p2p.simulation.models import SIMULATED_TOKENIZER
from wanspec_p2p.simulation.reference import WARM_UP_PROMPT, Figures, Setting, prompts
from wanspec_p2p.simulation.relay import Relay, punctual_loop, relaying
from wanspec_p2p.simulation.swarm_peers import SimulatedTokenizer
from wanspec_p2p.simulation.testbed import Code, Observed, between_passes
from wanspec_p2p.simulation.testbed_peer import peer_command
from wanspec_p2p.types import Role, TokenId

__all__ = ["PATIENCE", "attached", "observe", "start_coordinator"]

READY_SECONDS = 120.0
ATTACH_SECONDS = 60.0
PATIENCE = 4.0
"""Times what decoding plainly takes and a minute: an answer that takes longer is given up."""
POLL_SECONDS = 0.05


def observe(setting: Setting, seed: int, progress: Callable[[int], None]) -> Observed:
    """Play the answers of a setting in real time. Nothing is left when this returns or raises.

    Args:
        progress: told how many answers are done.

    Raises:
        KeyboardInterrupt: SIGINT, SIGTERM or SIGHUP came.
        EngineError: an answer is not the target's own.
        WanspecError: a process did not start, or ended too early.
    """
    with asyncio.Runner(loop_factory=punctual_loop) as runner:
        return runner.run(_observe(setting, seed, progress))


async def _observe(setting: Setting, seed: int, progress: Callable[[int], None]) -> Observed:
    return await with_fleet(
        "wanspec-testbed-", lambda fleet, directory, _: _cell(fleet, directory, setting, seed, progress)
    )


async def _cell(
    fleet: Fleet, directory: Path, setting: Setting, seed: int, progress: Callable[[int], None]
) -> Observed:
    home, coordinator, url, key = await start_coordinator(fleet, directory)
    path = setting.wan.path()
    async with (
        relaying(path.delay, path.jitter, lambda name: chance(seed, name)) as relay,
        AsyncClient(url, api_key=key) as client,
    ):
        peers = await fleet.while_alive(_start_peers(fleet, home, setting, seed, relay))
        await fleet.while_alive(attached(client, setting.drafters))
        watch = Watch(coordinator, peers, SystemClock())
        return await fleet.while_alive(_Questions(client, setting, seed, progress).ask(watch))


async def start_coordinator(fleet: Fleet, directory: Path) -> tuple[CoordinatorSettings, Child, str, str]:
    """Its settings, its process, its address and an API key, once it serves."""
    home = CoordinatorSettings(data_dir=directory / "coordinator", port=0)
    command = ("coordinator", "run", "--port", "0", "--data-dir", str(home.data_dir), "--json", "--with-parent")
    coordinator = await fleet.start("coordinator", wanspec_command(*command))
    url = str((await coordinator.ready(READY_SECONDS))["url"])
    return home, coordinator, url, create_api_key(home, "testbed")


async def _start_peers(
    fleet: Fleet, home: CoordinatorSettings, setting: Setting, seed: int, relay: Relay
) -> dict[str, Child]:
    """The target and the nodes, by name, once all of them have joined."""
    peers: dict[str, Child] = {}
    address = f"ws://127.0.0.1:{relay.port}{DRAFT_PATH}"
    for number in range(1 + setting.drafters):
        name, role = (f"node-{number}", Role.NODE) if number else ("target", Role.TARGET)
        command = peer_command(
            role,
            home.data_dir.parent / name,
            name=name,
            seed=seed,
            setting=setting,
            address=address if role is Role.TARGET else None,
        )
        token = issue_join_token(home, role=role).encode()
        peers[name] = await fleet.start(name, command, secret=token)
    relay.towards(int((await peers["target"].ready(READY_SECONDS))["port"]))
    for child in list(peers.values())[1:]:
        await child.ready(READY_SECONDS)
    return peers


async def attached(client: AsyncClient, count: int) -> None:
    """Until all nodes draft for the target.

    Raises:
        WanspecError: they did not come in time.
    """
    try:
        async with asyncio.timeout(ATTACH_SECONDS):
            drafters = -1
            while drafters < count:
                drafters = sum(target["drafters"] for target in (await client.state())["targets"])
                await asyncio.sleep(POLL_SECONDS)
    except TimeoutError:
        raise WanspecError(f"the nodes were not attached to the target after {ATTACH_SECONDS:g} s") from None


class _Questions:
    """What is asked in one cell, and whether the answers are right."""

    def __init__(self, client: AsyncClient, setting: Setting, seed: int, progress: Callable[[int], None]) -> None:
        self._client, self._setting, self._progress = client, setting, progress
        self._text = Text(seed)
        self._tokenizer = SimulatedTokenizer(SIMULATED_TOKENIZER)

    async def ask(self, watch: Watch) -> Observed:
        if self._setting.warm_up:
            await self._answer(WARM_UP_PROMPT, self._setting.warm_up)
        self._progress(0)
        before = await watch.look()
        answers: list[Answer] = []
        for prompt in prompts(self._setting.answers):
            answers.append(await self._answer(prompt, self._setting.tokens))
            self._progress(len(answers))
        return _observed(self._setting, answers, before, await watch.look())

    async def _answer(self, prompt: Sequence[TokenId], tokens: int) -> Answer:
        """Raises EngineError: it is not what the target says."""
        question = self._tokenizer.decode(prompt)
        limit = PATIENCE * (60.0 + tokens * self._setting.verify)
        try:
            async with asyncio.timeout(limit):
                answer = await self._client.generate(question, raw=True, max_tokens=tokens, temperature=0.0)
        except TimeoutError:
            raise WanspecError(f"no answer of {tokens} tokens after {limit:g} s") from None
        due = self._text.continuation(prompt, tokens)
        if list(answer.token_ids) != due or answer.text != self._tokenizer.decode(due):
            raise EngineError(f"the answer is not the target's own: {self._setting}")
        return answer


def _observed(setting: Setting, answers: Sequence[Answer], before: Look, after: Look) -> Observed:
    speculation = [answer.speculation for answer in answers]
    figures = Figures(
        tokens=sum(answer.usage.completion_tokens for answer in answers),
        seconds=sum(own.seconds for own in speculation),
        rounds=sum(own.rounds for own in speculation),
        local_passes=sum(own.target_draft_passes for own in speculation),
        remote_passes=after.passes_since(before, "node"),
    )
    late = {model: after.late_since(before, model) for model in ("target", "local", "node")}
    verify, draft, node = (after.pause(model) + late[model] for model in ("target", "local", "node"))
    code = Code(verify, draft, node).adding_up(figures, between_passes(setting, figures))
    return Observed(figures, after.at - before.at, late, code, after.cores_since(before))
