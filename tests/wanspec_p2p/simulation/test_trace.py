from __future__ import annotations

import asyncio
import hashlib

import pytest
import structlog

from tests.support.virtual_time import LoopClock, in_virtual_time
from wanspec_p2p.simulation.trace import ErrorsLogged, Trace, logs_kept_out


@in_virtual_time
async def test_a_line_says_when_and_what() -> None:
    lines: list[bytes] = []
    trace = Trace(LoopClock(), lines.append)
    await asyncio.sleep(1.25)
    trace.note("pass", machine="target", rows=8)
    trace.note("idle")
    assert lines == [b'{"at":1.25,"event":"pass","machine":"target","rows":8}\n', b'{"at":1.25,"event":"idle"}\n']
    assert trace.lines == 2
    assert trace.digest() == hashlib.sha256(b"".join(lines)).hexdigest()


@in_virtual_time
async def test_a_digest_without_lines_is_the_same() -> None:
    kept, unkept = Trace(LoopClock(), lambda line: None), Trace(LoopClock())
    for trace in (kept, unkept):
        trace.note("one", value=0.1)
    assert kept.digest() == unkept.digest()
    unkept.note("two")
    assert kept.digest() != unkept.digest()


@in_virtual_time
async def test_what_is_logged_is_kept_out_but_errors_are_told_at_the_end() -> None:
    lines: list[bytes] = []
    with structlog.testing.capture_logs() as said:
        log = structlog.get_logger()
        with pytest.raises(ErrorsLogged, match=r"a bug \{'session': '3'\}; another .*KeyError"):
            with logs_kept_out(Trace(LoopClock(), lines.append)):
                log.info("nothing to see")
                log.error("a bug", session=3)
                try:
                    raise KeyError
                except KeyError:
                    log.exception("another")
        assert said == []
    assert lines == [
        b'{"at":0.0,"event":"error logged","message":"a bug","session":"3"}\n',
        b'{"at":0.0,"event":"error logged","message":"another","cause":"KeyError()"}\n',
    ]


def test_what_ended_the_body_comes_first() -> None:
    with pytest.raises(ZeroDivisionError), logs_kept_out():
        structlog.get_logger().error("a bug")
        raise ZeroDivisionError


def test_logging_is_as_before_afterwards() -> None:
    assert not structlog.is_configured()
    with logs_kept_out():
        structlog.get_logger().info("kept out")
    assert not structlog.is_configured()
    structlog.configure(processors=[])
    before = structlog.get_config()
    with logs_kept_out():
        assert structlog.get_config() != before
    assert structlog.get_config() == before
