"""docs/reference/protocol.md says what the types say."""

from __future__ import annotations

import pytest

from docs.reference.protocol_tables import PAGE, with_tables
from wanspec_p2p.errors import CloseCode
from wanspec_p2p.links.websocket import DRAFT_PATH
from wanspec_p2p.protocol import handshake, limits

TEXT = PAGE.read_text(encoding="utf-8")


def test_the_tables_are_up_to_date() -> None:
    assert with_tables(TEXT) == TEXT, "run `python -m docs.reference.protocol_tables`"


def test_a_page_without_room_for_a_table_is_an_error() -> None:
    with pytest.raises(ValueError, match="0 places for the table of limits"):
        with_tables(TEXT.replace("<!-- table: limits -->", ""))


def test_the_page_names_what_the_code_names() -> None:
    for code in CloseCode:
        assert f"| {code.value} | {code.name} |" in TEXT
    for words in (
        "| `MAX_FRAME_BYTES` | 1,048,576 |",
        limits.SUBPROTOCOL,
        f"version {limits.PROTOCOL_VERSION}.",
        DRAFT_PATH,
        "- `base_hash`: bytes, 0…8",
        "- `parents`: list of 0…64 × (integer -64…63) (optional)",
        handshake._LISTENER_SIGNS.decode().replace("\0", r"\0"),
        handshake._DIALLER_SIGNS.decode().replace("\0", r"\0"),
    ):
        assert words in TEXT
