"""Pages whose examples take long, a drafter trained in miniature above all; `test_examples` follows the others."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.example_pages import LONG
from tests.support.example_values import follow_page

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("no_orphans")]


@pytest.mark.parametrize("name", LONG)
def test_a_page_can_be_followed(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    follow_page(name, tmp_path, request.getfixturevalue)
