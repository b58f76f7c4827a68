"""One file names every bound on what a peer may send; what other rooms must repeat of it is held equal here."""

from __future__ import annotations

import re
import typing
from pathlib import Path

import msgspec
import pytest

import coordinator.openai_routes
import node.settings
import wanspec_p2p.protocol
from wanspec_p2p.protocol import limits
from wanspec_p2p.security import leases, succession
from wanspec_p2p.security.leases import LeaseClaims
from wanspec_p2p.speculation import drafter_session
from wanspec_p2p.speculation.policy import Policy
from wanspec_p2p.target.settings import TargetSettings
from wanspec_p2p.types import Sampling

SOURCES = sorted(Path(wanspec_p2p.protocol.__file__).parent.glob("*_*.py"))
FIXED = {8, 16, 32, 64}
"""Bytes of hashes, seeds, keys and signatures: sizes of what they are, not limits."""


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.name)
def test_no_bound_of_a_message_is_a_bare_number(source: Path) -> None:
    text = source.read_text(encoding="utf-8")
    bare = [int(found) for found in re.findall(r"(?:max_length|le|lt)=(\d[\d_]*)(?=[,)])", text)]
    assert [number for number in bare if number not in FIXED | {65535, 127}] == []  # a version, a quantised number


@pytest.mark.parametrize(
    ("mirror", "limit"),
    [
        (drafter_session.MAX_DRAFT_TOKENS, limits.MAX_DRAFT_TOKENS),
        (leases.MAX_LEASE_CHARACTERS, limits.MAX_LEASE),
        (succession.MAX_SUCCESSIONS, limits.MAX_SUCCESSIONS),
        (node.settings.MAX_SLOTS, limits.MAX_NODE_SLOTS),
    ],
)
def test_what_other_rooms_repeat_is_the_same(mirror: int, limit: int) -> None:
    """`speculation` and `security` may not import `protocol`."""
    assert mirror == limit


def test_a_lease_carries_what_a_registration_may_say() -> None:
    bounds = {field.name: str(field.type) for field in msgspec.structs.fields(LeaseClaims)}
    assert f"max_length={limits.MAX_NAME}" in bounds["owner"]
    assert f"max_length={limits.MAX_URL}" in bounds["addresses"]
    assert f"max_length={limits.MAX_ADDRESSES}" in bounds["addresses"]


def test_settings_that_are_allowed_can_be_said(tmp_path: Path) -> None:
    paths = {"data_dir": tmp_path, "cache_dir": tmp_path}
    settings = TargetSettings(**paths, slots=limits.MAX_TARGET_SLOTS, queue=limits.MAX_QUEUE)
    assert (settings.slots, settings.queue) == (limits.MAX_TARGET_SLOTS, limits.MAX_QUEUE)
    for beyond in ({"slots": limits.MAX_TARGET_SLOTS + 1}, {"queue": limits.MAX_QUEUE + 1}):
        with pytest.raises(ValueError, match=next(iter(beyond))):
            TargetSettings(**paths, **beyond)  # type: ignore[arg-type]  # whichever the case names


def test_a_usual_window_and_a_full_frame_fit() -> None:
    window = Policy().window
    assert max(window.positions, window.tokens) <= limits.MAX_WINDOW
    assert limits.MAX_TEXT < limits.MAX_FRAME_BYTES
    assert coordinator.openai_routes.MAX_BODY_BYTES >= limits.MAX_FRAME_BYTES
    assert limits.FLUSH_TOKENS <= limits.MAX_DRAFT_TOKENS


def test_sampling_is_bounded_as_any_message() -> None:
    """`types` is below `protocol`; `test_codec` looks into every message, its sampling included."""
    assert "max_length=1024" in str(typing.get_type_hints(Sampling, include_extras=True)["logit_bias"])
