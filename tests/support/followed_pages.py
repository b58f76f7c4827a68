"""Follows a page of the documents as a reader does, top to bottom: files are written, commands and programs run."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.support.documented import Block, Replacements, blocks, commands, exemption, file_named, not_shown
from tests.support.example_pages import EXEMPT, Page
from tests.support.typed_commands import Terminals

__all__ = ["follow", "lacking", "until_ctrl_c"]

READY = {"coordinator": "coordinator is ready", "target": "target is ready", "node": "node is ready", "status": "α"}
"""What is printed when it may be gone on, by the terminal in which it runs."""
LASTING = re.compile(
    r"wanspec (?:(coordinator|target|node) (?:run|join)|(status) --watch)\b(?!.*--show-config)", re.DOTALL
)


def until_ctrl_c(text: str) -> str | None:
    """The terminal that a command keeps until Ctrl-C; None where it ends by itself."""
    found = LASTING.search(text)
    return found and (found[1] or found[2])


def lacking(shown: Mapping[str, Any], real: Mapping[str, Any], path: str = "") -> list[str]:
    """Keys of a shown table, dotted, that the real one has not. Of lists of tables the first is compared."""
    found = []
    for key, value in shown.items():
        other, name = real.get(key), f"{path}{key}"
        if isinstance(value, list) and isinstance(other, list) and value and isinstance(value[0], dict):
            value, other = value[0], (other or [{}])[0]
        if type(value) is not type(other):
            found.append(name)
        elif isinstance(value, dict) and isinstance(other, dict):
            found += lacking(value, other, f"{name}.")
    return found


class _Reader:
    def __init__(self, page: Page, directory: Path, terminals: Terminals) -> None:
        self._page, self._directory, self._terminals = page, directory, terminals
        self._used: set[str] = set()

    def read(self, block: Block) -> None:
        if block.language == "console":
            for command in commands(block):
                if exemption(command.text, EXEMPT) is None:
                    printed = self.type(command.text)
                    missing = not_shown(command.shown, printed)
                    assert not missing, f"line {command.line}: {missing} is shown, and this was printed:\n{printed}"
        elif block.language == "python" and exemption(block.body, EXEMPT) is None:
            (self._directory / "example.py").write_text(block.body, encoding="utf-8")
            self._terminals.run(f"{shlex.quote(sys.executable)} example.py")
        elif block.language == "toml":
            self._file(block)

    def type(self, text: str) -> str:
        if begin := self._entry(text, self._page.stopped_for):
            self._used.add(begin)
            self._terminals.stop()
        if terminal := until_ctrl_c(text):
            return self._terminals.start(terminal, text, ready=READY[terminal])
        status = 0
        if begin := self._entry(text, self._page.statuses):
            self._used.add(begin)
            status = self._page.statuses[begin]
        return self._terminals.run(text, status=status)

    def _file(self, block: Block) -> None:
        content = tomllib.loads(block.body)
        if name := file_named(block):
            file = self._directory / re.sub("^~/", "home/", name)
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(block.body, encoding="utf-8")
            return
        begin = block.body.partition("\n")[0]
        assert begin in self._page.excerpts, (
            f"line {block.line}: whose text is this? Say it in its first line: # name.toml"
        )
        self._used.add(begin)
        real = tomllib.loads((self._directory / self._page.excerpts[begin]).read_text(encoding="utf-8"))
        assert not lacking(content, real), f"line {block.line}: {lacking(content, real)} is not in the file"

    @staticmethod
    def _entry(text: str, table: Mapping[str, Any] | tuple[str, ...]) -> str | None:
        return next((begin for begin in table if text.startswith(begin)), None)

    @property
    def unused(self) -> set[str]:
        return {*self._page.stopped_for, *self._page.statuses, *self._page.excerpts} - self._used


def follow(page: Page, text: str, directory: Path, terminals: Terminals, replaced: Mapping[str, str]) -> None:
    """
    Args:
        page: how it is run; of its templates only `replaced` has been filled in.
        directory: where the reader is, with what the page takes to be there.

    Raises:
        AssertionError: an example is wrong, or an entry of the tables no longer matches anything.
    """
    replacements = Replacements(replaced)
    reader = _Reader(page, directory, terminals)
    for command in page.first:
        reader.type(command)
    for block in blocks(text):
        if block.language in ("console", "python", "toml"):
            reader.read(Block(block.line, block.language, replacements.apply(block.body)))
    terminals.stop()
    assert not replacements.unused, f"nothing on the page matches {replacements.unused}: mend the table of replacements"
    assert not reader.unused, f"nothing on the page matches {reader.unused}: mend the table of pages"
