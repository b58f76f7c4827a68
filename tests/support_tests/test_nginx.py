"""Where there is no nginx to try it, the page still has what the tests put their own values into."""

from __future__ import annotations

import pytest

from tests.support.nginx import shown_configuration


def test_the_pages_configuration_is_all_of_it() -> None:
    text = shown_configuration({"listen 443 ssl": "listen 127.0.0.1:1 ssl"})
    assert "listen 127.0.0.1:1 ssl;" in text and "443" not in text
    assert text.startswith("map $http_upgrade") and text.count("{") == text.count("}") == 3


def test_a_word_that_is_not_there_is_noticed() -> None:
    with pytest.raises(AssertionError, match="is not in the page just once"):
        shown_configuration({"listen 80": "listen 1"})
