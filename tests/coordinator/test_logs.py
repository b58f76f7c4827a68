from __future__ import annotations

from collections.abc import Iterator

import pytest
import structlog

from coordinator.logs import configure_logging


@pytest.fixture(autouse=True)
def unconfigured() -> Iterator[None]:
    structlog.reset_defaults()
    yield
    structlog.reset_defaults()


@pytest.mark.parametrize("as_json", [True, False])
def test_a_line_an_event_on_standard_error_whatever_a_peer_says(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    configure_logging(as_json=as_json)
    structlog.get_logger().info("peer left", reason="\x1b[2J\nforged line")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    assert "\x1b[2J" not in err
    assert "forged line" in err


def test_who_has_configured_logging_keeps_it() -> None:
    structlog.configure(processors=[structlog.processors.JSONRenderer()])
    configure_logging(as_json=False)
    assert len(structlog.get_config()["processors"]) == 1
