from __future__ import annotations

import io
import json
import socket
import subprocess
import sys

import pytest

from tests.support.fake_coordinator import FakeCoordinator, serving
from wanspec_p2p.cli.bench import health


def test_it_asks_until_its_stdin_ends() -> None:
    with serving(FakeCoordinator()) as url:
        process = subprocess.Popen(
            [sys.executable, "-P", "-m", health.__name__, url],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(timeout=2)
        out, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    seconds = json.loads(out)
    assert all(0.0 < each < health.TIMEOUT_SECONDS for each in seconds)


def test_no_answer_is_the_worst_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    looks = iter([[], [], ["stdin has ended"]])
    monkeypatch.setattr(health.select, "select", lambda *given: (next(looks), [], []))
    monkeypatch.setattr(health.sys, "stdout", out := io.StringIO())
    health.main(f"http://127.0.0.1:{port}")
    assert json.loads(out.getvalue()) == [health.TIMEOUT_SECONDS] * 2
