from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import psutil
import pytest

from wanspec_p2p.cli import processes
from wanspec_p2p.cli.processes import Child, ChildDied, Fleet, wanspec_command, wanspec_environment, with_fleet
from wanspec_p2p.errors import WanspecError

SIGNALS = [signal.SIGINT, signal.SIGTERM, *([signal.SIGHUP] if hasattr(signal, "SIGHUP") else [])]  # not on Windows
READY = 'import sys, time, signal; print(\'{"event": "ready", "url": "x://1"}\', flush=True);'


def python(program: str) -> list[str]:
    return [sys.executable, "-S", "-c", program]


@pytest.fixture
async def fleet(tmp_path: Path) -> AsyncIterator[Fleet]:
    async with asyncio.timeout(30), Fleet(tmp_path, os.environ) as fleet:
        yield fleet


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


async def test_a_child_is_ready_when_it_says_so_and_ends_with_the_block(tmp_path: Path) -> None:
    async with asyncio.timeout(30):
        async with Fleet(tmp_path, os.environ) as fleet:
            child = await fleet.start("one", python(READY + "sys.stdin.read()"))
            assert await child.ready(10) == {"event": "ready", "url": "x://1"}
            assert os.getpgid(child.process.pid) == child.process.pid  # a terminal's Ctrl-C does not reach it
        assert gone(child.process.pid)
        assert child.process.returncode == -15


async def test_a_child_that_ignores_sigterm_is_killed(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "STOP_SECONDS", 0.05)
    deaf = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    child = await fleet.start("deaf", python(deaf + READY + "sys.stdin.read()"))
    await child.ready(10)
    await child.stop()
    assert child.process.returncode == -9


async def test_a_secret_is_told_where_nobody_else_can_read_it(fleet: Fleet) -> None:
    says_back = (
        "import json; print(json.dumps({'event': 'ready', 'heard': [sys.stdin.readline(), sys.argv]}), flush=True)"
    )
    child = await fleet.start("one", python(f"import sys; {says_back}; sys.stdin.read()"), secret="s3cret")
    assert (await child.ready(10))["heard"] == ["s3cret\n", ["-c"]]
    assert "s3cret" not in " ".join(psutil.Process(child.process.pid).cmdline())
    assert child.process.returncode is None, "its stdin stays open"


async def test_a_child_that_dies_before_it_is_told_its_secret_is_told_of(fleet: Fleet) -> None:
    child = await fleet.start("target", python("import sys; sys.stdin.close(); sys.exit(5)"), secret="s3cret")
    with pytest.raises(ChildDied, match="the target ended with status 5"):
        await child.ready(10)


async def test_a_child_that_dies_before_it_is_ready_is_told_with_its_last_words(fleet: Fleet) -> None:
    child = await fleet.start("target", python("import sys; print('no memory', file=sys.stderr); sys.exit(5)"))
    with pytest.raises(ChildDied, match="the target ended with status 5, its last words: no memory") as caught:
        await child.ready(10)
    assert caught.value.lines == ("no memory",)


async def test_a_child_that_says_something_else_is_not_ready(fleet: Fleet) -> None:
    child = await fleet.start("odd", python("print('hello', flush=True); import sys; sys.stdin.read()"))
    with pytest.raises(WanspecError, match="the odd said .*hello.* where its ready line was due"):
        await child.ready(10)


async def test_a_child_that_says_nothing_is_not_waited_for_for_ever(fleet: Fleet) -> None:
    child = await fleet.start("quiet", python("import sys; sys.stdin.read()"))
    with pytest.raises(WanspecError, match=r"the quiet was not ready after 0\.05 s"):
        await child.ready(0.05)


async def test_a_death_ends_the_work_that_needs_the_child(fleet: Fleet) -> None:
    child = await fleet.start("node", python(READY + "sys.stdin.read()"))
    await child.ready(10)
    never = asyncio.Event()
    asyncio.get_running_loop().call_soon(child.kill)
    with pytest.raises(ChildDied, match="the node ended with signal SIGKILL"):
        await fleet.while_alive(never.wait())


async def test_a_child_that_was_forgotten_may_die_and_any_other_may_not(fleet: Fleet) -> None:
    doomed, other = [await fleet.start(name, python(READY + "sys.stdin.read()")) for name in ("doomed", "other")]
    for child in (doomed, other):
        await child.ready(10)

    async def kills_both() -> None:
        fleet.forget(doomed)
        doomed.kill()
        await doomed.process.wait()
        other.kill()
        await asyncio.Event().wait()

    with pytest.raises(ChildDied, match="the other ended with signal SIGKILL"):
        await fleet.while_alive(kills_both())


async def test_work_that_ends_first_gives_its_result(fleet: Fleet) -> None:
    child = await fleet.start("node", python(READY + "sys.stdin.read()"))
    assert await fleet.while_alive(child.ready(10)) == {"event": "ready", "url": "x://1"}


async def test_a_failure_of_the_work_itself_is_passed_on(fleet: Fleet) -> None:
    async def fails() -> None:
        raise WanspecError("of its own")

    await fleet.start("node", python("import sys; sys.stdin.read()"))
    with pytest.raises(WanspecError, match="of its own"):
        await fleet.while_alive(fails())


async def test_a_command_is_run_to_its_end(fleet: Fleet) -> None:
    await fleet.finish("pull", python("pass"))
    with pytest.raises(WanspecError, match="the pull failed with status 5"):
        await fleet.finish("pull", python("import sys; sys.exit(5)"))


async def test_killing_ends_every_child_at_once(fleet: Fleet) -> None:
    children = [await fleet.start(name, python("import sys; sys.stdin.read()")) for name in ("a", "b")]
    fleet.kill()
    assert [await child.process.wait() for child in children] == [-9, -9]


async def test_a_child_sees_the_end_of_its_stdin_when_we_are_gone(fleet: Fleet) -> None:
    """What `--with-parent` builds on: the pipe breaks even if we are killed."""
    child = await fleet.start("one", python(READY + "sys.stdin.read(); sys.exit(7)"))
    await child.ready(10)
    assert child.process.stdin is not None
    child.process.stdin.close()
    assert await child.process.wait() == 7


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_while_the_children_are_ended_is_an_interrupt_too(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop, pids = Child.stop, []

    async def interrupted(child: Child) -> None:
        pids.append(child.process.pid)
        os.kill(os.getpid(), number)
        await stop(child)

    async def work(fleet: Fleet, directory: Path, environment: Mapping[str, str]) -> None:
        await (await fleet.start("one", python(READY + "sys.stdin.read()"))).ready(10)

    monkeypatch.setattr(Child, "stop", interrupted)
    with pytest.raises(KeyboardInterrupt):
        asyncio.run(with_fleet("wanspec-test-", work))
    assert [gone(pid) for pid in pids] == [True]


@pytest.mark.parametrize("number", SIGNALS)
def test_signals_do_afterwards_what_they_did_before(number: signal.Signals) -> None:
    async def nothing(fleet: Fleet, directory: Path, environment: Mapping[str, str]) -> None:
        assert signal.getsignal(number) is not mine

    def mine(number: int, frame: object) -> None:
        raise AssertionError("nobody sends one")

    before = signal.signal(number, mine)
    try:
        asyncio.run(with_fleet("wanspec-test-", nothing))
        assert signal.getsignal(number) is mine
    finally:
        signal.signal(number, before)


def test_children_run_this_very_wanspec_whatever_the_current_directory_holds() -> None:
    assert wanspec_command("node", "run")[:4] == [sys.executable, "-P", "-m", "wanspec_p2p.cli"]


def test_the_users_own_settings_do_not_reach_children(tmp_path: Path) -> None:
    environ = {"PATH": "/bin", "WANSPEC_NODE_SLOTS": "9", "WANSPEC_API_KEY": "k", "WANSPEC_CACHE_DIR": "/c"}
    child = wanspec_environment(environ, tmp_path)
    assert (child["PATH"], child["WANSPEC_CACHE_DIR"], child["XDG_CONFIG_HOME"]) == ("/bin", "/c", str(tmp_path))
    assert "WANSPEC_NODE_SLOTS" not in child and "WANSPEC_API_KEY" not in child
