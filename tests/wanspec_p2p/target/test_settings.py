from __future__ import annotations

from pathlib import Path

import pytest

from wanspec_p2p.protocol import limits
from wanspec_p2p.speculation.events import Window
from wanspec_p2p.speculation.policy import LocalDrafting, Policy
from wanspec_p2p.target.settings import TargetSettings

HERE = Path("/nowhere")


def settings(**fields: object) -> TargetSettings:
    return TargetSettings(data_dir=HERE, cache_dir=HERE, **fields)  # type: ignore[arg-type]  # bad values are the point


def test_the_defaults_are_safe_and_make_a_policy() -> None:
    made = settings()
    assert made.host == "127.0.0.1"
    assert made.policy.width == made.width
    assert made.policy.window == Window(positions=made.positions, tokens=made.tokens)
    assert made.policy == Policy()


def test_what_a_pass_at_the_target_is_worth_is_the_operators_to_say() -> None:
    assert settings(local_price=0.7).policy.local == LocalDrafting(price=0.7)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"name": ""}, "name must have"),
        ({"owner": "x" * (limits.MAX_NAME + 1)}, "owner must have"),
        ({"site": ""}, "site must have"),
        ({"port": 65536}, "port must be between"),
        ({"slots": 0}, "slots must be between"),
        ({"queue": -1}, "queue must be between"),
        ({"drafters": limits.MAX_DRAFTERS + 1}, "drafters must be between"),
        ({"local_price": -0.1}, "local_price must be between 0 and 1000"),
        ({"local_price": float("nan")}, "local_price must be between 0 and 1000"),
        ({"width": limits.MAX_TOKENS_PER_ROUND}, "width must be between"),
        ({"positions": 0}, "positions must be between"),
        ({"tokens": limits.MAX_WINDOW + 1}, "tokens must be between"),
        ({"threads": 0}, "threads must be 1 or more"),
        ({"tls_cert": HERE}, "belong together"),
        ({"tls_key": HERE}, "belong together"),
        ({"address": "https://example.org"}, "address must be a wss:// URL"),
        ({"address": "wss://target example"}, "address must be a wss:// URL"),
        ({"address": "wss://target.example:443"}, "with the path /wanspec/draft"),
        ({"host": "0.0.0.0"}, "nodes cannot dial 0.0.0.0"),
    ],
)
def test_a_value_outside_its_range_is_named(fields: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        settings(**fields)


def test_any_address_may_be_listened_on_if_nodes_are_told_another() -> None:
    assert settings(host="0.0.0.0", address="wss://target.example:443/wanspec/draft").host == "0.0.0.0"
