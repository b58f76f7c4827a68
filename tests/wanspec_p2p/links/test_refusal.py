from __future__ import annotations

import pytest

from wanspec_p2p.links.refusal import MAX_REASON_SHOWN, reason_in


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b'{"error":{"message":"not here","type":"x","param":null,"code":"y"}}', "not here"),
        (b"subprotocol expected\n", "subprotocol expected"),
        ("no r\u00f6om\r\n".encode(), "no r\u00f6om"),
        (b'{"error":{"message":"two\\nlines \\u001b[31mred"}}', "two lines [31mred"),
        (b"a \x1b]0;title\x07 \xff bell", "a ]0;title bell"),
        (b"x" * 1000, "x" * MAX_REASON_SHOWN),
        (b"", ""),
        (None, ""),
        (b"<html>no</html>", ""),
        (b"one\ntwo", ""),
        (b'{"detail":"Not Found"}', ""),
        (b'{"error":{"message":7}}', ""),
        (b'{"error":{"message":"\xff"}}', ""),
    ],
)
def test_a_reason_is_one_short_line_or_none(body: bytes | None, reason: str) -> None:
    assert reason_in(body) == reason
