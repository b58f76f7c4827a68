"""What a test has in the place of a reader's own things, made when a page asks for it, and the page read with them."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from coordinator.admin import issue_join_token
from coordinator.settings import CoordinatorSettings
from tests.support import scripted_examples
from tests.support.certificates import self_made
from tests.support.example_pages import ROOT, page_of
from tests.support.fake_openai import FakeOpenAI, serving
from tests.support.followed_pages import follow
from tests.support.scripted_services import MODEL
from tests.support.tiny_models import write_tiny_model
from tests.support.typed_commands import Terminals, environment_of
from tests.support.whole_network import free_port
from wanspec_p2p.types import Role

__all__ = ["ExampleValues", "follow_page"]

ENDPOINT_KEY = "sk-of-the-west"


class ExampleValues(dict[str, str]):
    """For `str.format_map`: each value is made the first time that it is named, and is the same from then on.

    Args:
        directory: for files.
        stack: ends what was started.
        fixture: of pytest, by name: `network` is a pair of `Services` and their directory.
    """

    def __init__(self, directory: Path, stack: contextlib.ExitStack, fixture: Callable[[str], Any]) -> None:
        self._directory, self._stack, self._fixture = directory, stack, fixture

    def __missing__(self, name: str) -> str:
        make: Callable[[], str] = getattr(self, f"_{name}")
        self[name] = make()
        return self[name]

    def _url(self) -> str:
        return str(self._fixture("network")[0].url)

    def _key(self) -> str:
        return str(self._fixture("network")[0].key)

    def _model(self) -> str:
        return MODEL

    def _node_token(self) -> str:
        return self._token(Role.NODE)

    def _target_token(self) -> str:
        return self._token(Role.TARGET)

    def _token(self, role: Role) -> str:
        settings = CoordinatorSettings(data_dir=self._fixture("network")[1] / "coordinator")
        return issue_join_token(settings, role=role).encode()

    def _port(self) -> str:
        return str(free_port())

    def _certificate(self) -> str:
        return str(self_made(self._directory)[0])

    def _model_cache(self) -> str:
        return str(self._fixture("model_cache"))

    def _tiny_model(self) -> str:
        """As deep as the model of the page, so that its layers have the same numbers; wide enough, and brief."""
        place = write_tiny_model(
            self._directory / "tiny", num_hidden_layers=30, intermediate_size=1088, max_position_embeddings=160
        )
        return str(place)

    def _endpoint(self) -> str:
        return self._stack.enter_context(serving(FakeOpenAI(key=None)))

    def _endpoint_key(self) -> str:
        return ENDPOINT_KEY

    def _examples(self) -> str:
        return str(ROOT / "docs" / "examples")


def follow_page(name: str, directory: Path, fixture: Callable[[str], Any]) -> None:
    """Read the page of this name in an empty directory; all that it started has ended afterwards.

    Raises:
        AssertionError: something on it is wrong, or something was left among temporary files.
    """
    page, place = page_of(name), directory / "reader"
    place.mkdir()
    with contextlib.ExitStack() as stack:
        values = ExampleValues(directory, stack, fixture)
        variables = {key: value.format_map(values) for key, value in page.variables.items()}
        environment = environment_of(place, scripted_examples.__name__, **variables)
        for path, content in page.files.items():
            _put(place / path, content.format_map(values))
        replaced = {shown: typed.format_map(values) for shown, typed in page.replaced.items()}
        terminals = stack.enter_context(Terminals(place, environment))
        follow(page, (ROOT / name).read_text(encoding="utf-8"), place, terminals, replaced)


def _put(file: Path, content: str) -> None:
    """A folder is named by its whole path, and stands where the page has it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    if content.startswith("/"):
        file.symlink_to(content, target_is_directory=True)
    else:
        file.write_text(content, encoding="utf-8")
