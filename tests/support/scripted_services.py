"""The `wanspec` command with scripted models: real processes, sockets and enrolment, without torch.

`python -m tests.support.scripted_services ARGS` is `wanspec ARGS`, where a model named `scripted` is a
`ScriptedModel` of one token a byte. Its passes take a while, so that an answer can be hung up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import select
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tests.support.processes import end
from tests.support.scripted_models import ByteTokenizer, ScriptedModel
from wanspec_p2p.cli.processes import wanspec_environment
from wanspec_p2p.types import Segment

__all__ = ["MODEL", "Services", "drafter_model", "main", "running_services", "target_model", "wait_for_drafters"]

MODEL = "scripted"
TARGET_PASS, DRAFTER_PASS = 0.010, 0.002
"""Seconds of one forward pass."""
CONTEXT = 4096
START_SECONDS = 60.0
ROOT = Path(__file__).parents[2]


async def _target_pass(batch: Sequence[Segment]) -> None:
    await asyncio.sleep(TARGET_PASS)


async def _drafter_pass(batch: Sequence[Segment]) -> None:
    await asyncio.sleep(DRAFTER_PASS)


def target_model() -> ScriptedModel:
    return ScriptedModel(seed=1, context=CONTEXT, name=MODEL, before_forward=_target_pass)


def drafter_model() -> ScriptedModel:
    """Agrees with the target at six positions in seven."""
    return ScriptedModel(seed=1, context=CONTEXT, drift=0.1, name="scripted-draft", before_forward=_drafter_pass)


def main() -> int:
    """The exit code."""
    import node.daemon
    import wanspec_p2p.cli.main
    import wanspec_p2p.target.service as target

    async def load_target(name: str, **options: object) -> ScriptedModel:
        return target_model()

    async def load_drafter(name: str, **options: object) -> ScriptedModel:
        return drafter_model()

    replaced: list[tuple[Any, str, Any]] = [
        (target, "load_language_model", load_target),
        (target, "load_tokenizer", lambda name, **options: ByteTokenizer()),
        (node.daemon, "load_language_model", load_drafter),
    ]
    for module, name, stand_in in replaced:
        assert hasattr(module, name), f"{module.__name__} loads its model in another way now"
        setattr(module, name, stand_in)
    return wanspec_p2p.cli.main.main()


@dataclass(frozen=True)
class Services:
    """A coordinator, a target and its nodes, each a process of its own.

    Attributes:
        url: of the coordinator, without `/v1`.
        key: an API key.
        start_coordinator: starts it as it was started first, after it has ended; returns when it is ready.
        tell: a command about the coordinator that is told its data directory, to its end; the JSON it prints.
    """

    url: str
    key: str
    processes: Mapping[str, subprocess.Popen[bytes]]
    start_coordinator: Callable[[], object]
    tell: Callable[..., dict[str, Any]]

    def get(self, path: str) -> Any:
        """A JSON document of the coordinator; the text where it is none."""
        asked = urllib.request.Request(self.url + path, headers={"authorization": f"Bearer {self.key}"})
        with urllib.request.urlopen(asked, timeout=START_SECONDS) as response:
            body = response.read().decode()
        return json.loads(body) if response.headers["content-type"].startswith("application/json") else body


@contextlib.contextmanager
def running_services(directory: Path, *, nodes: int = 2, run: Sequence[str] = ()) -> Iterator[Services]:
    """Services that have found each other; all are ended, by their own pids, when the block is left.

    Args:
        run: flags of `wanspec coordinator run`.
    """
    environment = wanspec_environment(os.environ, directory / "config")
    with contextlib.ExitStack() as stack:
        processes: dict[str, subprocess.Popen[bytes]] = {}

        def start(name: str, *arguments: str, token: str = "") -> dict[str, Any]:
            log = stack.enter_context((directory / f"{name}.log").open("ab"))
            where = ("--data-dir", str(directory / name), "--json", "--with-parent")
            process = processes[name] = stack.enter_context(_process([*_command(*arguments), *where], environment, log))
            assert process.stdin is not None and process.stdout is not None
            if token:
                process.stdin.write(f"{token}\n".encode())
                process.stdin.flush()
            return _ready_line(process.stdout, directory / f"{name}.log")

        def tell(*arguments: str) -> dict[str, Any]:
            where = ("--data-dir", str(directory / "coordinator"), "--json")
            out = subprocess.run(
                [*_command(*arguments), *where],
                env=environment,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                check=True,
                timeout=60,
            ).stdout
            answer: dict[str, Any] = json.loads(out)
            return answer

        def start_coordinator() -> dict[str, Any]:
            return start("coordinator", "coordinator", "run", *run)

        url = start_coordinator()["url"]
        key = tell("coordinator", "key", "interop")["api_key"]
        for name, role in [("target", "target"), *((f"node-{number}", "node") for number in range(nodes))]:
            token = tell("coordinator", "token", "--role", role)["token"]
            said = ("--owner", name, "--site", name, "--name", name)
            start(name, role, "join", "-", "--model", MODEL, *said, token=token)
        services = Services(url, key, processes, start_coordinator, tell)
        wait_for_drafters(services, nodes)
        yield services


def _command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "tests.support.scripted_services", *arguments]


@contextlib.contextmanager
def _process(
    command: Sequence[str], environment: Mapping[str, str], log: IO[bytes]
) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log, env=environment, cwd=ROOT
    )
    try:
        yield process
    finally:
        end(process)
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()


def _ready_line(pipe: IO[bytes], log: Path) -> dict[str, Any]:
    readable, _, _ = select.select([pipe], [], [], START_SECONDS)
    line = pipe.readline() if readable else b""
    assert line, f"not ready; its last words: {log.read_text(errors='replace')[-1000:]}"
    message: dict[str, Any] = json.loads(line)
    assert message["event"] == "ready", message
    return message


def wait_for_drafters(services: Services, count: int) -> None:
    """By asking again and again: nobody tells when a node has dialled its target. The coordinator has to know them as
    well: when it has come back, nodes may still be dialling it."""
    target = services.processes["target"]
    for _ in range(int(START_SECONDS / 0.1)):
        state = services.get("/api/state")
        if len(state["nodes"]) >= count and all(entry["drafters"] >= count for entry in state["targets"]):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            raise AssertionError(f"the target ended with status {target.wait(0.1)}")
    raise AssertionError(f"the target did not get {count} drafters")


if __name__ == "__main__":
    sys.exit(main())
