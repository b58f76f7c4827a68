from __future__ import annotations

import re

import pytest

from wanspec_p2p.cli.figures import listed, numbers, today, whole
from wanspec_p2p.errors import ConfigError


def test_numbers_keep_their_order_and_are_written_as_they_were_read() -> None:
    assert numbers("--rtt", " 30, 0 ,12.5", 0.0, 100.0) == (30.0, 0.0, 12.5)
    assert whole("--drafters", "4,2", 16) == (4, 2)
    assert listed((30.0, 0.0, 12.5)) == "30,0,12.5"
    assert listed((0.3, 1234.5678, 10.0000001)) == "0.3,1234.5678,10.0000001"


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        ("", "--rtt: '' is not a number from 0 to 100"),
        ("1,,2", "--rtt: '' is not a number"),
        ("nan", "--rtt: 'nan' is not a number"),
        ("101", "--rtt: '101' is not a number"),
        ("1,1.0", "--rtt: '1.0' is named twice"),
    ],
)
def test_a_mistake_is_named(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(fault)}"):
        numbers("--rtt", text, 0.0, 100.0)


@pytest.mark.parametrize(("text", "fault"), [("1.5", "'1.5' is not a whole number from 1 to 8"), ("0", "'0' is not")])
def test_whole_numbers_begin_at_one(text: str, fault: str) -> None:
    with pytest.raises(ConfigError, match=f"--drafters: {fault}"):
        whole("--drafters", text, 8)


def test_the_date_is_one() -> None:
    assert re.fullmatch(r"20\d\d-\d\d-\d\d", today())
