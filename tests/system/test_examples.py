"""What README and docs tell a reader to type is typed: every command, program and file, in the order of the page."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.example_pages import LONG, pages_with_examples
from tests.support.example_values import follow_page
from tests.support.scripted_services import Services, running_services

pytestmark = [pytest.mark.system, pytest.mark.timeout(300), pytest.mark.usefixtures("no_orphans")]


@pytest.fixture(scope="module", autouse=True)
def network(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Services, Path]]:
    """Everybody else's: pages whose reader is a submitter or joins somebody's coordinator need one."""
    directory = tmp_path_factory.mktemp("network")
    with running_services(directory, nodes=1) as services:
        yield services, directory


@pytest.mark.parametrize("name", [name for name in pages_with_examples() if name not in LONG])
def test_a_page_can_be_followed(name: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    follow_page(name, tmp_path, request.getfixturevalue)
