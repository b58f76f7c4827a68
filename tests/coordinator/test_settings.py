from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from coordinator.settings import CoordinatorSettings
from wanspec_p2p.errors import ConfigError

HERE = Path("data")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"tls_cert": Path("c")}, "belong together"),
        ({"port": 70000}, "port"),
        ({"heartbeat": 0.0}, "heartbeat"),
        ({"lease_seconds": 1.0}, "lease_seconds"),
        ({"receipt_days": 0.5}, "receipt_days must be between 1 and 36500, not 0.5"),
        ({"public_url": "llm.example"}, "^public_url: 'llm.example' is not a coordinator's address"),
        ({"public_url": "https://llm.example:99999"}, "not a coordinator's address"),
        ({"public_url": "http://llm.example"}, "neither loopback nor encrypted"),
        ({"public_url": "https://llm.example"}, "name the proxy's certificate"),
        ({"proxy_cert": Path("c")}, "proxy_cert goes with"),
        ({"proxy_cert": Path("c"), "public_url": "https://llm.example", "host": "0.0.0.0"}, "proxy_cert goes with"),
    ],
)
def test_contradictions_are_one_line(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as error:
        CoordinatorSettings(data_dir=HERE, **options)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "tls", "exposed"),
    [
        ({}, False, False),
        ({"host": "::1"}, False, False),
        ({"tls_cert": Path("c"), "tls_key": Path("k")}, True, False),
        ({"host": "0.0.0.0"}, True, True),
        ({"host": "10.0.0.1"}, True, True),
        ({"public_url": "https://llm.example", "proxy_cert": Path("c")}, False, True),
        ({"public_url": "http://localhost:80"}, False, False),
    ],
)
def test_tls_and_exposure_follow_from_the_address(options: dict[str, Any], tls: bool, exposed: bool) -> None:
    settings = CoordinatorSettings(data_dir=HERE, **options)
    assert (settings.tls, settings.exposed) == (tls, exposed)
